//! Who uses the cluster beside the clients: those who watch, and those who hold leases.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::fault::Class;
use super::history::Operation;
use super::leases::{self, Leases};
use super::watches::{self, Goal, Watches};
use super::{Run, join};
use crate::BenchError;

/// Whoever uses the cluster beside the clients.
pub(super) struct Guests {
    pub(super) goal: Arc<Goal>,
    watching: JoinHandle<Result<Vec<watches::Seen>, BenchError>>,
    holding: Option<JoinHandle<Result<Vec<leases::Held>, BenchError>>>,
}

impl Run<'_> {
    /// Those who watch and who hold leases, beside the clients.
    pub(super) fn invite(&self) -> Result<Guests, BenchError> {
        let goal = Goal::unknown();
        let (load, their_goal) = (Arc::clone(&self.load), Arc::clone(&goal));
        let watching = thread::Builder::new().name("watches".into());
        let watching = watching.spawn(move || watches::follow(&load, &their_goal))?;
        // A backup has the leases, too, and the clusters that are made of it end them: but they
        // are to stay as the backup says.
        let holding = if self.plan.classes.contains(&Class::Backup) {
            None
        } else {
            let load = Arc::clone(&self.load);
            Some(thread::Builder::new().name("leases".into()).spawn(move || leases::hold(&load))?)
        };
        Ok(Guests { goal, watching, holding })
    }

    /// What they were told, and whether that can be.
    pub(super) fn ask_guests(
        &mut self,
        guests: Guests,
        operations: &[Operation],
    ) -> Result<(Watches, Leases), BenchError> {
        let Guests { goal, watching, holding } = guests;
        let held = holding.map(join).transpose()?.unwrap_or_default();
        goal.set(operations.iter().filter_map(Operation::acknowledged_at).max().unwrap_or(0));
        let seen = join(watching)?;
        let (watches, found) = watches::check(&seen, operations, |name| self.load.key_of(name));
        self.violations.extend(found);
        let (leases, found) = leases::check(&held, &seen);
        self.violations.extend(found);
        Ok((watches, leases))
    }
}
