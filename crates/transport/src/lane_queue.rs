//! Messages that wait to be written to one lane.

use std::cell::RefCell;
use std::collections::VecDeque;

use bytes::{Buf, BytesMut};
use synod_wire::{Lane, PeerMessage, frame};
use tokio::sync::Notify;

/// Buffers that grew beyond this are given back once they are empty.
const KEPT_BUFFER_BYTES_MAX: usize = 1 << 20;

/// What became of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Queued {
    /// It waits.
    Waits,
    /// It waits, and this many older ones were dropped for it.
    InsteadOf(u64),
    /// It was dropped: the queue is full.
    Full,
    /// It was dropped: the lane is not connected. What would wait for a connection
    /// would be outdated when it comes.
    Unconnected,
}

/// The queue of one lane: frames one behind the other in one buffer, so that all of
/// them go out with one write.
#[derive(Debug)]
pub(crate) struct LaneQueue {
    lane: Lane,
    bytes_max: usize,
    frames_max: usize,
    state: RefCell<State>,
    filled: Notify,
    emptied: Notify,
}

#[derive(Default, Debug)]
struct State {
    connected: bool,
    /// A writer has taken frames and not reported them as written.
    writing: bool,
    frames: BytesMut,
    /// Of each frame in `frames`, in bytes.
    lengths: VecDeque<usize>,
}

impl LaneQueue {
    pub(crate) fn new(lane: Lane, bytes_max: usize, frames_max: usize) -> Self {
        LaneQueue {
            lane,
            bytes_max,
            frames_max,
            state: RefCell::default(),
            filled: Notify::new(),
            emptied: Notify::new(),
        }
    }

    /// Encodes a message to the end of the queue, in this version, in which its body has
    /// `body_bytes`.
    pub(crate) fn push(&self, message: &PeerMessage, version: u32, body_bytes: usize) -> Queued {
        let mut state = self.state.borrow_mut();
        if !state.connected {
            return Queued::Unconnected;
        }
        let bytes = frame::HEADER_BYTES + body_bytes;
        let mut dropped = 0;
        while state.frames.len() + bytes > self.bytes_max || state.lengths.len() >= self.frames_max
        {
            // On the control lane the newest news counts; on the bulk lane the
            // oldest is what the peer needs first.
            match (self.lane, state.lengths.pop_front()) {
                (Lane::Control, Some(oldest)) => state.frames.advance(oldest),
                (Lane::Bulk, Some(oldest)) => {
                    state.lengths.push_front(oldest);
                    return Queued::Full;
                }
                (_, None) => return Queued::Full,
            }
            dropped += 1;
        }
        if state.lengths.is_empty() {
            self.filled.notify_one();
        }
        frame::encode_for(version, message, &mut state.frames);
        state.lengths.push_back(bytes);
        if dropped > 0 { Queued::InsteadOf(dropped) } else { Queued::Waits }
    }

    /// From now on messages wait; none is left from an earlier connection.
    pub(crate) fn connect(&self) {
        self.clear(true);
    }

    /// From now on messages are dropped, those that wait as well. Returns how many
    /// were waiting.
    pub(crate) fn disconnect(&self) -> u64 {
        let dropped = self.state.borrow().lengths.len() as u64;
        self.clear(false);
        dropped
    }

    fn clear(&self, connected: bool) {
        *self.state.borrow_mut() = State { connected, ..State::default() };
        self.emptied.notify_waiters();
    }

    /// Waits for frames, then exchanges all of them for the empty buffer that the
    /// caller brings. Returns their number.
    pub(crate) async fn take(&self, frames: &mut BytesMut) -> u64 {
        loop {
            {
                let mut state = self.state.borrow_mut();
                if !state.lengths.is_empty() {
                    state.writing = true;
                    std::mem::swap(frames, &mut state.frames);
                    let count = state.lengths.len() as u64;
                    state.lengths.clear();
                    return count;
                }
            }
            self.filled.notified().await;
        }
    }

    /// The frames that were taken last are written; `buffer` may be used again.
    pub(crate) fn written(&self, buffer: &mut BytesMut) {
        if buffer.capacity() > KEPT_BUFFER_BYTES_MAX {
            *buffer = BytesMut::new();
        }
        buffer.clear();
        let mut state = self.state.borrow_mut();
        state.writing = false;
        if state.lengths.is_empty() {
            self.emptied.notify_waiters();
        }
    }

    /// Waits until nothing waits.
    pub(crate) async fn flushed(&self) {
        loop {
            {
                let state = self.state.borrow();
                if !state.connected || (state.lengths.is_empty() && !state.writing) {
                    return;
                }
            }
            self.emptied.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use synod_paxos::{Message, ReadIndex};
    use synod_wire::version;

    const FRAME_BYTES: usize = 26;

    fn message(nonce: u64) -> PeerMessage {
        PeerMessage::Paxos(Message::ReadIndex(ReadIndex { nonce }))
    }

    fn push(queue: &LaneQueue, nonce: u64) -> Queued {
        let message = message(nonce);
        queue.push(&message, version::OLDEST, frame::body_bytes(&message))
    }

    async fn taken(queue: &LaneQueue) -> Vec<PeerMessage> {
        let mut frames = BytesMut::new();
        let count = queue.take(&mut frames).await;
        let mut rest: Bytes = frames.freeze();
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let header = frame::Header::decode(&rest).unwrap();
            rest.advance(frame::HEADER_BYTES);
            messages.push(frame::decode(header, rest.split_to(header.body_bytes())).unwrap());
        }
        assert_eq!(count, messages.len() as u64);
        messages
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_full_control_lane_drops_its_oldest() {
        for (bytes_max, frames_max) in [(2 * FRAME_BYTES, 100), (1 << 20, 2)] {
            let queue = LaneQueue::new(Lane::Control, bytes_max, frames_max);
            queue.connect();
            assert_eq!([push(&queue, 1), push(&queue, 2)], [Queued::Waits; 2]);
            assert_eq!(push(&queue, 3), Queued::InsteadOf(1));
            assert_eq!(taken(&queue).await, [message(2), message(3)]);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_full_bulk_lane_drops_its_newest() {
        for (bytes_max, frames_max) in [(2 * FRAME_BYTES, 100), (1 << 20, 2)] {
            let queue = LaneQueue::new(Lane::Bulk, bytes_max, frames_max);
            queue.connect();
            assert_eq!([push(&queue, 1), push(&queue, 2)], [Queued::Waits; 2]);
            assert_eq!(push(&queue, 3), Queued::Full);
            assert_eq!(taken(&queue).await, [message(1), message(2)]);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn nothing_waits_for_a_connection() {
        let queue = LaneQueue::new(Lane::Control, 1 << 20, 100);
        assert_eq!(push(&queue, 1), Queued::Unconnected);
        queue.connect();
        assert_eq!(push(&queue, 2), Queued::Waits);
        assert_eq!(queue.disconnect(), 1);
        queue.connect();
        assert_eq!(push(&queue, 3), Queued::Waits);
        assert_eq!(taken(&queue).await, [message(3)]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_message_larger_than_the_queue_is_dropped() {
        let queue = LaneQueue::new(Lane::Control, FRAME_BYTES - 1, 100);
        queue.connect();
        assert_eq!(push(&queue, 1), Queued::Full);
    }
}
