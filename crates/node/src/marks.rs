//! Small files in the data folder by which a life of a node tells the next one what must
//! not be forgotten. An operator may read, make and remove them.

use std::path::Path;

use synod_paxos::Slot;

use crate::folder::{self, FolderError};

/// The state is damaged, or is not to be believed: the next start fetches a peer's. The
/// journal, and with it all that this node promised and accepted, is not in doubt.
pub(crate) const REBUILD: &str = "REBUILD";
/// The state may be damaged: the next start reads all of it before it goes on.
pub(crate) const SUSPECT: &str = "SUSPECT";
/// The data folder is older than what this node told its peers, or another process uses a copy
/// of it. Promises may be missing, so it must never vote again.
pub(crate) const WENT_BACK: &str = "WENT_BACK";

/// The state differs from a peer's, and nobody knows which of the two is right.
pub(crate) const DIFFERS: &str = "DIFFERS";

/// A state that was doubted was found whole. If it is doubted again it is not read before a
/// peer is asked.
pub(crate) const WHOLE: &str = "WHOLE";

/// How often in a row nobody gave a state in place of one that is damaged, and the node went on with
/// that: whoever asks again does not wait for long.
pub(crate) const UNREPLACED: &str = "UNREPLACED";

/// The state was given slots that the journal lost. It may be ahead of the journal, which says at
/// the next start that it begins behind it, also when the damage is gone by itself. What the journal
/// held at that time stands in it ([`crate::filled`]): beside an older one it excuses nothing.
pub(crate) const FILLED: &str = "FILLED";

/// Up to the slot that it names, what came from a peer was found right by the others.
pub(crate) const FOUND_RIGHT: &str = "FOUND_RIGHT";

/// All of them.
pub(crate) const ALL: [&str; 8] =
    [REBUILD, SUSPECT, WENT_BACK, DIFFERS, WHOLE, UNREPLACED, FILLED, FOUND_RIGHT];

/// How the content of [`REBUILD`] begins when the node left it by itself. Any other is an
/// operator's, who may have renamed a file of another name.
const DOUBT: &str = "found by the node itself: ";

/// What stands in [`REBUILD`] when a node gives up its state by itself.
pub(crate) fn doubt_text(reason: &str) -> Vec<u8> {
    format!("{DOUBT}{reason}\n").into_bytes()
}

/// Whether the node gave up its state by itself, and may have erred.
pub(crate) fn is_doubt(content: &[u8]) -> bool {
    content.starts_with(DOUBT.as_bytes())
}

/// What stands in [`DIFFERS`].
pub(crate) fn difference_text(slot: Slot, reason: &str) -> Vec<u8> {
    format!(
        "slot {slot}\n{reason}\n\n\
         While this file is here the node gives its state to no peer and makes no backup. It goes \
         by itself when most voters agree with this node about a later slot. To take the state of \
         a peer in place of this one: stop the node, rename this file to {REBUILD}, start the \
         node. If the state of this node is known to be the right one: stop it, remove this file, \
         start it.\n"
    )
    .into_bytes()
}

/// What stands in [`FOUND_RIGHT`].
pub(crate) fn found_right_text(slot: Slot) -> Vec<u8> {
    format!("slot {slot}\n").into_bytes()
}

/// Up to where the state came from a peer and was not found right yet, if its folder says that it
/// came at `copied_upto`. Without the file, or a slot in it, it was not.
pub(crate) fn not_found_right(folder: &Path, copied_upto: Slot) -> Result<Slot, FolderError> {
    let content = folder::read(folder, FOUND_RIGHT)?.unwrap_or_default();
    let found = slot_in(&content).unwrap_or(Slot::ZERO);
    Ok(if copied_upto <= found { Slot::ZERO } else { copied_upto })
}

/// How often in a row nobody gave another state.
pub(crate) fn unreplaced(folder: &Path) -> Result<u32, FolderError> {
    let Some(content) = folder::read(folder, UNREPLACED)? else { return Ok(0) };
    // What cannot be read was written by somebody.
    Ok(String::from_utf8_lossy(&content).trim().parse().unwrap_or(1))
}

/// Keeps that.
pub(crate) fn set_unreplaced(folder: &Path, count: u32) -> Result<(), FolderError> {
    folder::replace(folder, UNREPLACED, format!("{count}\n").as_bytes())
}

fn slot_in(content: &[u8]) -> Option<Slot> {
    let text = String::from_utf8_lossy(content);
    text.lines().next()?.strip_prefix("slot ")?.parse().ok().map(Slot)
}

/// The slot after which the state is known to differ from a peer's. Of a file that does not
/// tell it, the last one there is.
pub(crate) fn difference(folder: &Path) -> Result<Option<Slot>, FolderError> {
    let Some(content) = folder::read(folder, DIFFERS)? else { return Ok(None) };
    Ok(Some(slot_in(&content).unwrap_or(Slot(u64::MAX))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_wants_is_no_doubt_of_the_node() {
        assert!(is_doubt(&doubt_text("a block")));
        for wanted in [&b""[..], b"slot 4096\n", &difference_text(Slot(1), DOUBT)] {
            assert!(!is_doubt(wanted));
        }
    }

    #[test]
    fn a_difference_is_remembered_whoever_wrote_it() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(difference(folder.path()).expect("readable"), None);
        for (text, slot) in [
            (difference_text(Slot(4_096), "node 2 says so"), 4_096),
            (Vec::new(), u64::MAX),
            (b"\xff\xfe".to_vec(), u64::MAX),
        ] {
            folder::replace(folder.path(), DIFFERS, &text).expect("written");
            assert_eq!(difference(folder.path()).expect("readable"), Some(Slot(slot)));
        }
    }

    #[test]
    fn how_often_nobody_gave_a_state_is_remembered() {
        let folder = tempfile::tempdir().expect("a folder");
        let kept = || unreplaced(folder.path()).expect("readable");
        assert_eq!(kept(), 0);
        for count in [1, 7] {
            set_unreplaced(folder.path(), count).expect("written");
            assert_eq!(kept(), count);
        }
        folder::replace(folder.path(), UNREPLACED, b"often").expect("written");
        assert_eq!(kept(), 1);
    }

    #[test]
    fn what_was_found_right_stays_so_until_another_state_comes() {
        let folder = tempfile::tempdir().expect("a folder");
        let left = |slot| not_found_right(folder.path(), Slot(slot)).expect("readable");
        assert_eq!((left(0), left(7)), (Slot::ZERO, Slot(7)));
        folder::replace(folder.path(), FOUND_RIGHT, &found_right_text(Slot(7))).expect("written");
        assert_eq!((left(7), left(8)), (Slot::ZERO, Slot(8)));
    }
}
