//! Who uses the cluster beside the clients: those who watch, those who hold leases, and those who
//! change two keys at once.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::history::Operation;
use super::leases::{self, Leases};
use super::pairs::{self, PairKey, Told};
use super::transactions::{self, Transactions};
use super::watches::{self, Goal, Watches};
use super::{Run, join};
use crate::BenchError;

/// Whoever uses the cluster beside the clients.
pub(super) struct Guests {
    pub(super) goal: Arc<Goal>,
    watching: JoinHandle<Result<Vec<watches::Seen>, BenchError>>,
    holding: JoinHandle<Result<Vec<leases::Held>, BenchError>>,
    transacting: JoinHandle<Result<Vec<pairs::Transaction>, BenchError>>,
}

impl Run<'_> {
    /// Those who watch, hold leases and change pairs of keys, beside the clients.
    pub(super) fn invite(&self) -> Result<Guests, BenchError> {
        let goal = Goal::unknown();
        let (load, their_goal) = (Arc::clone(&self.load), Arc::clone(&goal));
        let thread = |name: &str| thread::Builder::new().name(name.into());
        let watching = thread("watches").spawn(move || watches::follow(&load, &their_goal))?;
        let load = Arc::clone(&self.load);
        let holding = thread("leases").spawn(move || leases::hold(&load))?;
        let load = Arc::clone(&self.load);
        let transacting = thread("pairs").spawn(move || pairs::transact(&load))?;
        Ok(Guests { goal, watching, holding, transacting })
    }

    /// What they were told, and whether that can be.
    pub(super) fn ask_guests(
        &mut self,
        guests: Guests,
        operations: &[Operation],
    ) -> Result<(Watches, Leases, Transactions), BenchError> {
        let Guests { goal, watching, holding, transacting } = guests;
        let (held, made) = (join(holding)?, join(transacting)?);
        let of_pairs = made.iter().filter_map(|one| match one.told {
            Told::Changed(revision, _) | Told::Seen(revision, _) => Some(revision),
            Told::Refused | Told::Unknown => None,
        });
        let acknowledged = operations.iter().filter_map(Operation::acknowledged_at);
        goal.set(acknowledged.chain(of_pairs).max().unwrap_or(0));
        let seen = join(watching)?;
        let (watches, found) = watches::check(&seen, operations, |name| self.load.key_of(name));
        self.violations.extend(found);
        let (leases, found) = leases::check(&held, &seen);
        self.violations.extend(found);
        let key_of = |name: &str| PairKey::of(&self.load, name);
        let events = seen.first().map_or(&[][..], |seen| &seen.events);
        let acknowledged =
            operations.iter().filter_map(|one| Some((one.returned_us, one.acknowledged_at()?)));
        let (transactions, found) = transactions::check(&made, events, acknowledged, key_of);
        self.violations.extend(found);
        let backups = self.backups.iter();
        let strange = backups.filter_map(|one| transactions::check_backup(one, events, key_of));
        self.violations.extend(strange);
        let recovered = self.recovered.iter();
        let strange = recovered.filter_map(|one| {
            transactions::check_recovered(one, one.bound(operations), &made, events, key_of)
        });
        self.violations.extend(strange);
        Ok((watches, leases, transactions))
    }
}
