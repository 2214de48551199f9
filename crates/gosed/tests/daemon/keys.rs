//! The master key in each of its forms, and from one to the other: the real daemon, the same images.

use std::{
    io::Write,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use crate::node_of_one::Place;

/// Argon2id that costs a test nothing.
const QUICK: [&str; 4] = ["--argon2-memory-kib", "64", "--argon2-passes", "1"];

fn text(output: &Output) -> String {
    let both = [&*output.stdout, &*output.stderr].concat();
    String::from_utf8(both).unwrap()
}

impl Place {
    fn store(&self, lines: &str) {
        self.configure(&format!("[store]\ndirectory = \".\"\n{lines}"), "");
    }

    /// `gosed key …`, with a passphrase on descriptor 0 where it is asked for.
    fn key(&self, arguments: &[&str], passphrase: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_gosed"))
            .current_dir(self.dir.path())
            .arg("key")
            .args(arguments)
            .args(["--config", "gosed.toml"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that wants none does not read it.
        let _ = child.stdin.take().unwrap().write_all(passphrase.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn done(&self, arguments: &[&str], passphrase: &str) -> String {
        let output = self.key(arguments, passphrase);
        let text = text(&output);
        assert!(output.status.success(), "{arguments:?}: {text}");
        text
    }

    fn refused(&self, arguments: &[&str], passphrase: &str, says: &str) {
        let output = self.key(arguments, passphrase);
        let text = text(&output);
        assert!(
            !output.status.success() && text.contains(says),
            "{arguments:?}: {text}"
        );
    }

    /// A credential as systemd gives it.
    fn credential(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let directory = self.path("credentials");
        std::fs::create_dir_all(&directory).unwrap();
        // The mode that an access control list for the service's user shows.
        std::fs::write(directory.join(name), bytes).unwrap();
        let mode = PermissionsExt::from_mode(0o440);
        std::fs::set_permissions(directory.join(name), mode).unwrap();
        directory
    }

    /// The daemon starts, and the element has what it had.
    fn serves(&self, environment: &[(&str, &str)], stdin: &str, tries: &str) {
        let node = self.start_with(environment, stdin);
        assert_eq!(node.tries(self), tries);
    }

    fn does_not_start(&self, environment: &[(&str, &str)], stdin: &str, says: &str) {
        let log = self.fails_to_start(environment, stdin);
        assert!(log.contains(says), "{log}");
    }
}

#[test]
fn a_key_is_made_and_kept_in_every_form_and_images_stay() {
    let place = Place::new();
    place.store("master-key-file = \"master.key\"\n");
    place.does_not_start(&[], "", "gosed key make");
    assert!(place.done(&["make"], "").contains("the configuration fits"));
    place.refused(&["make"], "", "gosed key change");
    assert!(place.done(&["show"], "").contains("as it is"));
    {
        let node = place.start_with(&[], "");
        node.guess_wrong(&place);
        assert_eq!(node.tries(&place), "63C2");
    }
    let image = std::fs::read(place.path("SE1.image")).unwrap();

    // Into a passphrase, in place: then the old configuration says what to do.
    let change = [
        "change",
        "--passphrase",
        "fd:0",
        QUICK[0],
        QUICK[1],
        QUICK[2],
        QUICK[3],
    ];
    let told = place.done(&change, "correct horse\n");
    assert!(told.contains("passphrase = \"fd:0\""), "{told}");
    let mode = std::fs::metadata(place.path("master.key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(
        place
            .done(&["show"], "")
            .contains("Argon2id, 64 KiB, 1 passes")
    );
    place.does_not_start(&[], "", "[store] passphrase = ");
    place.store("master-key-file = \"master.key\"\npassphrase = \"fd:0\"\n");
    place.serves(&[], "correct horse\n", "63C2");
    place.does_not_start(&[], "wrong horse\n", "the passphrase is wrong");
    place.does_not_start(&[], "", "there is none");
    // A reload asks nobody again.
    {
        let node = place.start_with(&[], "correct horse");
        node.reload();
        assert_eq!(node.tries(&place), "63C2");
    }

    // Another passphrase, from a file; the old one opens nothing any more.
    std::fs::write(place.path("new"), "battery staple\n").unwrap();
    std::fs::set_permissions(place.path("new"), PermissionsExt::from_mode(0o600)).unwrap();
    let new = format!("file:{}", place.path("new").display());
    place.refused(
        &["change", "--passphrase", &new],
        "wrong horse",
        "the passphrase is wrong",
    );
    place.done(
        &[
            "change",
            "--passphrase",
            &new,
            QUICK[0],
            QUICK[1],
            QUICK[2],
            QUICK[3],
        ],
        "correct horse",
    );
    place.does_not_start(&[], "correct horse", "the passphrase is wrong");
    place.store("master-key-file = \"master.key\"\npassphrase = \"file:new\"\n");
    place.serves(&[], "", "63C2");

    // As a credential of the service, wrapped by a passphrase that is one too; and as it is.
    let wrapped = std::fs::read(place.path("master.key")).unwrap();
    let directory = place.credential("gose", &wrapped);
    place.credential("gose-passphrase", b"battery staple");
    let environment = [("CREDENTIALS_DIRECTORY", directory.to_str().unwrap())];
    place.store("master-key-credential = \"gose\"\npassphrase = \"credential:gose-passphrase\"\n");
    place.serves(&environment, "", "63C2");
    place.does_not_start(&[], "", "CREDENTIALS_DIRECTORY is not set");
    place.store("master-key-file = \"master.key\"\npassphrase = \"file:new\"\n");
    place.done(&["change", "--plain", "--to", "plain"], "");
    let plain = std::fs::read(place.path("plain")).unwrap();
    place.credential("gose-plain", &plain);
    place.store("master-key-credential = \"gose-plain\"\n");
    place.serves(&environment, "", "63C2");
    place.store("master-key-credential = \"other\"\n");
    place.does_not_start(&environment, "", "LoadCredential");

    let after = std::fs::read(place.path("SE1.image")).unwrap();
    assert_eq!(image, after, "no image was written for any of it");
    // Nothing of a change is left beside the keys.
    assert!(!place.path("master.key.new").exists() && !place.path("plain.new").exists());
}

#[test]
fn what_is_refused() {
    let place = Place::new();
    place.store("master-key-file = \"master.key\"\n");
    place.done(&["make"], "");
    let before = std::fs::read(place.path("master.key")).unwrap();
    for (arguments, says) in [
        (
            vec!["change", "--passphrase", "hunter2"],
            "a passphrase comes from",
        ),
        (
            vec!["change", "--passphrase", "env:X"],
            "a passphrase comes from",
        ),
        (vec!["change", "--passphrase", "fd:77"], "fd:77"),
        (vec!["change", "--sealed-by", "tpm"], "no [[key-store]]"),
        (
            vec!["change", "--plain", "--sealed-by", "tpm"],
            "cannot be used with",
        ),
        (
            vec!["change", "--passphrase", "fd:0", "--argon2-memory-kib", "7"],
            "from 8 KiB",
        ),
        (
            vec!["change", "--passphrase", "fd:0", "--argon2-passes", "0"],
            "1 to 100",
        ),
    ] {
        place.refused(&arguments, "x", says);
    }
    assert_eq!(std::fs::read(place.path("master.key")).unwrap(), before);
    // Without a terminal nobody can be asked.
    let output = Command::new("setsid")
        .arg(env!("CARGO_BIN_EXE_gosed"))
        .args(["key", "change", "--passphrase", "ask", "--config"])
        .arg(place.path("gosed.toml"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        text(&output).contains("cannot ask at a terminal"),
        "{}",
        text(&output)
    );
    place.store("master-key-file = \"master.key\"\npassphrase = \"fd:0\"\n");
    place.does_not_start(&[], "x", "gosed key change --passphrase");
    place.store("master-key-file = \"a\"\nmaster-key-credential = \"b\"\n");
    place.does_not_start(&[], "", "either master-key-file or master-key-credential");
    place.store("");
    place.does_not_start(&[], "", "either master-key-file or master-key-credential");
    place.store("master-key-file = \"a\"\nsealed-by = \"t\"\npassphrase = \"ask\"\n");
    place.does_not_start(&[], "", "either sealed-by or passphrase");
    place.store("master-key-credential = \"../a\"\n");
    place.does_not_start(&[], "", "no name of a credential");
}
