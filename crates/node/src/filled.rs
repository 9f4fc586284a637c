//! The mark of a state that was given slots which the journal lost, and what the journal must
//! still hold when it is found again.
//!
//! A state that is ahead of its journal is otherwise the sign of a journal that lost its end, and a
//! promise with it. This mark excuses it, but only for the slots that were given and beside the very
//! journal that was there: nothing was taken from that since.

use std::path::Path;

use synod_journal::{Behind, ClusterId, Journal};
use synod_paxos::{Ballot, NodeId, Position, Recovered, Slot};

use crate::folder::{self, FolderError, JOURNAL};
use crate::marks::FILLED;
use crate::recovery::RecoveryError;

/// What the journal held when its state was given slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Filled {
    /// No slot after this one was given.
    pub(crate) upto: Slot,
    /// What the journal held at least.
    pub(crate) held: Held,
}

/// What must never get less.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Held {
    promised: Ballot,
    position: Position,
    /// The last life that was begun.
    life: u64,
}

impl Held {
    /// Of a journal with this in it, in which this life stood last.
    pub(crate) fn of(recovered: &Recovered, life: u64) -> Held {
        Held { promised: recovered.promised, position: recovered.position, life }
    }

    /// What the journal held before it was looked at.
    pub(crate) fn before(behind: &Behind) -> Held {
        let Behind { promised, position, incarnation, .. } = *behind;
        Held { promised, position, life: incarnation.saturating_sub(1) }
    }

    fn words(&self) -> String {
        let Held { promised, position, life } = self;
        format!("promise {promised}, position {} and life {life}", position.0)
    }
}

/// Why a mark can't be gone by.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilledError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Unclear(#[from] RecoveryError),
}

impl Filled {
    /// Of a state that is to be given slots, beside a journal that was looked at just now.
    pub(crate) fn of(behind: &Behind) -> Filled {
        let Behind { upto, promised, position, incarnation, .. } = *behind;
        Filled { upto, held: Held { promised, position, life: incarnation } }
    }

    /// What stands in the file: words, and a checksum over them.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let Held { promised, position, life } = self.held;
        let words = format!(
            "slots up to {} were given to the state. The journal held promise {promised} position {} \
             life {life}",
            self.upto.0, position.0
        );
        format!("{words} checksum {:08x}\n", crc32c::crc32c(words.as_bytes())).into_bytes()
    }

    fn decode(content: &[u8]) -> Option<Filled> {
        let words: Vec<&str> = std::str::from_utf8(content).ok()?.split_whitespace().collect();
        let after = |name: &str| {
            let at = words.iter().position(|word| *word == name)?;
            words.get(at + 1).copied()
        };
        let (round, node) = after("promise")?.split_once('.')?;
        let promised = Ballot { round: round.parse().ok()?, node: NodeId(node.parse().ok()?) };
        let position = Position(after("position")?.parse().ok()?);
        let held = Held { promised, position, life: after("life")?.parse().ok()? };
        let found = Filled { upto: Slot(after("to")?.parse().ok()?), held };
        // Nothing but what was written, the checksum included.
        (found.encode() == content).then_some(found)
    }

    /// Reads the mark of a data folder; none when there is none.
    ///
    /// # Errors
    /// When it can't be read, or is not what a node wrote.
    pub(crate) fn read(folder: &Path) -> Result<Option<Filled>, FilledError> {
        let Some(content) = folder::read(folder, FILLED)? else { return Ok(None) };
        let unclear = || RecoveryError::FilledUnclear(folder.join(FILLED)).into();
        Filled::decode(&content).map(Some).ok_or_else(unclear)
    }

    /// Compares what the journal holds now.
    ///
    /// # Errors
    /// When that is less: it is an older copy, or lost its end.
    pub(crate) fn check(&self, now: &Held) -> Result<(), RecoveryError> {
        match self.fits(now) {
            true => Ok(()),
            false => {
                Err(RecoveryError::JournalOlder { held: self.held.words(), found: now.words() })
            }
        }
    }

    fn fits(&self, now: &Held) -> bool {
        let Held { promised, position, life } = self.held;
        now.promised >= promised && now.position >= position && now.life >= life
    }
}

/// Up to which slot the state in a data folder may be ahead of the journal because it was given
/// slots; zero when it was not. Changes nothing.
///
/// # Errors
/// Why what says so is not to be believed, in words.
pub(crate) fn given_upto(data: &Path, lineage: ClusterId) -> Result<Slot, String> {
    let filled = Filled::read(data).map_err(|error| error.to_string())?;
    let Some(filled) = filled else { return Ok(Slot::ZERO) };
    // Of one that is damaged that is told.
    let Ok(found) = Journal::inspect(&data.join(JOURNAL), lineage) else { return Ok(filled.upto) };
    let now = Held::of(&found.recovered, found.incarnation);
    match filled.fits(&now) {
        true => Ok(filled.upto),
        false => Err(format!(
            "{FILLED}: the journal held {} when slots that it lost were given to the state, but now \
             it holds {}: it is an older copy, or lost what it had acknowledged",
            filled.held.words(),
            now.words()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled() -> Filled {
        let promised = Ballot { round: 7, node: NodeId(3) };
        Filled { upto: Slot(20), held: Held { promised, position: Position(41), life: 5 } }
    }

    #[test]
    fn a_mark_is_read_as_it_was_written_or_not_at_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let read = || Filled::read(folder.path());
        assert_eq!(read().expect("readable"), None);
        let whole = filled().encode();
        folder::replace(folder.path(), FILLED, &whole).expect("written");
        assert_eq!(read().expect("readable"), Some(filled()));
        let refused = |content: &[u8]| {
            folder::replace(folder.path(), FILLED, content).expect("written");
            let words = read().expect_err("unclear").to_string();
            assert!(words.contains("FILLED"), "{words}");
        };
        for at in 0..whole.len() {
            let mut other = whole.clone();
            other[at] ^= 1;
            refused(&other);
            refused(&whole[..at]);
        }
        refused(b"the state may be ahead of the journal\n");
        refused(&[&whole[..], b"more"].concat());
    }

    #[test]
    fn a_journal_that_holds_less_of_anything_is_refused() {
        let held = filled().held;
        let less = [
            Held { promised: Ballot { round: 7, node: NodeId(2) }, ..held },
            Held { promised: Ballot { round: 6, node: NodeId(9) }, ..held },
            Held { position: Position(40), ..held },
            Held { life: 4, ..held },
        ];
        for less in less {
            // However much more it has of the rest.
            filled().check(&less).expect_err("less");
        }
        let more = Held { position: Position(99), life: 9, ..held };
        for enough in [held, more] {
            filled().check(&enough).expect("as much");
        }
    }
}
