//! `gose element list|init|power|reset|apdu|info|use|fault|plug`.

use clap::{Args, Subcommand};
use gose_client::{
    RemoteElement,
    admin::{self, Action, ElementInfo},
};
use gose_element::{Atr, Outcomes, Script, SecureElement, Step};
use gose_proto::{apdu::Command, hex};
use serde::Serialize;

use crate::{Failure, Output, node::Node};

/// What to do with elements.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// List the elements that the caller may use
    List(List),
    /// Replace the published PINs of an element by secrets of its own
    Init(crate::init::Init),
    /// Power an element up and tell its answer to reset, or power it down
    Power(Power),
    /// Reset an element and tell its answer to reset
    Reset(Reset),
    /// Send APDUs to an element, in one request
    Apdu(Apdu),
    /// Tell what an element says of itself: answer to reset and applications; and how it stands in its node, to
    /// whoever administers it
    Info(Info),
    /// Tell what an element was used for since its node started: commands, keys, primitives
    Use(Use),
    /// Break an element in software on purpose, on a test grid
    Fault(Fault),
    /// Put an element into a virtual reader of pcscd, until one of the two goes away
    Plug(crate::reader::Plug),
}

/// Flags of `list`.
#[derive(Args)]
pub(crate) struct List {
    #[command(flatten)]
    node: Node,
}

/// Flags of `use`.
#[derive(Args)]
pub(crate) struct Use {
    #[command(flatten)]
    node: Node,
    /// The element
    seid: String,
}

/// Flags of `power`.
#[derive(Args)]
pub(crate) struct Power {
    #[command(flatten)]
    node: Node,
    /// The element
    seid: String,
    /// Power down instead
    #[arg(long)]
    off: bool,
}

/// Flags of `reset`.
#[derive(Args)]
pub(crate) struct Reset {
    #[command(flatten)]
    node: Node,
    /// The element
    seid: String,
    /// By the reset line only, without a power cycle
    #[arg(long)]
    warm: bool,
}

/// Flags of `apdu`.
#[derive(Args)]
pub(crate) struct Apdu {
    #[command(flatten)]
    node: Node,
    /// The element
    seid: String,
    /// Command APDUs in hexadecimal, run in order on one power-up. Whoever lists processes sees them:
    /// send PINs with `gose racs -` instead
    #[arg(required = true)]
    apdus: Vec<String>,
    /// Stop at the first status word that is not 9000
    #[arg(long)]
    strict: bool,
}

/// Flags of `info`.
#[derive(Args)]
pub(crate) struct Info {
    #[command(flatten)]
    node: Node,
    /// The element
    seid: String,
}

/// Flags of `fault`.
#[derive(Args)]
pub(crate) struct Fault {
    #[command(flatten)]
    node: Node,
    /// The element
    seid: String,
    /// What goes wrong, one argument each, in place of what was chosen before: mute, status=XXXX, reset, pulled,
    /// slow=N, flip, more (endless 61xx), length (endless 6Cxx) or long=BYTES; then after=N, times=N, seed=N as
    /// wanted: "mute after=3 times=2". Without any: tell what was chosen
    faults: Vec<String>,
    /// Nothing goes wrong any more
    #[arg(long, conflicts_with = "faults")]
    clear: bool,
}

impl Verb {
    pub(crate) fn run(self, output: &Output) -> Result<(), Failure> {
        match self {
            Self::List(flags) => flags.run(output),
            Self::Init(flags) => flags.run(output),
            Self::Power(flags) => flags.run(output),
            Self::Reset(flags) => flags.run(output),
            Self::Apdu(flags) => flags.run(output),
            Self::Info(flags) => flags.run(output),
            Self::Use(flags) => flags.run(output),
            Self::Fault(flags) => flags.run(output),
            Self::Plug(flags) => flags.once(output),
        }
    }
}

impl List {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let seids = self.node.connect()?.list()?;
        let seids: Vec<_> = seids.iter().map(ToString::to_string).collect();
        output.result(&seids, |seids| seids.join("\n"))
    }
}

/// An element and its state.
#[derive(Serialize)]
struct State {
    seid: String,
    powered: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    atr: Option<String>,
}

impl State {
    fn new(seid: &str, atr: Option<&Atr>) -> Self {
        Self {
            seid: seid.to_owned(),
            powered: atr.is_some(),
            atr: atr.map(ToString::to_string),
        }
    }

    fn text(&self) -> String {
        match &self.atr {
            Some(atr) => format!("{} powered on, ATR {atr}", self.seid),
            None => format!("{} powered off", self.seid),
        }
    }
}

impl Power {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        if self.off {
            let mut connection = self.node.connect()?;
            let mut request = gose_proto::racs::Request::new();
            request
                .shutdown(&crate::node::parse_seid(&self.seid)?)
                .map_err(gose_client::Error::from)?;
            let response = connection.ask(request)?;
            response.decide().map_err(gose_client::Error::from)?;
            return output.result(&State::new(&self.seid, None), State::text);
        }
        let atr = self.node.element(&self.seid)?.power_on()?;
        output.result(&State::new(&self.seid, Some(&atr)), State::text)
    }
}

impl Reset {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let atr = self.node.element(&self.seid)?.reset(self.warm)?;
        output.result(&State::new(&self.seid, Some(&atr)), State::text)
    }
}

/// The answer to one APDU.
#[derive(Serialize)]
struct Answer {
    data: String,
    sw: String,
    meaning: &'static str,
}

impl Apdu {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let mut steps = Vec::with_capacity(self.apdus.len());
        for text in &self.apdus {
            steps.push(self.step(text)?);
        }
        let script = Script::new(steps);
        let mut element = self.node.element(&self.seid)?;
        let (_, outcomes) = element.run_once(&script)?;
        let answers: Vec<_> = outcomes.done.iter().flatten().map(Answer::new).collect();
        output.result(&answers, |answers| {
            answers.iter().map(Answer::text).collect()
        })?;
        match (outcomes.complete(script.steps.len()), outcomes.failed) {
            (_, Some(error)) => Err(error.into()),
            (true, None) => Ok(()),
            (false, None) => Err(Failure::Remote(format!(
                "APDU {} was answered with another status word than 9000",
                answers.len()
            ))),
        }
    }

    fn step(&self, text: &str) -> Result<Step, Failure> {
        let wrong = |error: String| Failure::local(format!("{text}: {error}"));
        let apdu = hex::decode(text).map_err(|error| wrong(error.to_string()))?;
        Command::parse(&apdu).map_err(|error| wrong(error.to_string()))?;
        let step = Step::new(apdu)
            .collect(gose_proto::racs::script::GET_RESPONSE)
            .append();
        Ok(if self.strict {
            step.expect_normal()
        } else {
            step
        })
    }
}

impl Answer {
    fn new(outcome: &gose_element::Outcome) -> Self {
        Self {
            data: hex::encode(&outcome.body),
            sw: outcome.sw.to_string(),
            meaning: outcome.sw.meaning(),
        }
    }

    fn text(&self) -> String {
        let space = if self.data.is_empty() { "" } else { " " };
        format!("{}{space}{}  {}\n", self.data, self.sw, self.meaning)
    }
}

/// What an element says of itself.
#[derive(Serialize)]
struct About {
    seid: String,
    node_version: String,
    atr: String,
    applications: Vec<Application>,
    #[serde(skip_serializing_if = "Option::is_none")]
    standing: Option<ElementInfo>,
}

#[derive(Serialize)]
struct Application {
    name: &'static str,
    aid: &'static str,
    selected: bool,
    sw: String,
}

/// Applications that are looked for, by what a SELECT of their identifier answers.
const KNOWN: [(&str, &str); 3] = [
    ("PIV", "A000000308000010000100"),
    ("EAP-TLS", "F0474F534545415001"),
    ("storage", "F0474F534553544F01"),
];

impl Use {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let action = Action::ElementUse {
            seid: self.seid.clone(),
        };
        let admin::Answer::Use(used) = self.node.ask(&action)? else {
            return Err(Failure::Remote("an answer of another kind".into()));
        };
        output.result(&used, |used| {
            format!(
                "commands              {}\nRSA private           {}\nRSA public            {}\n\
                 ECDSA signatures      {}\nECDSA verifications   {}\nEC agreements         {}\n\
                 key pairs made        {}\nhash blocks (64 B)    {}\nbytes through ciphers {}\n\
                 bytes of APDUs        {}\n",
                used.commands,
                used.rsa_private,
                used.rsa_public,
                used.ecdsa_sign,
                used.ecdsa_verify,
                used.ec_agree,
                used.key_generate,
                used.hash_blocks,
                used.cipher_bytes,
                used.io_bytes
            )
        })
    }
}

impl Info {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let mut connection = self.node.connect()?;
        let node_version = connection.version()?;
        let seid = crate::node::parse_seid(&self.seid)?;
        let mut element = RemoteElement::new(connection, seid);
        let steps = KNOWN
            .iter()
            .map(|(_, aid)| select(aid))
            .collect::<Result<Vec<_>, _>>()?;
        let (atr, outcomes) = element.run_once(&Script::new(steps))?;
        let about = About {
            seid: self.seid.clone(),
            node_version,
            atr: atr.to_string(),
            applications: applications(&outcomes),
            standing: self.standing(),
        };
        output.result(&about, About::text)?;
        outcomes.failed.map_or(Ok(()), |error| Err(error.into()))
    }
}

impl Info {
    /// What the node knows of the element; nothing for callers who do not administer it, or where the node cannot
    /// know.
    fn standing(&self) -> Option<ElementInfo> {
        let seid = self.seid.clone();
        match self.node.ask(&Action::ElementInfo { seid }) {
            Ok(admin::Answer::Info(info)) if info.memory.is_some() => Some(info),
            _ => None,
        }
    }
}

impl Fault {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let seid = self.seid.clone();
        let action = if self.faults.is_empty() && !self.clear {
            Action::ElementInfo { seid }
        } else {
            let faults = self.faults.clone();
            Action::ElementFault { seid, faults }
        };
        let admin::Answer::Info(info) = self.node.ask(&action)? else {
            return Err(Failure::Remote("an answer of another kind".into()));
        };
        if info.faults.is_none() {
            return Err(Failure::Remote(
                "the element has no faults to choose: its node is no test grid ([node] test-grid = true), or it is \
                 not in software"
                    .into(),
            ));
        }
        output.result(&info, |info| fault_lines(info, ""))
    }
}

fn fault_lines(info: &ElementInfo, indent: &str) -> String {
    let faults = info.faults.iter().flatten();
    let line = |fault: &admin::ElementFault| {
        format!("{indent}{}, happened {}\n", fault.fault, fault.happened)
    };
    let lines: String = faults.map(line).collect();
    match (&info.faults, lines.is_empty()) {
        (Some(_), true) => format!("{indent}no faults\n"),
        _ => lines,
    }
}

fn standing_text(info: &ElementInfo) -> String {
    let mut text = String::new();
    if let Some(memory) = &info.memory {
        let percent = memory.bytes * 100 / memory.quota.max(1);
        text += &format!(
            "  memory   {} of {} bytes ({percent} %); image version {}, {} bytes in {} records\n",
            memory.bytes,
            memory.quota,
            memory.image_version,
            memory.image_bytes,
            memory.image_records
        );
    }
    if let Some(timing) = &info.timing {
        text += &format!("  timing   {timing}\n");
    }
    text += &format!("  commands {} since the node started\n", info.commands);
    if info.faults.is_some() {
        text += &fault_lines(info, "  fault    ");
    }
    text
}

fn select(aid: &str) -> Result<Step, Failure> {
    let command = Command::new(0x00, 0xA4, 0x04, 0x00)
        .with_data(hex::decode(aid).map_err(|error| Failure::local(error.to_string()))?)
        .with_ne(256);
    let apdu = command
        .encode()
        .map_err(|error| Failure::local(error.to_string()))?;
    Ok(Step::new(apdu)
        .collect(gose_proto::racs::script::GET_RESPONSE)
        .append())
}

fn applications(outcomes: &Outcomes) -> Vec<Application> {
    let answers = outcomes.done.iter().flatten();
    KNOWN
        .iter()
        .zip(answers)
        .map(|(&(name, aid), outcome)| Application {
            name,
            aid,
            selected: outcome.sw.is_process_completed(),
            sw: outcome.sw.to_string(),
        })
        .collect()
}

impl About {
    fn text(&self) -> String {
        let mut text = format!(
            "{}\n  node speaks RACS {}\n  ATR {}\n",
            self.seid, self.node_version, self.atr
        );
        for application in &self.applications {
            let word = if application.selected { "yes" } else { "no" };
            text.push_str(&format!(
                "  {:8} {word:3} (SELECT {} answers {})\n",
                application.name, application.aid, application.sw
            ));
        }
        if let Some(standing) = &self.standing {
            text += &standing_text(standing);
        }
        text
    }
}
