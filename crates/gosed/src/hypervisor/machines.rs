//! The life of virtual machines: created, stopped, started, paused, destroyed, and found again after a restart.
//!
//! Every step is in the journal before it is done. What a node was killed in is taken back or brought to its end by
//! [`Middleware::recover`]: no element stays with a machine that is not there, and none is with two.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use gose_element::Seid;
use gose_proto::identity::VmId;
use zeroize::Zeroizing;

use super::{
    domain::Domain,
    driver::Build,
    journal::{Record, State},
    middleware::{Middleware, lock, renew},
    pool::{PoolError, Pooled},
    start::{Creator, Listed, MiddlewareError, Start},
    token::Subject,
};
use crate::{
    clock::Clock,
    config::{self, Text},
};

/// Time that a guest may take to end.
const ENDING: Duration = Duration::from_secs(5);

/// Time after which an end that failed is tried again.
const AGAIN: Duration = Duration::from_secs(30);

impl Middleware {
    /// Creates a virtual machine: an element, a generation, a creation ticket, a token, its own listener. Blocks while
    /// elements work.
    ///
    /// # Errors
    /// [`MiddlewareError`]; everything is taken back then.
    pub fn create(self: &Arc<Self>, start: Start) -> Result<Listed, MiddlewareError> {
        let vm = start.vm;
        // One at a time, so that what is checked still holds when the guest is there; the guests that run
        // do not wait for it.
        let _turn = lock(&self.creation);
        let record = self.check(start)?;
        self.wait_until_gone(vm)?;
        self.journal.put(record)?;
        step(vm, "recorded");
        self.bring_up(vm, true)
            .inspect_err(|_| self.finish_and_log(vm))
    }

    /// Starts a machine that is stopped: its next generation. Blocks while elements work.
    ///
    /// # Errors
    /// [`MiddlewareError`]; it stays stopped then.
    pub fn start(self: &Arc<Self>, vm: VmId) -> Result<Listed, MiddlewareError> {
        let _turn = lock(&self.creation);
        self.wait_until_gone(vm)?;
        let is_stopped = self.journal.change(vm, |record| {
            let is_stopped = record.state == State::Stopped;
            if is_stopped {
                record.state = State::Starting;
            }
            is_stopped
        })?;
        match is_stopped {
            None => return Err(MiddlewareError::Unknown),
            Some(false) => return Err(MiddlewareError::Running),
            Some(true) => step(vm, "starting"),
        }
        self.bring_up(vm, false).inspect_err(|_| {
            self.take_down(vm);
            self.set(vm, State::Stopped);
        })
    }

    /// Brings a recorded machine up.
    fn bring_up(self: &Arc<Self>, vm: VmId, is_new: bool) -> Result<Listed, MiddlewareError> {
        if let Some(authenticator) = &self.authenticator {
            let ports = authenticator.ports();
            ports.begin(vm).map_err(MiddlewareError::Port)?;
        }
        let generation = self.generations.next(vm)?;
        self.journal
            .change(vm, |record| record.generation = generation)?;
        step(vm, "counted");
        let record = self.journal.get(vm).ok_or(MiddlewareError::Unknown)?;
        let pin = self.give(&record, is_new)?;
        step(vm, "bound");
        let domain = Domain::start(self.issuer.clone(), vm, generation, Clock::seconds())?;
        let mut join = self.join_record(&domain)?;
        if let (Some(pin), Some(seid)) = (&pin, record.seids.first()) {
            join.set_pin(&seid.to_string(), pin.as_slice());
        }
        let ticket = self.gate.issue(&record, Clock::seconds())?;
        step(vm, "ticketed");
        let renewal = renew(domain.clone());
        let (sockets, guest) = self.prepare(&record, domain)?;
        lock(&guest.tasks).spawn(renewal);
        self.guests().insert(vm, guest);
        let build = Build {
            kernel: self.boots(record.kernel.as_ref()),
            ramdisk: self.boots(record.ramdisk.as_ref()),
            record,
            join,
            ticket,
            gate: self.gate.clone(),
        };
        if let Err(error) = self.driver.create(build, sockets) {
            self.guests().remove(&vm);
            return Err(MiddlewareError::Driver(error));
        }
        step(vm, "built");
        // One that has ended meanwhile stands as its end left it.
        self.journal.change(vm, |record| {
            if matches!(record.state, State::Creating | State::Starting) {
                record.state = State::Running;
            }
        })?;
        let listed = self.journal.get(vm).map(|record| self.listed(record));
        let listed = listed.ok_or(MiddlewareError::Ended)?;
        tracing::info!(%vm, generation, id = %listed.id, seids = ?listed.seids, creator = ?listed.creator, "virtual machine runs");
        Ok(listed)
    }

    fn boots(&self, hash: Option<&Text<config::Sha256>>) -> Option<std::path::PathBuf> {
        hash.map(|hash| self.measured.path(hash.0))
    }

    /// An earlier start of the domain may still be ending.
    fn wait_until_gone(&self, vm: VmId) -> Result<(), MiddlewareError> {
        let begun = Instant::now();
        while self.driver.domains().contains(&vm) {
            if begun.elapsed() > ENDING {
                return Err(MiddlewareError::Running);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// What is to be created does not collide with what is there; gives its record.
    fn check(&self, start: Start) -> Result<Record, MiddlewareError> {
        let journal = &self.journal;
        if journal.get(start.vm).is_some() {
            return Err(MiddlewareError::Running);
        }
        if let Some(name) = &start.name
            && journal
                .find(|record| record.name.as_ref() == Some(name))
                .is_some()
        {
            return Err(MiddlewareError::Name(name.clone()));
        }
        let taken = |seid: &Seid| {
            journal
                .find(|record| record.seids.iter().any(|own| own.0 == *seid))
                .is_some()
        };
        if let Some(seid) = start.seids.iter().find(|seid| taken(seid)) {
            return Err(MiddlewareError::Bound(*seid));
        }
        let creator = match &start.creator {
            Creator::Operator => None,
            Creator::User(name) => Some(Text(name.clone())),
        };
        let own = journal.count(|record| record.creator == creator);
        if let Some(quota) = start.quota
            && u32::try_from(own).unwrap_or(u32::MAX) >= quota
        {
            return Err(MiddlewareError::Quota(quota));
        }
        let mut seids = start.seids;
        if let Some(name) = &start.pool {
            let config = self.config();
            let pool = config.pools.iter().find(|pool| pool.name == *name);
            let pool = pool.ok_or_else(|| PoolError::Unknown(name.clone()))?;
            let mut free = pool.seid.iter().map(|seid| seid.0);
            let free = free.find(|seid| !taken(seid) && !seids.contains(seid));
            seids.insert(0, free.ok_or_else(|| PoolError::Empty(name.clone()))?);
        }
        Ok(Record {
            uuid: Text(start.vm),
            name: start.name,
            creator,
            image: start.image,
            command: start.command,
            seids: seids.into_iter().map(Text).collect(),
            pool: start.pool,
            memory_mib: start.memory_mib,
            vcpus: start.vcpus,
            keep: start.keep,
            kernel: start.kernel.map(Text),
            ramdisk: start.ramdisk.map(Text),
            state: State::Creating,
            generation: 0,
            ticket: None,
        })
    }

    /// Has the machine's element of a pool made ready; gives its PIN.
    fn give(
        &self,
        record: &Record,
        is_new: bool,
    ) -> Result<Option<Zeroizing<[u8; 8]>>, MiddlewareError> {
        let Some((pool, seid)) = self.pool_of(record)? else {
            return Ok(None);
        };
        let (vm, generation) = (record.uuid.0, record.generation);
        let certify = |public: &[u8]| {
            let issued =
                self.issuer
                    .issue(vm, generation, Subject::Own(public), Clock::seconds())?;
            Ok(issued
                .chain
                .certificates()
                .first()
                .cloned()
                .unwrap_or_default())
        };
        let pin = Pooled::open(&self.grid, &pool, seid)?.give(is_new, certify)?;
        tracing::info!(%vm, %seid, pool = pool.name, "element of a pool bound");
        Ok(Some(pin))
    }

    fn pool_of(&self, record: &Record) -> Result<Option<(config::Pool, Seid)>, PoolError> {
        let (Some(name), Some(seid)) = (&record.pool, record.seids.first()) else {
            return Ok(None);
        };
        let config = self.config();
        let pool = config.pools.iter().find(|pool| pool.name == *name);
        let pool = pool.ok_or_else(|| PoolError::Unknown(name.clone()))?;
        Ok(Some((pool.clone(), seid.0)))
    }

    /// Stops a machine; its elements stay bound to it, its tokens count no more.
    ///
    /// # Errors
    /// [`MiddlewareError::Unknown`], or that it cannot be recorded.
    pub fn stop_machine(&self, vm: VmId) -> Result<Listed, MiddlewareError> {
        let _turn = lock(&self.creation);
        let state = self.journal.change(vm, |record| {
            let before = record.state;
            if before.runs() {
                record.state = State::Stopped;
            }
            before
        })?;
        if !state.ok_or(MiddlewareError::Unknown)?.runs() {
            return Err(MiddlewareError::Stopped);
        }
        step(vm, "stopping");
        self.take_down(vm);
        self.generations.retire(vm)?;
        self.show(vm).ok_or(MiddlewareError::Unknown)
    }

    /// Holds a machine: its sessions end, the elements are free of them, and it gets no others.
    ///
    /// # Errors
    /// [`MiddlewareError`].
    pub fn pause(&self, vm: VmId) -> Result<Listed, MiddlewareError> {
        let _turn = lock(&self.creation);
        match self.journal.get(vm).map(|record| record.state) {
            Some(State::Running) => {}
            Some(_) => return Err(MiddlewareError::Stopped),
            None => return Err(MiddlewareError::Unknown),
        }
        self.set(vm, State::Paused);
        self.suspend(vm, true);
        if let Err(error) = self.driver.pause(vm, true) {
            self.suspend(vm, false);
            self.set(vm, State::Running);
            return Err(MiddlewareError::Driver(error));
        }
        tracing::info!(%vm, "virtual machine paused; its sessions ended");
        self.show(vm).ok_or(MiddlewareError::Ended)
    }

    /// Lets a machine that is paused go on, with a new token.
    ///
    /// # Errors
    /// [`MiddlewareError`].
    pub fn resume(&self, vm: VmId) -> Result<Listed, MiddlewareError> {
        let _turn = lock(&self.creation);
        match self.journal.get(vm).map(|record| record.state) {
            Some(State::Paused) => {}
            Some(_) => return Err(MiddlewareError::Running),
            None => return Err(MiddlewareError::Unknown),
        }
        let domain = self.guests().get(&vm).map(|guest| guest.domain.clone());
        let domain = domain.ok_or(MiddlewareError::Ended)?;
        domain.renew(Clock::seconds(), Instant::now())?;
        self.suspend(vm, false);
        if let Err(error) = self.driver.pause(vm, false) {
            self.suspend(vm, true);
            return Err(MiddlewareError::Driver(error));
        }
        self.set(vm, State::Running);
        tracing::info!(%vm, "virtual machine goes on");
        self.show(vm).ok_or(MiddlewareError::Ended)
    }

    /// Ends what a guest has open and gives it nothing more, or gives it what it asks for again.
    fn suspend(&self, vm: VmId, suspended: bool) {
        let guests = self.guests();
        let Some(guest) = guests.get(&vm) else {
            return;
        };
        guest.domain.suspend(suspended);
        let mut tasks = lock(&guest.tasks);
        if suspended {
            tasks.abort_all();
        } else {
            tasks.spawn(renew(guest.domain.clone()));
        }
    }

    /// Ends a machine for good: its tokens are taken back, its sessions end, its element of a pool is wiped and free.
    ///
    /// # Errors
    /// [`MiddlewareError::Unknown`]; otherwise what went wrong: it is gone for its guest, and the rest is tried again.
    pub fn destroy(&self, vm: VmId) -> Result<(), MiddlewareError> {
        // One that is being made is first there, then destroyed.
        let _turn = lock(&self.creation);
        let known = self
            .journal
            .change(vm, |record| record.state = State::Destroying)?;
        known.ok_or(MiddlewareError::Unknown)?;
        step(vm, "destroying");
        self.finish(vm)
    }

    /// Brings the end of a machine to its end.
    fn finish(&self, vm: VmId) -> Result<(), MiddlewareError> {
        let Some(record) = self.journal.get(vm) else {
            return Ok(());
        };
        self.journal
            .change(vm, |record| record.state = State::Destroying)?;
        self.guests().remove(&vm);
        if record.generation > 0 {
            self.generations.retire(vm)?;
        }
        step(vm, "revoked");
        self.take_down(vm);
        step(vm, "taken-down");
        if let Some((pool, seid)) = self.pool_of(&record)? {
            Pooled::open(&self.grid, &pool, seid)?.wipe()?;
            tracing::info!(%vm, %seid, pool = pool.name, "element of a pool wiped and free");
        }
        step(vm, "released");
        self.journal.remove(vm)?;
        step(vm, "gone");
        Ok(())
    }

    fn finish_and_log(&self, vm: VmId) {
        if let Err(error) = self.finish(vm) {
            tracing::error!(%vm, %error, "the end of a virtual machine is not complete; it is tried again");
        }
    }

    /// The guest is no more, nor what the driver made for it.
    fn take_down(&self, vm: VmId) {
        self.guests().remove(&vm);
        self.driver.destroy(vm);
        if self.wait_until_gone(vm).is_err() {
            tracing::error!(%vm, "the guest does not end");
        }
        self.driver.clear(vm);
    }

    fn set(&self, vm: VmId, state: State) {
        if let Err(error) = self.journal.change(vm, |record| record.state = state) {
            tracing::error!(%vm, %error, "the machine's state is not recorded");
        }
    }

    /// The driver says that a guest is no more.
    pub(super) fn ended(&self, domain: &Arc<Domain>) {
        let vm = domain.vm();
        // A domain that was created again since is another one; one that is being destroyed is not here any more.
        let is_current = |guest: &super::middleware::Guest| Arc::ptr_eq(&guest.domain, domain);
        if !self.guests().get(&vm).is_some_and(is_current) {
            return;
        }
        crate::long_step(|| self.after_its_end(vm));
        self.guests().remove(&vm);
    }

    fn after_its_end(&self, vm: VmId) {
        match self.journal.get(vm) {
            Some(Record { keep: true, .. }) => {
                self.set(vm, State::Stopped);
                self.driver.clear(vm);
            }
            Some(record) => {
                // Without what `finish` does to the driver, which is what calls.
                let released = self.pool_of(&record).and_then(|pooled| match pooled {
                    Some((pool, seid)) => Pooled::open(&self.grid, &pool, seid)?.wipe(),
                    None => Ok(()),
                });
                let done = released.map_err(MiddlewareError::from).and_then(|()| {
                    self.generations.retire(vm)?;
                    Ok(self.journal.remove(vm)?)
                });
                if let Err(error) = done {
                    self.set(vm, State::Destroying);
                    tracing::error!(%vm, %error, "the end of a virtual machine is not complete; it is tried again");
                }
            }
            None => {}
        }
    }

    /// Finds the machines of the node's last life again: those whose guests outlived it are taken over, what was begun
    /// is taken back or brought to its end. Blocks.
    pub fn recover(self: &Arc<Self>) {
        let _turn = lock(&self.creation);
        for record in self.journal.all() {
            let (vm, state) = (record.uuid.0, record.state);
            match state {
                State::Creating | State::Destroying => self.finish_and_log(vm),
                State::Starting | State::Stopped => {
                    self.driver.clear(vm);
                    self.set(vm, State::Stopped);
                }
                State::Running | State::Paused => match self.take_over(&record) {
                    Ok(true) => {}
                    Ok(false) if record.keep => {
                        self.driver.clear(vm);
                        self.set(vm, State::Stopped);
                    }
                    Ok(false) => self.finish_and_log(vm),
                    Err(error) => {
                        tracing::error!(%vm, %error, "a virtual machine cannot be taken over; it is stopped");
                        self.take_down(vm);
                        self.set(vm, State::Stopped);
                    }
                },
            }
            let now = self.journal.get(vm).map(|record| record.state.to_string());
            let now = now.as_deref().unwrap_or("gone");
            tracing::info!(%vm, was = %state, now, "virtual machine found after a restart");
        }
    }

    /// Takes a guest over that outlived the node; `false` if it did not. It gets a new token and a new join record.
    fn take_over(self: &Arc<Self>, record: &Record) -> Result<bool, MiddlewareError> {
        let vm = record.uuid.0;
        if !self.driver.survived(vm) {
            return Ok(false);
        }
        let domain = Domain::start(self.issuer.clone(), vm, record.generation, Clock::seconds())?;
        let mut join = self.join_record(&domain)?;
        if let (Some(pin), Some(seid)) = (self.give(record, false)?, record.seids.first()) {
            join.set_pin(&seid.to_string(), pin.as_slice());
        }
        let is_paused = record.state == State::Paused;
        domain.suspend(is_paused);
        let renewal = renew(domain.clone());
        let (sockets, guest) = self.prepare(record, domain)?;
        if !is_paused {
            lock(&guest.tasks).spawn(renewal);
        }
        self.guests().insert(vm, guest);
        self.driver
            .take_over(vm, join, sockets)
            .map_err(MiddlewareError::Driver)?;
        Ok(true)
    }

    /// Ends that were not complete are tried again, as long as the node runs.
    pub async fn tend(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.stop.stopped() => return,
                () = tokio::time::sleep(AGAIN) => {}
            }
            crate::long_step(|| {
                let _turn = lock(&self.creation);
                for record in self.journal.all() {
                    if record.state == State::Destroying {
                        self.finish_and_log(record.uuid.0);
                    }
                }
            });
        }
    }

    /// Uses up the ticket of a domain that somebody is building.
    ///
    /// # Errors
    /// [`MiddlewareError::Gate`]: it must not be built.
    pub fn admit(&self, vm: VmId, ticket: &[u8]) -> Result<(), MiddlewareError> {
        Ok(self.gate.admit(vm, ticket, Clock::seconds())?)
    }

    /// The machines.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        let all = self.journal.all().into_iter();
        all.map(|record| self.listed(record)).collect()
    }

    /// One machine.
    #[must_use]
    pub fn show(&self, vm: VmId) -> Option<Listed> {
        self.journal.get(vm).map(|record| self.listed(record))
    }

    fn listed(&self, record: Record) -> Listed {
        let vm = record.uuid.0;
        Listed {
            vm,
            generation: record.generation,
            id: self.issuer.name(vm).to_string(),
            seids: record.elements(),
            creator: match &record.creator {
                Some(name) => Creator::User(name.0.clone()),
                None => Creator::Operator,
            },
            record,
        }
    }
}

/// One step of a machine's life, durable when this is logged.
fn step(vm: VmId, step: &'static str) {
    tracing::info!(%vm, step, "virtual machine");
}
