//! `gose vm`: virtual machines of a hypervisor node.

use std::path::Path;

use clap::{Args, Subcommand};
use gose_client::admin::{Action, Answer, Vm, VmCreate};
use gose_proto::hex;

use crate::{Failure, Output, node::Node, output::read_bytes};

/// What to do with virtual machines.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Create a virtual machine, bind elements to it and start it
    Create(Box<Create>),
    /// List virtual machines: one's own, or all for the operator
    List(List),
    /// Show one virtual machine
    Show(One),
    /// Stop a virtual machine; its elements stay bound to it, its tokens count no more
    Stop(One),
    /// Start one that is stopped: its next generation, with a new ticket and a new token
    Start(One),
    /// Hold a virtual machine: its sessions with elements end, and it gets no others
    Pause(One),
    /// Let one that is paused go on, with a new token
    Resume(One),
    /// End a virtual machine for good; its tokens count no more, its element of a pool is wiped and free
    Destroy(One),
    /// Ask whether a domain may be built, and use up its creation ticket: for the hotplug script or hook of a
    /// hypervisor; succeeds once
    Admit(Admit),
}

/// Flags of `create`.
#[derive(Args)]
pub(crate) struct Create {
    #[command(flatten)]
    on: Node,
    /// What it runs: an image of the node's configuration; or a file SPEC.toml with the same settings as the flags
    /// (image, name, seid, pool, memory-mib, vcpus, keep, arguments), which flags go before
    #[arg(value_name = "IMAGE|SPEC.toml")]
    what: String,
    /// What people call it
    #[arg(long)]
    name: Option<String>,
    /// An element of its own, repeatable; the first one holds its key
    #[arg(long = "seid", value_name = "SEID")]
    seids: Vec<String>,
    /// The pool that it is given an element of: a new key, a certificate and a PIN are made for it
    #[arg(long)]
    pool: Option<String>,
    /// Memory [default: 256]
    #[arg(long, value_name = "MIB")]
    memory_mib: Option<u32>,
    /// Processors [default: 1]
    #[arg(long, value_name = "N")]
    vcpus: Option<u32>,
    /// Keep it, stopped, when it ends by itself; otherwise it is destroyed then
    #[arg(long)]
    keep: bool,
    /// Its UUID; only the operator chooses one
    #[arg(long)]
    uuid: Option<String>,
    /// Arguments after the image's own
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Flags of `list`.
#[derive(Args)]
pub(crate) struct List {
    #[command(flatten)]
    on: Node,
}

/// A virtual machine.
#[derive(Args)]
pub(crate) struct One {
    #[command(flatten)]
    on: Node,
    /// Its UUID or its name
    #[arg(value_name = "UUID|NAME")]
    which: String,
}

/// Flags of `admit`.
#[derive(Args)]
pub(crate) struct Admit {
    #[command(flatten)]
    on: Node,
    /// The domain's UUID
    uuid: String,
    /// The file with its creation ticket
    #[arg(long, value_name = "FILE")]
    ticket: std::path::PathBuf,
}

impl Verb {
    pub(crate) fn run(&self, output: &Output) -> Result<(), Failure> {
        match self {
            Self::Create(create) => create.run(output),
            Self::List(List { on }) => match on.ask(&Action::VmList)? {
                Answer::Vms { vms } => output.result(&vms, |vms| vms.iter().map(line).collect()),
                _ => Err(other_kind()),
            },
            Self::Show(one) => one.run(output, |uuid| Action::VmShow { uuid }, details),
            Self::Stop(one) => one.run(output, |uuid| Action::VmStop { uuid }, line),
            Self::Start(one) => one.run(output, |uuid| Action::VmStart { uuid }, line),
            Self::Pause(one) => one.run(output, |uuid| Action::VmPause { uuid }, line),
            Self::Resume(one) => one.run(output, |uuid| Action::VmResume { uuid }, line),
            Self::Destroy(One { on, which }) => {
                let uuid = which.clone();
                match on.ask(&Action::VmDestroy { uuid })? {
                    Answer::Destroyed => {
                        output.result(which, |which| format!("{which} is destroyed\n"))
                    }
                    _ => Err(other_kind()),
                }
            }
            Self::Admit(admit) => admit.run(output),
        }
    }
}

impl Create {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        match self.on.ask(&Action::VmCreate(self.wish()?))? {
            Answer::Created(vm) => output.result(&vm, line),
            _ => Err(other_kind()),
        }
    }

    fn wish(&self) -> Result<VmCreate, Failure> {
        let path = Path::new(&self.what);
        let mut wish = if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            specification(path)?
        } else {
            VmCreate {
                image: self.what.clone(),
                ..VmCreate::default()
            }
        };
        let flags = [
            (&mut wish.name, &self.name),
            (&mut wish.pool, &self.pool),
            (&mut wish.uuid, &self.uuid),
        ];
        for (wished, flag) in flags {
            if flag.is_some() {
                wished.clone_from(flag);
            }
        }
        wish.memory_mib = self.memory_mib.or(wish.memory_mib);
        wish.vcpus = self.vcpus.or(wish.vcpus);
        wish.keep |= self.keep;
        for (wished, flags) in [
            (&mut wish.seid, &self.seids),
            (&mut wish.arguments, &self.arguments),
        ] {
            if !flags.is_empty() {
                wished.clone_from(flags);
            }
        }
        Ok(wish)
    }
}

fn specification(path: &Path) -> Result<VmCreate, Failure> {
    let wrong =
        |error: &dyn std::fmt::Display| Failure::local(format!("{}: {error}", path.display()));
    let bytes = read_bytes(Some(path))?;
    let text = std::str::from_utf8(&bytes).map_err(|error| wrong(&error))?;
    toml::from_str(text).map_err(|error| wrong(&error))
}

impl One {
    fn run(
        &self,
        output: &Output,
        action: fn(String) -> Action,
        text: fn(&Vm) -> String,
    ) -> Result<(), Failure> {
        match self.on.ask(&action(self.which.clone()))? {
            Answer::Vm(vm) => output.result(&vm, text),
            _ => Err(other_kind()),
        }
    }
}

impl Admit {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let ticket = read_bytes(Some(&self.ticket))?;
        let action = Action::VmAdmit {
            uuid: self.uuid.clone(),
            ticket: hex::encode(ticket.as_slice()),
        };
        match self.on.ask(&action)? {
            Answer::Admitted => output.result(&self.uuid, |uuid| format!("{uuid} may be built\n")),
            _ => Err(other_kind()),
        }
    }
}

fn line(vm: &Vm) -> String {
    format!(
        "{} {} {} generation {} {} {}\n",
        vm.uuid,
        vm.name.as_deref().unwrap_or("-"),
        vm.state,
        vm.generation,
        vm.id,
        vm.seid.join(" ")
    )
}

fn details(vm: &Vm) -> String {
    let or = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    format!(
        "uuid        {}\nname        {}\nstate       {}\ngeneration  {}\nidentity    {}\nelements    {}\npool        {}\n\
         image       {}\nkernel      {}\nRAM disk    {}\ncreator     {}\n",
        vm.uuid,
        or(&vm.name),
        vm.state,
        vm.generation,
        vm.id,
        vm.seid.join(" "),
        or(&vm.pool),
        vm.image,
        or(&vm.kernel),
        or(&vm.ramdisk),
        vm.creator.as_deref().unwrap_or("the operator")
    )
}

fn other_kind() -> Failure {
    Failure::Remote("the node gives an answer of another kind".into())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        create: Create,
    }

    fn wish(arguments: &[&str]) -> VmCreate {
        let line = std::iter::once(&"create").chain(arguments);
        Line::parse_from(line).create.wish().unwrap()
    }

    #[test]
    fn a_specification_and_flags_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.toml");
        let text =
            "image = \"debian\"\nname = \"web\"\nseid = [\"SE1\"]\nmemory-mib = 512\nkeep = true\n";
        std::fs::write(&path, text).unwrap();
        let path = path.display().to_string();
        let plain = wish(&[&path]);
        assert_eq!(
            (plain.image.as_str(), plain.memory_mib, plain.keep),
            ("debian", Some(512), true)
        );
        let other = wish(&[
            &path,
            "--name",
            "web-2",
            "--seid",
            "SE2",
            "--memory-mib",
            "64",
            "--",
            "x",
        ]);
        assert_eq!(other.name.as_deref(), Some("web-2"));
        assert_eq!(
            (other.seid, other.memory_mib),
            (vec!["SE2".to_owned()], Some(64))
        );
        assert_eq!(other.arguments, ["x"]);
        assert_eq!(wish(&["debian"]).image, "debian");
        std::fs::write(&path, "image = \"debian\"\nroot = true\n").unwrap();
        let refused = specification(Path::new(&path)).unwrap_err();
        assert!(refused.to_string().contains("root"), "{refused}");
    }
}
