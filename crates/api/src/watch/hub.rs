//! Hands what happens to the watches of this node.
//!
//! Each change is taken once, from what the last commits left in memory or else from the state,
//! and only if somebody is interested in its key; then it lies in the queues of those. A queue is
//! bounded in events and in bytes, and so is what lies in all of them: a watch whose queue has no
//! room *falls behind*. It empties its queue, reads the list of changes by itself as fast as its
//! client takes them, and comes back when it has caught up. So a slow client costs no memory, and
//! a fast one costs no reading.
//!
//! Why nothing is missed or told twice: `next` is the first change that was not handed out. A
//! watch comes to the hub with the first change that it has not read. It is taken only if that
//! is not before `next`, and what is before it is not put into its queue. Both is decided
//! under the lock that is held while a page is handed out.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use synod_kv::Revision;
use synod_kv::read::{self, ChangePage, ChangePoint, ChangeQuery, ReadError};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use crate::limits::Limits;
use crate::replica::Replica;
use crate::watch::event::Event;
use crate::watch::index::{Index, Range, WatchId};
use crate::watch::pace::{Found, Pace};
use crate::watch::queue::{Mode, Queue};

/// Changes that one look passes by at most. Between two looks others have their turn.
pub(crate) const VISITS_MAX: usize = 2_000;
/// So often one look finds a watch for a change, before others have their turn.
const LOOK_VISITS_MAX: usize = 20_000;
/// The same for one revision, which can't be parted. When there is more to do for it, all watches read
/// it by themselves.
const REVISION_VISITS_MAX: usize = 1 << 20;
/// Keys and values that one look brings.
const LOOK_BYTES_MAX: usize = 1 << 20;
/// A queue is long that is fuller than that, in percent.
const LONG_FILL: u64 = 12;
/// After a look that was not told of anything new.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long the replica is asked to wait for something new at a time.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// The watches of this node.
#[derive(Debug)]
pub(crate) struct Hub {
    state: Mutex<State>,
    /// Somebody came who wants to be handed what happens.
    joined: Notify,
    /// Bytes of what lies in the queues.
    held: Arc<AtomicUsize>,
    /// Bytes of what is on its way to the sockets.
    sending: Arc<AtomicUsize>,
    held_bytes_max: usize,
    queue_events_max: usize,
    queue_bytes_max: usize,
    pub(crate) counters: Counters,
}

/// What is counted. It orders nothing, hence `Relaxed`.
#[derive(Default, Debug)]
pub(crate) struct Counters {
    pub(crate) events: AtomicU64,
    /// Watches that were ended by the node.
    pub(crate) dropped: AtomicU64,
    /// How often one had to read by itself because its queue was full.
    pub(crate) lags: AtomicU64,
}

#[derive(Debug)]
struct State {
    /// The first change that was not handed out.
    next: ChangePoint,
    watches: BTreeMap<WatchId, Arc<Watch>>,
    index: Index,
    live: Live,
    last_id: WatchId,
    /// What came of it since the pace was set last.
    told: Told,
    is_stopping: bool,
}

/// What came of a look.
#[derive(Default, Debug)]
struct Told {
    /// Its number.
    look: u64,
    /// How full the fullest queue was of those that had been empty, in percent.
    fill: u64,
    /// Watches that were woken.
    woken: u64,
}

/// How many watches are handed what happens, and of those, how many want to know what was
/// before.
#[derive(Default, Debug)]
struct Live {
    all: usize,
    previous: usize,
}

/// A watch as the hub sees it.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) id: WatchId,
    pub(crate) range: Range,
    /// It wants to know what was before.
    pub(crate) previous: bool,
    queue: Mutex<Queue>,
}

/// The keys that a look is to bring.
pub(crate) struct Wanted<'w>(&'w dyn Fn(&[u8]) -> bool);

impl Wanted<'_> {
    /// Whether it is one of them.
    pub(crate) fn has(&self, key: &[u8]) -> bool {
        (self.0)(key)
    }
}

impl Watch {
    fn is_live(&self) -> bool {
        matches!(self.queue().mode, Mode::Live(_))
    }

    pub(crate) fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }
}

impl Hub {
    pub(crate) fn new(limits: &Limits) -> Self {
        let state = State {
            next: ChangePoint::at(Revision(1)),
            watches: BTreeMap::new(),
            index: Index::default(),
            live: Live::default(),
            last_id: 0,
            told: Told::default(),
            is_stopping: false,
        };
        Self {
            state: Mutex::new(state),
            joined: Notify::new(),
            held: Arc::default(),
            sending: Arc::default(),
            held_bytes_max: limits.watch_held_bytes_max,
            queue_events_max: limits.watch_queue_events_max,
            queue_bytes_max: limits.watch_queue_bytes_max,
            counters: Counters::default(),
        }
    }

    /// A new watch, which reads by itself from here on.
    pub(crate) fn open(&self, range: Range, previous: bool, at: ChangePoint) -> Arc<Watch> {
        let mut state = lock(&self.state);
        state.last_id += 1;
        let is_stopping = state.is_stopping;
        let queue = Queue::new(Arc::clone(&self.held), Mode::Behind(at), is_stopping);
        let queue = Mutex::new(queue);
        let watch = Arc::new(Watch { id: state.last_id, range, previous, queue });
        state.index.insert(watch.id, watch.range.clone());
        state.watches.insert(watch.id, Arc::clone(&watch));
        watch
    }

    /// Forgets a watch.
    pub(crate) fn close(&self, watch: &Watch) {
        let mut state = lock(&self.state);
        state.watches.remove(&watch.id);
        state.index.remove(watch.id, &watch.range);
        if let Mode::Live(_) = watch.queue().mode {
            state.live.count_out(watch);
        }
    }

    /// Watches that are open.
    pub(crate) fn open_count(&self) -> usize {
        lock(&self.state).watches.len()
    }

    /// Where bytes are counted that are on their way to the sockets.
    pub(crate) fn sending(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.sending)
    }

    /// Bytes of what lies in the queues.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// Takes a watch that has read everything up to where it is. False if more was handed
    /// out meanwhile, which it has to read first.
    pub(crate) fn join(&self, watch: &Watch) -> bool {
        let mut state = lock(&self.state);
        let mut queue = watch.queue();
        let Mode::Behind(at) = queue.mode else { return true };
        if at.number != 0 || at < state.next || !queue.is_empty() {
            return false;
        }
        if state.live.all == 0 {
            // Nobody needs what is in between.
            state.next = at;
        }
        queue.mode = Mode::Live(at.revision);
        state.live.count_in(watch);
        self.joined.notify_one();
        true
    }

    /// Has a watch read by itself from here on, whatever lies in its queue.
    pub(crate) fn leave(&self, watch: &Watch, at: ChangePoint) {
        let mut state = lock(&self.state);
        let mut queue = watch.queue();
        queue.clear();
        if let Mode::Live(_) = std::mem::replace(&mut queue.mode, Mode::Behind(at)) {
            state.live.count_out(watch);
        }
    }

    /// Up to which revision a watch has everything; none while something lies in its queue.
    pub(crate) fn progress(&self, watch: &Watch) -> Option<Revision> {
        let state = lock(&self.state);
        let queue = watch.queue();
        let next = match queue.mode {
            Mode::Live(from) => state.next.revision.max(from),
            Mode::Behind(at) => at.revision,
        };
        queue.is_empty().then_some(Revision(next.0.saturating_sub(1)))
    }

    /// Has all watches end, also those to come.
    pub(crate) fn stop(&self) {
        let mut state = lock(&self.state);
        state.is_stopping = true;
        for watch in state.watches.values() {
            let mut queue = watch.queue();
            queue.is_stopping = true;
            queue.wake();
        }
    }

    /// Hands out what happens for as long as it is let.
    pub(crate) async fn run(&self, replica: impl Replica) {
        let mut pace = Pace::new(Instant::now());
        loop {
            let Some(next) = self.awaited() else {
                self.joined.notified().await;
                continue;
            };
            if replica.wait_revision(next, Instant::now() + PATIENCE).await.is_err() {
                sleep(LOOK_AGAIN).await;
            }
            let begun = Instant::now();
            let look = |query: &ChangeQuery, wanted: &Wanted<'_>| {
                let wants = |key: &[u8]| wanted.has(key);
                let recent = replica.recent(query, wants).map(Ok);
                recent.unwrap_or_else(|| replica.read(|map| read::changes_where(map, query, wants)))
            };
            while self.hand_out(look) {
                tokio::task::yield_now().await;
            }
            let revisions = self.awaited().map_or(0, |now| now.0.saturating_sub(next.0));
            let Told { fill, woken, .. } = self.take_told();
            sleep_until(pace.next_look(begun, Found { revisions, fill, woken })).await;
        }
    }

    /// The revision that somebody waits for.
    fn awaited(&self) -> Option<Revision> {
        let state = lock(&self.state);
        (state.live.all > 0).then_some(state.next.revision)
    }

    /// What came of a look; another one begins.
    fn take_told(&self) -> Told {
        let mut state = lock(&self.state);
        let look = state.told.look + 1;
        std::mem::replace(&mut state.told, Told { look, ..Told::default() })
    }

    /// Reads a page and hands it out. Tells whether there is more.
    pub(crate) fn hand_out(
        &self,
        mut look: impl FnMut(&ChangeQuery, &Wanted<'_>) -> Result<ChangePage, ReadError>,
    ) -> bool {
        let mut state = lock(&self.state);
        let state = &mut *state;
        if state.live.all == 0 {
            return false;
        }
        let query = ChangeQuery {
            want_previous: state.live.previous > 0,
            bytes_max: LOOK_BYTES_MAX,
            visits_max: VISITS_MAX,
            ..ChangeQuery::since(state.next.revision)
        };
        let Ok(mut page) = look(&query, &Wanted(&|key| state.index.has(key))) else {
            // Each of them finds out what is the matter, and says so to its client.
            let revision = state.next.revision;
            self.all_fall_behind(state, revision);
            return false;
        };
        // A revision that is more than a page: as a whole it is too large for any queue.
        if page.next.number != 0 || page.changes.len() > 2 * VISITS_MAX {
            let last = page.changes.last().map_or(page.next.revision, |change| change.revision);
            let large = if page.next.number != 0 { page.next.revision } else { last };
            page.changes.retain(|change| change.revision < large);
            if page.changes.is_empty() {
                state.next = ChangePoint::at(large);
                return self.pass_by(state, look);
            }
            // What comes before it is told as ever.
            let rest = self.distribute(state, page);
            state.next = ChangePoint::at(rest.unwrap_or(large));
            return true;
        }
        let (next, is_through) = (page.next, page.next.revision > page.revision);
        if let Some(rest) = self.distribute(state, page) {
            state.next = ChangePoint::at(rest);
            return true;
        }
        state.next = next;
        !is_through
    }

    /// Has those who are told of the next revision read it by themselves. For all others nothing
    /// happened. Tells whether there may be more.
    fn pass_by(
        &self,
        state: &mut State,
        mut look: impl FnMut(&ChangeQuery, &Wanted<'_>) -> Result<ChangePage, ReadError>,
    ) -> bool {
        let revision = state.next.revision;
        let query = ChangeQuery { to: Some(revision), ..ChangeQuery::since(revision) };
        let told = RefCell::new(BTreeSet::new());
        let visits = Cell::new(0);
        let looked = look(
            &query,
            &Wanted(&|key| {
                if visits.get() <= REVISION_VISITS_MAX {
                    state.index.each(key, |id| {
                        visits.set(visits.get() + 1);
                        told.borrow_mut().insert(id);
                    });
                }
                // Only the key is asked for, and not what became of it.
                false
            }),
        );
        if looked.is_err() || visits.get() > REVISION_VISITS_MAX {
            self.all_fall_behind(state, revision);
            return false;
        }
        for id in told.into_inner() {
            if let Some(watch) = state.watches.get(&id) {
                self.fall_behind(watch, revision, &mut state.live);
            }
        }
        state.next = ChangePoint::at(Revision(revision.0.saturating_add(1)));
        true
    }

    /// Puts a page into the queues, or the beginning of it if that is much: then it tells with which
    /// revision the rest begins.
    fn distribute(&self, state: &mut State, page: ChangePage) -> Option<Revision> {
        // None for those who read by themselves.
        let mut group: BTreeMap<WatchId, Option<Vec<Arc<Event>>>> = BTreeMap::new();
        let (mut visits, mut revision_visits) = (0, 0);
        let mut changes = page.changes.into_iter().peekable();
        while let Some(change) = changes.next() {
            let revision = change.revision;
            let event = Arc::new(Event::new(change, Arc::clone(&self.held)));
            state.index.each(event.key(), |id| {
                revision_visits += 1;
                let is_told = || state.watches.get(&id).is_some_and(|watch| watch.is_live());
                let events = group.entry(id).or_insert_with(|| is_told().then(Vec::new));
                // What is beyond does not fit into its queue, and one more tells that.
                if let Some(events) = events
                    && events.len() <= self.queue_events_max
                {
                    events.push(Arc::clone(&event));
                }
            });
            if revision_visits > REVISION_VISITS_MAX {
                self.all_fall_behind(state, revision);
                return None;
            }
            let next = changes.peek().map(|next| next.revision);
            if next == Some(revision) {
                continue;
            }
            for (id, events) in std::mem::take(&mut group) {
                if let Some(watch) = state.watches.get(&id)
                    && let Some(events) = events
                {
                    self.put(watch, revision, events, (&mut state.live, &mut state.told));
                }
            }
            visits += std::mem::take(&mut revision_visits);
            if state.live.all == 0 {
                return None;
            }
            if visits > LOOK_VISITS_MAX && next.is_some() {
                return next;
            }
        }
        None
    }

    fn all_fall_behind(&self, state: &mut State, revision: Revision) {
        for watch in state.watches.values() {
            self.fall_behind(watch, revision, &mut state.live);
        }
    }

    /// Puts all that a watch is told of a revision into its queue, or nothing of it.
    fn put(
        &self,
        watch: &Watch,
        revision: Revision,
        events: Vec<Arc<Event>>,
        (live, told): (&mut Live, &mut Told),
    ) {
        let mut queue = watch.queue();
        match queue.mode {
            Mode::Live(from) if from <= revision => {}
            Mode::Live(_) | Mode::Behind(_) => return,
        }
        let bytes = events.iter().map(|event| event.bytes()).sum();
        let limits = (self.queue_events_max, self.queue_bytes_max);
        if queue.is_empty() {
            queue.filled_by = told.look;
        }
        // To look more often helps those who take what comes, and not those who are slow.
        let is_fast = queue.filled_by == told.look;
        let has_room = queue.has_room(events.len(), bytes, limits);
        if !has_room && is_fast && !queue.is_empty() {
            told.fill = 100;
        }
        // Half of all room is left to those who need little.
        let is_long = queue.fill(limits) > LONG_FILL;
        let held_max = if is_long { self.held_bytes_max / 2 } else { self.held_bytes_max };
        if !has_room || self.held.load(Relaxed) > held_max {
            drop(queue);
            return self.fall_behind(watch, revision, live);
        }
        queue.put(events, bytes);
        if is_fast {
            told.fill = told.fill.max(queue.fill(limits));
        }
        told.woken += u64::from(queue.wake());
    }

    /// Has a live watch read by itself from this revision on.
    fn fall_behind(&self, watch: &Watch, revision: Revision, live: &mut Live) {
        let mut queue = watch.queue();
        if let Mode::Live(from) = queue.mode {
            queue.mode = Mode::Behind(ChangePoint::at(revision.max(from)));
            queue.wake();
            live.count_out(watch);
            self.counters.lags.fetch_add(1, Relaxed);
        }
    }
}

impl Live {
    fn count_in(&mut self, watch: &Watch) {
        self.all += 1;
        self.previous += usize::from(watch.previous);
    }

    fn count_out(&mut self, watch: &Watch) {
        self.all -= 1;
        self.previous -= usize::from(watch.previous);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
