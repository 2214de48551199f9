//! The examples of configurations are what `gosed check` takes, with files made as they say; without any one of these
//! it says which is missing.

#![allow(clippy::unwrap_used)]

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use gose_testkit::pki::{Authority, Request};
use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose, SanType};

#[test]
fn a_grid_node() {
    check(&example("gosed.example.toml"), 7);
}

#[test]
fn a_hypervisor() {
    let text = example("docs/examples/hypervisor.toml");
    check(&text, 6);
    // The other way, which stands there as a comment.
    let own = text
        .lines()
        .find(|line| line.starts_with("authentication-server = "));
    let commented = text
        .split("# [hypervisor.authenticator]\n")
        .nth(1)
        .and_then(|rest| rest.split("\n\n").next())
        .unwrap();
    let other = format!(
        "[hypervisor.authenticator]\n{}",
        commented
            .replace("# ", "")
            .replace("/usr/local/sbin/guest-port", "/bin/true")
    );
    let text = text.replace(own.unwrap(), "");
    let text = text.replace(
        "[[hypervisor.image]]",
        &format!("{other}\n[[hypervisor.image]]"),
    );
    check(&text, 7);
}

#[test]
fn an_authentication_server() {
    check(&example("docs/examples/authentication-server.toml"), 8);
}

fn example(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read_to_string(root.join(name)).unwrap();
    // Images belong under /var/lib unless it is said otherwise.
    match text.contains("\ndirectory = ") {
        true => text,
        false => text.replace("[store]\n", "[store]\ndirectory = \"images\"\n"),
    }
}

/// Checks a configuration whose files are there, and then without each of them, of which there must be so many.
fn check(text: &str, expected: usize) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    std::fs::write(folder.join("gosed.toml"), text).unwrap();
    let files = files(text);
    assert_eq!(files.len(), expected, "{files:?}");
    make(folder, &files);
    let output = gosed_check(folder);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    assert_eq!(told, "", "no warning");
    // What is in force is a configuration too.
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("version = 1")
    );
    for file in &files {
        let (path, aside) = (folder.join(file), folder.join("aside"));
        std::fs::rename(&path, &aside).unwrap();
        let output = gosed_check(folder);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && told.contains(file),
            "without {file}: {told}"
        );
        std::fs::rename(&aside, &path).unwrap();
    }
    assert!(gosed_check(folder).status.success());
}

fn gosed_check(folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gosed"))
        .args(["check", "--config", "gosed.toml"])
        .current_dir(folder)
        .env_remove("CREDENTIALS_DIRECTORY")
        .output()
        .unwrap()
}

/// The files that a configuration names, and that are there before the node's first start.
fn files(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let quoted = lines.flat_map(|line| line.split('"').skip(1).step_by(2));
    let mut files: Vec<String> = quoted
        .map(|name| name.strip_prefix("file:").unwrap_or(name))
        .filter(|name| {
            let kinds = [".pem", ".key", ".pin", ".secret"];
            kinds.iter().any(|kind| name.ends_with(kind))
        })
        .map(str::to_owned)
        .collect();
    files.sort();
    files.dedup();
    files
}

/// Makes them: authorities, certificates of theirs, secrets that nobody else may read.
fn make(folder: &Path, files: &[String]) {
    let (site, users) = (Authority::new("site"), Authority::new("users"));
    for file in files {
        let path = folder.join(file);
        match file.as_str() {
            "users.pem" => drop(users.write(folder, "users")),
            "users.crl.pem" => drop(users.write_crl(&[], folder, "users.crl")),
            "hv-ca.pem" => {
                let mut request = Request::new(Some("hv-7 authority"));
                request.params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
                request.params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
                request.params.extended_key_usages = Vec::new();
                let name = "spiffe://example.org/hv/hv-7".try_into().unwrap();
                request.params.subject_alt_names = vec![SanType::URI(name)];
                let _ = std::fs::write(&path, site.issue(request).chain_pem());
            }
            "node.pem" | "auth.pem" | "hv-tls.pem" => {
                let name = file.strip_suffix(".pem").unwrap();
                let _ = site.server(&["node.example.org"]).write(folder, name);
            }
            // Beside its certificate.
            "node.key" | "auth.key" => {}
            "master.key" => secret(&path, &"5a".repeat(32)),
            _ if file.ends_with(".pem") => {
                drop(site.write(folder, file.strip_suffix(".pem").unwrap()))
            }
            _ => secret(&path, "12345678"),
        }
    }
}

fn secret(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
}
