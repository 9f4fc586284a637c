//! What opening a journal gives.

use synod_paxos::{Ballot, Position, Recovered, Slot};
use synod_wire::record::ClusterId;

use crate::folder::Folder;
use crate::recovery::Recovery;
use crate::{Damage, Journal, OpenError, read};

/// An opened journal and what it brings back.
#[derive(Debug)]
pub struct Opened {
    /// The journal.
    pub journal: Journal,
    /// For the core.
    pub recovered: Recovered,
    /// How often the journal was opened, this time included; never used twice.
    pub incarnation: u64,
}

/// What a journal holds, found without opening it for writing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inspected {
    /// What [`Journal::open`] would give the core.
    pub recovered: Recovered,
    /// How often the journal was opened.
    pub incarnation: u64,
    /// Whether a group was torn by a crash; it is not part of `recovered`.
    pub torn_tail: bool,
}

/// What [`Journal::mend`] found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mended {
    /// The highest slot of which a damaged segment, or one before it, may have held a value.
    pub upto: Slot,
    /// The first damage.
    pub damage: Damage,
    /// Whether the damaged segments are gone. If not, the state machine lacks some of the
    /// slots up to `upto`, and nothing was changed.
    pub is_done: bool,
}

/// What [`Journal::look_behind_damage`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Behind {
    /// What is behind begins after this slot: a state of it, or of a later one, is needed.
    pub upto: Slot,
    /// Every slot up to this one is there behind it, as far as the journal can show. A state
    /// that was made from this journal does not go further.
    pub held: Slot,
    /// The promise in force.
    pub promised: Ballot,
    /// The position of the last record.
    pub position: Position,
    /// The life that has begun.
    pub incarnation: u64,
}

/// What is told of what was found.
pub(crate) fn inspected(
    folder: &Folder,
    cluster: ClusterId,
    recovery: &Recovery,
) -> Result<Inspected, OpenError> {
    let recovered = recovered(folder, cluster, recovery)?;
    let incarnation = recovery.newest_header.incarnation;
    Ok(Inspected { recovered, incarnation, torn_tail: recovery.torn })
}

/// What the core gets of what was found: open slots with their values.
pub(crate) fn recovered(
    folder: &Folder,
    cluster: ClusterId,
    recovery: &Recovery,
) -> Result<Recovered, OpenError> {
    Ok(Recovered {
        promised: recovery.in_force.promised,
        chosen_upto: recovery.in_force.chosen_upto,
        truncated_upto: recovery.in_force.truncated_upto,
        open: read::open_values(folder, cluster, &recovery.index)?,
        position: recovery.in_force.position,
    })
}
