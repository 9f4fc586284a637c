//! Whose journal it is.
//!
//! A node owes what its journal promised. With the journal of another one, as when two nodes of a
//! cluster got each other's volume, it would forget its own promises and keep the other's. So a file
//! among the journal's own names the data folder that the journal was made for.

use std::path::Path;

use synod_paxos::NodeId;

use crate::folder::{self, Folder, FolderError};
use crate::identity::{Identity, parse_id};
use crate::identity_error::IdentityError;

pub(crate) const FILE: &str = "NODE";
const FORMAT: u32 = 1;

/// Whether the file is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bond {
    Found,
    /// A release from before made the journal, or what stands there is damaged.
    Unknown,
    /// It is there, and the disk does not give it.
    Unreadable,
}

/// Has the journal in a data folder say whose it is, if it does not.
///
/// # Errors
/// As [`check`].
pub(crate) fn keep(folder: &Folder, identity: &Identity) -> Result<(), IdentityError> {
    let journal = folder.journal();
    // Without it the node only is as safe as before there was such a file: no disk that is full or
    // damaged there shall end it. What cannot be read now may be another node's word, and stays.
    match check(&journal, identity)? {
        Bond::Unreadable => tracing::warn!("cannot read whose journal it is"),
        Bond::Unknown if folder::exists(&journal)? => {
            if let Err(error) = make(&journal, identity) {
                tracing::warn!(%error, "cannot say in the journal whose it is");
            }
        }
        Bond::Found | Bond::Unknown => {}
    }
    Ok(())
}

/// Says of a journal that it is this node's.
pub(crate) fn make(journal: &Path, identity: &Identity) -> Result<(), FolderError> {
    folder::replace(journal, FILE, &encode(FORMAT, identity.node, identity.store))
}

/// Compares what is said of the journal in a data folder with whose folder it is. Changes nothing.
///
/// # Errors
/// When the journal is another node's.
pub(crate) fn check(journal: &Path, identity: &Identity) -> Result<Bond, IdentityError> {
    let content = match folder::read(journal, FILE) {
        Ok(Some(content)) => content,
        Ok(None) => return Ok(Bond::Unknown),
        Err(_) => return Ok(Bond::Unreadable),
    };
    let (node, store) = match decode(&content) {
        None => return Ok(Bond::Unknown),
        Some(Said::Later(format)) => {
            return Err(IdentityError::Later { file: journal.join(FILE), format });
        }
        Some(Said::Of(node, store)) => (node, store),
    };
    if (node, store) == (identity.node, identity.store) {
        return Ok(Bond::Found);
    }
    let words = |node: NodeId, store: u128| format!("node {} with store {store:032x}", node.0);
    Err(IdentityError::OtherJournal {
        path: journal.to_owned(),
        found: words(node, store),
        expected: words(identity.node, identity.store),
    })
}

/// Words, and a checksum over them.
fn encode(format: u32, node: NodeId, store: u128) -> Vec<u8> {
    let words = format!("format {format} the journal of node {} store {store:032x}", node.0);
    format!("{words} checksum {:08x}\n", crc32c::crc32c(words.as_bytes())).into_bytes()
}

/// What stands in the file.
enum Said {
    Of(NodeId, u128),
    Later(u32),
}

/// None if it is damaged.
fn decode(content: &[u8]) -> Option<Said> {
    let (said, checksum) = std::str::from_utf8(content).ok()?.rsplit_once(" checksum ")?;
    if checksum != format!("{:08x}\n", crc32c::crc32c(said.as_bytes())) {
        return None;
    }
    // A later format may say more.
    let words: Vec<&str> = said.split_whitespace().collect();
    let after = |name: &str| {
        let at = words.iter().position(|word| *word == name)?;
        words.get(at + 1).copied()
    };
    let format = after("format")?.parse().ok()?;
    if format != FORMAT {
        return Some(Said::Later(format));
    }
    let (node, store) = (after("node")?.parse().ok()?, parse_id(after("store")?).ok()?);
    Some(Said::Of(NodeId(node), store))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::folder::JOURNAL;
    use crate::test_node::{put, settings};
    use crate::{NextStart, Node, StartError, init, inspect};

    use super::*;

    /// Two nodes, each of which served, and the first with the journal of the second.
    #[test]
    fn a_node_with_the_journal_of_another_does_not_start() {
        let [one, other] = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
        let [mine, theirs] = [&one, &other].map(|folder| {
            let settings = settings(folder.path());
            init(&settings).expect("made");
            let node = Node::start(&settings).expect("starts");
            put(&node, "a");
            node.stop().expect("stopped in order");
            settings
        });
        let [own, foreign] = [&mine, &theirs].map(|settings| settings.data_dir.join(JOURNAL));
        let kept = one.path().join("kept");
        fs::rename(&own, &kept).expect("moved");
        fs::rename(&foreign, &own).expect("moved");
        let refused = Node::start(&mine).expect_err("it is another node's");
        let words = refused.to_string();
        assert!(matches!(refused, StartError::Identity(IdentityError::OtherJournal { .. })));
        assert!(words.contains("its own volume"), "{words}");
        let outlook = inspect(&mine.data_dir).expect("readable").outlook.expect("told");
        assert!(outlook.next_start == NextStart::Fails && outlook.words.contains(&words));
        fs::rename(&own, &foreign).expect("moved");
        fs::rename(&kept, &own).expect("moved");
        Node::start(&mine).expect("starts").stop().expect("stopped in order");
    }

    /// A release from before wrote no such file, and what rots in it costs no node.
    #[test]
    fn a_journal_that_says_nothing_is_taken_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = settings(folder.path());
        let identity = init(&settings).expect("made");
        let journal = settings.data_dir.join(JOURNAL);
        let file = journal.join(FILE);
        let said = fs::read(&file).expect("made by init");
        for at in 0..said.len() {
            let mut rotten = said.clone();
            rotten[at] ^= 1;
            fs::write(&file, rotten).expect("written");
            assert_eq!(check(&journal, &identity).expect("no refusal"), Bond::Unknown, "{at}");
        }
        fs::remove_file(&file).expect("removed");
        fs::create_dir(&file).expect("what cannot be read");
        assert_eq!(check(&journal, &identity).expect("no refusal"), Bond::Unreadable);
        Node::start(&settings).expect("starts").stop().expect("stopped in order");
        fs::remove_dir(&file).expect("it stayed");
        Node::start(&settings).expect("starts").stop().expect("stopped in order");
        assert_eq!(fs::read(&file).expect("written"), said);
        let words = "format 2 and what nobody knows yet";
        let sum = crc32c::crc32c(words.as_bytes());
        fs::write(&file, format!("{words} checksum {sum:08x}\n")).expect("written");
        let later = check(&journal, &identity).expect_err("nobody knows what it says");
        assert!(matches!(later, IdentityError::Later { format: 2, .. }), "{later}");
    }
}
