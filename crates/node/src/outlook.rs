//! What the next start makes of a data folder, for people who look into one that is stopped. It
//! goes the way of a start, with the checks of that, as far as that changes nothing.

use std::path::Path;

use serde::Serialize;
use synod_journal::{Damage, Inspected, OpenError};
use synod_paxos::{Recovered, Slot};
use synod_storage::Store;
use synod_storage::snapshot::StateFolders;

use crate::bond::Bond;
use crate::filled::{Filled, Held};
use crate::folder;
use crate::identity_error::IdentityError;
use crate::marks::{self, REBUILD};
use crate::node::refuse_ended;
use crate::rebuild;
use crate::recovery::{self, RecoveryError};
use crate::start_error::StartError;
use crate::upkeep::durable_slot;

/// What the next start does, as far as the folder alone tells.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Outlook {
    /// In a word.
    pub next_start: NextStart,
    /// The same in words, with what there is to do.
    pub words: String,
}

/// What the next start does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NextStart {
    /// It goes on from what is there.
    GoesOn,
    /// It mends what is damaged from what else the node has.
    Mends,
    /// It gets from a peer what is damaged or missing here.
    AsksPeers,
    /// It fails.
    Fails,
}

/// What was found in the journal, without what is damaged and before that.
pub(crate) type Looked = Result<(Inspected, Option<Damage>), OpenError>;

/// The way that a start takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    AsItIs,
    /// Without the part of the journal that is damaged.
    JournalMended,
    /// With a state that is made again from the first slot on.
    StateAnew,
    /// With the state of a peer, or its own if that is found whole.
    Replaced,
}

impl Outlook {
    /// Puts the way that a start takes into words. The blocks of the state, which a start does
    /// not read, are damaged or not.
    pub(crate) fn of(
        way: Result<Way, StartError>,
        is_state_damaged: bool,
        has_peers: bool,
    ) -> Outlook {
        let told = |next_start, words: &str| Outlook { next_start, words: words.to_owned() };
        match way {
            Ok(Way::AsItIs | Way::JournalMended) if is_state_damaged && has_peers => told(
                NextStart::AsksPeers,
                "start it first: it goes on with what can be read, and takes over the state of a \
                 peer when it meets the damage, or in its daily reading. No other node has to take \
                 its place",
            ),
            Ok(Way::AsItIs | Way::JournalMended) if is_state_damaged => told(
                NextStart::GoesOn,
                "it goes on with what can be read of its state. It knows no peers that could give \
                 it another one: `synod restore` makes a new cluster from a backup",
            ),
            Ok(Way::AsItIs) => told(NextStart::GoesOn, "it goes on from what is here"),
            Ok(Way::JournalMended) => told(
                NextStart::Mends,
                "start it: it mends its journal by itself, since the state has what was in the \
                 damaged part",
            ),
            Ok(Way::StateAnew) => told(
                NextStart::Mends,
                "start it: it reads the state, and if that is damaged makes it again from its \
                 journal, which goes back to the first slot",
            ),
            Ok(Way::Replaced) => asks_peers(""),
            Err(error) if rebuild::is_of_state(&error) && has_peers => {
                asks_peers(&format!("{error}: "))
            }
            Err(error) => {
                let (is_alone, reason) = (rebuild::is_of_state(&error), error.to_string());
                let error = if is_alone { StartError::Alone { reason } } else { error };
                told(NextStart::Fails, &format!("it fails: {error}"))
            }
        }
    }
}

/// Whether what is wrong shows only when journal and state are compared.
pub(crate) fn is_misfit(way: &Result<Way, StartError>) -> bool {
    use RecoveryError::{JournalLost, StateLost};
    let error = way.as_ref().err();
    matches!(error, Some(StartError::Recovery(StateLost { .. } | JournalLost { .. })))
}

fn asks_peers(reason: &str) -> Outlook {
    let words = format!(
        "{reason}start it first, while its peers are up: it takes over from them what it lacks. Only \
         if that start fails and says so put another node in its place with `synod member replace`"
    );
    Outlook { next_start: NextStart::AsksPeers, words }
}

/// The way that a start takes with a folder in which this is the journal.
///
/// # Errors
/// With what the start ends, or what makes it ask its peers ([`rebuild::is_of_state`]).
pub(crate) fn way_of(
    data: &Path,
    bond: Result<Bond, IdentityError>,
    looked: Looked,
    has_peers: bool,
) -> Result<Way, StartError> {
    refuse_ended(data)?;
    bond?;
    // If nothing behind the damage is a journal, no state helps.
    let (found, damage) = looked?;
    let mut recovered = found.recovered;
    let filled = Filled::read(data)?;
    if let Some(filled) = filled {
        filled.check(&Held::of(&recovered, found.incarnation))?;
    }
    let states = StateFolders::new(data);
    let current = states.current()?;
    let is_there = folder::exists(&current)?;
    let mark = if is_there { StateFolders::mark(&current)?.map(Slot) } else { None };
    // What was set aside and has no successor is taken back.
    let aside = states.aside()?;
    let is_replaced = aside.is_some() && mark.is_some();
    let state = if is_there { Some(current) } else { aside };
    let applied = state.map_or(Ok(Slot::ZERO), |state| applied_in(&state));
    if let Some(wish) = folder::read(data, REBUILD)?
        && !is_replaced
    {
        let applied = applied.ok();
        let given_upto = filled.map_or(Slot::ZERO, |filled| filled.upto);
        if let Some(applied) = applied.filter(|applied| mark.is_none() && *applied > given_upto)
            && let Some(journal) = recovery::lost_after(&recovered, applied)
        {
            return Err(RecoveryError::JournalLost { applied, journal }.into());
        }
        let upto = recovered.truncated_upto.max(mark.unwrap_or(Slot::ZERO));
        return match (upto, has_peers) {
            (Slot::ZERO, _) => Ok(Way::StateAnew),
            (_, true) => Ok(Way::Replaced),
            _ if marks::is_doubt(&wish) && applied.is_some_and(|applied| applied >= upto) => {
                Ok(Way::AsItIs)
            }
            _ => Err(StartError::NoState { why: "this node knows no peers".to_owned() }),
        };
    }
    goes_on(&mut recovered, applied?, damage.is_some(), mark, filled)
}

/// Whether the journal goes on where the state ends, as it is or mended.
fn goes_on(
    recovered: &mut Recovered,
    applied: Slot,
    is_damaged: bool,
    mark: Option<Slot>,
    filled: Option<Filled>,
) -> Result<Way, StartError> {
    let truncated = recovered.truncated_upto;
    if is_damaged && truncated > applied {
        return Err(RecoveryError::StateLost { applied, truncated }.into());
    }
    let given_upto = filled.map(|filled| applied.min(filled.upto));
    for slot in [mark, given_upto].into_iter().flatten() {
        recovered.start_after(slot);
    }
    recovery::check(recovered, applied)?;
    Ok(if is_damaged { Way::JournalMended } else { Way::AsItIs })
}

fn applied_in(state: &Path) -> Result<Slot, StartError> {
    durable_slot(&Store::open_read_only(state)?).map_err(StartError::State)
}
