//! `gose vm create|list|destroy`.

use clap::{Args, Subcommand};
use gose_client::admin::{Action, Answer, Vm, VmCreate};

use crate::{Failure, Output, node::Node};

/// What to do with virtual machines.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Create a virtual machine, bind elements to it and start it
    Create(Create),
    /// List the virtual machines that run: one's own, or all for the operator
    List(List),
    /// Stop a virtual machine; its token counts no more
    Destroy(Destroy),
}

/// Flags of `create`.
#[derive(Args)]
pub(crate) struct Create {
    #[command(flatten)]
    on: Node,
    /// What it runs: an image of the node's configuration
    image: String,
    /// An element of its own, repeatable; the first one holds its key
    #[arg(long = "seid", value_name = "SEID")]
    seids: Vec<String>,
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

/// Flags of `destroy`.
#[derive(Args)]
pub(crate) struct Destroy {
    #[command(flatten)]
    on: Node,
    /// Which one
    uuid: String,
}

impl Verb {
    pub(crate) fn run(&self, output: &Output) -> Result<(), Failure> {
        match self {
            Self::Create(create) => create.run(output),
            Self::List(List { on }) => match on.ask(&Action::VmList)? {
                Answer::Vms { vms } => output.result(&vms, |vms| vms.iter().map(line).collect()),
                _ => Err(other_kind()),
            },
            Self::Destroy(Destroy { on, uuid }) => {
                match on.ask(&Action::VmDestroy { uuid: uuid.clone() })? {
                    Answer::Destroyed => {
                        output.result(uuid, |uuid| format!("{uuid} is destroyed\n"))
                    }
                    _ => Err(other_kind()),
                }
            }
        }
    }
}

impl Create {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let action = Action::VmCreate(VmCreate {
            image: self.image.clone(),
            seid: self.seids.clone(),
            arguments: self.arguments.clone(),
            uuid: self.uuid.clone(),
        });
        match self.on.ask(&action)? {
            Answer::Created(vm) => output.result(&vm, line),
            _ => Err(other_kind()),
        }
    }
}

fn line(vm: &Vm) -> String {
    format!(
        "{} generation {} {} {}\n",
        vm.uuid,
        vm.generation,
        vm.id,
        vm.seid.join(" ")
    )
}

fn other_kind() -> Failure {
    Failure::Remote("the node gives an answer of another kind".into())
}
