//! Sees the ends of domains, and domains that nobody authorised.

use std::{collections::HashSet, io, sync::Arc, time::Duration};

use gose_proto::identity::VmId;

use super::{Shared, Table};
use crate::config::UnauthorisedDomains;

/// How often libvirt is asked which domains run.
const EVERY: Duration = Duration::from_secs(1);

/// Starts to watch. Domains that run already and are not this node's are reported and left alone: they are the
/// operator's. Blocks until libvirt has answered once.
pub(super) fn start(shared: Arc<Shared>, unauthorised: UnauthorisedDomains) -> io::Result<()> {
    let mut foreign = parse(&shared.virsh(LIST)?);
    for vm in &foreign {
        tracing::warn!(%vm, "a domain runs that this node did not create");
    }
    let shared = Arc::downgrade(&shared);
    tokio::spawn(async move {
        let mut is_silent = false;
        loop {
            tokio::time::sleep(EVERY).await;
            let Some(shared) = shared.upgrade() else {
                return;
            };
            match look(&shared, &mut foreign, unauthorised).await {
                Ok(()) => is_silent = false,
                Err(error) if !is_silent => {
                    tracing::error!(%error, "libvirt does not tell which domains run; it is asked again");
                    is_silent = true;
                }
                Err(_) => {}
            }
        }
    });
    Ok(())
}

const LIST: &[&str] = &["list", "--uuid"];

/// Looks once.
async fn look(
    shared: &Shared,
    foreign: &mut HashSet<VmId>,
    unauthorised: UnauthorisedDomains,
) -> io::Result<()> {
    // Those that come meanwhile are looked at the next time.
    let before: Vec<VmId> = shared.table().running.keys().copied().collect();
    let now = parse(&shared.ask(LIST).await?);
    for vm in before.into_iter().filter(|vm| !now.contains(vm)) {
        shared.ended(vm);
    }
    foreign.retain(|vm| now.contains(vm));
    let is_strange =
        |vm: &VmId, foreign: &HashSet<VmId>| !own(&shared.table(), *vm) && !foreign.contains(vm);
    if !now.iter().any(|vm| is_strange(vm, foreign)) {
        return Ok(());
    }
    // One that was this node's may have ended since libvirt answered.
    let still = parse(&shared.ask(LIST).await?);
    for vm in now.into_iter().filter(|vm| still.contains(vm)) {
        if !is_strange(&vm, foreign) {
            continue;
        }
        tracing::error!(%vm, "a domain runs that nobody authorised");
        if unauthorised == UnauthorisedDomains::Report {
            foreign.insert(vm);
            continue;
        }
        match shared.ask(&["destroy", &vm.to_string()]).await {
            Ok(_) => tracing::warn!(%vm, "the domain that nobody authorised was destroyed"),
            Err(error) => {
                tracing::error!(%vm, %error, "the domain that nobody authorised is not destroyed");
            }
        }
    }
    Ok(())
}

fn own(table: &Table, vm: VmId) -> bool {
    table.running.contains_key(&vm) || table.creating.contains(&vm)
}

/// UUIDs, one a line.
fn parse(text: &str) -> HashSet<VmId> {
    let lines = text.lines().map(str::trim);
    lines.filter_map(|line| line.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_virsh_lists() {
        let ids = parse(
            "00000000-0000-4000-8000-00000000000a\n 00000000-0000-4000-8000-00000000000b \n\n",
        );
        assert_eq!(ids.len(), 2);
        assert!(ids.contains(&"00000000-0000-4000-8000-00000000000b".parse().unwrap()));
        assert!(parse("error: no\n\n").is_empty());
    }
}
