//! How a node comes back: the state as it was flushed, then the journal's chosen
//! values that it lacks.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use synod_journal::{Journal, JournalError};
use synod_paxos::{Recovered, Slot};

use crate::apply_thread::{Applier, ApplyError};
use crate::pins::Pins;

/// Journal bytes that are read at a time.
const CHUNK_BYTES_MAX: usize = 8 << 20;
/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// What the disk brought back.
pub(crate) struct Recovery {
    pub(crate) journal: Journal,
    pub(crate) recovered: Recovered,
    pub(crate) incarnation: u64,
    pub(crate) applier: Applier,
    pub(crate) pins: Pins,
    pub(crate) state_copied_upto: Slot,
}

/// Why a node does not come back.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The journal can't be read.
    #[error("cannot read the journal: {0}")]
    Journal(#[from] JournalError),
    /// The state can't be read or written.
    #[error("cannot rebuild the state: {0}")]
    Apply(#[from] ApplyError),
    /// The state ends before the journal begins.
    #[error(
        "the state ends at slot {applied}, but the journal holds nothing up to slot \
         {truncated}: what lies between was damaged or lost here, or the state is an older copy"
    )]
    StateLost {
        /// The last slot in the state.
        applied: Slot,
        /// The last slot that the journal dropped.
        truncated: Slot,
    },
    /// The state holds what the journal does not.
    #[error(
        "the state ends at slot {applied}, but the journal ends at slot {journal}: the journal lost \
         what it had acknowledged, a promise perhaps, so this node must not vote: keep the folder, \
         and check the disk. The others go on without it; put a new node in its place with `synod member \
         replace`"
    )]
    JournalLost {
        /// The last slot in the state.
        applied: Slot,
        /// The last slot up to which the journal holds everything.
        journal: Slot,
    },
    /// The journal is not the one beside which slots were given to the state.
    #[error(
        "slots that the journal lost were given to the state when the journal held {held}, but now \
         it holds {found}: it is an older copy, or lost what it had acknowledged, a promise perhaps, \
         so this node must not vote: keep the folder, and check the disk. If the later journal still \
         lies elsewhere put it back. Else the others go on without this node; put a new node in its \
         place with `synod member replace`"
    )]
    JournalOlder {
        /// Promise, position and life at that time.
        held: String,
        /// The same now.
        found: String,
    },
    /// The mark of a state that was given slots is not what a node wrote.
    #[error(
        "{}: it says that the state was given slots that the journal lost, but what the journal held \
         then cannot be read in it, so nobody knows whether a promise was lost since, and this node \
         must not vote: keep the folder, and check the disk. The others go on without it; put a new \
         node in its place with `synod member replace`", .0.display()
    )]
    FilledUnclear(PathBuf),
    /// The journal does not hold what it says.
    #[error("the journal lacks the chosen slot {0}")]
    SlotMissing(Slot),
}

/// The state bears the mark of a snapshot: the process died between the switch to it and
/// the journal's word that it starts there. The journal says so now, so that the mark may
/// go; if it says so already nothing changes.
pub(crate) fn start_after(
    journal: &mut Journal,
    recovered: &mut Recovered,
    slot: Slot,
) -> Result<(), RecoveryError> {
    if let Some(record) = recovered.start_after(slot) {
        tracing::info!(%slot, "the journal goes on after the snapshot that was installed");
        let position = journal.append(&[record])?;
        assert_eq!(position, recovered.position, "the journal and the core count alike");
        journal.sync()?;
    }
    Ok(())
}

/// Applies everything that the journal knows as chosen and the state lacks. That may take
/// long: `go_on` is asked now and then. Says whether it came to the end; if not, the next
/// start goes on.
///
/// A value is applied only when the own journal holds it durably, so the journal
/// holds each slot of the state or has dropped it in an orderly way. It may not know
/// yet that the last ones are chosen; but if it lacks one, it lost what it had
/// acknowledged, and nobody knows what else.
pub(crate) fn replay(
    journal: &Journal,
    recovered: &Recovered,
    applier: &mut Applier,
    go_on: impl Fn() -> bool,
) -> Result<bool, RecoveryError> {
    let (first, last) = (applier.applied().next(), recovered.chosen_upto);
    check(recovered, applier.applied())?;
    if last < first {
        return Ok(true);
    }
    tracing::info!(%first, %last, "rebuilding the state from the journal");
    let mut told = Instant::now();
    while applier.applied() < last {
        if !go_on() {
            return Ok(false);
        }
        let next = applier.applied().next();
        let values = journal.read_chosen(next, last, CHUNK_BYTES_MAX)?;
        if values.is_empty() {
            return Err(RecoveryError::SlotMissing(next));
        }
        for value in values {
            // Nobody waits: this node's clients of its former life are gone.
            applier.apply(applier.applied().next(), value, |_, _| {})?;
        }
        applier.commit().map_err(ApplyError::from)?;
        if told.elapsed() >= PROGRESS_EVERY {
            tracing::info!(applied = %applier.applied(), %last, "still rebuilding the state");
            told = Instant::now();
        }
    }
    tracing::info!(applied = %applier.applied(), "the state is rebuilt");
    Ok(true)
}

/// Whether a journal goes on where a state ends.
///
/// # Errors
/// When the journal begins later, or ends before.
pub(crate) fn check(recovered: &Recovered, applied: Slot) -> Result<(), RecoveryError> {
    let truncated = recovered.truncated_upto;
    if applied < truncated {
        return Err(RecoveryError::StateLost { applied, truncated });
    }
    match lost_after(recovered, applied) {
        Some(journal) => Err(RecoveryError::JournalLost { applied, journal }),
        None => Ok(()),
    }
}

/// Where the journal ends, if it lacks a slot up to `applied`.
pub(crate) fn lost_after(recovered: &Recovered, applied: Slot) -> Option<Slot> {
    let mut held = recovered.chosen_upto;
    // They come in slot order; a hole ends what can be shown to be there.
    for open in &recovered.open {
        if open.slot == held.next() {
            held = open.slot;
        }
    }
    (held < applied).then_some(held)
}

#[cfg(test)]
mod tests {
    use synod_paxos::{AcceptedSlot, Ballot, Standing, Value};

    use super::*;

    #[test]
    fn a_state_may_hold_what_is_chosen_or_open_and_nothing_else() {
        let mut recovered = Recovered { chosen_upto: Slot(4), ..Recovered::empty() };
        let slots = [5, 6, 8];
        recovered.open = slots
            .map(|slot| AcceptedSlot {
                slot: Slot(slot),
                standing: Standing::Accepted(Ballot::ZERO),
                value: Value::Noop,
            })
            .to_vec();
        for (applied, lost) in [(0, None), (4, None), (6, None), (7, Some(6)), (8, Some(6))] {
            assert_eq!(lost_after(&recovered, Slot(applied)), lost.map(Slot), "{applied}");
        }
    }
}
