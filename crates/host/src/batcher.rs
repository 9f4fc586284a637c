//! The leader's queue of commands that wait to be cut into a value.

use std::collections::VecDeque;

use bytes::Bytes;
use synod_kv::ServerId;
use synod_paxos::{Configuration, Value};
use synod_wire::{batch, version};

use crate::Limits;

/// What one origin has in the queue, and what it had cut in this ballot.
#[derive(Clone, Copy, Debug)]
struct Origin {
    node: u32,
    /// The newest run of commands that came in order and without a gap: all those
    /// of this incarnation with the sequences `first..=last`.
    incarnation: u64,
    first: u64,
    last: u64,
    /// Commands that wait, and their bytes.
    entries: usize,
    bytes: usize,
}

impl Origin {
    /// Whether this command was queued in this ballot, behind its predecessor or
    /// behind what was taken before. If not, the run goes on with it or begins anew.
    fn has(&mut self, id: ServerId) -> bool {
        if self.incarnation == id.incarnation {
            if (self.first..=self.last).contains(&id.sequence) {
                return true;
            }
            if id.sequence.checked_sub(1) == Some(self.last) {
                self.last = id.sequence;
                return false;
            }
        }
        (self.incarnation, self.first, self.last) = (id.incarnation, id.sequence, id.sequence);
        false
    }
}

/// Encoded commands of every origin, in the order in which they came.
///
/// What an origin sends again is not queued again if it stands in the newest run of
/// that origin, cut or not: while this node leads in one ballot, what it queued in order
/// is chosen in order. (Had its predecessor been queued later, the run would have begun
/// anew there.) Else an origin that learns late what became of its commands, since
/// it lags, would have them chosen again with every retry, and the log would
/// grow as fast as it catches up.
///
/// The first half of the queue is for whoever comes. Of the second half each of n origins
/// may have one part in n + 1, so that there is room for the next one too, and nobody
/// who fills the queue can keep the others out.
#[derive(Debug)]
pub(crate) struct Batcher {
    entries_max: usize,
    bytes_max: usize,
    value_bytes_max: usize,
    /// Of what is cut.
    version: u32,
    entries: VecDeque<(u32, Bytes)>,
    bytes: usize,
    /// By node; few, and the same ones again and again.
    origins: Vec<Origin>,
}

impl Batcher {
    pub(crate) fn new(limits: &Limits, value_bytes_max: usize) -> Self {
        Batcher {
            entries_max: limits.queue_entries_max,
            bytes_max: limits.queue_bytes_max,
            value_bytes_max,
            version: version::OLDEST,
            entries: VecDeque::new(),
            bytes: 0,
            origins: Vec::new(),
        }
    }

    /// From now on values are cut in the newest form that this version knows.
    pub(crate) fn set_version(&mut self, version: u32) {
        self.version = version;
    }

    /// Whether another command of this origin fits.
    pub(crate) fn has_room(&self, origin: u32) -> bool {
        if self.entries.len() >= self.entries_max || self.bytes >= self.bytes_max {
            return false;
        }
        if self.entries.len() < self.entries_max / 2 && self.bytes < self.bytes_max / 2 {
            return true;
        }
        let shares = 2 * (self.origins.len() + 1);
        self.origins.iter().find(|known| known.node == origin).is_none_or(|known| {
            known.entries < (self.entries_max / shares).max(1)
                && known.bytes < (self.bytes_max / shares).max(1)
        })
    }

    /// Appends a command for which there is room, unless it is known already.
    pub(crate) fn push(&mut self, id: ServerId, entry: Bytes) {
        debug_assert!(self.has_room(id.origin), "the caller looks first");
        let origin = match self.origins.iter().position(|known| known.node == id.origin) {
            Some(place) => {
                let origin = &mut self.origins[place];
                if origin.has(id) {
                    return;
                }
                origin
            }
            None => {
                // Members come and go; who has nothing here is known again when it sends.
                if self.origins.len() >= Configuration::MEMBERS_MAX {
                    self.origins.retain(|known| known.entries > 0);
                }
                self.origins.push(Origin {
                    node: id.origin,
                    incarnation: id.incarnation,
                    first: id.sequence,
                    last: id.sequence,
                    entries: 0,
                    bytes: 0,
                });
                self.origins.last_mut().expect("it was just pushed")
            }
        };
        origin.entries += 1;
        origin.bytes += entry.len();
        self.bytes += entry.len();
        self.entries.push_back((id.origin, entry));
    }

    /// A command leaves the queue.
    fn end_waiting(&mut self, origin: u32, bytes: usize) {
        self.bytes -= bytes;
        if let Some(origin) = self.origins.iter_mut().find(|known| known.node == origin) {
            origin.entries -= 1;
            origin.bytes -= bytes;
        }
    }

    /// Cuts the next value: the oldest command and as many after it as fit. If nothing
    /// waits it only says what time it is.
    pub(crate) fn cut(&mut self, cluster_time_ms: u64) -> Value {
        let mut builder = batch::Builder::of_version(self.version, cluster_time_ms);
        let mut value_bytes = 0;
        while let Some((_, entry)) = self.entries.front() {
            let fits =
                value_bytes + entry.len() <= self.value_bytes_max && builder.fits(entry.len());
            if value_bytes > 0 && !fits {
                break;
            }
            let (origin, entry) = self.entries.pop_front().expect("the front was just seen");
            self.end_waiting(origin, entry.len());
            value_bytes += entry.len();
            builder.push_entry(&entry);
        }
        Value::Batch(builder.finish())
    }

    /// Forgets everything: this node leads no more, and the origins send again.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.origins.clear();
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

    fn id(origin: u32, incarnation: u64, sequence: u64) -> ServerId {
        ServerId { origin, incarnation, sequence }
    }

    fn push(batcher: &mut Batcher, id: ServerId, bytes: usize) {
        batcher.push(id, batch::encode_entry(id, &vec![b'x'; bytes]));
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
            push(&mut batcher, id(3, 1, sequence), 400);
        }
        assert_eq!(cut(&mut batcher, 10), vec![1, 2]);
        assert_eq!(cut(&mut batcher, 11), vec![3, 4]);
        assert_eq!(cut(&mut batcher, 11), vec![5]);
        assert_eq!((batcher.bytes(), batcher.len()), (0, 0));
    }

    #[test]
    fn a_command_larger_than_a_value_goes_alone() {
        let mut batcher = Batcher::new(&Limits::default(), 1_000);
        push(&mut batcher, id(3, 1, 1), 10);
        push(&mut batcher, id(3, 1, 2), 5_000);
        push(&mut batcher, id(3, 1, 3), 10);
        assert_eq!(cut(&mut batcher, 0), vec![1]);
        assert_eq!(cut(&mut batcher, 0), vec![2]);
        assert_eq!(cut(&mut batcher, 0), vec![3]);
    }

    fn forward(batcher: &mut Batcher, incarnation: u64, sequences: impl Iterator<Item = u64>) {
        sequences.for_each(|sequence| push(batcher, id(3, incarnation, sequence), 300));
    }

    #[test]
    fn what_was_queued_in_order_is_not_queued_again_even_when_it_was_cut() {
        let mut batcher = Batcher::new(&Limits::default(), 1_000);
        forward(&mut batcher, 1, 1..=5);
        forward(&mut batcher, 1, 1..=5);
        assert_eq!(batcher.len(), 5);
        assert_eq!(cut(&mut batcher, 0), vec![1, 2, 3]);
        forward(&mut batcher, 1, 2..=6);
        assert_eq!(cut(&mut batcher, 0), vec![4, 5, 6]);
        // Another ballot: what was cut before may be lost.
        batcher.clear();
        forward(&mut batcher, 1, 2..=3);
        assert_eq!(cut(&mut batcher, 0), vec![2, 3]);
    }

    #[test]
    fn behind_a_gap_all_from_the_missing_one_on_is_queued_again_in_order() {
        let mut batcher = Batcher::new(&Limits::default(), 1_000);
        forward(&mut batcher, 1, (1..=2).chain(4..=4));
        assert_eq!(cut(&mut batcher, 0), vec![1, 2, 4], "the state machine will see the gap");
        forward(&mut batcher, 1, 3..=4);
        assert_eq!(cut(&mut batcher, 0), vec![3, 4]);
        // It came late and out of order; whoever sends from 3 on once more must be heard.
        forward(&mut batcher, 1, 2..=2);
        forward(&mut batcher, 1, 3..=5);
        assert_eq!(cut(&mut batcher, 0), vec![2, 3, 4]);
        assert_eq!(cut(&mut batcher, 0), vec![5]);
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

    /// Fills the queue with one origin's commands and says how many fitted.
    fn fill(batcher: &mut Batcher, origin: u32, bytes: usize) -> usize {
        let before = batcher.len();
        for sequence in 1.. {
            if !batcher.has_room(origin) {
                break;
            }
            push(batcher, id(origin, 1, sequence), bytes);
        }
        batcher.len() - before
    }

    #[test]
    fn whoever_fills_the_queue_leaves_room_for_the_others() {
        let limits = Limits { queue_entries_max: 1_200, ..Limits::default() };
        let mut batcher = Batcher::new(&limits, 1_000);
        assert_eq!(fill(&mut batcher, 1, 1), 600);
        assert_eq!(fill(&mut batcher, 2, 1), 200);
        assert_eq!(fill(&mut batcher, 3, 1), 150);
        assert_eq!(fill(&mut batcher, 1, 1), 0);
        while !batcher.is_empty() {
            cut(&mut batcher, 0);
        }
        assert_eq!(batcher.bytes(), 0);
        assert!(batcher.origins.iter().all(|origin| (origin.entries, origin.bytes) == (0, 0)));
        assert_eq!(fill(&mut batcher, 2, 1), 600);
        assert_eq!(cut(&mut batcher, 0)[0], 201, "those before were cut in this ballot");
        // What they had cut is forgotten, and so is that they were there.
        batcher.clear();
        assert_eq!(fill(&mut batcher, 2, 1), 600);
    }

    #[test]
    fn the_queue_is_bounded_by_count_and_bytes() {
        let limits = Limits { queue_entries_max: 8, ..Limits::default() };
        let mut batcher = Batcher::new(&limits, 1_000);
        for (origin, room) in [(1, 4), (2, 1), (3, 1), (4, 1), (5, 1), (6, 0)] {
            assert_eq!(fill(&mut batcher, origin, 1), room);
        }
        assert_eq!(batcher.len(), 8);
        batcher.clear();
        assert!(batcher.has_room(1) && batcher.is_empty() && batcher.bytes() == 0);
        let mut batcher = Batcher::new(&Limits { queue_bytes_max: 50, ..limits }, 1_000);
        push(&mut batcher, id(1, 1, 1), 50);
        assert!(!batcher.has_room(1) && !batcher.has_room(2), "there are no bytes left");
    }
}
