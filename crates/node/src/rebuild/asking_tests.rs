//! How long a node asks.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::{Duration, Instant};

use synod_journal::{ClusterId, OpenError, Shown};
use synod_paxos::{Ballot, Configuration, Fetch as Question, NodeId, Position, Slot};
use synod_storage::snapshot::StateFolders;
use synod_transport::{Limits, Own, Transport, TransportSettings};
use synod_wire::Versions;
use tokio::runtime::Builder;
use tokio::task::LocalSet;

use super::asking::{Asking, Fetched};
use super::dismissal::Dismissals;
use super::slots::Slots;
use super::slots::tests::{fill, slots_shown};
use crate::snapshot::Fetch;
use crate::snapshot_settings::SnapshotSettings;
use crate::start_error::StartError;

const PATIENCE: Duration = Duration::from_secs(120);
const HOUR: Duration = Duration::from_secs(3_600);

/// How many hours later it is than the clock says.
static HOURS: AtomicU64 = AtomicU64::new(0);

fn late_clock() -> Instant {
    Instant::now() + Duration::from_secs(3_600 * HOURS.load(Relaxed))
}

/// A disk that takes its time.
fn read_for_an_hour(
    journal: &Path,
    lineage: ClusterId,
    stop: Arc<AtomicBool>,
) -> Result<Shown, OpenError> {
    thread::sleep(Duration::from_millis(300));
    HOURS.fetch_add(1, Relaxed);
    // Whoever asks looks at the clock meanwhile.
    thread::sleep(Duration::from_millis(300));
    Shown::read_until(journal, lineage, stop)
}

/// What comes of asking when there is nobody to ask.
fn asked(
    folder: &Path,
    slots: Slots,
    patience: Duration,
    clock: fn() -> Instant,
) -> Result<Fetched, StartError> {
    let fetch = Fetch::new(StateFolders::new(folder), SnapshotSettings::default(), Instant::now());
    let stop = AtomicBool::new(false);
    let alone = Configuration::majority(vec![NodeId(1)], 8).expect("possible");
    let of = (fetch, slots, Dismissals::new(NodeId(1), &alone));
    let mut asking = Asking::new(of, Slot(4), std::iter::empty(), patience, &stop);
    asking.clock = clock;
    let settings = TransportSettings {
        own: Own { cluster: 1, node: NodeId(1), store: 1, incarnation: 1, founded: 1 },
        versions: Versions::of_writer(1),
        promised: Ballot::ZERO,
        position: Position::ZERO,
        peers: Vec::new(),
        pins: Vec::new(),
        limits: Limits::default(),
    };
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async move {
        let door = TcpListener::bind("127.0.0.1:0").expect("a port");
        let (transport, incoming) = Transport::start(settings, door).expect("it starts");
        asking.run(&transport, incoming).await
    })
}

#[test]
fn reading_the_own_journal_is_no_time_in_which_nobody_said_anything() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut slots = slots_shown(folder.path(), 5, Instant::now());
    slots.showing.read = Arc::new(read_for_an_hour);
    let fetched = asked(folder.path(), slots, PATIENCE, late_clock);
    assert!(matches!(fetched, Ok(Fetched::Slots)), "{:?}", fetched.err());
    assert_eq!(HOURS.load(Relaxed), 1, "it was read once");
}

#[test]
fn a_filled_state_is_used_though_others_ask_on_and_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let now = Instant::now();
    let mut slots = slots_shown(folder.path(), 5, now);
    fill(&mut slots, now);
    let question = Question { nonce: 1, first: Slot(1), last: Slot(5) };
    let answer = slots.answer(question, now + HOUR);
    assert_eq!(answer.values.len(), 5);
    assert!(!slots.is_done(now));
    let fetched = asked(folder.path(), slots, Duration::ZERO, Instant::now);
    assert!(matches!(fetched, Ok(Fetched::Slots)), "{:?}", fetched.err());
}

#[test]
fn a_node_to_which_nobody_says_anything_gives_up() {
    let folder = tempfile::tempdir().expect("a folder");
    // The last slot is missing.
    let slots = slots_shown(folder.path(), 4, Instant::now());
    let fetched = asked(folder.path(), slots, Duration::ZERO, Instant::now);
    assert!(matches!(fetched, Err(StartError::NoState { .. })));
}
