//! A node of software cards on an administrator's socket.

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex},
};

use gose_card::{Hosted, Memory, factory, keystore::SoftwareKeyStore, nvm::Nvm};
use gose_element::{SecureElement, Seid};
use gose_proto::racs::{
    Failure, Session,
    session::{Completion, Mode, Operation, Output as Next},
};

type Cards = Arc<Mutex<Vec<(Seid, Hosted<Memory>)>>>;

/// A node, and a folder for files.
pub(crate) struct Node {
    folder: tempfile::TempDir,
    cards: Cards,
}

impl Node {
    pub(crate) fn new(seids: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cards = seids.iter().zip(1..).map(|(seid, number)| {
            let nvm = Nvm::replay([factory::birth([number; 16])]);
            let card = factory::new_card(nvm, Arc::new(SoftwareKeyStore));
            (seid.parse().unwrap(), Hosted::new(card, Memory::default()))
        });
        let cards: Cards = Arc::new(Mutex::new(cards.collect()));
        let listener = UnixListener::bind(folder.path().join("admin.sock")).unwrap();
        let shared = cards.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.unwrap(), &shared);
            }
        });
        Self { folder, cards }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Deltas that the cards wrote.
    pub(crate) fn writes(&self) -> usize {
        let cards = self.cards.lock().unwrap();
        cards.iter().map(|(_, card)| card.host().log.len()).sum()
    }

    /// Runs `gose` in the folder against this node.
    pub(crate) fn gose(&self, arguments: &str) -> Output {
        let mut words = arguments.split_whitespace();
        Command::new(env!("CARGO_BIN_EXE_gose"))
            .current_dir(self.folder.path())
            .args(words.by_ref().take(2))
            .arg("--socket=admin.sock")
            .args(words)
            .env("THE_PIN", "87654321")
            .output()
            .unwrap()
    }

    /// Runs `gose`, which must succeed; gives its standard output.
    pub(crate) fn ok(&self, arguments: &str) -> String {
        let output = self.gose(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "gose {arguments}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs `gose`, which must fail with this exit code; gives its standard error.
    pub(crate) fn fails(&self, code: i32, arguments: &str) -> String {
        let output = self.gose(arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            output.status.code(),
            Some(code),
            "gose {arguments}: {error}"
        );
        error
    }
}

fn serve(mut stream: UnixStream, cards: &Cards) {
    let mut session = Session::new(Mode::Direct);
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        session.receive(&buffer[..length]);
        loop {
            match session.poll() {
                Some(Next::Run(operation)) => {
                    let completion = run(operation, &mut cards.lock().unwrap());
                    session.complete(completion);
                }
                Some(Next::Send(bytes)) => stream.write_all(bytes).unwrap(),
                Some(Next::Close(_)) => return,
                None => break,
            }
        }
    }
    // The end of a session powers everything down.
    for (_, card) in cards.lock().unwrap().iter_mut() {
        card.power_off();
    }
}

fn run(operation: Operation, cards: &mut [(Seid, Hosted<Memory>)]) -> Completion {
    let seid = match &operation {
        Operation::List => return Completion::Seids(cards.iter().map(|(seid, _)| *seid).collect()),
        Operation::PowerOn { seid }
        | Operation::Reset { seid, .. }
        | Operation::Apdus { seid, .. }
        | Operation::Shutdown { seid } => *seid,
    };
    let Some((_, card)) = cards.iter_mut().find(|(own, _)| *own == seid) else {
        return Completion::Failed(Failure::Unauthorised);
    };
    let atr = card.power_on().ok().map(|atr| atr.as_bytes().to_vec());
    match operation {
        Operation::PowerOn { .. } => Completion::PoweredOn {
            atr,
            already: false,
        },
        Operation::Reset { warm, .. } => {
            card.reset(warm).unwrap();
            Completion::Reset { atr }
        }
        Operation::Apdus { script, .. } => Completion::Apdus {
            done: card.run(&script).done,
            failed: None,
        },
        _ => {
            card.power_off();
            Completion::Shutdown
        }
    }
}

/// A file with mode 0600.
pub(crate) fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}
