//! The joint: whatever answers APDUs.

use gose_proto::{
    apdu::{Response, StatusWord},
    racs::Failure,
};

use crate::{Atr, Outcome, Outcomes, Script, Step};

/// A secure element: a smart card in a reader, a card in software, an element of a remote grid.
///
/// One owner at a time; calls block until the element answers or its own finite timeout passes.
pub trait SecureElement: Send {
    /// Powers the element up if it is off; in either case nothing is selected and no PIN verified
    /// only if it was off.
    ///
    /// # Errors
    /// [`ElementError`] when no answer to reset came.
    fn power_on(&mut self) -> Result<Atr, ElementError>;

    /// Powers the element down. Never fails: an element that is gone is down.
    fn power_off(&mut self);

    /// Resets the element (`warm`: by the reset line only, else power off and on). Clears the selected
    /// application and every verified PIN.
    ///
    /// # Errors
    /// [`ElementError`] when no answer to reset came.
    fn reset(&mut self, warm: bool) -> Result<Atr, ElementError>;

    /// Sends one command APDU, returns what the element answered to it, whatever its status word.
    ///
    /// # Errors
    /// [`ElementError`] when no answer came. A refusal is an answer.
    fn transmit(&mut self, apdu: &[u8]) -> Result<Response, ElementError>;

    /// Runs a list of APDUs. The default drives [`SecureElement::transmit`]; an element that is far
    /// away forwards the list as one request. Drivers run theirs by
    /// [`collect`](crate::announced::collect).
    fn run(&mut self, script: &Script) -> Outcomes {
        let mut outcomes = Outcomes::default();
        for step in &script.steps {
            match run_step(self, step) {
                Ok(outcome) => {
                    let stop = !outcome.expected;
                    outcomes.done.push(Some(outcome));
                    if stop {
                        break;
                    }
                }
                Err(error) => {
                    outcomes.failed = Some(error);
                    break;
                }
            }
        }
        outcomes
    }
}

/// The RACS APDU algorithm (draft-urien-core-racs-02, 4.6): a 5-byte command answered by `6Cxx` is
/// repeated with that length; while SW1 is MORE the fetch command collects; then CONTINUE decides.
///
/// # Errors
/// [`ElementError`] when no answer came, or the answers pass the bounds of [`Script`].
pub fn run_step<E: SecureElement + ?Sized>(
    element: &mut E,
    step: &Step,
) -> Result<Outcome, ElementError> {
    let mut response = element.transmit(&step.apdu)?;
    if let ([head @ .., _], 0x6C, true) = (
        step.apdu.as_slice(),
        response.sw.sw1(),
        response.data.is_empty(),
    ) && head.len() == 4
    {
        let again = [head[0], head[1], head[2], head[3], response.sw.sw2()];
        response = element.transmit(&again)?;
    }
    let mut body = std::mem::take(&mut response.data);
    let mut fetches = 0;
    while step.more == Some(response.sw.sw1()) {
        fetches += 1;
        if fetches > Script::MAX_FETCHES {
            return Err(ElementError::AnswerTooLong);
        }
        let [cla, ins, p1, p2] = step.fetch;
        response = element.transmit(&[cla, ins, p1, p2, response.sw.sw2()])?;
        body.extend_from_slice(&response.data);
        if body.len() > Script::MAX_BODY {
            return Err(ElementError::AnswerTooLong);
        }
    }
    if body.len() > Script::MAX_BODY {
        return Err(ElementError::AnswerTooLong);
    }
    Ok(Outcome {
        body,
        sw: response.sw,
        expected: step.expect.is_none_or(|sw| sw == response.sw),
    })
}

/// Why no answer came from an element, by blame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ElementError {
    /// Nothing sits in the slot.
    #[error("no element in the slot; insert the card, or remove the slot from the configuration")]
    Absent,
    /// The element does not answer to reset, or stopped answering.
    #[error("the element is mute; reset it, or look at the reader")]
    Mute,
    /// No answer within the time limit.
    #[error("no answer within {0} s")]
    Timeout(u32),
    /// The line to the element failed.
    #[error("transport to the element failed: {0}")]
    Transport(String),
    /// It is not known whether the command was executed: the line broke after it was sent.
    #[error("the connection broke after the command was sent; its outcome is unknown")]
    OutcomeUnknown,
    /// More than 65,536 bytes or 600 fetch rounds.
    #[error("the answer passes 65536 bytes or 600 GET RESPONSE rounds")]
    AnswerTooLong,
    /// The bytes are not a command APDU that the element can be sent.
    #[error("malformed command: {0}")]
    Malformed(String),
    /// A remote grid refused the command (RACS status class 6).
    #[error("the remote grid refuses access to this element")]
    Refused,
    /// A remote grid says that another session holds the element (RACS status class 7).
    #[error("the element is in use by another session of the remote grid")]
    InUse,
    /// The element's image could not be read or written.
    #[error("non-volatile memory: {0}")]
    Storage(String),
}

/// What a RACS server tells of an error (one place for all of them).
impl From<&ElementError> for Failure {
    fn from(error: &ElementError) -> Self {
        match error {
            ElementError::Absent => Self::Absent,
            ElementError::Mute => Self::Mute,
            ElementError::Timeout(_) => Self::Timeout,
            ElementError::Transport(_) => Self::Transport,
            ElementError::OutcomeUnknown => Self::OutcomeUnknown,
            ElementError::AnswerTooLong => Self::AnswerTooLong,
            ElementError::Malformed(_) => Self::Unsupported,
            ElementError::Refused => Self::Unauthorised,
            ElementError::InUse => Self::InUse,
            ElementError::Storage(_) => Self::Internal,
        }
    }
}

/// What a RACS client makes of a failure that a server tells.
impl From<Failure> for ElementError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Absent => Self::Absent,
            Failure::Mute => Self::Mute,
            // What a server of this version waits.
            Failure::Timeout => Self::Timeout(60),
            Failure::OutcomeUnknown => Self::OutcomeUnknown,
            Failure::AnswerTooLong => Self::AnswerTooLong,
            Failure::Unsupported => Self::Malformed(failure.sentence().into()),
            Failure::Unauthorised | Failure::Forbidden => Self::Refused,
            Failure::InUse => Self::InUse,
            Failure::Transport | Failure::Illegal | Failure::Internal => {
                Self::Transport(format!("the remote grid says: {}", failure.sentence()))
            }
        }
    }
}

/// The status word for a refusal that a host must give in an element's place.
#[must_use]
pub fn refused() -> Response {
    StatusWord::SECURITY_STATUS_NOT_SATISFIED.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A card that answers from a list and notes what it was sent.
    struct Scripted {
        answers: Vec<&'static str>,
        sent: Vec<String>,
    }

    impl SecureElement for Scripted {
        fn power_on(&mut self) -> Result<Atr, ElementError> {
            Err(ElementError::Mute)
        }
        fn power_off(&mut self) {}
        fn reset(&mut self, _warm: bool) -> Result<Atr, ElementError> {
            Err(ElementError::Mute)
        }
        fn transmit(&mut self, apdu: &[u8]) -> Result<Response, ElementError> {
            self.sent.push(gose_proto::hex::encode(apdu));
            if self.answers.is_empty() {
                return Err(ElementError::Mute);
            }
            let answer = self.answers.remove(0);
            Ok(Response::parse(&gose_proto::hex::decode(answer).unwrap()).unwrap())
        }
    }

    fn step(apdu: &str) -> Step {
        Step::new(gose_proto::hex::decode(apdu).unwrap())
    }

    fn check(
        step: Step,
        answers: &[&'static str],
        sent: &[&str],
        body: &str,
        sw: u16,
        expected: bool,
    ) {
        let mut card = Scripted {
            answers: answers.to_vec(),
            sent: Vec::new(),
        };
        let outcome = run_step(&mut card, &step).unwrap();
        assert_eq!(card.sent, sent);
        assert_eq!(gose_proto::hex::encode(&outcome.body), body);
        assert_eq!((outcome.sw.value(), outcome.expected), (sw, expected));
    }

    #[test]
    fn the_algorithm_of_the_draft() {
        check(
            step("00B0000000"),
            &["6C02", "AABB9000"],
            &["00B0000000", "00B0000002"],
            "AABB",
            0x9000,
            true,
        );
        // 6C only on the first answer, only without data, only to a 5-byte command
        check(
            step("00B0000000"),
            &["AA6C02"],
            &["00B0000000"],
            "AA",
            0x6C02,
            true,
        );
        check(
            step("00B000000000"),
            &["6C02"],
            &["00B000000000"],
            "",
            0x6C02,
            true,
        );
        check(
            step("00B0000000"),
            &["6C02", "6C03"],
            &["00B0000000", "00B0000002"],
            "",
            0x6C03,
            true,
        );
        // MORE before CONTINUE
        check(
            step("A0800000").collect([0xA0, 0xC0, 0, 0]).expect_normal(),
            &["016102", "02036101", "049000"],
            &["A0800000", "A0C0000002", "A0C0000001"],
            "01020304",
            0x9000,
            true,
        );
        // FETCH without MORE has no effect
        check(
            step("A0800000").expect_normal(),
            &["6102"],
            &["A0800000"],
            "",
            0x6102,
            false,
        );
        // without CONTINUE any status word is a success
        check(step("00A40400"), &["6A82"], &["00A40400"], "", 0x6A82, true);
    }

    #[test]
    fn errors_keep_their_meaning_over_the_wire() {
        let errors = [
            (ElementError::Absent, "no element in the slot"),
            (ElementError::Mute, "the element is mute"),
            (ElementError::Timeout(60), "no answer in time"),
            (
                ElementError::OutcomeUnknown,
                "line broke after the command was sent, outcome unknown",
            ),
            (ElementError::AnswerTooLong, "answer too long"),
            (ElementError::Refused, "unknown or unauthorised SEID"),
            (ElementError::InUse, "in use by another session"),
        ];
        for (error, sentence) in errors {
            let failure = Failure::from(&error);
            assert_eq!(failure.sentence(), sentence);
            assert_eq!(ElementError::from(failure), error);
        }
        let causes = [
            ElementError::Transport("secret cause".into()),
            ElementError::Malformed("secret cause".into()),
            ElementError::Storage("secret cause".into()),
        ];
        for error in causes {
            let failure = Failure::from(&error);
            let text = ElementError::from(failure).to_string();
            assert!(!text.contains("secret"), "{text}");
            assert!(text.contains(failure.sentence()), "{text}");
        }
    }

    #[test]
    fn bounds_hold_and_scripts_stop() {
        struct Endless;
        impl SecureElement for Endless {
            fn power_on(&mut self) -> Result<Atr, ElementError> {
                Err(ElementError::Mute)
            }
            fn power_off(&mut self) {}
            fn reset(&mut self, _warm: bool) -> Result<Atr, ElementError> {
                Err(ElementError::Mute)
            }
            fn transmit(&mut self, _apdu: &[u8]) -> Result<Response, ElementError> {
                Ok(Response {
                    data: Vec::new(),
                    sw: StatusWord::more(0),
                })
            }
        }
        let endless = run_step(&mut Endless, &step("00B0000000").collect([0, 0xC0, 0, 0]));
        assert_eq!(endless, Err(ElementError::AnswerTooLong));

        let mut card = Scripted {
            answers: vec!["9000", "6A82"],
            sent: Vec::new(),
        };
        let script = Script::new(vec![
            step("00A40400"),
            step("00A40400").expect_normal(),
            step("00A40400"),
        ]);
        let outcomes = card.run(&script);
        assert_eq!(outcomes.done.len(), 2);
        assert!(outcomes.failed.is_none() && !outcomes.complete(3));
        let mut card = Scripted {
            answers: vec!["9000"],
            sent: Vec::new(),
        };
        let outcomes = card.run(&script);
        assert_eq!(
            (outcomes.done.len(), outcomes.failed),
            (1, Some(ElementError::Mute))
        );
    }
}
