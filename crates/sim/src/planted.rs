//! The score of the simulation: mistakes that others have shipped are put into the
//! nodes one at a time, and each must be found by some check within a bound of seeds.
//!
//! The mistakes themselves stand in `synod-paxos` and `synod-kv`, and in what is built on
//! them, each beside the line that is right; this crate alone switches on the feature that
//! can make one. What the simulation has only a model of, it makes mistakes in by itself.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use fastrand::Rng;
use serde::{Deserialize, Serialize};

use crate::campaign::drawn_number;
use crate::checkers::{Checker, Violation};
pub use crate::mistakes::Mistake;
use crate::plan::Plan;
use crate::run::Runner;

/// A mistake of the nodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Bug {
    /// In the consensus core, or in what carries its order out.
    Core(synod_paxos::Bug),
    /// In the state machine.
    Machine(synod_kv::planted::Bug),
    /// In the model of journals, of the files of states, and of how both are repaired.
    Model(Mistake),
}

impl Bug {
    /// Found at once by any simulation that checks anything: it looks whether the
    /// search itself works.
    pub const CANARY: Bug = Bug::Core(synod_paxos::Bug::MinorityDecides);

    /// All of them, by the row of the list of pitfalls.
    #[must_use]
    pub fn all() -> Vec<Bug> {
        let core = synod_paxos::Bug::ALL.iter().copied().map(Bug::Core);
        let machine = synod_kv::planted::Bug::ALL.iter().copied().map(Bug::Machine);
        let model = Mistake::ALL.iter().copied().map(Bug::Model);
        let mut all: Vec<Bug> = core.chain(machine).chain(model).collect();
        all.sort_by_key(|bug| bug.row());
        all
    }

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Bug> {
        Bug::all().into_iter().find(|bug| bug.name() == name)
    }

    /// So many different ones, drawn by a text such as the name of a commit, beside the
    /// canary. The same text draws the same.
    #[must_use]
    pub fn drawn(by: &str, count: usize) -> Vec<Bug> {
        let mut all = Bug::all();
        all.retain(|bug| *bug != Bug::CANARY);
        Rng::with_seed(drawn_number(by)).shuffle(&mut all);
        all.truncate(count);
        all
    }

    /// Its row in the list of pitfalls.
    #[must_use]
    pub fn row(self) -> u32 {
        match self {
            Bug::Core(bug) => bug.row(),
            Bug::Machine(bug) => bug.row(),
            Bug::Model(bug) => bug.row(),
        }
    }

    /// What it does, for people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Bug::Core(bug) => bug.text(),
            Bug::Machine(bug) => bug.text(),
            Bug::Model(bug) => bug.text(),
        }
    }

    /// Its name in the code.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Bug::Core(bug) => format!("{bug:?}"),
            Bug::Machine(bug) => format!("{bug:?}"),
            Bug::Model(bug) => format!("{bug:?}"),
        }
    }
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pitfall {}: {}", self.row(), self.text())
    }
}

impl From<Bug> for String {
    fn from(bug: Bug) -> String {
        bug.name()
    }
}

impl TryFrom<String> for Bug {
    type Error = String;

    fn try_from(name: String) -> Result<Bug, String> {
        Bug::named(&name).ok_or_else(|| format!("there is no planted bug {name}"))
    }
}

/// How the search for one mistake ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Search {
    /// The mistake.
    pub bug: Bug,
    /// How many seeds were run, the one that found it included.
    pub seeds: u64,
    /// The check that found it, and the seed; none if no seed did.
    pub found: Option<(u64, Violation)>,
    /// The seed that could not be run, and why. Nothing was found then.
    pub broken: Option<(u64, String)>,
}

/// Runs seeds from `first` on with this mistake until a check fails, `seeds_max` of
/// them at the most. A seed that fails without the mistake too has found something
/// else, and does not count. A seed that cannot be run has found nothing and ends the search.
#[must_use]
pub fn search(bug: Bug, first: u64, seeds_max: u64, run: Runner<'_>) -> Search {
    for seed in first..first + seeds_max {
        let sound = Plan::drawn(seed);
        let plan = Plan { bug: Some(bug), ..sound.clone() };
        let seeds = seed - first + 1;
        let Some(violation) = run(&plan).violation else { continue };
        let without = run(&sound).violation;
        let is_broken = |violation: &&Violation| violation.checker == Checker::Machinery;
        if let Some(broken) =
            [Some(&violation), without.as_ref()].into_iter().flatten().find(is_broken)
        {
            let broken = Some((seed, broken.text.clone()));
            return Search { bug, seeds, found: None, broken };
        }
        if without.is_none() {
            return Search { bug, seeds, found: Some((seed, violation)), broken: None };
        }
    }
    Search { bug, seeds: seeds_max, found: None, broken: None }
}

/// Searches for each of these, on so many threads. Tells of each search that ends.
/// The searches are in the order of the mistakes, whichever ended first.
pub fn search_all(
    bugs: &[Bug],
    first: u64,
    seeds_max: u64,
    threads: usize,
    run: Runner<'_>,
    tell: impl Fn(&Search) + Sync,
) -> Vec<Search> {
    let next = AtomicU64::new(0);
    let ended = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let bug = usize::try_from(place).ok().and_then(|place| bugs.get(place));
                    let Some(bug) = bug else { return };
                    let search = search(*bug, first, seeds_max, run);
                    tell(&search);
                    ended.lock().expect("no search panics").push((place, search));
                }
            });
        }
    });
    let mut ended = ended.into_inner().expect("no search panics");
    ended.sort_by_key(|(place, _)| *place);
    ended.into_iter().map(|(_, search)| search).collect()
}

/// What the core of each node is told.
pub(crate) fn core(bug: Option<Bug>) -> synod_paxos::Planted {
    match bug {
        Some(Bug::Core(bug)) => synod_paxos::Planted::of(bug),
        _ => synod_paxos::Planted::NONE,
    }
}

/// What the state machine of each node is told.
pub(crate) fn machine(bug: Option<Bug>) -> synod_kv::planted::Planted {
    match bug {
        Some(Bug::Machine(bug)) => synod_kv::planted::Planted::of(bug),
        _ => synod_kv::planted::Planted::NONE,
    }
}

/// What the model of each node's files is told.
pub(crate) fn model(bug: Option<Bug>) -> Option<Mistake> {
    match bug {
        Some(Bug::Model(bug)) => Some(bug),
        _ => None,
    }
}
