//! The journal of a node that starts, mended if that can be done without a peer.

use synod_journal::{Journal, OpenError, Opened};
use synod_paxos::Slot;
use synod_storage::Store;
use synod_storage::snapshot::StateFolders;

use crate::fatal::Fatal;
use crate::filled::{Filled, Held};
use crate::folder::{self, Folder};
use crate::identity::Identity;
use crate::marks::{FILLED, REBUILD};
use crate::recovery::{self, RecoveryError};
use crate::settings::Settings;
use crate::start_error::StartError;
use crate::tuning;

/// That there is a state, or that the journal gives it: to open one that is gone makes an empty one,
/// which is nobody's.
pub(crate) fn refuse_gone(folder: &Folder, identity: &Identity) -> Result<(), StartError> {
    if folder::exists(&folder.states().current()?)? {
        return Ok(());
    }
    let (dir, lineage) = (folder.journal(), identity.lineage());
    let (found, _) = Journal::inspect_behind_damage(&dir, lineage)?;
    let (applied, truncated) = (Slot::ZERO, found.recovered.truncated_upto);
    match truncated {
        Slot::ZERO => Ok(()),
        _ => Err(RecoveryError::StateLost { applied, truncated }.into()),
    }
}

/// Opens the journal, and mends it where the state holds what is damaged, which is noted first. If
/// slots were given to the state it must be the journal beside which that was done, as it was or
/// longer.
pub(crate) fn open_journal(
    folder: &Folder,
    (settings, identity): (&Settings, &Identity),
    fatal: &Fatal,
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
    fatal.note_damaged_journal(&format!("the journal is damaged: {damage}"));
    if let Some(filled) = filled {
        // Before the mending writes something: an older one may be short of one record only.
        filled.check(&Held::before(&Journal::look_behind_damage(&dir, lineage)?))?;
    }
    // What is missing in a state that is doubted may stand there and nowhere else.
    let mended = match folder.has(REBUILD)? {
        true => Journal::mend_aside(&dir, lineage, &options, state_upto),
        false => Journal::mend(&dir, lineage, &options, state_upto),
    };
    match mended {
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

/// Has the journal say that it begins behind the state, if the state is ahead of it for a reason that
/// a mark tells, and be rid of what it needs no more.
pub(crate) fn tell_journal(
    folder: &Folder,
    settings: &Settings,
    (store, state_upto): (&Store, Slot),
    filled: Option<&Filled>,
    opened: &mut Opened,
) -> Result<(), StartError> {
    let Opened { journal, recovered, .. } = opened;
    if let Some(slot) = StateFolders::mark(store.path())? {
        recovery::start_after(journal, recovered, Slot(slot))?;
        folder.states().remove_mark(store.path())?;
    }
    if let Some(filled) = filled {
        // What the state has beyond them it has from this journal.
        let given_upto = state_upto.min(filled.upto);
        // What the journal knows as chosen by itself stands in it as it was chosen, and is needed
        // when the state turns out to be damaged.
        if recovered.chosen_upto < given_upto {
            recovery::start_after(journal, recovered, given_upto)?;
        }
        folder.step("filling told")?;
        folder::remove(folder.path(), FILLED)?;
    }
    let kept_bytes_max = if folder.has(REBUILD)? {
        journal.truncate_aside(recovered.truncated_upto).map_err(RecoveryError::from)?;
        settings.snapshot.doubted_bytes_max()
    } else {
        0
    };
    Journal::drop_aside(&folder.journal(), kept_bytes_max)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use synod_kv::http::{DamageBody, DamagedPart};

    use crate::damage::Damages;
    use crate::folder::JOURNAL;
    use crate::test_node::{put, settings};
    use crate::{Node, init};

    /// A supervisor starts it again, and nobody reads the log: that the disk lost something is told.
    #[test]
    fn what_a_start_mends_in_the_journal_stays_known() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut settings = settings(folder.path());
        settings.limits.segment_bytes = 64 << 10;
        // No file goes before the node stops.
        settings.timing.flush_interval_ms = 3_600_000;
        init(&settings).expect("made");
        let node = Node::start(&settings).expect("starts");
        (0..300).for_each(|number| put(&node, &format!("k{number}")));
        node.stop().expect("stopped in order");
        let journal = fs::read_dir(settings.data_dir.join(JOURNAL)).expect("readable");
        let files: Vec<PathBuf> = journal.map(|file| file.expect("readable").path()).collect();
        let oldest = files.iter().min().expect("a file");
        let mut bytes = fs::read(oldest).expect("readable");
        let middle = bytes.len() / 2;
        bytes[middle..middle + 4096].fill(7);
        fs::write(oldest, bytes).expect("written");
        Node::start(&settings).expect("mended").stop().expect("stopped in order");
        let damages = Damages::open(&settings.data_dir);
        let [DamageBody { part, what, mended_at_s, .. }] = damages.known() else {
            panic!("{damages:?}");
        };
        assert!(*part == DamagedPart::Journal && mended_at_s.is_some(), "{damages:?}");
        let name = oldest.file_name().expect("a name").to_string_lossy();
        assert!(what.contains(&*name), "{what}");
    }
}
