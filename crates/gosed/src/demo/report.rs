//! The demo's figures: a table for people, JSON for machines.

use std::fmt::Write as _;

use serde::Serialize;

/// One row of the first table.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Row {
    pub(super) phase: String,
    pub(super) ms: f64,
    pub(super) of: usize,
    pub(super) bytes: u64,
    pub(super) apdus: u64,
    pub(super) round_trips: u64,
    pub(super) private_operations: u64,
    pub(super) paper: String,
}

/// One attempt that had to be refused.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Attempt {
    pub(super) what: String,
    pub(super) refused: bool,
    pub(super) saw: String,
    pub(super) logged: String,
}

/// The client element's time under profile `paper-2014`.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Paper {
    pub(super) hashing_s: f64,
    pub(super) rsa_s: f64,
    pub(super) cipher_s: f64,
    pub(super) io_s: f64,
    pub(super) rest_s: f64,
    pub(super) sum_s: f64,
    pub(super) waited_s: f64,
    pub(super) both_cards_s: f64,
    pub(super) paper_s: f64,
}

/// Everything that `demo --json` prints.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Report {
    pub(super) phase0_ms: f64,
    pub(super) phase1_ms: f64,
    pub(super) phase2_full_ms: f64,
    pub(super) phase2_resumed_ms: f64,
    pub(super) phase3_host_mib_s: f64,
    pub(super) phase3_element_mib_s: f64,
    pub(super) racs_round_trips_full: u64,
    pub(super) isolation_attempts: usize,
    pub(super) isolation_refused: usize,
    /// `None`, like the four below: the slow cards were left out.
    pub(super) paper_profile_full_s: Option<f64>,
    pub(super) paper_profile_resumed_s: Option<f64>,
    pub(super) paper_profile_1000_bytes_s: Option<f64>,
    pub(super) rows: Vec<Row>,
    pub(super) attempts: Vec<Attempt>,
    pub(super) paper_full: Option<Paper>,
    pub(super) paper_resumed: Option<Paper>,
}

impl Report {
    /// Whether attempts were made and every one was refused, with a reason in the log.
    pub(super) fn all_refused(&self) -> bool {
        self.isolation_attempts > 0
            && self.isolation_refused == self.isolation_attempts
            && self.attempts.iter().all(|attempt| attempt.refused)
    }

    /// The tables.
    pub(super) fn table(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "{:42} {:>13} {:>11} {:>6} {:>11} {:>11}   paper (MILCOM 2014)",
            "phase", "median", "bytes", "APDUs", "RACS trips", "private ops"
        );
        for row in &self.rows {
            let _ = writeln!(
                out,
                "{:42} {:>9} of {:<2}{:>10} {:>6} {:>11} {:>11}   {}",
                row.phase,
                milliseconds(row.ms),
                row.of,
                row.bytes,
                dash(row.apdus),
                dash(row.round_trips),
                row.private_operations,
                row.paper
            );
        }
        let _ = writeln!(
            out,
            "a dash: no such thing in this phase; private-key operations: phase 0 the user's element and the hypervisor's, 1 the hypervisor's, 2 and 3 the guest's\n\nisolation: {} of {} attempts refused",
            self.isolation_refused, self.isolation_attempts
        );
        for attempt in &self.attempts {
            let mark = if attempt.refused {
                "refused"
            } else {
                "WENT THROUGH"
            };
            let _ = writeln!(
                out,
                "  {mark:8} {}\n           guest saw: {}\n           log: {}",
                attempt.what, attempt.saw, attempt.logged
            );
        }
        if let (Some(full), Some(resumed)) = (&self.paper_full, &self.paper_resumed) {
            self.paper_table(full, resumed, &mut out);
        }
        out
    }

    /// Of cards that take their time, where they were played.
    fn paper_table(&self, full: &Paper, resumed: &Paper, out: &mut String) {
        let _ = writeln!(
            out,
            "\nprofile paper-2014, real waiting, client element, TLS 1.2 ECDHE-RSA (elliptic curves cost nothing)\n{:12} {:>9} {:>7} {:>9} {:>7} {:>9} {:>18} {:>7} {:>7}   {:>22}",
            "",
            "hashing",
            "RSA",
            "ciphers",
            "I/O",
            "waited",
            "unexplained rest",
            "sum",
            "paper",
            "both cards, end to end"
        );
        for (name, paper) in [("full", full), ("resumed", resumed)] {
            let _ = writeln!(
                out,
                "{name:12} {:>7.2} s {:>5.2} s {:>7.2} s {:>5.2} s {:>7.2} s {:>16.2} s {:>5.2} s {:>5.1} s   {:>20.2} s",
                paper.hashing_s,
                paper.rsa_s,
                paper.cipher_s,
                paper.io_s,
                paper.waited_s,
                paper.rest_s,
                paper.sum_s,
                paper.paper_s,
                paper.both_cards_s
            );
        }
        let _ = writeln!(
            out,
            "1,000 bytes through the record layer in the element: {:.2} s (paper: 0.69 s)",
            self.paper_profile_1000_bytes_s.unwrap_or(f64::NAN)
        );
    }
}

/// The value in the middle.
pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn milliseconds(ms: f64) -> String {
    if ms >= 1000.0 {
        format!("{:.2} s", ms / 1000.0)
    } else {
        format!("{ms:.1} ms")
    }
}

fn dash(n: u64) -> String {
    if n == 0 { "-".into() } else { n.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(refused: &[bool]) -> Report {
        let attempt = |refused: &bool| Attempt {
            what: "a guest uses another's element".into(),
            refused: *refused,
            saw: String::new(),
            logged: String::new(),
        };
        Report {
            isolation_attempts: refused.len(),
            isolation_refused: refused.iter().filter(|refused| **refused).count(),
            attempts: refused.iter().map(attempt).collect(),
            ..Report::default()
        }
    }

    #[test]
    fn one_attempt_that_is_not_refused_is_a_failure() {
        assert!(report(&[true, true]).all_refused());
        let through = report(&[true, false, true]);
        assert!(!through.all_refused());
        let table = through.table();
        assert!(
            table.contains("isolation: 2 of 3 attempts refused"),
            "{table}"
        );
        assert!(table.contains("WENT THROUGH a guest uses another's element"));
        // A play without attempts has shown nothing.
        assert!(!report(&[]).all_refused());
    }
}
