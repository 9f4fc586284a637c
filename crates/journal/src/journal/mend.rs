//! Damage of what is sealed: finding it, and going on behind it.

use std::path::Path;

use synod_paxos::{Record, RecordBody, Slot};
use synod_wire::record::{ClusterId, SegmentHeader};

use super::Journal;
use crate::active::Active;
use crate::folder::Folder;
use crate::opened::{Behind, Inspected, Mended, inspected};
use crate::options::JournalOptions;
use crate::recovery::{self, BehindDamage};
use crate::{Damage, JournalError, OpenError};

/// What becomes of the files up to the damage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Passed {
    Removed,
    Kept,
}

impl Journal {
    /// Drops the segments up to the last damaged one, if what they held is not needed any
    /// more because the state machine durably holds every slot up to `state_upto`, so that
    /// all of them are known as chosen. Nothing else is taken from the journal by
    /// that than by a snapshot of the state: the promise in force, and all later slots, stand
    /// in what is behind. Where the newest segment is the damaged one, what is behind is begun
    /// first: the next segment, with what the newest one shows of the promise and the later
    /// slots. Answers none when nothing is damaged. Interrupted anywhere, it can be run again.
    ///
    /// # Errors
    /// See [`OpenError`]: also when the newest segment is damaged and does not show the promise
    /// in force. A refused journal is left as it is.
    pub fn mend(
        dir: &Path,
        cluster: ClusterId,
        options: &JournalOptions,
        state_upto: Slot,
    ) -> Result<Option<Mended>, OpenError> {
        Journal::mend_by(dir, cluster, options, state_upto, Passed::Removed)
    }

    /// [`Journal::mend`] beside a state that is doubted: the files that the journal does not need
    /// any more are kept aside, for what they show ([`crate::Shown`]) may be what nobody else has.
    /// They count for nothing else, until [`Journal::drop_aside`].
    ///
    /// # Errors
    /// As [`Journal::mend`].
    pub fn mend_aside(
        dir: &Path,
        cluster: ClusterId,
        options: &JournalOptions,
        state_upto: Slot,
    ) -> Result<Option<Mended>, OpenError> {
        Journal::mend_by(dir, cluster, options, state_upto, Passed::Kept)
    }

    /// Removes the oldest of the files that were kept aside, while the journal may be open, until
    /// those that are left have no more than `bytes_max` bytes. Answers how many went.
    ///
    /// # Errors
    /// When the folder cannot be read or changed.
    pub fn drop_aside(dir: &Path, bytes_max: u64) -> Result<usize, OpenError> {
        let folder = Folder::open_beside(dir)?;
        let kept = folder.kept()?;
        let mut bytes: u64 = kept.iter().map(|(_, bytes)| bytes).sum();
        let mut dropped = 0;
        for (number, of_it) in kept {
            if bytes <= bytes_max {
                break;
            }
            folder.remove_kept(number)?;
            bytes -= of_it;
            dropped += 1;
        }
        Ok(dropped)
    }

    fn mend_by(
        dir: &Path,
        cluster: ClusterId,
        options: &JournalOptions,
        state_upto: Slot,
        passed: Passed,
    ) -> Result<Option<Mended>, OpenError> {
        let folder = Folder::open(dir)?;
        let behind = BehindDamage::read(&folder, cluster)?;
        let Some(damage) = behind.first_damage.clone() else { return Ok(None) };
        let upto = behind.recovery.index.truncated_upto();
        if upto > state_upto {
            return Ok(Some(Mended { upto, damage, is_done: false }));
        }
        let recovery = behind.begin(&folder, cluster)?;
        let passed_over = recovery.passed_over.clone();
        if passed == Passed::Kept {
            // What the journal does not need by its own word is removed by whoever opens it. Without
            // them it is as damaged as with them.
            for number in &passed_over {
                folder.keep_segment(*number)?;
            }
            folder.sync()?;
        }
        let mut journal = Journal::resume(folder, cluster, options, recovery)?;
        journal.in_force.oldest_segment = journal.segments.oldest_number();
        if upto > journal.in_force.chosen_upto {
            // They are chosen, since the state has them: as after a snapshot of that slot.
            let body = RecordBody::StartAfter { slot: upto };
            let promised = journal.in_force.promised;
            journal.append_one(&Record { promised, chosen_upto: upto, body }).map_err(|error| {
                match error {
                    JournalError::Io { what, path, source } => OpenError::Io { what, path, source },
                    other => unreachable!("a record without a value does not fail by {other}"),
                }
            })?;
        }
        // What it needs no more goes when it durably says so.
        journal.write_group()?;
        for number in passed_over.into_iter().filter(|_| passed == Passed::Removed) {
            journal.folder.remove_segment(number)?;
        }
        journal.folder.sync()?;
        Ok(Some(Mended { upto, damage, is_done: true }))
    }

    /// What [`Journal::mend`] would leave to a state that holds every slot up to
    /// `recovered.truncated_upto`, and the first damage. Where nothing is damaged it is what
    /// [`Journal::inspect`] tells. Changes nothing.
    ///
    /// # Errors
    /// See [`OpenError`]: those with which [`Journal::mend`] ends.
    pub fn inspect_behind_damage(
        dir: &Path,
        cluster: ClusterId,
    ) -> Result<(Inspected, Option<Damage>), OpenError> {
        let folder = Folder::open_to_read(dir)?;
        let BehindDamage { recovery, first_damage, .. } = BehindDamage::read(&folder, cluster)?;
        let mut found = inspected(&folder, cluster, &recovery)?;
        // As it is when a state has all of them.
        let recovered = &mut found.recovered;
        recovered.chosen_upto = recovered.chosen_upto.max(recovered.truncated_upto);
        Ok((found, first_damage))
    }

    /// What the journal would be if all up to its last damage were dropped, for whoever looks
    /// for a state that makes it so. Nothing is dropped; the next segment is begun if the newest
    /// one is damaged. A new life begins, durably, in which the node may be heard by others.
    ///
    /// # Errors
    /// See [`OpenError`]: also when the newest segment is damaged and does not show the promise
    /// in force.
    pub fn look_behind_damage(dir: &Path, cluster: ClusterId) -> Result<Behind, OpenError> {
        let folder = Folder::open(dir)?;
        let recovery = BehindDamage::read(&folder, cluster)?.begin(&folder, cluster)?;
        let incarnation = recovery.newest_header.incarnation + 1;
        // What others are told must not have been in memory only: neither the new life, nor the
        // name of the file that it is written to, which a process that ended may have given it.
        folder.sync()?;
        let header = SegmentHeader { incarnation, ..recovery.newest_header };
        Active::resume(&folder, &header, &recovery)?;
        let mut held = recovery.index.chosen_upto();
        // They come in slot order; a hole ends what can be shown to be there.
        for open in recovery.index.open() {
            if open.slot == held.next() {
                held = open.slot;
            }
        }
        Ok(Behind {
            upto: recovery.index.truncated_upto(),
            held,
            promised: recovery.in_force.promised,
            position: recovery.in_force.position,
            incarnation,
        })
    }

    /// Reads and checks each segment that another one follows, which never changes again,
    /// while the journal may be open. After each `go_on` is asked with the bytes read so
    /// far, and may take its time. Answers the bytes of all.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn scrub(
        dir: &Path,
        cluster: ClusterId,
        go_on: impl FnMut(u64) -> bool,
    ) -> Result<u64, OpenError> {
        recovery::scrub(&Folder::open_beside(dir)?, cluster, go_on)
    }
}
