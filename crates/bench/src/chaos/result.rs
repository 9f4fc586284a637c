//! What a run of chaos has shown.

use std::collections::BTreeMap;

use serde::Serialize;

use super::fault::{Class, Kind};
use super::leases::Leases;
use super::quorums::Quorums;
use super::retries::Retries;
use super::transactions::Transactions;
use super::watches::Watches;
use crate::table::{self, Table, count, or_dash};

/// Operations by how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Operations {
    /// Answered, a condition that did not hold included.
    pub ok: u64,
    /// Without effect.
    pub failed: u64,
    /// Nobody knows.
    pub unknown: u64,
    /// Held against one register per key.
    pub checked: u64,
}

/// One fault that was carried out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FaultResult {
    /// Which class.
    pub class: Class,
    /// Which kind.
    pub kind: Kind,
    /// The nodes it met, from 1; for a partition one side of it.
    pub nodes: Vec<u64>,
    /// When it began, in seconds from the start.
    pub at_s: f64,
    /// When it was healed.
    pub healed_s: f64,
    /// From then to the first acknowledgement of a write called after it, in
    /// milliseconds.
    pub recovered_ms: Option<f64>,
    /// What became of it.
    pub outcome: String,
}

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChaosResult {
    /// What the faults were drawn from.
    pub seed: u64,
    /// How many nodes.
    pub nodes: usize,
    /// How many of them make a quorum, if not a majority.
    pub quorums: Option<Quorums>,
    /// How many clients.
    pub clients: usize,
    /// How long it took, in seconds.
    pub duration_s: f64,
    /// The clients' operations.
    pub operations: Operations,
    /// How many keys they used.
    pub keys: u64,
    /// Keys of which an acknowledged write is missing.
    pub keys_lost: u64,
    /// Keys whose history needs too many steps to be checked.
    pub keys_undecided: u64,
    /// The slot at which all nodes had the same state in the end.
    pub equal_at_slot: Option<u64>,
    /// Backups of which a cluster was made and held against all that clients were told.
    pub backups_checked: u64,
    /// Clusters that were made of one node's folder, and held against the same.
    pub recovered_checked: u64,
    /// New nodes to which a peer sent its state, since the journals did not go back to the begin.
    pub came_by_state: u64,
    /// What those saw who watched.
    pub watches: Watches,
    /// What became of leases.
    pub leases: Leases,
    /// What became of transactions over two keys.
    pub transactions: Transactions,
    /// What was sent again under an idempotency key.
    pub retries: Retries,
    /// How often a node ended because its disk was full, which it may.
    pub stops_for_space: u64,
    /// The faults in their order.
    pub faults: Vec<FaultResult>,
    /// The longest of the times to recover, in milliseconds.
    pub worst_recovery_ms: Option<f64>,
    /// What must not be; empty when all is well.
    pub violations: Vec<String>,
    /// Whether all is well.
    pub passed: bool,
}

impl ChaosResult {
    /// A short table for a terminal.
    #[must_use]
    pub fn table(&self) -> String {
        let mut kinds: BTreeMap<Kind, (u64, Option<f64>)> = BTreeMap::new();
        for fault in &self.faults {
            let (number, worst) = kinds.entry(fault.kind).or_default();
            *number += 1;
            *worst = worst_of([*worst, fault.recovered_ms]);
        }
        let mut faults = Table::new(["fault", "times", "slowest recovery"]);
        for (kind, (number, worst)) in kinds {
            faults.row([kind.to_string(), count(number), or_dash(worst.map(table::ms))]);
        }
        let (all, worst) = (self.faults.len() as u64, self.worst_recovery_ms);
        faults.row(["all".to_owned(), count(all), or_dash(worst.map(table::ms))]);
        let Operations { ok, failed, unknown, checked } = self.operations;
        let mut lines = Table::default();
        lines.row(["operations answered", &count(ok)]);
        lines.row(["operations without effect", &count(failed)]);
        lines.row(["operations unknown", &count(unknown)]);
        lines.row(["operations checked", &count(checked)]);
        lines.row(["keys", &count(self.keys)]);
        lines.row(["keys that lost a write", &count(self.keys_lost)]);
        lines.row(["keys that could not be checked", &count(self.keys_undecided)]);
        lines.row(["equal states at slot", &or_dash(self.equal_at_slot.map(count))]);
        let Watches { watches, events, resumed } = self.watches;
        lines.row(["watches", &count(watches)]);
        lines.row(["changes told to each of them", &count(events)]);
        lines.row(["watches that went on elsewhere", &count(resumed)]);
        let Leases { granted, kept, over } = self.leases;
        lines.row(["leases granted", &count(granted)]);
        lines.row(["renewals of leases", &count(kept)]);
        lines.row(["leases whose time was over", &count(over)]);
        let Transactions { changed, seen, refused, unknown } = self.transactions;
        lines.row(["transactions that changed two keys", &count(changed)]);
        lines.row(["transactions that saw two keys", &count(seen)]);
        lines.row(["transactions without effect", &count(refused)]);
        lines.row(["transactions unknown", &count(unknown)]);
        let Retries { with_key, sent_again, settled, remembered, .. } = self.retries;
        lines.row(["changes under an idempotency key", &count(with_key)]);
        lines.row(["of these sent again", &count(sent_again)]);
        lines.row(["of these told what became of them", &count(settled)]);
        lines.row(["of these done before their last attempt", &count(remembered)]);
        if self.faults.iter().any(|fault| fault.class == Class::Disk) {
            lines.row(["nodes ended by a full disk", &count(self.stops_for_space)]);
        }
        if self.faults.iter().any(|fault| fault.class == Class::Backup) {
            lines.row(["backups restored and checked", &count(self.backups_checked)]);
        }
        if self.faults.iter().any(|fault| fault.class == Class::Recover) {
            lines.row(["survivors recovered and checked", &count(self.recovered_checked)]);
        }
        if self.faults.iter().any(|fault| fault.class.changes_nodes()) {
            lines.row(["new nodes that came by a state", &count(self.came_by_state)]);
        }
        let mut text = format!("{}\n{}\n", faults.render(), lines.render());
        for fault in self.faults.iter().filter(|fault| fault.class.has_course()) {
            let FaultResult { kind, at_s, outcome, .. } = fault;
            text.push_str(&format!("{at_s:.1} s, {kind}: {outcome}\n"));
        }
        for violation in &self.violations {
            text.push_str(&format!("VIOLATION: {violation}\n"));
        }
        if let Some(Quorums { promise, accept }) = self.quorums {
            text.push_str(&format!("{promise} nodes promise a ballot, {accept} accept a value\n"));
        }
        let verdict = if self.passed { "passed" } else { "FAILED" };
        let ChaosResult { seed, nodes, clients, duration_s, .. } = self;
        text.push_str(&format!(
            "{verdict}: seed {seed}, {nodes} nodes, {clients} clients, {duration_s:.0} s\n"
        ));
        text
    }
}

/// The longest that is known.
pub(super) fn worst_of(times: impl IntoIterator<Item = Option<f64>>) -> Option<f64> {
    times.into_iter().flatten().max_by(f64::total_cmp)
}
