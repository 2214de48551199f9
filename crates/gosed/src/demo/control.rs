//! What the demo tells its guests to do, and what they say came of it: one JSON object a line over a
//! Unix socket of the demo's own folder. It carries no key and no token.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// What a guest is told to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Order {
    /// Tell the token that the next session will show.
    Token,
    /// Phase 1: a TLS session with the middleware, by the token.
    Attach,
    /// Phase 2 with this identity of an element; the session stays open for phase 3.
    Authenticate {
        /// The element.
        seid: String,
        /// The identity's label.
        identity: String,
        /// Whether the key block is exported to the host afterwards.
        export: bool,
    },
    /// Phase 3 on the host: so many MiB to the server and back.
    HostTransfer {
        /// MiB each way.
        mib: usize,
    },
    /// Phase 3 in the element: so many bytes to the server and back.
    ElementTransfer {
        /// Bytes each way.
        bytes: usize,
    },
    /// Closes what phase 2 opened.
    Hang,
    /// Tries what must be refused.
    Attack(Attack),
    /// The end.
    Quit,
}

/// What must be refused.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Attack {
    /// RACS to another guest's element.
    OthersElement {
        /// The other's SEID.
        seid: String,
    },
    /// TLS with the token of another guest.
    OthersToken {
        /// The other's token chain, DER, hexadecimal.
        chain: Vec<String>,
    },
    /// The attach endpoint is asked to sign for a serial that is not this guest's.
    SignForSerial {
        /// The serial, hexadecimal.
        serial: String,
    },
    /// TLS with one's own old token.
    OldToken {
        /// The old token chain, DER, hexadecimal.
        chain: Vec<String>,
    },
    /// A transcript that shows another's token, signed under one's own serial, presented.
    SignedUnderOwnSerial {
        /// The other's token chain, DER, hexadecimal.
        chain: Vec<String>,
    },
    /// One's own element while the lock of a lost connection still stands; freed in time.
    LockOfLostConnection,
}

/// What came of an order.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Reply {
    /// The token chain, DER, hexadecimal (a token is no secret).
    Token {
        /// Leaf first.
        chain: Vec<String>,
    },
    /// The guest is there.
    Here {
        /// The guest's name.
        name: String,
    },
    /// Done.
    Done(Figures),
    /// The attack was refused, in these words.
    Refused {
        /// What the guest saw.
        saw: String,
    },
    /// The attack went through.
    WentThrough {
        /// What the guest got.
        got: String,
    },
    /// It did not work.
    Failed {
        /// Why.
        why: String,
    },
}

/// What an order took.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Figures {
    /// From the order to its end.
    pub(super) ms: f64,
    /// Phase 2: from the PIN to the server's Finished (the paper's T2).
    pub(super) t2_ms: f64,
    /// Time spent waiting for the guest's own element.
    pub(super) element_ms: f64,
    /// Phase 3 in the element: time spent waiting for it to seal what goes.
    pub(super) sealed_ms: f64,
    /// Bytes of EAP packets, or of application data.
    pub(super) bytes: u64,
    /// Bytes of command and response APDUs of the guest's element.
    pub(super) apdu_bytes: u64,
    /// APDUs sent to the guest's element.
    pub(super) apdus: u64,
    /// RACS requests that these took.
    pub(super) round_trips: u64,
    /// Whether the TLS session was resumed.
    pub(super) resumed: bool,
    /// TLS version of the session, as a number (0303, 0304 hexadecimal).
    pub(super) version: u16,
    /// Cipher suite of the session.
    pub(super) suite: u16,
}

/// One end of the line between the demo and a guest.
pub(super) struct Line {
    reader: BufReader<UnixStream>,
}

impl Line {
    /// The guest's end.
    pub(super) fn connect(path: &Path, name: &str) -> Result<Self, String> {
        let stream = UnixStream::connect(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut line = Self {
            reader: BufReader::new(stream),
        };
        line.send(&Reply::Here { name: name.into() })?;
        Ok(line)
    }

    /// The demo's end: waits for a guest to come and say its name.
    pub(super) fn accept(
        listener: &UnixListener,
        patience: Duration,
    ) -> Result<(String, Self), String> {
        listener.set_nonblocking(true).map_err(|e| e.to_string())?;
        let until = Instant::now() + patience;
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if Instant::now() > until {
                        return Err(
                            "a guest did not come up; its log is in the hypervisor node's".into(),
                        );
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error.to_string()),
            }
        };
        stream.set_nonblocking(false).map_err(|e| e.to_string())?;
        let limit = Some(Duration::from_secs(120));
        stream
            .set_read_timeout(limit)
            .and_then(|()| stream.set_write_timeout(limit))
            .map_err(|e| e.to_string())?;
        let mut line = Self {
            reader: BufReader::new(stream),
        };
        match line.receive()? {
            Some(Reply::Here { name }) => Ok((name, line)),
            other => Err(format!("a guest began with {other:?}")),
        }
    }

    /// Sends one object.
    pub(super) fn send(&mut self, message: &impl Serialize) -> Result<(), String> {
        let mut text = serde_json::to_vec(message).map_err(|e| e.to_string())?;
        text.push(b'\n');
        self.reader
            .get_mut()
            .write_all(&text)
            .map_err(|e| e.to_string())
    }

    /// Waits for one object; `None` when the other end is gone.
    pub(super) fn receive<T: for<'a> Deserialize<'a>>(&mut self) -> Result<Option<T>, String> {
        let mut text = String::new();
        match self.reader.read_line(&mut text) {
            Ok(0) => Ok(None),
            Ok(_) => serde_json::from_str(&text)
                .map(Some)
                .map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Gives an order and waits for what comes of it.
    pub(super) fn order(&mut self, order: &Order) -> Result<Reply, String> {
        self.send(order)?;
        self.receive()?.ok_or_else(|| "the guest is gone".into())
    }

    /// Gives an order that must work.
    pub(super) fn done(&mut self, order: &Order) -> Result<Figures, String> {
        match self.order(order)? {
            Reply::Done(figures) => Ok(figures),
            other => Err(format!("{order:?}: {other:?}")),
        }
    }
}
