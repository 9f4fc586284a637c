//! What is left of a journal, for whoever makes something new of it.

use std::path::Path;

use synod_paxos::{Slot, Value};
use synod_wire::record::ClusterId;

use crate::error::Damage;
use crate::folder::Folder;
use crate::index::Index;
use crate::{JournalError, OpenError, read, recovery};

/// A journal that is only read, as far as it can be trusted. Nobody may vote from it.
///
/// A damaged one counts up to the damage: what it holds so far is what this acceptor had
/// at some moment. What follows is left out as a whole, since a record that is lost may
/// have changed what an earlier one says.
#[derive(Debug)]
pub struct Remains {
    folder: Folder,
    cluster: ClusterId,
    index: Index,
    incarnation: u64,
    damage: Option<Damage>,
    told_upto: Slot,
}

/// What [`recovery::remains`] found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) index: Index,
    pub(crate) incarnation: u64,
    pub(crate) damage: Option<Damage>,
    pub(crate) told_upto: Slot,
}

impl Remains {
    /// Reads the journal in `dir` and changes nothing. Damage in segments that hold only
    /// slots up to `applied`, which nobody needs any more, does not matter.
    ///
    /// # Errors
    /// When there is no journal, it is in use or another cluster's, or cannot be read.
    pub fn read(dir: &Path, cluster: ClusterId, applied: Slot) -> Result<Remains, OpenError> {
        let folder = Folder::open_to_read(dir)?;
        let Found { index, incarnation, damage, told_upto } =
            recovery::remains(&folder, cluster, applied)?;
        Ok(Remains { folder, cluster, index, incarnation, damage, told_upto })
    }

    /// Why it ends early, if it does.
    #[must_use]
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// How often the journal was opened.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// It holds nothing at or below this slot.
    #[must_use]
    pub fn truncated_upto(&self) -> Slot {
        self.index.truncated_upto()
    }

    /// Every slot up to here is known as chosen.
    #[must_use]
    pub fn chosen_upto(&self) -> Slot {
        self.index.chosen_upto()
    }

    /// The highest slot that the journal is known to have held, damaged or not: as the
    /// beginnings of its segments say, and what was read. There may be later ones.
    #[must_use]
    pub fn told_upto(&self) -> Slot {
        self.told_upto
    }

    /// The slots above [`Remains::chosen_upto`] that have a value, in their order.
    pub fn open_slots(&self) -> impl Iterator<Item = Slot> + '_ {
        self.index.open().map(|entry| entry.slot)
    }

    /// The value of a slot: the chosen one, or the acceptance of the highest ballot; none
    /// when the slot has none here.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn value(&self, slot: Slot) -> Result<Option<Value>, JournalError> {
        read::value(&self.folder, self.cluster, &self.index, slot)
    }
}
