//! What the last commits changed, kept in memory for those who watch: most of them want what
//! happened a moment ago, and need not read it from the map.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::metadata::Metadata;
use crate::read::{Change, ChangePage, ChangePoint, ChangeQuery};
use crate::{KeyRecord, Revision};

/// What is kept while nobody takes it.
const BYTES_MAX: usize = 8 << 20;

/// The changes of one commit. Keys and values are copied: what they came with may be
/// much larger.
#[derive(Default, Debug)]
pub struct Changes {
    changes: Vec<Noted>,
    /// Keys and values, one after the other.
    data: Vec<u8>,
}

/// A change. It lies where the one before ends.
#[derive(Debug)]
struct Noted {
    revision: Revision,
    key_end: usize,
    /// None for a key that was removed.
    put: Option<Put>,
}

#[derive(Debug)]
struct Put {
    metadata: Metadata,
    value_end: usize,
}

impl Changes {
    /// Notes a change. To be called in the order of the changes.
    pub(crate) fn note(&mut self, revision: Revision, key: &[u8], put: Option<(Metadata, &[u8])>) {
        self.data.extend_from_slice(key);
        let key_end = self.data.len();
        let put = put.map(|(metadata, value)| {
            self.data.extend_from_slice(value);
            Put { metadata, value_end: self.data.len() }
        });
        self.changes.push(Noted { revision, key_end, put });
    }

    /// Its changes by their numbers.
    fn each(&self) -> impl Iterator<Item = (&Self, usize)> {
        (0..self.changes.len()).map(move |number| (self, number))
    }

    /// What it takes.
    fn bytes(&self) -> usize {
        self.data.capacity() + self.changes.capacity() * size_of::<Noted>()
    }

    /// Where the key of a change lies.
    fn key(&self, at: usize) -> Range<usize> {
        let before = at.checked_sub(1).map(|before| &self.changes[before]);
        let start = before
            .map_or(0, |before| before.put.as_ref().map_or(before.key_end, |put| put.value_end));
        start..self.changes[at].key_end
    }

    fn record(&self, at: usize) -> Option<KeyRecord> {
        let Noted { key_end, put, .. } = &self.changes[at];
        let put = put.as_ref()?;
        Some(put.metadata.with_value(Bytes::copy_from_slice(&self.data[*key_end..put.value_end])))
    }
}

/// The changes of the last commits without a hole.
#[derive(Debug)]
pub struct Recent {
    commits: VecDeque<Arc<Changes>>,
    /// Every change after this revision is here ...
    after: Revision,
    /// ... up to this one, the newest that is committed.
    upto: Revision,
    bytes: usize,
    bytes_max: usize,
    is_wanted: bool,
}

impl Default for Recent {
    fn default() -> Self {
        Recent::new(BYTES_MAX)
    }
}

impl Recent {
    /// Keeps changes of about so many bytes.
    fn new(bytes_max: usize) -> Self {
        let (commits, nothing) = (VecDeque::new(), Revision(0));
        Recent { commits, after: nothing, upto: nothing, bytes: 0, bytes_max, is_wanted: false }
    }

    /// The store was committed at this revision; to be told each time before anybody reads
    /// that. None if nobody noted the changes. Says whether to note those of the next commit: not
    /// when nobody asks for them.
    pub fn committed(&mut self, changes: Option<Changes>, upto: Revision) -> bool {
        let Some(changes) = changes else {
            self.forget_all(upto);
            return self.is_wanted;
        };
        self.upto = upto;
        if !changes.changes.is_empty() {
            self.bytes += changes.bytes();
            self.commits.push_back(Arc::new(changes));
        }
        if self.bytes > self.bytes_max {
            self.forget_all(upto);
            self.is_wanted = false;
        }
        self.is_wanted
    }

    fn forget_all(&mut self, upto: Revision) {
        self.commits = VecDeque::new();
        (self.after, self.upto, self.bytes) = (upto, upto, 0);
    }

    /// What a page needs; what comes before is not kept any longer. None if it has to be read: not
    /// all of it is here, or more is asked for than what is here tells.
    pub fn since(&mut self, query: &ChangeQuery) -> Option<Tail> {
        let is_plain = query.from.number == 0 && query.to.is_none() && !query.want_previous;
        if !is_plain {
            return None;
        }
        self.is_wanted = true;
        let from = query.from.revision;
        if from <= self.after || from.0 > self.upto.0.saturating_add(1) {
            return None;
        }
        self.forget_before(from);
        Some(Tail { commits: self.commits.iter().cloned().collect(), upto: self.upto })
    }

    fn forget_before(&mut self, from: Revision) {
        let is_before = |commit: &mut Arc<Changes>| {
            commit.changes.last().is_some_and(|change| change.revision < from)
        };
        while let Some(commit) = self.commits.pop_front_if(is_before) {
            self.bytes -= commit.bytes();
        }
        self.after = self.after.max(Revision(from.0 - 1));
    }
}

/// The newest changes. To look through them keeps nobody from committing more.
#[derive(Debug)]
pub struct Tail {
    commits: Vec<Arc<Changes>>,
    upto: Revision,
}

impl Tail {
    /// A page of the changes that are wanted, as [`changes_where`](crate::read::changes_where)
    /// reads it. None if it has to be read: it begins with a revision that is more than a page.
    #[must_use]
    pub fn page(&self, query: &ChangeQuery, wants: impl Fn(&[u8]) -> bool) -> Option<ChangePage> {
        let from = query.from.revision;
        let mut page = ChangePage {
            changes: Vec::new(),
            next: ChangePoint::at(Revision(self.upto.0.saturating_add(1))),
            revision: self.upto,
        };
        let (mut bytes, mut visits, mut at) = (0, 0, from);
        // How many changes there were when the last revision began.
        let mut whole = 0;
        let commits = self.commits.iter().map(Arc::as_ref);
        for (commit, number) in commits.flat_map(Changes::each) {
            let revision = commit.changes[number].revision;
            if revision < from {
                continue;
            }
            if revision != at {
                (at, whole) = (revision, page.changes.len());
                if bytes >= query.bytes_max.max(1) || visits >= query.visits_max.max(1) {
                    page.next = ChangePoint::at(revision);
                    return Some(page);
                }
            }
            visits += 1;
            let key = &commit.data[commit.key(number)];
            if !query.asks_for(key) || !wants(key) {
                continue;
            }
            let record = commit.record(number);
            bytes += key.len() + record.as_ref().map_or(0, |record| record.value.len());
            if bytes > query.bytes_max && !page.changes.is_empty() {
                // A revision that is more than a page is parted where it is read.
                let is_alone = whole == 0;
                page.changes.truncate(whole);
                page.next = ChangePoint::at(revision);
                return (!is_alone).then_some(page);
            }
            let key = Bytes::copy_from_slice(key);
            page.changes.push(Change { revision, key, record, previous: None });
        }
        Some(page)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::read::changes_where;
    use crate::{
        Command, KvOptions, MemoryMap, Operation, ServerId, StateMachine, Txn, TxnOperation,
    };

    /// A store of which somebody may ask what changed.
    struct World {
        machine: StateMachine<MemoryMap>,
        recent: Recent,
        slot: u64,
    }

    impl World {
        fn new(bytes_max: usize) -> Self {
            let machine = StateMachine::open(MemoryMap::new(), KvOptions::default()).unwrap();
            World { machine, recent: Recent::new(bytes_max), slot: 0 }
        }

        fn apply(&mut self, operation: Operation) {
            self.slot += 1;
            let id = ServerId { origin: 1, incarnation: 1, sequence: self.slot };
            let command = Command { idempotency: None, operation };
            self.machine.apply(self.slot, self.slot, &[(id, command)]).unwrap();
        }

        /// One revision that puts and removes keys.
        fn write(&mut self, keys: &[(u8, bool)]) {
            let mut named = std::collections::BTreeSet::new();
            let keys = keys.iter().filter(|(key, _)| named.insert(*key));
            let one = |(key, is_put): &(u8, bool)| {
                let key = Bytes::from(format!("key {key}"));
                let value = Bytes::from(self.slot.to_string());
                match is_put {
                    true => TxnOperation::Put { key, value, lease: None, want_previous: false },
                    false => TxnOperation::Delete { key, want_previous: false },
                }
            };
            let success = keys.map(one).collect();
            self.apply(Operation::Txn(Txn { success, ..Txn::default() }));
        }

        fn page(&mut self, query: &ChangeQuery, wants: fn(&[u8]) -> bool) -> Option<ChangePage> {
            self.recent.since(query)?.page(query, wants)
        }

        fn commit(&mut self) {
            self.machine.commit().unwrap();
            let changes = self.machine.take_changes();
            let is_wanted = self.recent.committed(changes, self.machine.revision());
            self.machine.note_changes(is_wanted);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(Vec<(u8, bool)>),
        /// All changes of some keys.
        DeleteAll,
        Commit,
        Replace,
        /// Asks for a page of so many bytes and changes, from where it is, or from some
        /// revisions before.
        Ask((usize, usize), u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let keys = prop::collection::vec((0_u8..8, prop::bool::weighted(0.7)), 1..5);
        prop_oneof![
            8 => keys.prop_map(Step::Write),
            1 => Just(Step::DeleteAll),
            6 => Just(Step::Commit),
            1 => Just(Step::Replace),
            6 => ((1_usize..90, 1_usize..9), 0_u64..4).prop_map(|(max, back)| Step::Ask(max, back)),
        ]
    }

    proptest! {
        /// Whatever it gives is what would be read, and when it was asked just before it has it.
        #[test]
        fn it_tells_what_the_map_tells(
            steps in prop::collection::vec(step(), 1..120),
            bytes_max in prop_oneof![Just(600_usize), Just(1 << 20)],
        ) {
            let mut world = World::new(bytes_max);
            let mut next = Revision(1);
            for step in steps {
                match step {
                    Step::Write(keys) => world.write(&keys),
                    Step::DeleteAll => {
                        let start = Bytes::from_static(b"key 2");
                        world.apply(Operation::DeleteRange { start, end: None, limit: 3 });
                    }
                    Step::Commit => world.commit(),
                    // As when a state of a peer comes: nothing of it was noted.
                    Step::Replace => {
                        world.commit();
                        let map = world.machine.map().clone();
                        world.machine = StateMachine::open(map, KvOptions::default()).unwrap();
                        world.commit();
                    }
                    Step::Ask((bytes_max, visits_max), back) => {
                        let from = Revision(next.0.saturating_sub(back).max(1));
                        let query = ChangeQuery { bytes_max, visits_max, ..ChangeQuery::since(from) };
                        let wants: fn(&[u8]) -> bool = |key| key != b"key 3";
                        let read = changes_where(world.machine.map(), &query, wants).unwrap();
                        if let Some(page) = world.page(&query, wants) {
                            prop_assert_eq!(&page, &read);
                        }
                        next = read.next.revision;
                    }
                }
            }
        }
    }

    fn since(revision: u64) -> ChangeQuery {
        ChangeQuery::since(Revision(revision))
    }

    #[test]
    fn it_has_what_happened_since_somebody_asked() {
        let mut world = World::new(10_000);
        world.write(&[(1, true)]);
        world.commit();
        assert!(world.page(&since(1), |_| true).is_none(), "nobody had asked");
        for revision in 2..1_000 {
            world.write(&[(1, true)]);
            // The one that is noted from here on is the next.
            world.commit();
            let page = world.page(&since(revision), |_| true);
            assert_eq!(page.is_some(), revision > 2, "{revision}");
            assert_eq!(page.map_or(1, |page| page.changes.len()), 1);
            assert!(world.recent.commits.len() <= 1, "what was asked for is not kept");
        }
        // Nothing new, and nothing that is not committed.
        world.write(&[(1, true)]);
        assert_eq!(world.page(&since(1_000), |_| true).unwrap().changes, []);
        assert!(world.page(&since(1_001), |_| true).is_none());
    }

    #[test]
    fn what_nobody_asks_for_is_not_kept_for_long() {
        let mut world = World::new(2_000);
        assert!(world.page(&since(1), |_| true).is_some());
        world.commit();
        for _ in 0..100 {
            world.write(&[(1, true)]);
            world.commit();
            assert!(world.recent.bytes <= 2_000);
        }
        assert_eq!((world.recent.bytes, world.recent.commits.len()), (0, 0));
        assert!(!world.recent.is_wanted, "nor noted");
        assert!(world.machine.take_changes().is_none());
    }

    #[test]
    fn what_only_the_map_tells_is_not_told() {
        let mut world = World::new(10_000);
        let _ = world.page(&since(1), |_| true);
        world.commit();
        world.write(&[(1, true), (2, true)]);
        world.write(&[(3, true)]);
        world.commit();
        assert_eq!(world.page(&since(1), |_| true).unwrap().changes.len(), 3);
        for query in [
            ChangeQuery { want_previous: true, ..since(1) },
            ChangeQuery { to: Some(Revision(1)), ..since(1) },
            ChangeQuery { from: ChangePoint { revision: Revision(1), number: 1 }, ..since(1) },
            // The first revision is more than that.
            ChangeQuery { bytes_max: 8, ..since(1) },
        ] {
            assert!(world.page(&query, |_| true).is_none(), "{query:?}");
        }
    }
}
