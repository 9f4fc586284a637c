//! Both ends of a transfer with a network between them that does what a test says,
//! on a clock of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use synod_kv::{Command, Condition, KvOptions, Operation, ServerId, StateMachine};
use synod_paxos::{NodeId, Slot};
use synod_storage::snapshot::StateFolders;
use synod_storage::{Store, StoreOptions};
use synod_wire::SnapshotMessage;

use super::fetch::{Fetch, FetchOut};
use super::source::Source;
use crate::current::CurrentStore;
use crate::snapshot_settings::SnapshotSettings;

const SENDER: NodeId = NodeId(1);
const RECEIVER: NodeId = NodeId(2);
const SLOTS: u64 = 300;
const TICK: Duration = Duration::from_millis(10);

/// What became of a fetch.
#[derive(Clone, PartialEq, Eq, Debug)]
enum End {
    Arrived(u64),
    Failed,
    /// Not in the time that was given.
    Open,
}

struct Pair {
    fetch: Fetch,
    source: Source,
    now: Instant,
    machine: StateMachine<Store>,
    _folder: tempfile::TempDir,
}

impl Pair {
    fn new(rate_bytes_per_s: u64) -> Pair {
        let folder = tempfile::tempdir().expect("a folder");
        let folders = |name: &str| {
            std::fs::create_dir(folder.path().join(name)).expect("made");
            StateFolders::new(folder.path().join(name))
        };
        let (sender, receiver) = (folders("sender"), folders("receiver"));
        let mut machine = filled(&sender.current().expect("readable"));
        apply(&mut machine, SLOTS);
        let current = Arc::new(CurrentStore::new(machine.map().clone()));
        let now = Instant::now() + Duration::from_secs(3_600);
        let settings =
            SnapshotSettings { rate_bytes_per_s, disk_reserve_bytes: 0, ..Default::default() };
        Pair {
            source: Source::new(sender, current, &settings, now),
            fetch: Fetch::new(receiver, settings, now),
            now,
            machine,
            _folder: folder,
        }
    }

    /// Runs both ends for at most `time`. Each message goes through `network`.
    fn run(
        &mut self,
        time: Duration,
        mut network: impl FnMut(SnapshotMessage) -> Vec<SnapshotMessage>,
    ) -> End {
        let end = self.now + time;
        while self.now < end {
            self.now += TICK;
            self.fetch.look(self.now);
            self.source.look(self.now).expect("a disk");
            for out in self.fetch.take_out(|| true) {
                match out {
                    FetchOut::Send { to, message } => {
                        assert_eq!(to, SENDER);
                        network(message).into_iter().for_each(|message| self.ask(message));
                    }
                    FetchOut::Failed { from, .. } => {
                        assert_eq!(from, SENDER);
                        return End::Failed;
                    }
                    FetchOut::Arrived { from, verified } => {
                        assert_eq!(from, SENDER);
                        return End::Arrived(verified.state().applied_slot);
                    }
                    FetchOut::Unsynced(error) => panic!("{error}"),
                }
            }
            for (to, message) in self.source.take_out() {
                assert_eq!(to, RECEIVER);
                for message in network(message) {
                    self.fetch.receive(SENDER, message, self.now);
                }
            }
        }
        End::Open
    }

    fn ask(&mut self, message: SnapshotMessage) {
        match message {
            SnapshotMessage::Open { fetch, above } => {
                self.source.receive_open(RECEIVER, fetch, above, Slot::ZERO, self.now);
            }
            SnapshotMessage::Read { id, file, offset, bytes_max } => {
                self.source.receive_read(RECEIVER, id, file, offset, bytes_max);
            }
            other => panic!("a receiver never says {other:?}"),
        }
    }
}

fn filled(path: &Path) -> StateMachine<Store> {
    let store = Store::open(path, &StoreOptions::default()).expect("opens");
    StateMachine::open(store, KvOptions::default()).expect("readable")
}

/// Applies slots up to `upto`, each of about ten kilobytes that do not compress.
fn apply(machine: &mut StateMachine<Store>, upto: u64) {
    let mut random = 1_u64;
    let mut byte = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        random.to_le_bytes()[7]
    };
    while machine.applied_slot() < upto {
        let slot = machine.applied_slot() + 1;
        let operation = Operation::Put {
            key: Bytes::from(format!("{slot}")),
            value: (0..10_000).map(|_| byte()).collect(),
            condition: Condition::Always,
            want_previous: false,
        };
        let id = ServerId { origin: 1, incarnation: 1, sequence: slot };
        let command = Command { idempotency: None, operation };
        machine.apply(slot, slot, &[(id, command)]).expect("applied");
        machine.commit().expect("committed");
    }
}

fn pass(message: SnapshotMessage) -> Vec<SnapshotMessage> {
    vec![message]
}

const LONG: Duration = Duration::from_secs(3_600);
const FAST: u64 = 1 << 30;

#[test]
fn a_state_moves_at_the_rate_that_is_set() {
    let rate = 500_000;
    let mut pair = Pair::new(rate);
    let begun = pair.now;
    pair.fetch.begin(SENDER, Slot(0), pair.now);
    assert_eq!(pair.run(LONG, pass), End::Arrived(SLOTS));
    let bytes = pair.fetch.progress().received_bytes;
    assert!(bytes >= SLOTS * 10_000, "{bytes}");
    let took = pair.now - begun;
    let least = Duration::from_secs_f64(bytes as f64 / rate as f64);
    // What was saved up before and the last part, which is not waited for.
    assert!(took + Duration::from_secs(1) >= least, "{took:?} for {bytes} bytes");
    assert!(took < least * 2 + Duration::from_secs(2), "{took:?} for {bytes} bytes");
}

#[test]
fn messages_that_are_lost_or_doubled_do_not_matter() {
    let mut pair = Pair::new(FAST);
    pair.fetch.begin(SENDER, Slot(0), pair.now);
    let mut count = 0;
    let end = pair.run(LONG, |message| {
        count += 1;
        match count % 5 {
            0 | 3 => vec![],
            1 => vec![message.clone(), message],
            _ => vec![message],
        }
    });
    assert_eq!(end, End::Arrived(SLOTS));
}

/// Changes a byte of the chunks for which `is_hit` says so.
fn damaging(
    mut is_hit: impl FnMut(u32, u64) -> bool,
) -> impl FnMut(SnapshotMessage) -> Vec<SnapshotMessage> {
    move |mut message| {
        if let SnapshotMessage::Chunk { file, offset, bytes, .. } = &mut message
            && is_hit(*file, *offset)
        {
            let mut damaged = bytes.to_vec();
            damaged[0] ^= 4;
            *bytes = Bytes::from(damaged);
        }
        vec![message]
    }
}

#[test]
fn a_damaged_part_is_asked_for_again_and_the_second_time_the_peer_has_failed() {
    let mut pair = Pair::new(FAST);
    pair.fetch.begin(SENDER, Slot(0), pair.now);
    let mut hits = 0;
    let once = damaging(|file, offset| {
        let is_hit = (file, offset) == (0, 0);
        hits += u32::from(is_hit);
        is_hit && hits == 1
    });
    assert_eq!(pair.run(LONG, once), End::Arrived(SLOTS));
    assert_eq!(hits, 2);

    pair.fetch.begin(SENDER, Slot(0), pair.now);
    assert_eq!(pair.run(LONG, damaging(|_, offset| offset > 0)), End::Failed);
    assert!(!pair.fetch_folder().exists(), "nothing is left of it");
}

impl Pair {
    fn fetch_folder(&self) -> std::path::PathBuf {
        self._folder.path().join("receiver").join("state.new")
    }
}

#[test]
fn a_file_that_is_not_what_was_sent_comes_again_once() {
    for (times, end) in [(1, End::Arrived(SLOTS)), (2, End::Failed)] {
        let mut pair = Pair::new(FAST);
        pair.fetch.begin(SENDER, Slot(0), pair.now);
        // The part's own checksum is made anew, so only the file's tells.
        let mut hits = 0;
        let forge = |mut message| {
            if let SnapshotMessage::Chunk { file: 0, offset: 0, checksum, bytes, .. } = &mut message
            {
                hits += 1;
                if hits <= times {
                    let mut damaged = bytes.to_vec();
                    damaged[0] ^= 4;
                    *checksum = crc32c::crc32c(&damaged);
                    *bytes = Bytes::from(damaged);
                }
            }
            vec![message]
        };
        assert_eq!(pair.run(LONG, forge), end);
        assert_eq!(hits, 2);
    }
}

#[test]
fn after_a_break_it_goes_on_where_it_was() {
    let mut pair = Pair::new(500_000);
    pair.fetch.begin(SENDER, Slot(0), pair.now);
    assert_eq!(pair.run(Duration::from_secs(3), pass), End::Open);
    let before = pair.fetch.progress();
    assert!(before.bytes > 0 && before.bytes < before.bytes_total, "{before:?}");
    // Shorter than what makes a peer fail: nobody notices.
    assert_eq!(pair.run(Duration::from_secs(5), |_| vec![]), End::Open);
    assert_eq!(pair.run(Duration::from_secs(1), pass), End::Open);
    // Longer: it has failed, and is asked again later.
    assert_eq!(pair.run(Duration::from_secs(30), |_| vec![]), End::Failed);
    pair.fetch.begin(SENDER, Slot(0), pair.now);
    assert_eq!(pair.run(LONG, pass), End::Arrived(SLOTS));
    let received = pair.fetch.progress().received_bytes;
    assert_eq!(received, before.bytes_total, "each byte came once");
}

#[test]
fn a_peer_that_drips_has_failed_and_what_it_gave_stays() {
    let mut pair = Pair::new(FAST);
    pair.fetch.begin(SENDER, Slot(0), pair.now);
    // Two parts are asked for again each second, so one comes every 14 seconds.
    let mut asked = 0;
    let drip = |message: SnapshotMessage| {
        asked += u32::from(matches!(message, SnapshotMessage::Read { .. }));
        let passes = !matches!(message, SnapshotMessage::Read { .. }) || asked.is_multiple_of(28);
        if passes { vec![message] } else { vec![] }
    };
    assert_eq!(pair.run(Duration::from_secs(65), drip), End::Failed);
    assert!(pair.fetch.progress().received_bytes > 0);
    pair.fetch.begin(SENDER, Slot(0), pair.now);
    assert_eq!(pair.run(Duration::from_secs(1), pass), End::Arrived(SLOTS));
}

#[test]
fn a_snapshot_that_its_sender_dropped_is_made_anew() {
    let mut pair = Pair::new(500_000);
    pair.fetch.begin(SENDER, Slot(0), pair.now);
    assert_eq!(pair.run(Duration::from_secs(3), pass), End::Open);
    apply(&mut pair.machine, SLOTS + 7);
    pair.source.drop_checkpoint().expect("dropped");
    assert_eq!(pair.run(LONG, pass), End::Arrived(SLOTS + 7));
    // Nobody uses it any more: it goes by itself.
    assert!(pair.source.progress().slot.is_some());
    assert_eq!(pair.run(Duration::from_secs(61), pass), End::Open);
    assert_eq!(pair.source.progress().slot, None);
    assert!(!pair._folder.path().join("sender").join("checkpoint").exists());
}

#[test]
fn a_peer_that_is_not_ahead_or_silent_has_none() {
    let mut pair = Pair::new(FAST);
    pair.fetch.begin(SENDER, Slot(SLOTS), pair.now);
    assert_eq!(pair.run(LONG, pass), End::Failed);
    pair.fetch.begin(SENDER, Slot(0), pair.now);
    assert_eq!(pair.run(Duration::from_secs(30), |_| vec![]), End::Failed);
}

#[test]
fn a_checkpoint_is_used_again_while_it_helps() {
    let mut pair = Pair::new(FAST);
    let mut slot_for = |above, truncated| {
        pair.source.receive_open(RECEIVER, 1, Slot(above), Slot(truncated), pair.now);
        match pair.source.take_out().pop() {
            Some((_, SnapshotMessage::Manifest { slot, .. })) => Some(slot.0),
            Some((_, SnapshotMessage::Gone { .. })) => None,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(slot_for(0, 0), Some(SLOTS));
    apply(&mut pair.machine, SLOTS + 5);
    assert_eq!(slot_for(0, SLOTS), Some(SLOTS), "the journal goes on where it ends");
    assert_eq!(slot_for(0, SLOTS + 1), Some(SLOTS + 5), "the journal lacks a slot after it");
    apply(&mut pair.machine, SLOTS + 6);
    assert_eq!(slot_for(SLOTS + 5, 0), Some(SLOTS + 6), "it was not above");
    assert_eq!(slot_for(SLOTS + 6, 0), None);
}

#[test]
fn what_a_checkpoint_that_failed_left_is_no_hindrance() {
    let mut pair = Pair::new(FAST);
    let checkpoint = pair._folder.path().join("sender").join("checkpoint");
    std::fs::create_dir(&checkpoint).expect("made");
    std::fs::write(checkpoint.join("000001.sst"), "half").expect("written");
    pair.fetch.begin(SENDER, Slot(0), pair.now);
    assert_eq!(pair.run(LONG, pass), End::Arrived(SLOTS));
}

#[test]
fn a_low_disk_keeps_no_checkpoint_that_nobody_reads() {
    let mut pair = Pair::new(500_000);
    pair.source.disk_reserve_bytes = u64::MAX;
    pair.fetch.begin(SENDER, Slot(0), pair.now);
    assert_eq!(pair.run(LONG, pass), End::Arrived(SLOTS), "it goes on while it is read");
    assert_eq!(pair.run(Duration::from_secs(9), pass), End::Open);
    assert!(pair.source.progress().slot.is_some());
    assert_eq!(pair.run(Duration::from_secs(2), pass), End::Open);
    assert_eq!(pair.source.progress().slot, None);
}

#[test]
fn a_state_that_differs_from_a_peers_is_given_to_nobody() {
    let mut pair = Pair::new(500_000);
    pair.fetch.begin(SENDER, Slot(0), pair.now);
    assert_eq!(pair.run(Duration::from_secs(3), pass), End::Open);
    pair.source.set_refusing(true);
    for _ in 0..2 {
        assert_eq!(pair.run(Duration::from_secs(5), pass), End::Failed);
        pair.fetch.begin(SENDER, Slot(0), pair.now);
    }
}

/// What follows the slot is kept while this is told, so it must have an end.
#[test]
fn a_snapshot_gets_on_by_each_part_once() {
    let mut pair = Pair::new(FAST);
    let mut told = Vec::new();
    for _ in 0..2 {
        pair.fetch.begin(SENDER, Slot(0), pair.now);
        let mut count = 0;
        let (mut parts, mut end) = (0, End::Open);
        while end == End::Open {
            end = pair.run(TICK, |message| {
                parts += u32::from(matches!(message, SnapshotMessage::Chunk { .. }));
                vec![message]
            });
            let slot = pair.source.take_progress();
            assert!(slot.is_none_or(|slot| slot == Slot(SLOTS)));
            count += u32::from(slot.is_some());
        }
        assert_eq!(end, End::Arrived(SLOTS));
        assert!(count <= parts + 1, "{count} times for {parts} parts");
        told.push(count);
    }
    assert!(told[0] > 0 && told[1] == 0, "{told:?}");
}
