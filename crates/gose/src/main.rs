//! `gose <noun> <verb>`: elements of a grid from the shell.
//!
//! Exit codes: 0 done, 1 usage or a local error, 2 an error of the node or the element.
#![forbid(unsafe_code)]

mod cert;
mod data;
mod eap;
mod element;
mod failure;
mod guest;
mod identity;
mod init;
mod key;
mod node;
mod output;
mod pki;
mod racs;
mod reader;
mod secrets;
mod service;
mod socket;
mod ssh_agent;
mod tls;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{failure::Failure, output::Output};

/// Elements of a Grid of Secure Elements from the shell.
///
/// Exit codes: 0 done, 1 usage or a local error, 2 an error of the node or the element.
#[derive(Parser)]
#[command(name = "gose", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    noun: Noun,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    json: bool,
}

/// One file a noun.
#[derive(Subcommand)]
enum Noun {
    /// Certificates of an element's keys
    #[command(subcommand)]
    Cert(cert::Verb),
    /// Data objects that an element keeps
    #[command(subcommand)]
    Data(data::Verb),
    /// Authenticate over EAP, as an element
    #[command(subcommand)]
    Eap(eap::Verb),
    /// List, initialise, power, reset and address elements
    #[command(subcommand)]
    Element(element::Verb),
    /// In a virtual machine: its token, its element, its authentication
    #[command(subcommand)]
    Guest(guest::Verb),
    /// Identities of the EAP-TLS application of an element
    #[command(subcommand)]
    Identity(identity::Verb),
    /// Keys of an element
    #[command(subcommand)]
    Key(key::Verb),
    /// A small certification authority whose key sits in an element
    #[command(subcommand)]
    Pki(pki::Verb),
    /// Run a transcript of RACS lines against a node and print its answers
    Racs(racs::Args),
    /// Keep an element in a virtual reader of pcscd, so that programs of this machine use it as a card
    Reader(reader::Plug),
    /// An agent for ssh and sshd whose keys are in an element
    ///
    /// Speaks OpenSSH's agent protocol on a Unix socket, for its own user. ssh and git find it by SSH_AUTH_SOCK, sshd
    /// by HostKeyAgent.
    SshAgent(ssh_agent::Agent),
    /// TLS to an ordinary server, the handshake done by an element
    #[command(subcommand)]
    Tls(tls::Verb),
    /// Virtual machines of a hypervisor node
    #[command(subcommand)]
    Vm(vm::Verb),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            // Help and version are no errors.
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    let output = Output::new(cli.json);
    let outcome = match cli.noun {
        Noun::Cert(verb) => verb.run(&output),
        Noun::Data(verb) => verb.run(&output),
        Noun::Eap(verb) => verb.run(&output),
        Noun::Element(verb) => verb.run(&output),
        Noun::Guest(verb) => verb.run(&output),
        Noun::Identity(verb) => verb.run(&output),
        Noun::Key(verb) => verb.run(&output),
        Noun::Pki(verb) => verb.run(&output),
        Noun::Racs(args) => args.run(&output),
        Noun::Reader(plug) => plug.forever(&output),
        Noun::SshAgent(agent) => agent.run(&output),
        Noun::Tls(verb) => verb.run(&output),
        Noun::Vm(verb) => verb.run(&output),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
