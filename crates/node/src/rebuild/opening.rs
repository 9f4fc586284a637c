//! The journal of a node that starts, mended if that can be done without a peer.

use synod_journal::{Journal, OpenError, Opened};
use synod_paxos::Slot;

use crate::filled::{Filled, Held};
use crate::folder::Folder;
use crate::identity::Identity;
use crate::recovery::RecoveryError;
use crate::settings::Settings;
use crate::start_error::StartError;
use crate::tuning;

/// Opens the journal, and mends it where the state holds what is damaged. If slots were given to the
/// state it must be the journal beside which that was done, as it was or longer.
pub(crate) fn open_journal(
    folder: &Folder,
    settings: &Settings,
    identity: &Identity,
    state_upto: Slot,
    filled: Option<&Filled>,
) -> Result<Opened, StartError> {
    let options = tuning::journal_options(settings);
    let (dir, lineage) = (folder.journal(), identity.lineage());
    let damage = match Journal::open(&dir, lineage, &options) {
        Err(OpenError::Damaged(damage)) => damage,
        opened => {
            let opened = opened?;
            let held = Held::of(&opened.recovered, opened.incarnation.saturating_sub(1));
            filled.map_or(Ok(()), |filled| filled.check(&held))?;
            return Ok(opened);
        }
    };
    if let Some(filled) = filled {
        // Before the mending writes something: an older one may be short of one record only.
        filled.check(&Held::before(&Journal::look_behind_damage(&dir, lineage)?))?;
    }
    match Journal::mend(&dir, lineage, &options, state_upto) {
        Ok(Some(mended)) if mended.is_done => {
            let upto = mended.upto;
            tracing::warn!(
                %damage, %upto,
                "the journal was damaged, and what was hit is in the state: it begins behind it now"
            );
            Ok(Journal::open(&dir, lineage, &options)?)
        }
        // The state would lack slots that nothing else of this node has.
        Ok(Some(mended)) => {
            tracing::warn!(%damage, "the journal is damaged in what the state lacks");
            let (applied, truncated) = (state_upto, mended.upto);
            Err(RecoveryError::StateLost { applied, truncated }.into())
        }
        // The disk failed to read it for a moment only.
        Ok(None) => Ok(Journal::open(&dir, lineage, &options)?),
        Err(error) => Err(error.into()),
    }
}
