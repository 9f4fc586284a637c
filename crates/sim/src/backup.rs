//! Backups of running nodes, and the clusters that are made of them.
//!
//! Any node is asked for a backup while everything goes wrong. As a real one it waits until it may
//! answer a read, then another thread takes a checkpoint of what is applied by then, and that takes its
//! time to leave; when the process dies meanwhile the backup has no end, and is none. Nor has it one
//! when something of it is damaged, which is found before the end. At the
//! end of the run each is compared with the history, and a new cluster is made of one of them, as
//! `synod restore` does it.

use std::collections::BTreeMap;

use synod_host::{Event, RequestId};
use synod_kv::{APPLIED_KEY, MemoryMap, OrderedMap, Revision, State, WriteSet};
use synod_paxos::NodeId;

use crate::checkers::backups::{self, Contents};
use crate::checkers::exactly_once::Settled;
use crate::checkers::{Check, Checker, Violation, demand};
use crate::coverage::Rare;
use crate::drift::Drift;
use crate::fault::Fault;
use crate::happening::Happening;
use crate::mistakes::Mistake;
use crate::successor::{Successor, keys_in};
use crate::world::World;

/// The names of the questions for backups, which no client uses.
const REQUESTS: u64 = 1 << 47;
/// More are not kept.
const KEPT_MAX: usize = 8;
/// A checkpoint is taken so long after the read was confirmed, at the most, and takes so long to
/// leave.
const TAKEN_US_MAX: u64 = 100_000;
const SENT_US_MAX: u64 = 2_000_000;
/// How long a question waits for its confirmation at the most.
const PATIENCE_US: u64 = 5_000_000;

/// All backups of a run.
#[derive(Debug, Default)]
pub(crate) struct Backups {
    last: u64,
    open: BTreeMap<RequestId, Asked>,
    made: Vec<Backup>,
}

/// A backup that was asked for.
#[derive(Debug)]
struct Asked {
    node: NodeId,
    /// The highest revision that anybody had been told.
    floor: Revision,
    /// What is being sent.
    taken: Option<(u64, MemoryMap)>,
    /// It is not what was written.
    is_damaged: bool,
}

/// A whole backup.
#[derive(Debug)]
struct Backup {
    node: NodeId,
    floor: Revision,
    slot: u64,
    map: MemoryMap,
}

impl World<'_> {
    /// Somebody asks a node for a backup.
    pub(crate) fn ask_for_backup(&mut self, id: NodeId) -> Check {
        let fault = Fault::Backup;
        let (now_us, floor) = (self.now_us, self.clients.told());
        let patience_us = self.nemesis.rng(fault).u64(100_000..PATIENCE_US);
        let node = self.node(id);
        if node.process.is_none() || node.drift != Drift::None {
            return Ok(());
        }
        let (life, is_hasty) = (node.life, node.mistake == Some(Mistake::BackupUnconfirmed));
        let deadline = node.clock.read(now_us).plus_us(patience_us);
        self.coverage.fault(fault);
        self.backups.last += 1;
        let request = RequestId(REQUESTS + self.backups.last);
        self.backups
            .open
            .insert(request, Asked { node: id, floor, taken: None, is_damaged: false });
        if is_hasty {
            self.at(0, Happening::BackupTaken { node: id, life, request });
            return Ok(());
        }
        self.hear(id, Event::Read { request, deadline })
    }

    /// Whether a read is that of a backup. Its state may be taken then, by another thread.
    pub(crate) fn confirm_backup(&mut self, id: NodeId, request: RequestId) -> bool {
        let is_asked = self.backups.open.contains_key(&request);
        if is_asked {
            let life = self.node(id).life;
            let later_us = self.nemesis.rng(Fault::Backup).u64(..TAKEN_US_MAX);
            self.at(later_us, Happening::BackupTaken { node: id, life, request });
        }
        is_asked
    }

    /// Whether a read that was refused is that of a backup.
    pub(crate) fn refuse_backup(&mut self, request: RequestId) -> bool {
        self.backups.open.remove(&request).is_some()
    }

    /// The checkpoint is taken, and begins to leave.
    pub(crate) fn take_backup(&mut self, id: NodeId, life: u64, request: RequestId) {
        let node = self.node(id);
        let flushed = (node.state.slot, node.state.map.clone());
        let (mistake, drift) = (node.mistake, node.drift);
        let is_doubted = node.is_doubted();
        let Some(process) = node.process(life) else { return self.cut_backup(request) };
        let (map, damage) = process.machine.map().checkpoint();
        if is_doubted || drift != Drift::None {
            // The state is in doubt, or the hosts know that it differs.
            self.backups.open.remove(&request);
            return;
        }
        let applied = (process.machine.applied_slot(), map);
        let is_flushed = mistake == Some(Mistake::BackupOfFlushed);
        let taken = if is_flushed { flushed } else { applied };
        let Some(asked) = self.backups.open.get_mut(&request) else { return };
        (asked.taken, asked.is_damaged) = (Some(taken), !damage.is_empty());
        let sent_us = self.nemesis.rng(Fault::Backup).u64(1_000..SENT_US_MAX);
        self.at(sent_us, Happening::BackupSent { node: id, life, request });
    }

    /// All of it has left, and was read to be checked: what is damaged, or doubted by now, gets no end.
    pub(crate) fn end_backup(&mut self, id: NodeId, life: u64, request: RequestId) -> Check {
        let node = self.node(id);
        let is_torn = node.mistake == Some(Mistake::BackupTorn);
        let is_doubted = node.is_doubted();
        let Some(process) = node.process(life) else {
            self.cut_backup(request);
            return Ok(());
        };
        let leads = process.leads;
        let later = is_torn.then(|| process.machine.map().checkpoint().0);
        let Some(asked) = self.backups.open.remove(&request) else { return Ok(()) };
        let Asked { node, floor, taken, is_damaged } = asked;
        if is_damaged {
            return self.note_damage(id);
        }
        let Some((slot, mut map)) = taken.filter(|_| !is_doubted) else { return Ok(()) };
        if let Some(later) = later {
            tear(&mut map, &later);
        }
        self.coverage.rare(if leads { Rare::BackupOfLeader } else { Rare::BackupOfFollower });
        if self.clients.told() > floor {
            self.coverage.rare(Rare::BackupBesideWrites);
        }
        if self.backups.made.len() < KEPT_MAX {
            self.backups.made.push(Backup { node, floor, slot, map });
        }
        Ok(())
    }

    fn cut_backup(&mut self, request: RequestId) {
        self.backups.open.remove(&request);
        self.coverage.rare(Rare::BackupCut);
    }

    /// At the end: what each of them holds, and what a cluster serves that is made of the last.
    pub(crate) fn check_backups(&mut self, settled: &[Option<Settled>]) -> Check {
        let made = std::mem::take(&mut self.backups.made);
        let mut last = None;
        for backup in &made {
            let contents = self.read_backup(backup)?;
            backups::check(&contents, &self.clients.operations, settled)?;
            last = Some((backup, contents));
        }
        let Some((backup, contents)) = last else { return Ok(()) };
        Successor {
            of: format!("the backup of {}", backup.node),
            checker: Checker::Backups,
            map: &backup.map,
            slot: backup.slot,
            keys: &contents.keys,
        }
        .serves(self.plan.clone())?;
        self.coverage.rare(Rare::RestoredServes);
        Ok(())
    }

    /// What it says; it must be the state that everybody had after its slot.
    fn read_backup(&self, backup: &Backup) -> Result<Contents, Violation> {
        let Backup { node, floor, slot, map } = backup;
        let damaged = |error| Violation {
            checker: Checker::Backups,
            text: format!("the backup of {node} cannot be read: {error:?}"),
        };
        let state = State::load(map).map_err(damaged)?;
        let known = self.checks.state_hash.known(*slot);
        let fits = state.applied_slot == *slot && known.is_none_or(|hash| hash == state.hash());
        demand(fits, Checker::Backups, || {
            format!("the backup of {node} is not the state of slot {slot}")
        })?;
        let keys = keys_in(map, self.plan.load.keys).map_err(damaged)?;
        Ok(Contents { node: *node, floor: *floor, revision: state.revision, keys })
    }
}

/// A planted mistake: what comes last in the backup is of a later moment.
fn tear(map: &mut MemoryMap, later: &MemoryMap) {
    let half = map.iter().count() / 2;
    let Some(middle) = map.iter().nth(half).map(|(key, _)| key.to_vec()) else { return };
    let mut torn = WriteSet::new();
    later
        .iter()
        .filter(|(key, _)| **key >= *middle && *key != APPLIED_KEY)
        .for_each(|(key, value)| torn.put(key, value));
    map.write(&torn).expect("memory does not fail");
}
