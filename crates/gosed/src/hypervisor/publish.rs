//! The newest generations of this hypervisor's virtual machines, told to every grid that has elements for them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use gose_client::admin::{self, Action, Answer, VmGeneration};
use gose_proto::identity::{KeyHash, VmId};
use tokio::task::AbortHandle;

use super::generations::GenerationFile;
use crate::{listen::Stop, store::Calls};

/// Time after which a grid that could not be told is called again; twice as long after each further time.
const FIRST: Duration = Duration::from_millis(250);

/// The longest such time.
const LONGEST: Duration = Duration::from_secs(60);

/// Everything is told again after this time, to a grid that may have lost it.
const AGAIN: Duration = Duration::from_secs(3600);

/// Time for the answer of a grid.
const ANSWER: Duration = Duration::from_secs(10);

/// Virtual machines in one message, which then fits its bound.
const BATCH: usize = 500;

/// Tells grids, one task each. Guests never wait for it.
pub struct Publisher {
    source: Arc<Source>,
    grids: Mutex<BTreeMap<String, AbortHandle>>,
}

/// What the tasks share.
struct Source {
    generations: Arc<GenerationFile>,
    hypervisor: KeyHash,
    calls: Arc<Calls>,
    stop: Stop,
}

impl Publisher {
    pub(crate) fn new(
        generations: Arc<GenerationFile>,
        hypervisor: KeyHash,
        calls: Arc<Calls>,
        stop: Stop,
    ) -> Self {
        Self {
            source: Arc::new(Source {
                generations,
                hypervisor,
                calls,
                stop,
            }),
            grids: Mutex::default(),
        }
    }

    /// Tells these grids from now on, and no others. Called within a runtime.
    pub fn tell(&self, nodes: &BTreeSet<&str>) {
        let mut grids = self.grids.lock().unwrap_or_else(PoisonError::into_inner);
        grids.retain(|node, task| {
            let stays = nodes.contains(node.as_str());
            if !stays {
                task.abort();
            }
            stays
        });
        for node in nodes {
            if !grids.contains_key(*node) {
                let told = tell(self.source.clone(), (*node).to_owned());
                grids.insert((*node).to_owned(), tokio::spawn(told).abort_handle());
            }
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.tell(&BTreeSet::new());
    }
}

/// Keeps one grid told.
async fn tell(source: Arc<Source>, node: String) {
    let stop = source.stop.clone();
    let mut changes = source.generations.changes();
    let mut told = BTreeMap::new();
    let mut wait = FIRST;
    let mut complaint = String::new();
    loop {
        changes.borrow_and_update();
        let due: Vec<(VmId, u64)> = source
            .generations
            .all()
            .into_iter()
            .filter(|(vm, generation)| told.get(vm) != Some(generation))
            .collect();
        match publish(&source, &node, &due).await {
            Ok(()) => {
                if !due.is_empty() {
                    tracing::info!(node, machines = due.len(), "generations told");
                }
                told.extend(due);
                (wait, complaint) = (FIRST, String::new());
                tokio::select! {
                    () = stop.stopped() => return,
                    changed = changes.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(AGAIN) => told.clear(),
                }
            }
            Err(error) => {
                let text = error.to_string();
                if text != complaint {
                    tracing::warn!(
                        node,
                        error = text,
                        "the grid is not told the generations; tried again until it is"
                    );
                    complaint = text;
                }
                tokio::select! {
                    () = stop.stopped() => return,
                    () = tokio::time::sleep(wait) => {}
                }
                wait = (wait * 2).min(LONGEST);
            }
        }
    }
}

async fn publish(source: &Arc<Source>, node: &str, due: &[(VmId, u64)]) -> io::Result<()> {
    for batch in due.chunks(BATCH) {
        let machine = |(vm, generation): &(VmId, u64)| VmGeneration {
            uuid: vm.to_string(),
            generation: *generation,
        };
        let action = Action::Generations {
            hypervisor: source.hypervisor.to_string(),
            generations: batch.iter().map(machine).collect(),
        };
        let (calls, node) = (source.calls.clone(), node.to_owned());
        // TLS may need a key in an element, which blocks.
        tokio::task::spawn_blocking(move || ask(&calls, &node, &action))
            .await
            .map_err(io::Error::other)??;
    }
    Ok(())
}

fn ask(calls: &Calls, node: &str, action: &Action) -> io::Result<()> {
    let endpoint = calls.management(node).map_err(io::Error::other)?;
    let mut link = endpoint.link().map_err(io::Error::other)?;
    link.set_timeout(ANSWER);
    match admin::ask(&mut link, action).map_err(io::Error::other)? {
        Answer::Generations { newer } => {
            for VmGeneration { uuid, generation } in newer {
                tracing::error!(
                    node,
                    vm = uuid,
                    generation,
                    "the grid knows a newer generation than this hypervisor: restore generation-file, or tokens of this machine stay refused there"
                );
            }
            Ok(())
        }
        Answer::Refused { text, .. } => Err(io::Error::other(format!(
            "it refuses: {text} ([[generations.hypervisor]] there names this hypervisor)"
        ))),
        _ => Err(io::Error::other("it gives an answer of another kind")),
    }
}
