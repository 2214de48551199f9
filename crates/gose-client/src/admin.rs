//! `gose-admin/1`: the management plane's actions and answers, length (4, big endian) ‖ JSON each.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Bytes that an action or an answer may have.
pub const MAX_MESSAGE: usize = 65_536;

/// What somebody asks the management plane for. The command line, and whatever else manages a node,
/// parses into this; the node authorises it before it does anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// Creates a virtual machine and starts it.
    VmCreate(VmCreate),
    /// Ends a virtual machine for good: its tokens count no more, its elements are free.
    VmDestroy {
        /// Its UUID or its name.
        uuid: String,
    },
    /// Lists the virtual machines: one's own, or all for the operator.
    VmList,
    /// Tells of one virtual machine.
    VmShow {
        /// Its UUID or its name.
        uuid: String,
    },
    /// Stops a virtual machine; its elements stay bound to it.
    VmStop {
        /// Its UUID or its name.
        uuid: String,
    },
    /// Starts one that is stopped: its next generation.
    VmStart {
        /// Its UUID or its name.
        uuid: String,
    },
    /// Holds a virtual machine; its sessions end and it gets no others.
    VmPause {
        /// Its UUID or its name.
        uuid: String,
    },
    /// Lets one that is paused go on.
    VmResume {
        /// Its UUID or its name.
        uuid: String,
    },
    /// Asks whether a domain may be built, and uses up its ticket. For the gate of a hypervisor: on the admin socket
    /// alone.
    VmAdmit {
        /// The domain's UUID.
        uuid: String,
        /// The creation ticket, hexadecimal.
        ticket: String,
    },
    /// Tells a grid the newest generations of a hypervisor's virtual machines.
    Generations {
        /// The SHA-256 of `hv-ca`'s SubjectPublicKeyInfo, hexadecimal.
        hypervisor: String,
        /// At most some hundred, for the bound of a message.
        generations: Vec<VmGeneration>,
    },
    /// Tells what an element was used for since its node started.
    ElementUse {
        /// The element.
        seid: String,
    },
    /// Ends the RADIUS sessions of a peer and does not let it in again.
    EapRevoke {
        /// The name in its certificate.
        name: String,
    },
    /// Lets a peer in again whose name was taken back.
    EapReinstate {
        /// The name in its certificate.
        name: String,
    },
    /// Tells the names that were taken back.
    EapRevoked,
    /// Tells how an element in software stands.
    ElementInfo {
        /// The element.
        seid: String,
    },
    /// Chooses what goes wrong with an element in software, in place of what was chosen before; on a test grid
    /// alone.
    ElementFault {
        /// The element.
        seid: String,
        /// One plan each: `mute`, `status=XXXX`, `reset`, `pulled`, `slow=N`, `flip`, `more`, `length` or `long=N`, then
        /// `after=N`, `times=N`, `seed=N` as wanted.
        faults: Vec<String>,
    },
}

/// A virtual machine to create.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct VmCreate {
    /// The image to run.
    pub image: String,
    /// Elements to bind to it; the first one holds its key.
    #[serde(default)]
    pub seid: Vec<String>,
    /// Arguments after the image's own, where it takes any.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// Its UUID; only the operator chooses one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// What people call it: no two of a hypervisor have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The pool that its element is taken from, before those of `seid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Its memory, MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u32>,
    /// Its processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// Whether it is kept, stopped, when it ends by itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep: bool,
}

/// What an action came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Answer {
    /// A virtual machine runs.
    Created(Vm),
    /// It is no more.
    Destroyed,
    /// How a virtual machine stands now.
    Vm(Vm),
    /// The domain may be built.
    Admitted,
    /// The virtual machines that run.
    Vms {
        /// In the order of their UUIDs.
        vms: Vec<Vm>,
    },
    /// The generations are kept, but for those that were known newer.
    Generations {
        /// What is known of those.
        newer: Vec<VmGeneration>,
    },
    /// What an element was used for.
    Use(ElementUse),
    /// A peer is not let in any more.
    Revoked {
        /// Its sessions, whose NAS was asked to end them.
        sessions: u64,
    },
    /// A peer may be let in again.
    Reinstated,
    /// Names that are not let in, as many of them as fit a message.
    RevokedNames {
        /// In order.
        names: Vec<String>,
        /// How many there are.
        total: u64,
    },
    /// How an element stands.
    Info(ElementInfo),
    /// Nothing was done.
    Refused {
        /// One word of what is below.
        reason: Refusal,
        /// The next step, for people.
        text: String,
    },
}

/// The newest generation of a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct VmGeneration {
    /// Its UUID.
    pub uuid: String,
    /// Counts its starts.
    pub generation: u64,
}

/// A virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Vm {
    /// Its UUID.
    pub uuid: String,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Counts its starts.
    pub generation: u64,
    /// Its SPIFFE identifier.
    pub id: String,
    /// Its elements.
    pub seid: Vec<String>,
    /// How it stands: `creating`, `running`, `paused`, `stopped` or `destroying`.
    pub state: String,
    /// The image that it runs.
    pub image: String,
    /// SHA-256 of the kernel that it booted, or of the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// SHA-256 of its RAM disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramdisk: Option<String>,
    /// The pool that its first element is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Who created it; nobody where the operator did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creator: Option<String>,
}

/// Counters of a software element since its node started: commands, the primitives that they ran, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ElementUse {
    /// Command APDUs.
    pub commands: u64,
    /// 64-byte blocks compressed by a hash function.
    pub hash_blocks: u64,
    /// RSA private operations.
    pub rsa_private: u64,
    /// RSA public operations.
    pub rsa_public: u64,
    /// ECDSA signatures.
    pub ecdsa_sign: u64,
    /// ECDSA verifications.
    pub ecdsa_verify: u64,
    /// Key agreements and ephemeral keys on elliptic curves.
    pub ec_agree: u64,
    /// Long-term key pairs made.
    pub key_generate: u64,
    /// Bytes through ciphers.
    pub cipher_bytes: u64,
    /// Bytes of command and response APDUs.
    pub io_bytes: u64,
}

/// How an element in software stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ElementInfo {
    /// Its name.
    pub seid: String,
    /// Command APDUs since its node started.
    pub commands: u64,
    /// Its memory; absent where it was not used yet, or is not in software.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<ElementMemory>,
    /// The card whose slowness it imitates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timing: Option<String>,
    /// What goes wrong with it; absent where the node is no test grid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub faults: Option<Vec<ElementFault>>,
}

/// The memory of an element in software.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ElementMemory {
    /// Bytes held.
    pub bytes: u64,
    /// Bytes that it may hold.
    pub quota: u64,
    /// The version of its image.
    pub image_version: u8,
    /// Bytes of its image.
    pub image_bytes: u64,
    /// Records of its image.
    pub image_records: u64,
}

/// A fault that was chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ElementFault {
    /// What, and when.
    pub fault: String,
    /// How often it happened.
    pub happened: u64,
}

impl ElementUse {
    /// Signatures and decryptions with long-term keys.
    #[must_use]
    pub fn private_operations(&self) -> u64 {
        self.rsa_private + self.ecdsa_sign
    }
}

/// Why nothing was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// The message is no action.
    Malformed,
    /// Policy does not allow it. Why stands in the node's log.
    Unauthorised,
    /// One's quota is used up.
    Quota,
    /// An element is bound to another virtual machine.
    InUse,
    /// There is no such thing.
    Unknown,
    /// Only a test grid does that.
    TestGrid,
    /// The node could not do it. Why stands in its log.
    Failed,
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The connection.
    #[error("connection to the node: {0}")]
    Io(#[from] io::Error),
    /// Over [`MAX_MESSAGE`].
    #[error("a message of {0} bytes; at most 65536")]
    Length(usize),
    /// Not what belongs here.
    #[error("malformed message: {0}")]
    Json(#[from] serde_json::Error),
}

/// The frame of an action or an answer.
///
/// # Errors
/// [`AdminError::Length`], [`AdminError::Json`].
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, AdminError> {
    let json = serde_json::to_vec(message)?;
    let length = u32::try_from(json.len()).map_err(|_| AdminError::Length(json.len()))?;
    if json.len() > MAX_MESSAGE {
        return Err(AdminError::Length(json.len()));
    }
    Ok([&length.to_be_bytes()[..], &json].concat())
}

/// The length of the message that follows its length field.
///
/// # Errors
/// [`AdminError::Length`]: the connection is to be closed.
pub fn message_len(field: [u8; 4]) -> Result<usize, AdminError> {
    let length = usize::try_from(u32::from_be_bytes(field)).unwrap_or(usize::MAX);
    if length > MAX_MESSAGE {
        return Err(AdminError::Length(length));
    }
    Ok(length)
}

/// Asks a node, over TLS or its admin socket.
///
/// # Errors
/// [`AdminError`]; it is then unknown whether the action was done.
pub fn ask(stream: &mut (impl Read + Write), action: &Action) -> Result<Answer, AdminError> {
    stream.write_all(&encode(action)?)?;
    stream.flush()?;
    read(stream)
}

fn read<T: DeserializeOwned>(stream: &mut impl Read) -> Result<T, AdminError> {
    let mut field = [0; 4];
    stream.read_exact(&mut field)?;
    let mut json = vec![0; message_len(field)?];
    stream.read_exact(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(action: &Action, json: &str) {
        assert_eq!(serde_json::to_string(action).unwrap(), json);
        assert_eq!(&serde_json::from_str::<Action>(json).unwrap(), action);
    }

    #[test]
    fn actions_as_json() {
        let create = VmCreate {
            image: "demo".to_owned(),
            seid: vec!["SE1".to_owned()],
            ..VmCreate::default()
        };
        check(
            &Action::VmCreate(create),
            r#"{"action":"vm-create","image":"demo","seid":["SE1"],"arguments":[]}"#,
        );
        check(&Action::VmList, r#"{"action":"vm-list"}"#);
        let generations = Action::Generations {
            hypervisor: "AB".to_owned(),
            generations: vec![VmGeneration {
                uuid: "U".to_owned(),
                generation: 2,
            }],
        };
        check(
            &generations,
            r#"{"action":"generations","hypervisor":"AB","generations":[{"uuid":"U","generation":2}]}"#,
        );
        let unknown = r#"{"action":"vm-create","image":"demo","root":true}"#;
        assert!(serde_json::from_str::<Action>(unknown).is_err());
    }

    #[test]
    fn frames() {
        let frame = encode(&Answer::Destroyed).unwrap();
        let (field, json) = frame.split_first_chunk().unwrap();
        assert_eq!(message_len(*field).unwrap(), json.len());
        assert_eq!(
            read::<Answer>(&mut frame.as_slice()).unwrap(),
            Answer::Destroyed
        );
        assert!(matches!(
            message_len([0, 1, 0, 1]),
            Err(AdminError::Length(65_537))
        ));
    }
}
