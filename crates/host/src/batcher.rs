//! The leader's queue of commands that wait to be cut into a value.

use std::collections::VecDeque;

use bytes::Bytes;
use synod_paxos::Value;
use synod_wire::batch;

use crate::Limits;

/// Encoded commands of every origin, in the order in which they came. A command
/// may stand in it twice: the state machine takes it once.
#[derive(Debug)]
pub(crate) struct Batcher {
    entries_max: usize,
    bytes_max: usize,
    value_bytes_max: usize,
    entries: VecDeque<Bytes>,
    bytes: usize,
}

impl Batcher {
    pub(crate) fn new(limits: &Limits, value_bytes_max: usize) -> Self {
        Batcher {
            entries_max: limits.queue_entries_max,
            bytes_max: limits.queue_bytes_max,
            value_bytes_max,
            entries: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Whether another command fits.
    pub(crate) fn has_room(&self) -> bool {
        self.entries.len() < self.entries_max && self.bytes < self.bytes_max
    }

    /// Appends a command for which there is room.
    pub(crate) fn push(&mut self, entry: Bytes) {
        debug_assert!(self.has_room(), "the caller looks first");
        self.bytes += entry.len();
        self.entries.push_back(entry);
    }

    /// Cuts the next value: the oldest command and as many after it as fit.
    ///
    /// # Panics
    /// When nothing waits.
    pub(crate) fn cut(&mut self, cluster_time_ms: u64) -> Value {
        assert!(!self.entries.is_empty(), "a value without commands was cut");
        let mut builder = batch::Builder::new(cluster_time_ms);
        let mut value_bytes = 0;
        while let Some(entry) = self.entries.front() {
            let fits =
                value_bytes + entry.len() <= self.value_bytes_max && builder.fits(entry.len());
            if value_bytes > 0 && !fits {
                break;
            }
            let entry = self.entries.pop_front().expect("the front was just seen");
            value_bytes += entry.len();
            builder.push_entry(&entry);
        }
        self.bytes -= value_bytes;
        Value::Batch(builder.finish())
    }

    /// Forgets everything: this node leads no more, and the origins send again.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
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
