//! Messages of the agent protocol (draft-ietf-sshm-ssh-agent, 3): length (4) ‖ type (1) ‖ content.

use super::key::Key;

/// Bytes of a message: what OpenSSH's agent takes.
pub(super) const MAX_MESSAGE: usize = 256 * 1024;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// What a program asks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request<'a> {
    Identities,
    Sign {
        key: &'a [u8],
        data: &'a [u8],
        flags: u32,
    },
}

/// What it is answered.
pub(super) struct Reply(Vec<u8>);

impl<'a> Request<'a> {
    /// A request that this agent knows.
    pub(super) fn parse(message: &'a [u8]) -> Option<Self> {
        let (kind, rest) = message.split_first()?;
        match *kind {
            REQUEST_IDENTITIES if rest.is_empty() => Some(Self::Identities),
            SIGN_REQUEST => {
                let (key, rest) = string(rest)?;
                let (data, rest) = string(rest)?;
                let flags = u32::from_be_bytes(rest.try_into().ok()?);
                Some(Self::Sign { key, data, flags })
            }
            _ => None,
        }
    }
}

impl Reply {
    pub(super) fn failure() -> Self {
        Self(vec![FAILURE])
    }

    pub(super) fn identities(keys: &[Key]) -> Self {
        let mut out = vec![IDENTITIES_ANSWER];
        out.extend_from_slice(&length(keys.len()));
        for key in keys {
            put(&mut out, key.blob());
            put(&mut out, key.name().as_bytes());
        }
        Self(out)
    }

    pub(super) fn signature(signature: &[u8]) -> Self {
        let mut out = vec![SIGN_RESPONSE];
        put(&mut out, signature);
        Self(out)
    }

    /// The message with its length.
    pub(super) fn frame(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.0.len() + 4);
        put(&mut out, &self.0);
        out
    }
}

fn length(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes()
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&length(bytes.len()));
    out.extend_from_slice(bytes);
}

/// A string of SSH (RFC 4251, 5) and what follows it.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        assert_eq!(Request::parse(&[11]), Some(Request::Identities));
        let sign = [13, 0, 0, 0, 1, 7, 0, 0, 0, 2, 8, 9, 0, 0, 0, 4];
        let expected = Request::Sign {
            key: &[7],
            data: &[8, 9],
            flags: 4,
        };
        assert_eq!(Request::parse(&sign), Some(expected));
        for end in 0..sign.len() {
            assert_eq!(Request::parse(&sign[..end]), None);
        }
        let longer = [&sign[..], &[0]].concat();
        let lying = [13, 0xFF, 0xFF, 0xFF, 0xFF, 7];
        for wrong in [&longer[..], &lying, &[11, 0], &[22], &[27, 0, 0, 0, 0]] {
            assert_eq!(Request::parse(wrong), None);
        }
    }

    #[test]
    fn replies() {
        assert_eq!(Reply::failure().frame(), [0, 0, 0, 1, 5]);
        assert_eq!(Reply::identities(&[]).frame(), [0, 0, 0, 5, 12, 0, 0, 0, 0]);
        let signature = Reply::signature(&[1, 2]).frame();
        assert_eq!(signature, [0, 0, 0, 7, 14, 0, 0, 0, 2, 1, 2]);
    }
}
