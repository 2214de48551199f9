//! Answers that a card announces by `9Fxx` where `61xx` was to be collected: EAP smart cards of the draft's
//! own making (draft-urien-eap-smartcard-25, annex 6). RACS knows one MORE a line, so that the script stops
//! there; the host fetches the rest, and goes on.

use crate::{ElementError, Outcome, Outcomes, Script, SecureElement, Step};

/// SW1 of such an announcement.
const ANNOUNCED: u8 = 0x9F;

/// Class of the EAP smart card, whose long answers are fetched by INS 12.
const EAP: u8 = 0xA0;

/// Runs a script on an element; fetches what was announced.
pub fn collect<E: SecureElement + ?Sized>(element: &mut E, script: &Script) -> Outcomes {
    run(script, |part| element.run(part))
}

/// Runs a script by `part`, which runs a script without this; fetches what was announced.
fn run(script: &Script, mut part: impl FnMut(&Script) -> Outcomes) -> Outcomes {
    let mut outcomes = part(script);
    while let Some(fetching) = fetch(script, &outcomes) {
        join(script, &mut outcomes, part(&fetching));
        if let Some(rest) = rest(script, &outcomes) {
            go_on(&mut outcomes, part(&rest));
        }
    }
    outcomes
}

/// What fetches the answer that the script stopped at; `None` where it did not stop at an announcement.
#[must_use]
pub fn fetch(script: &Script, outcomes: &Outcomes) -> Option<Script> {
    let step = last_step(script, outcomes)?;
    let outcome = outcomes.last().filter(|_| outcomes.failed.is_none())?;
    if step.more != Some(0x61) || outcome.sw.sw1() != ANNOUNCED {
        return None;
    }
    let [class, ins, p1, p2] = step.fetch;
    let ins = if class == EAP { 0x12 } else { ins };
    let mut fetching = Step::new([class, ins, p1, p2, outcome.sw.sw2()]);
    fetching.more = Some(ANNOUNCED);
    fetching.fetch = [class, ins, p1, p2];
    Some(fetching.into())
}

/// Puts what [`fetch`] came to in the announcement's place.
pub fn join(script: &Script, outcomes: &mut Outcomes, mut fetched: Outcomes) {
    let Some(step) = last_step(script, outcomes) else {
        return;
    };
    let mut body = match outcomes.done.pop() {
        Some(Some(announcement)) => announcement.body,
        _ => Vec::new(),
    };
    let last = match (fetched.done.pop().flatten(), fetched.failed) {
        (Some(last), None) => last,
        (_, failed) => {
            outcomes.failed = Some(failed.unwrap_or(ElementError::OutcomeUnknown));
            return;
        }
    };
    body.extend_from_slice(&last.body);
    if body.len() > Script::MAX_BODY || last.sw.sw1() == ANNOUNCED {
        outcomes.failed = Some(ElementError::AnswerTooLong);
        return;
    }
    let (sw, expected) = (last.sw, step.expect.is_none_or(|expect| expect == last.sw));
    outcomes.done.push(Some(Outcome { body, sw, expected }));
}

/// The steps behind those that ran, unless the script ends here.
#[must_use]
pub fn rest(script: &Script, outcomes: &Outcomes) -> Option<Script> {
    let rest = script.steps.get(outcomes.done.len()..)?;
    let goes_on = outcomes.failed.is_none() && outcomes.last().is_some_and(|last| last.expected);
    (goes_on && !rest.is_empty()).then(|| Script::new(rest.to_vec()))
}

/// Adds what [`rest`] came to.
pub fn go_on(outcomes: &mut Outcomes, more: Outcomes) {
    outcomes.done.extend(more.done);
    outcomes.failed = more.failed;
}

fn last_step<'s>(script: &'s Script, outcomes: &Outcomes) -> Option<&'s Step> {
    script.steps.get(outcomes.done.len().checked_sub(1)?)
}

#[cfg(test)]
mod tests {
    use gose_proto::{apdu::Response, hex};

    use super::*;
    use crate::Atr;

    /// Commands and answers, in order.
    struct Card(Vec<(&'static str, &'static str)>);

    impl SecureElement for Card {
        fn power_on(&mut self) -> Result<Atr, ElementError> {
            Err(ElementError::Mute)
        }
        fn power_off(&mut self) {}
        fn reset(&mut self, _warm: bool) -> Result<Atr, ElementError> {
            Err(ElementError::Mute)
        }
        fn transmit(&mut self, apdu: &[u8]) -> Result<Response, ElementError> {
            let (command, answer) = self.0.remove(0);
            assert_eq!(hex::encode(apdu), command);
            Response::parse(&hex::decode(answer).unwrap()).map_err(|_| ElementError::Mute)
        }
    }

    fn check(class: u8, lines: &[(&'static str, &'static str)]) -> Outcomes {
        let step = |ins| {
            Step::new([class, ins, 0, 0])
                .collect([class, 0xC0, 0, 0])
                .expect_normal()
                .append()
        };
        let mut card = Card(lines.to_vec());
        let outcomes = collect(&mut card, &Script::new(vec![step(0x80), step(0x86)]));
        assert!(card.0.is_empty(), "not asked: {:?}", card.0);
        outcomes
    }

    #[test]
    fn the_script_goes_on_behind_what_was_announced() {
        let outcomes = check(
            EAP,
            &[
                ("A0800000", "9F00"),
                ("A012000000", "01029F01"),
                ("A012000001", "039000"),
                ("A0860000", "AA9F02"),
                ("A012000002", "BBCC9000"),
            ],
        );
        assert!(outcomes.complete(2), "{outcomes:?}");
        let bodies: Vec<_> = outcomes
            .done
            .iter()
            .flatten()
            .map(|o| &o.body[..])
            .collect();
        assert_eq!(bodies, [&[1, 2, 3][..], &[0xAA, 0xBB, 0xCC]]);
        // Other classes have GET RESPONSE only.
        let lines = [
            ("00800000", "9F01"),
            ("00C0000001", "019000"),
            ("00860000", "9000"),
        ];
        assert!(check(0x00, &lines).complete(2));
    }

    #[test]
    fn a_refusal_behind_an_announcement_ends_the_script() {
        let lines = [("A0800000", "9F00"), ("A012000000", "6985")];
        let outcomes = check(EAP, &lines);
        assert_eq!((outcomes.done.len(), outcomes.complete(1)), (1, false));
        assert_eq!(outcomes.last().unwrap().sw.value(), 0x6985);
        let lines = [("A0800000", "9F00"), ("A012000000", "")];
        let outcomes = check(EAP, &lines);
        assert_eq!(
            (outcomes.done.len(), outcomes.failed),
            (0, Some(ElementError::Mute))
        );
    }

    /// A grid that does not heed MORE: the announcement comes again and again.
    #[test]
    fn announcements_without_end() {
        let step = Step::new([EAP, 0x80, 0, 0]).collect([EAP, 0xC0, 0, 0]);
        let mut asked = 0;
        let outcomes = run(&step.into(), |_| {
            asked += 1;
            let sw = gose_proto::apdu::StatusWord::new(0x9F00);
            let outcome = Outcome {
                body: vec![0; 256],
                sw,
                expected: false,
            };
            Outcomes {
                done: vec![Some(outcome)],
                failed: None,
            }
        });
        assert_eq!(
            (asked, outcomes.failed),
            (2, Some(ElementError::AnswerTooLong))
        );
    }
}
