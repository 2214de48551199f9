//! One record a conversation: what happened, how long it took, who decided what; no secrets.

use std::time::{Duration, Instant};

use crate::auth::{Begin, Facts};

/// A conversation as it goes on.
pub(super) struct Record {
    begin: Option<Begin>,
    client: String,
    element: String,
    started: Instant,
    /// How long each step took in the element.
    steps: Vec<Duration>,
}

/// How it ended.
pub(super) enum Verdict<'a> {
    Accepted { peer: &'a str, facts: &'a Facts },
    Rejected { reason: &'a str },
    Abandoned,
}

impl Record {
    /// Steps that are told one by one; a conversation of fragments of 100 bytes has some hundred.
    const STEPS: usize = 64;

    pub(super) fn new(client: &str) -> Self {
        Self {
            begin: None,
            client: client.into(),
            element: String::new(),
            started: Instant::now(),
            steps: Vec::new(),
        }
    }

    pub(super) fn client(&self) -> &str {
        &self.client
    }

    pub(super) fn begins(&mut self, begin: Begin) {
        self.begin = Some(begin);
    }

    /// A step that this element took part in; an empty name is none.
    pub(super) fn step(&mut self, took: Duration, element: String) {
        if !element.is_empty() {
            self.element = element;
        }
        if self.steps.len() < Self::STEPS {
            self.steps.push(took);
        }
    }

    pub(super) fn close(&self, verdict: &Verdict<'_>) {
        let steps: Vec<String> = self
            .steps
            .iter()
            .map(|step| step.as_micros().to_string())
            .collect();
        let (station, identity) = match &self.begin {
            Some(begin) => (begin.station.clone(), begin.identity.as_str()),
            None => Default::default(),
        };
        let no_facts = Facts::default();
        let (word, peer, reason, facts) = match verdict {
            Verdict::Accepted { peer, facts } => ("accept", *peer, "", *facts),
            Verdict::Rejected { reason } => ("reject", "", *reason, &no_facts),
            Verdict::Abandoned => ("abandoned", "", "silence", &no_facts),
        };
        let hex = |value: u16| {
            if value == 0 {
                String::new()
            } else {
                format!("{value:04X}")
            }
        };
        tracing::info!(
            target: "gosed::eap",
            client = self.client,
            nas = station.nas,
            calling = station.calling,
            identity,
            element = self.element,
            verdict = word,
            peer,
            reason,
            version = hex(facts.version),
            suite = hex(facts.suite),
            resumed = facts.resumed,
            steps_us = steps.join(","),
            element_us = micros(self.steps.iter().sum()),
            total_us = micros(self.started.elapsed()),
            "conversation",
        );
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
