//! The leader's queue of commands that wait to be cut into a value.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use synod_kv::ServerId;
use synod_paxos::Value;
use synod_wire::batch;

use crate::Limits;

/// Commands of one origin's life that wait without a gap and in order: all those
/// with these sequences.
#[derive(Clone, Copy, Debug)]
struct Run {
    incarnation: u64,
    first: u64,
    last: u64,
}

/// Encoded commands of every origin, in the order in which they came. A command
/// may stand in it twice, since the state machine takes it once; but what its origin
/// sends again while the first copy waits here is not queued once more. Else a leader
/// that cannot propose for a while would have the most to do when it can.
#[derive(Debug)]
pub(crate) struct Batcher {
    entries_max: usize,
    bytes_max: usize,
    value_bytes_max: usize,
    /// Other nodes' commands with their ids.
    entries: VecDeque<(Option<ServerId>, Bytes)>,
    bytes: usize,
    /// By origin.
    runs: BTreeMap<u32, Run>,
}

impl Batcher {
    pub(crate) fn new(limits: &Limits, value_bytes_max: usize) -> Self {
        Batcher {
            entries_max: limits.queue_entries_max,
            bytes_max: limits.queue_bytes_max,
            value_bytes_max,
            entries: VecDeque::new(),
            bytes: 0,
            runs: BTreeMap::new(),
        }
    }

    /// Whether another command fits.
    pub(crate) fn has_room(&self) -> bool {
        self.entries.len() < self.entries_max && self.bytes < self.bytes_max
    }

    /// Appends a command of this node for which there is room.
    pub(crate) fn push(&mut self, entry: Bytes) {
        self.append(None, entry);
    }

    /// Appends another node's command, for which there is room, unless it waits here.
    pub(crate) fn push_forwarded(&mut self, id: ServerId, entry: Bytes) {
        let ServerId { origin, incarnation, sequence } = id;
        match self.runs.get_mut(&origin) {
            Some(run) if run.incarnation == incarnation => {
                if (run.first..=run.last).contains(&sequence) {
                    return;
                }
                // Behind a gap it stands before what is missing: no part of the run.
                if sequence == run.last + 1 {
                    run.last = sequence;
                }
            }
            Some(run) if run.incarnation > incarnation => {}
            Some(_) | None => {
                let run = Run { incarnation, first: sequence, last: sequence };
                self.runs.insert(origin, run);
            }
        }
        self.append(Some(id), entry);
    }

    fn append(&mut self, id: Option<ServerId>, entry: Bytes) {
        debug_assert!(self.has_room(), "the caller looks first");
        self.bytes += entry.len();
        self.entries.push_back((id, entry));
    }

    /// A command leaves the queue.
    fn end_waiting(&mut self, id: ServerId) {
        if let Some(run) = self.runs.get_mut(&id.origin)
            && run.incarnation == id.incarnation
            && (run.first..=run.last).contains(&id.sequence)
        {
            run.first = id.sequence + 1;
            if run.first > run.last {
                self.runs.remove(&id.origin);
            }
        }
    }

    /// Cuts the next value: the oldest command and as many after it as fit.
    ///
    /// # Panics
    /// When nothing waits.
    pub(crate) fn cut(&mut self, cluster_time_ms: u64) -> Value {
        assert!(!self.entries.is_empty(), "a value without commands was cut");
        let mut builder = batch::Builder::new(cluster_time_ms);
        let mut value_bytes = 0;
        while let Some((_, entry)) = self.entries.front() {
            let fits =
                value_bytes + entry.len() <= self.value_bytes_max && builder.fits(entry.len());
            if value_bytes > 0 && !fits {
                break;
            }
            let (id, entry) = self.entries.pop_front().expect("the front was just seen");
            id.into_iter().for_each(|id| self.end_waiting(id));
            value_bytes += entry.len();
            builder.push_entry(&entry);
        }
        self.bytes -= value_bytes;
        Value::Batch(builder.finish())
    }

    /// Forgets everything: this node leads no more, and the origins send again.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.runs.clear();
        self.bytes = 0;
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Commands that wait.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use synod_kv::ServerId;

    use super::*;

    fn entry(sequence: u64, bytes: usize) -> Bytes {
        let id = ServerId { origin: 3, incarnation: 1, sequence };
        batch::encode_entry(id, &vec![b'x'; bytes])
    }

    fn cut(batcher: &mut Batcher, cluster_time_ms: u64) -> Vec<u64> {
        let Value::Batch(bytes) = batcher.cut(cluster_time_ms) else { panic!("not a batch") };
        let batch = batch::decode(bytes).expect("a batch of our own");
        assert_eq!(batch.cluster_time_ms, cluster_time_ms);
        batch.entries.iter().map(|entry| entry.id.sequence).collect()
    }

    #[test]
    fn a_value_holds_as_many_commands_as_fit_in_their_order() {
        let mut batcher = Batcher::new(&Limits::default(), 1_000);
        for sequence in 1..=5 {
            batcher.push(entry(sequence, 400));
        }
        assert_eq!(cut(&mut batcher, 10), vec![1, 2]);
        assert_eq!(cut(&mut batcher, 11), vec![3, 4]);
        assert_eq!(cut(&mut batcher, 11), vec![5]);
        assert_eq!((batcher.bytes(), batcher.len()), (0, 0));
    }

    #[test]
    fn a_command_larger_than_a_value_goes_alone() {
        let mut batcher = Batcher::new(&Limits::default(), 1_000);
        batcher.push(entry(1, 10));
        batcher.push(entry(2, 5_000));
        batcher.push(entry(3, 10));
        assert_eq!(cut(&mut batcher, 0), vec![1]);
        assert_eq!(cut(&mut batcher, 0), vec![2]);
        assert_eq!(cut(&mut batcher, 0), vec![3]);
    }

    fn forward(batcher: &mut Batcher, incarnation: u64, sequences: impl Iterator<Item = u64>) {
        for sequence in sequences {
            let id = ServerId { origin: 3, incarnation, sequence };
            batcher.push_forwarded(id, batch::encode_entry(id, &[b'x'; 300]));
        }
    }

    #[test]
    fn what_waits_already_is_not_queued_again() {
        let mut batcher = Batcher::new(&Limits::default(), 1_000);
        forward(&mut batcher, 1, 1..=5);
        forward(&mut batcher, 1, 1..=5);
        assert_eq!(batcher.len(), 5);
        assert_eq!(cut(&mut batcher, 0), vec![1, 2, 3]);
        // What was cut may have met a gap, so it is taken again; what waits is not.
        forward(&mut batcher, 1, 2..=6);
        assert_eq!(cut(&mut batcher, 0), vec![4, 5, 2]);
        assert_eq!(cut(&mut batcher, 0), vec![3, 6]);
        // Behind a gap: all from the missing one on come again, in order.
        forward(&mut batcher, 1, (1..=2).chain(4..=4));
        forward(&mut batcher, 1, 1..=4);
        assert_eq!(cut(&mut batcher, 0), vec![1, 2, 4]);
        assert_eq!(cut(&mut batcher, 0), vec![3, 4]);
    }

    #[test]
    fn a_later_life_of_an_origin_begins_anew() {
        let mut batcher = Batcher::new(&Limits::default(), 1_000);
        forward(&mut batcher, 1, 1..=2);
        forward(&mut batcher, 2, 1..=2);
        forward(&mut batcher, 2, 1..=2);
        assert_eq!(batcher.len(), 4);
        batcher.clear();
        forward(&mut batcher, 2, 1..=2);
        assert_eq!(batcher.len(), 2, "what was forgotten waits no more");
    }

    #[test]
    fn the_queue_is_bounded_by_count_and_bytes() {
        let limits = Limits { queue_entries_max: 2, ..Limits::default() };
        let mut batcher = Batcher::new(&limits, 1_000);
        batcher.push(entry(1, 1));
        assert!(batcher.has_room());
        batcher.push(entry(2, 1));
        assert!(!batcher.has_room());
        batcher.clear();
        assert!(batcher.has_room() && batcher.is_empty() && batcher.bytes() == 0);
        let mut batcher = Batcher::new(&Limits { queue_bytes_max: 50, ..limits }, 1_000);
        batcher.push(entry(1, 50));
        assert!(!batcher.has_room());
    }
}
