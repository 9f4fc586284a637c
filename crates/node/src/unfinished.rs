//! What a data folder was to become when its making was interrupted. Such a folder has no
//! identity yet. It must not be taken for an empty one: a node that was made of it by
//! another command would serve nothing of what was to be in it.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use synod_journal::{ClusterId, Journal, OpenError};
use synod_paxos::Position;
use synod_storage::snapshot::StateFolders;

use crate::folder::{self, FolderError, JOURNAL};
use crate::identity;
use crate::join;

/// In a folder that `synod recover` makes. With it and without an identity, what else is
/// there was left by a recovery that was interrupted.
pub(crate) const RECOVERING: &str = "RECOVERING";

/// No cluster has this id.
const NOBODYS: ClusterId = ClusterId(0);

/// What did not come to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unfinished {
    /// `synod restore`.
    Restore,
    /// `synod recover`, which makes another folder.
    Recovery,
    /// `synod member add` or `synod member replace`.
    Joining,
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unfinished::Restore => {
                "an unfinished restore: run `synod restore FILE --config ...` again"
            }
            Unfinished::Recovery => {
                "an unfinished recovery: run `synod recover --data ... --to ...` again, on the \
                 folder of the node that is left and to this one"
            }
            Unfinished::Joining => {
                "an unfinished attempt to join: run `synod member add --config ...`, or \
                 `synod member replace ID --config ...`, again"
            }
        })
    }
}

impl Unfinished {
    /// What was begun in a folder and did not come to its end; none when it has an identity,
    /// or nothing was begun.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub(crate) fn find(path: &Path) -> Result<Option<Unfinished>, FolderError> {
        let has = |name: &str| folder::exists(&path.join(name));
        Ok(if has(identity::FILE)? {
            None
        } else if has(RECOVERING)? {
            Some(Unfinished::Recovery)
        } else if has(join::FILE)? {
            Some(Unfinished::Joining)
        } else {
            is_restore(path)?.then_some(Unfinished::Restore)
        })
    }
}

/// Whether a restore left what is in a folder without an identity: the state that it was
/// writing, or the one to which it had switched, which bears its mark; beside it there is at
/// most a journal that nobody ever voted with.
fn is_restore(path: &Path) -> Result<bool, FolderError> {
    let states = StateFolders::new(path);
    let begun = match &folder::strangers(path)?[..] {
        [] => folder::exists(&states.arriving())?,
        [name] => states.current().is_ok_and(|state| {
            state.ends_with(name) && StateFolders::mark(&state).is_ok_and(|mark| mark.is_some())
        }),
        _ => false,
    };
    Ok(begun && is_unused(&path.join(JOURNAL)).unwrap_or(false))
}

/// Whether there is no journal, or one that nobody ever voted with, for whichever cluster it
/// was made.
pub(crate) fn is_unused(journal: &Path) -> Result<bool, OpenError> {
    let held = match Journal::inspect(journal, NOBODYS) {
        Err(OpenError::WrongCluster { found, .. }) => Journal::inspect(journal, found),
        held => held,
    };
    match held {
        Ok(held) => Ok(held.incarnation == 0 && held.recovered.position == Position::ZERO),
        Err(OpenError::Missing(_)) => Ok(true),
        Err(error) => Err(error),
    }
}
