//! Backups that are made while clients write and something goes wrong, and the clusters that
//! are made of them.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use super::contents::{Contents, Held};
use super::control::{Order, Restored};
use super::fault::{Class, Fault, Kind};
use super::history::Operation;
use super::pairs::PairKey;
use super::transactions::Store;
use super::{PATIENCE, POLL, PROBE_TIMEOUT, Run};
use super::{drift, leases};
use crate::failover::ControlError;
use crate::{BenchError, NodeAddress, NodeId, Protocol, probe};

/// So many questions for one backup, each to a node that is drawn: together they take longer
/// than what goes wrong beside it.
const ATTEMPTS_MAX: u32 = 40;
const AGAIN_AFTER: Duration = Duration::from_millis(250);
/// A paused node says nothing.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);
/// How long after the question a node is killed, or how long after a fault's begin the
/// question comes.
const AFTER_MS: std::ops::Range<u64> = 0..80;

/// Something that goes wrong beside a backup for a while.
struct Trouble {
    fault: Fault,
    met: Vec<NodeId>,
    after: Duration,
    begun: Option<Instant>,
    is_healed: bool,
}

/// The questions for one backup.
struct Questions {
    random: fastrand::Rng,
    /// Whom the first goes to, if not to anybody.
    first: Option<NodeId>,
    not_before: Instant,
    asked: u32,
    /// When the one was put that is not answered yet, by both clocks.
    open: Option<(Instant, u64)>,
    last_words: String,
}

impl Run<'_> {
    /// Makes a backup and a cluster of it, and tells what is in that one.
    pub(super) fn back_up(&mut self, fault: &Fault, met: &[NodeId]) -> Result<String, BenchError> {
        let begin = Instant::now();
        let mut random = fastrand::Rng::with_seed(fault.seed);
        let after = Duration::from_millis(random.u64(AFTER_MS));
        let is_giver = matches!(fault.kind, Kind::Backup | Kind::BackupKillGiver);
        let comes_first = fault.kind != Kind::BackupKillGiver;
        let mut trouble = fault.beside().map(|fault| Trouble {
            fault,
            met: met.to_vec(),
            after: if comes_first { Duration::ZERO } else { after },
            begun: None,
            is_healed: false,
        });
        let mut questions = Questions {
            random,
            first: is_giver.then(|| met[0]),
            not_before: if comes_first { begin + after } else { begin },
            asked: 0,
            open: None,
            last_words: String::new(),
        };
        let made = self.ask_for_backup(&mut questions, &mut trouble, begin);
        self.control.recall();
        if let Some(trouble) = &mut trouble {
            self.end_trouble(trouble)?;
        }
        let Some((asked_us, made_us)) = made? else {
            let Questions { asked, last_words, .. } = questions;
            self.violations.push(format!("no backup in {asked} attempts: {last_words}"));
            return Ok("there was no backup".to_owned());
        };
        let asked = questions.asked;
        let restored = match self.control.restore() {
            Ok(restored) => restored,
            Err(ControlError(reason)) => {
                self.violations.push(format!("a backup could not be restored: {reason}"));
                self.is_broken = true;
                return Ok("it could not be restored".to_owned());
            }
        };
        let Some((keys, pairs)) = self.look_into(&restored)? else {
            // Its folder stays, so that one can look into it.
            self.is_broken = true;
            return Ok("the restored cluster is not as it should be".to_owned());
        };
        self.control.end_restored()?;
        let Restored { giver, revision, slot, .. } = restored;
        let count = keys.len() + pairs.len();
        let certain_us = asked_us;
        let made = Contents { giver, asked_us, made_us, certain_us, revision, keys, pairs };
        self.backups.push(made);
        Ok(format!(
            "node {giver} made one at attempt {asked}, restored with {count} keys, revision \
             {revision}, slot {slot}"
        ))
    }

    /// Asks one node after the other until one has made a backup, and what goes wrong beside it is
    /// over. Says when that one was asked and when it was done.
    fn ask_for_backup(
        &mut self,
        questions: &mut Questions,
        trouble: &mut Option<Trouble>,
        begin: Instant,
    ) -> Result<Option<(u64, u64)>, BenchError> {
        let mut made = None;
        loop {
            if self.has_fallen()? {
                return Ok(None);
            }
            if made.is_none() {
                made = self.go_on_asking(questions)?;
            }
            if let Some(trouble) = trouble {
                self.go_on_with(trouble, begin)?;
            }
            let is_over = made.is_some() || questions.are_exhausted();
            if is_over && trouble.as_ref().is_none_or(|trouble| trouble.is_healed) {
                return Ok(made);
            }
            thread::sleep(POLL);
        }
    }

    /// Puts the next question, or looks whether the last one was answered.
    fn go_on_asking(
        &mut self,
        questions: &mut Questions,
    ) -> Result<Option<(u64, u64)>, BenchError> {
        let Some((since, asked_us)) = questions.open else {
            if Instant::now() >= questions.not_before && !questions.are_exhausted() {
                let drawn = self.nodes[questions.random.usize(..self.nodes.len())].id;
                let node = questions.first.take().unwrap_or(drawn);
                questions.open = Some((Instant::now(), self.load.now_us()));
                questions.asked += 1;
                self.control.order(Order::Backup(node))?;
            }
            return Ok(None);
        };
        let told = self.control.told()?;
        let words = match told {
            Some(told) if told.is_done => return Ok(Some((asked_us, self.load.now_us()))),
            Some(told) => told.words,
            None if since.elapsed() > ATTEMPT_MAX => {
                self.control.recall();
                "no answer".to_owned()
            }
            None => return Ok(None),
        };
        questions.last_words = words;
        questions.open = None;
        questions.not_before = Instant::now() + AGAIN_AFTER;
        Ok(None)
    }

    fn go_on_with(&mut self, trouble: &mut Trouble, begin: Instant) -> Result<(), BenchError> {
        match trouble.begun {
            None if begin.elapsed() >= trouble.after => {
                trouble.begun = Some(Instant::now());
                self.begin_fault(&trouble.fault, &trouble.met)
            }
            Some(begun) if begun.elapsed() >= trouble.fault.lasts => self.end_trouble(trouble),
            _ => Ok(()),
        }
    }

    fn end_trouble(&mut self, trouble: &mut Trouble) -> Result<(), BenchError> {
        if trouble.begun.is_none() || trouble.is_healed {
            return Ok(());
        }
        trouble.is_healed = true;
        self.end_fault(&trouble.fault, &trouble.met)
    }

    /// Holds what each backup had against all that clients were told, and adds that as reads of
    /// these keys.
    pub(super) fn check_backups(&mut self, keys: &BTreeSet<u64>, operations: &mut Vec<Operation>) {
        for contents in &self.recovered {
            self.violations.extend(contents.check_recovered(operations));
        }
        for contents in &self.backups {
            self.violations.extend(contents.check(operations));
        }
        for contents in &self.backups {
            let last_us = contents.made_us;
            let called = operations.iter().filter(|one| one.called_us <= last_us);
            let called: BTreeSet<u64> = called.map(|one| one.key).collect();
            let known: BTreeSet<u64> = keys.intersection(&called).copied().collect();
            operations.extend(contents.reads(&known, || self.load.next_numbers()));
        }
        let made = self.faults.iter().filter(|fault| fault.class == Class::Backup).count();
        if made != self.backups.len() && self.violations.is_empty() {
            let checked = self.backups.len();
            self.violations.push(format!("{checked} of {made} backups could be checked"));
        }
    }

    /// What the new cluster holds, if its nodes serve, agree, and say what the backup says.
    pub(super) fn look_into(
        &mut self,
        restored: &Restored,
    ) -> Result<Option<(Held, Store)>, BenchError> {
        let begin = Instant::now();
        for node in &restored.nodes {
            while !probe::ready(Protocol::Synod, node, PROBE_TIMEOUT) {
                if begin.elapsed() > PATIENCE {
                    let (id, waited_s) = (node.id, PATIENCE.as_secs());
                    self.violations
                        .push(format!("node {id} of a backup was not ready within {waited_s} s"));
                    return Ok(None);
                }
                thread::sleep(POLL);
            }
        }
        let known = self.violations.len();
        self.compare_states(&restored.nodes, " of a backup")?;
        let mut held = Vec::new();
        for node in &restored.nodes {
            held.push(self.list(node, Some(restored.begins_at)));
            held.push(self.list(node, None));
        }
        if held.iter().any(|keys| *keys != held[0]) {
            self.violations.push("the nodes of a backup list different keys".to_owned());
        }
        let keys = held.swap_remove(0);
        Ok(keys.filter(|_| self.violations.len() == known))
    }

    /// All that a node of a new cluster holds, but for keys under leases: nobody writes there, but
    /// leases end. At the backup's revision, which it must have, or by now.
    fn list(&mut self, node: &NodeAddress, at: Option<u64>) -> Option<(Held, Store)> {
        let (mut keys, mut pairs, mut start) = (Held::new(), Store::new(), None);
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            let Some(page) = probe::page(node, start.as_deref(), at, PROBE_TIMEOUT) else {
                thread::sleep(POLL);
                continue;
            };
            for entry in page.entries {
                // Nobody wrote what is no number: the check will say so.
                let value = entry.value.as_ref().and_then(|value| value.parse().ok());
                let (name, held) =
                    (entry.key.as_deref(), (value.unwrap_or(u64::MAX), entry.mod_revision));
                if let Some(key) = name.and_then(|name| self.load.key_of(name)) {
                    keys.insert(key, held);
                } else if let Some(key) = name.and_then(|name| PairKey::of(&self.load, name)) {
                    pairs.insert(key, held);
                } else if !name.is_some_and(|name| leases::is_leased(name) || drift::is_own(name)) {
                    self.violations.push(format!("a backup has a key of nobody's: {entry:?}"));
                    return None;
                }
            }
            if page.next.is_none() {
                return Some((keys, pairs));
            }
            start = page.next;
        }
        let at = at.map_or_else(String::new, |revision| format!(" of revision {revision}"));
        self.violations.push(format!("node {} of a backup does not list its keys{at}", node.id));
        None
    }
}

impl Questions {
    fn are_exhausted(&self) -> bool {
        self.open.is_none() && self.asked >= ATTEMPTS_MAX
    }
}
