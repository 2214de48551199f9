//! TLS in a server element.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use gose_element::{
    Outcomes, Script, Seid, announced,
    drive::eap_tls::{Reply, SessionKeys, scripts},
};
use gose_proto::radius::Type;
use zeroize::Zeroizing;

use super::{
    Identity,
    acquainted::Acquaintance,
    pool::{Claim, Members},
    tls::{Broken, Ended},
};
use crate::{
    clock::Clock,
    grid::{Lease, Ran, Refusal},
};

/// A conversation's end in an element, once it has one.
pub(super) struct ElementTls {
    members: Arc<Members>,
    acquaintance: Acquaintance,
    claimed: Option<Claimed>,
}

/// What a conversation holds of the pool; gives it back when it is dropped.
struct Claimed {
    members: Arc<Members>,
    seid: Seid,
    claim: Arc<Claim>,
    took: Duration,
    healthy: bool,
}

impl Drop for Claimed {
    fn drop(&mut self) {
        self.members
            .give_back(self.seid, &self.claim, self.took, self.healthy);
    }
}

impl ElementTls {
    pub(super) fn new(members: Arc<Members>, acquaintance: Acquaintance) -> Self {
        Self {
            members,
            acquaintance,
            claimed: None,
        }
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.members.identity
    }

    pub(super) fn admits(&self, name: &str) -> bool {
        self.members.admits(name)
    }

    pub(super) fn reply(&self) -> Vec<(Type, Vec<u8>)> {
        self.members.reply()
    }

    pub(super) fn place(&self) -> String {
        self.claimed
            .as_ref()
            .map(|claimed| claimed.seid.to_string())
            .unwrap_or_default()
    }

    pub(super) async fn is_ready(&mut self) -> bool {
        if self.claimed.is_some() {
            return true;
        }
        let Some((seid, claim)) = self.members.claim(self.acquaintance).await else {
            return false;
        };
        let members = self.members.clone();
        self.claimed = Some(Claimed {
            members,
            seid,
            claim,
            took: Duration::ZERO,
            healthy: true,
        });
        true
    }

    /// Packets to the element, opened first where it begins with this conversation.
    pub(super) async fn deliver(
        &mut self,
        packets: &[Vec<u8>],
        begins: bool,
    ) -> Result<Reply, Broken> {
        let deliver = scripts::deliver(packets, u32::try_from(now()).ok());
        let outcomes = self.run(begins, deliver).await?;
        scripts::reply(&outcomes).map_err(|error| self.sick(&error.to_string()))
    }

    pub(super) async fn rest_of(&mut self, first: &[u8]) -> Result<Vec<Vec<u8>>, Broken> {
        let rest = scripts::fetch_rest(first).map_err(|error| self.sick(&error.to_string()))?;
        if rest.steps.is_empty() {
            return Ok(Vec::new());
        }
        let expected = rest.steps.len();
        let outcomes = self.run(false, rest).await?;
        let told = outcomes.done.into_iter().flatten();
        let fragments: Vec<_> = told.map(|outcome| outcome.body).collect();
        if fragments.len() == expected {
            Ok(fragments)
        } else {
            Err(self.sick("fragments of the element are missing"))
        }
    }

    pub(super) async fn ended(&mut self) -> Result<Ended, Broken> {
        let mut steps = scripts::msk().steps;
        steps.extend([
            scripts::exported(SESSION_ID),
            scripts::exported(PEER_CERTIFICATE),
        ]);
        let script = Script::new(steps.into_iter().map(gose_element::Step::append).collect());
        let outcomes = self.run(false, script).await?;
        let told: Vec<Zeroizing<Vec<u8>>> = outcomes
            .done
            .into_iter()
            .flatten()
            .filter(|o| o.sw.value() == 0x9000)
            .map(|o| Zeroizing::new(o.body))
            .collect();
        let Ok([msk, session_id, certificate]) = <[_; 3]>::try_from(told) else {
            return Err(self.sick("the element does not give keys and certificate"));
        };
        let msk = <[u8; 64]>::try_from(msk.as_slice())
            .map_err(|_| self.sick("the element's MSK has not 64 bytes"))?;
        Ok(Ended {
            msk: Zeroizing::new(msk),
            session_id: session_id.to_vec(),
            certificate,
        })
    }

    pub(super) async fn session_keys(&mut self) -> Result<SessionKeys, Broken> {
        let outcomes = self.run(false, scripts::session_keys()).await?;
        scripts::read_session_keys(&outcomes).map_err(|error| self.sick(&error.to_string()))
    }

    /// Runs a script on the element, behind its opening where the conversation begins.
    pub(super) async fn run(&mut self, begins: bool, script: Script) -> Result<Outcomes, Broken> {
        let Some(claimed) = &mut self.claimed else {
            return Err(Broken("no element".into()));
        };
        let mut place = claimed.claim.held.lock().await;
        let Some(held) = place.as_mut() else {
            return Err(Broken(
                "the element was given to another conversation: the peer was silent".into(),
            ));
        };
        let mut steps = if begins {
            self.members.opening(held)
        } else {
            Vec::new()
        };
        let opening = steps.len();
        steps.extend(script.steps);
        if steps.len() > Script::MAX_STEPS {
            return Err(Broken("a flight of too many fragments".into()));
        }
        let begun = Instant::now();
        let Ran { mut done, refused } = run_announced(&mut held.lease, Script::new(steps)).await;
        claimed.took += begun.elapsed();
        claimed.claim.used_now();
        let opened = done.len() > opening;
        held.opened |= opened;
        if let Some(refusal) = refused {
            claimed.healthy = false;
            return Err(Broken(format!("element: {refusal}")));
        }
        if !opened {
            claimed.healthy = false;
            let sw = done
                .last()
                .and_then(Option::as_ref)
                .map(|outcome| outcome.sw);
            return Err(Broken(format!(
                "the element does not open ({sw:?}); look at its PIN and its identity's label"
            )));
        }
        done.drain(..opening);
        Ok(Outcomes { done, failed: None })
    }

    pub(super) fn rest(&mut self) {
        if let Some(claimed) = &mut self.claimed {
            claimed.healthy = false;
        }
    }

    fn sick(&mut self, reason: &str) -> Broken {
        self.rest();
        Broken(reason.into())
    }

    pub(super) fn let_go(&mut self) {
        self.claimed = None;
    }
}

/// Get-Exported-Parameter: Session-Id, and the certificate that the element verified.
const SESSION_ID: u8 = 0x04;
const PEER_CERTIFICATE: u8 = 0x84;

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    Clock::now().as_secs()
}

/// A script on a leased element; what the card announces by `9Fxx` is fetched too.
async fn run_announced(lease: &mut Lease, script: Script) -> Ran {
    let Ran { done, mut refused } = lease.run(script.clone()).await;
    let mut outcomes = Outcomes { done, failed: None };
    while refused.is_none()
        && let Some(fetching) = announced::fetch(&script, &outcomes)
    {
        let ran = lease.run(fetching).await;
        let fetched = Outcomes {
            done: ran.done,
            failed: None,
        };
        announced::join(&script, &mut outcomes, fetched);
        refused = ran
            .refused
            .or_else(|| outcomes.failed.take().map(Refusal::Element));
        if refused.is_none()
            && let Some(rest) = announced::rest(&script, &outcomes)
        {
            let ran = lease.run(rest).await;
            outcomes.done.extend(ran.done);
            refused = ran.refused;
        }
    }
    Ran {
        done: outcomes.done,
        refused,
    }
}
