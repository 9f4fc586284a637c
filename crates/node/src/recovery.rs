//! How a node comes back: the state as it was flushed, then the journal's chosen
//! values that it lacks.

use std::time::{Duration, Instant};

use synod_journal::{Journal, JournalError};
use synod_paxos::{Recovered, Slot};

use crate::apply_thread::{Applier, ApplyError};

/// Journal bytes that are read at a time.
const CHUNK_BYTES_MAX: usize = 8 << 20;
/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

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
         {truncated}: the state was replaced by an older copy, or lost. Replace this node by a \
         member with a new id"
    )]
    StateLost {
        /// The last slot in the state.
        applied: Slot,
        /// The last slot that the journal dropped.
        truncated: Slot,
    },
    /// The journal does not hold what it says.
    #[error("the journal lacks the chosen slot {0}")]
    SlotMissing(Slot),
}

/// Applies everything that the journal knows as chosen and the state lacks. The
/// state may be ahead of the journal: then there is nothing to do.
pub(crate) fn replay(
    journal: &Journal,
    recovered: &Recovered,
    applier: &mut Applier,
) -> Result<(), RecoveryError> {
    let (first, last) = (applier.applied().next(), recovered.chosen_upto);
    if applier.applied() < recovered.truncated_upto {
        let (applied, truncated) = (applier.applied(), recovered.truncated_upto);
        return Err(RecoveryError::StateLost { applied, truncated });
    }
    if last < first {
        return Ok(());
    }
    tracing::info!(%first, %last, "rebuilding the state from the journal");
    let mut told = Instant::now();
    while applier.applied() < last {
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
    Ok(())
}
