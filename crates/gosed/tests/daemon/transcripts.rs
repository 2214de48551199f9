//! What several sessions of one node see of each other, and of its elements, as text: the lock table and the ends
//! of sessions (docs/protocol.md), policy, firewall, elements that fail.
//!
//! ```text
//! == title                begins a conversation with a new node: SE1 and SE2, PIV on both
//! N: request-timeout-s = 1    a limit of the node
//! SE1: mute after=1       faults of an element from now on, as `gose element fault` has them
//! alice> POWERON SE1      a line of a client; alice may use all, bob SE2, root administers, nobody may nothing,
//!                         operator is the admin socket; alice/2 is another session of hers, alice@machines has her
//!                         name from an authority that names no users
//! alice< +008 001 …       a line of the node; … is anything
//! alice< <closed>         the node closes the session
//! alice! close            the client ends: close (TLS), shut (TCP alone), reset (TCP, at once)
//! ```
//!
//! At the end every session that is still open has been told nothing else.

use std::collections::BTreeMap;

use gose_client::{
    Endpoint,
    admin::{self, Action, Answer},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use crate::world::{PATIENCE, Settings, World};

/// An end of a session.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    fn end(self: Box<Self>, how: &str);
}

impl Stream for TlsStream<TcpStream> {
    fn end(self: Box<Self>, how: &str) {
        if how == "reset" {
            self.get_ref().0.set_zero_linger().unwrap();
        }
        drop(self.into_inner());
    }
}

impl Stream for tokio::net::UnixStream {
    fn end(self: Box<Self>, _: &str) {}
}

struct Play {
    title: String,
    settings: Settings,
    world: Option<World>,
    sessions: BTreeMap<String, Box<dyn Stream>>,
}

impl Play {
    fn new(title: String) -> Self {
        let settings = Settings {
            elements: 2,
            more: "[node]\ntest-grid = true\n".into(),
            ..Settings::default()
        };
        Self {
            title,
            settings,
            world: None,
            sessions: BTreeMap::new(),
        }
    }

    async fn row(&mut self, row: &str) {
        let at = row.find([':', '>', '<', '!']).expect("who, then what");
        let (who, rest) = row.split_at(at);
        let (kind, rest) = rest.split_at(1);
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        if (who, kind) == ("N", ":") {
            assert!(self.world.is_none(), "limits come first");
            self.settings.limits += rest;
            self.settings.limits += "\n";
            return;
        }
        if self.world.is_none() {
            self.world = Some(World::new(std::mem::take(&mut self.settings)).await);
        }
        match kind {
            ":" => self.fault(who, rest),
            "!" => self.end(who, rest).await,
            ">" => {
                let text = rest.to_owned() + "\r\n";
                let stream = self.session(who).await;
                stream.write_all(text.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
            }
            _ => {
                let got = line(self.session(who).await).await;
                let same = match rest.split_once('…') {
                    Some((beginning, end)) => got
                        .strip_prefix(beginning)
                        .is_some_and(|rest| rest.ends_with(end)),
                    None => got == rest,
                };
                assert!(same, "{}: {row}\ngot: {got}", self.title);
                if got == "<closed>" {
                    self.sessions.remove(who);
                }
            }
        }
    }

    fn fault(&self, seid: &str, plan: &str) {
        let action = Action::ElementFault {
            seid: seid.into(),
            faults: vec![plan.into()],
        };
        let path = self.world.as_ref().unwrap().path("admin.sock");
        let answer = tokio::task::block_in_place(|| {
            let mut link = Endpoint::Unix(path).link().unwrap();
            admin::ask(&mut link, &action).unwrap()
        });
        assert!(matches!(answer, Answer::Info(_)), "{answer:?}");
    }

    async fn session(&mut self, who: &str) -> &mut Box<dyn Stream> {
        if !self.sessions.contains_key(who) {
            let world = self.world.as_ref().unwrap();
            let name = who.split(['/', '@']).next().unwrap();
            let stream: Box<dyn Stream> = if name == "operator" {
                Box::new(world.admin().await.stream)
            } else if who.ends_with("@machines") {
                Box::new(world.connect(&world.machines.user(name)).await.stream)
            } else {
                Box::new(world.connect(&world.users.user(name)).await.stream)
            };
            self.sessions.insert(who.to_owned(), stream);
        }
        self.sessions.get_mut(who).unwrap()
    }

    async fn end(&mut self, who: &str, how: &str) {
        let mut stream = self.sessions.remove(who).expect("a session");
        match how {
            "close" => stream.shutdown().await.unwrap(),
            "shut" | "reset" => stream.end(how),
            other => panic!("{other} is no end"),
        }
    }

    /// Nothing was told that the transcript does not have.
    async fn over(mut self) {
        let open: Vec<String> = self.sessions.keys().cloned().collect();
        assert!(self.world.is_some(), "{} is empty", self.title);
        for who in open {
            self.row(&format!("{who}> BEGIN over")).await;
            self.row(&format!("{who}> END")).await;
            self.row(&format!("{who}< BEGIN over")).await;
        }
    }
}

async fn line(stream: &mut Box<dyn Stream>) -> String {
    let mut line = Vec::new();
    loop {
        let byte = timeout(PATIENCE, stream.read_u8())
            .await
            .unwrap_or_else(|_| panic!("no line in time after {line:?}"));
        match byte {
            Ok(b'\n') => break,
            Ok(byte) => line.push(byte),
            Err(_) if line.is_empty() => return "<closed>".into(),
            Err(error) => panic!("{error} in a line"),
        }
    }
    assert_eq!(line.pop(), Some(b'\r'), "{line:?}");
    String::from_utf8(line).unwrap()
}

/// Plays a file, which has so many conversations at least.
async fn play(name: &str, text: &str, at_least: usize) {
    let mut conversations = 0;
    let mut play: Option<Play> = None;
    for row in text.lines().filter(|row| !row.is_empty()) {
        if row.starts_with('#') {
            continue;
        }
        if let Some(title) = row.strip_prefix("== ") {
            conversations += 1;
            if let Some(play) = play.replace(Play::new(format!("{name}: {title}"))) {
                play.over().await;
            }
            continue;
        }
        play.as_mut().expect("a title first").row(row).await;
    }
    play.expect("a conversation").over().await;
    assert!(conversations >= at_least, "{name}: {conversations}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks() {
    play("locks.txt", include_str!("transcripts/locks.txt"), 26).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn access() {
    play("access.txt", include_str!("transcripts/access.txt"), 9).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hardware() {
    play("hardware.txt", include_str!("transcripts/hardware.txt"), 6).await;
}
