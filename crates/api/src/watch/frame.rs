//! What of a stream is on its way to the socket.
//!
//! The connection takes frames ahead of what its client takes, up to about 80 KiB. Of ten
//! thousand slow clients that would be most of a gigabyte that nobody counts. So a stream
//! makes another frame only when little of those before is left. And it knows how its client
//! takes them, so that one which hardly does can be told why it is given up.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as Task, Poll, Waker};

use bytes::Bytes;
use tokio::time::Instant;

/// With less on its way there may be another frame. Small ones need not wait for each other.
const SENDING_BYTES_MAX: usize = 4 * 1024;
/// The connection asks for no more frames while it has 16 of them, and then the stream could
/// not even end.
const SENDING_FRAMES_MAX: usize = 8;

/// Who takes so much is not slow yet.
pub(crate) const TAKEN_BYTES_MIN: usize = 32 * 1024;

/// The frames of one stream.
#[derive(Clone, Default, Debug)]
pub(crate) struct Frames {
    sending: Arc<Mutex<Sending>>,
    /// Bytes on their way of all streams.
    all: Arc<AtomicUsize>,
}

#[derive(Default, Debug)]
struct Sending {
    bytes: usize,
    frames: usize,
    /// Since when something is on its way, or the client took enough of it last.
    since: Option<Instant>,
    /// What was sent since then.
    taken: usize,
    waker: Option<Waker>,
}

impl Sending {
    fn is_ready(&self) -> bool {
        self.bytes < SENDING_BYTES_MAX && self.frames < SENDING_FRAMES_MAX
    }
}

impl Frames {
    /// No frames yet. What is on its way is counted in `all` as well.
    pub(crate) fn new(all: Arc<AtomicUsize>) -> Self {
        Frames { sending: Arc::default(), all }
    }

    /// Waits until there may be another frame.
    pub(crate) fn poll_ready(&self, task: &Task<'_>) -> Poll<()> {
        let mut sending = self.sending();
        if sending.is_ready() {
            return Poll::Ready(());
        }
        sending.waker = Some(task.waker().clone());
        Poll::Pending
    }

    /// The next frame. It is on its way until the last of it is in the socket.
    pub(crate) fn send(&self, bytes: Bytes) -> Bytes {
        let mut sending = self.sending();
        sending.bytes += bytes.len();
        sending.frames += 1;
        if sending.frames == 1 {
            (sending.since, sending.taken) = (Some(Instant::now()), 0);
        }
        drop(sending);
        self.all.fetch_add(bytes.len(), Relaxed);
        Bytes::from_owner(Frame { bytes, frames: self.clone() })
    }

    /// Since when less than [`TAKEN_BYTES_MIN`] was taken; none if nothing is on its way.
    pub(crate) fn slow_since(&self) -> Option<Instant> {
        self.sending().since
    }

    fn sending(&self) -> MutexGuard<'_, Sending> {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A frame on its way.
struct Frame {
    bytes: Bytes,
    frames: Frames,
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        let mut sending = self.frames.sending();
        sending.bytes -= self.bytes.len();
        sending.frames -= 1;
        sending.taken += self.bytes.len();
        if sending.frames == 0 {
            sending.since = None;
        } else if sending.taken >= TAKEN_BYTES_MIN {
            (sending.since, sending.taken) = (Some(Instant::now()), 0);
        }
        self.frames.all.fetch_sub(self.bytes.len(), Relaxed);
        let is_ready = sending.is_ready();
        let waker = sending.waker.take_if(|_| is_ready);
        drop(sending);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_frame_waits_until_those_before_are_sent() {
        let frames = Frames::default();
        let task = Task::from_waker(Waker::noop());
        let small = [frames.send(Bytes::from(vec![0; 9])), frames.send(Bytes::from(vec![0; 9]))];
        assert!(frames.poll_ready(&task).is_ready(), "small ones go together");
        let large = frames.send(Bytes::from(vec![0; SENDING_BYTES_MAX]));
        let part = large.slice(..1);
        drop((small, large));
        assert!(frames.poll_ready(&task).is_pending(), "a part of it is not sent");
        drop(part);
        assert!(frames.poll_ready(&task).is_ready());
        assert_eq!(frames.all.load(Relaxed), 0);
        let many: Vec<_> =
            (0..SENDING_FRAMES_MAX).map(|_| frames.send(Bytes::from_static(b"x"))).collect();
        assert!(frames.poll_ready(&task).is_pending(), "small ones are bounded, too");
        drop(many);
        assert!(frames.poll_ready(&task).is_ready());
    }

    #[tokio::test]
    async fn slow_is_who_takes_little_of_what_waits() {
        let frames = Frames::default();
        assert_eq!(frames.slow_since(), None, "nothing waits");
        let most = frames.send(Bytes::from(vec![0; TAKEN_BYTES_MIN - 1]));
        let begin = frames.slow_since();
        assert!(begin.is_some());
        let rest = ["x", "y"].map(|text| frames.send(Bytes::from_static(text.as_bytes())));
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        drop(most);
        assert_eq!(frames.slow_since(), begin, "it took a byte too little");
        let [one, other] = rest;
        drop(one);
        assert!(frames.slow_since() > begin, "it took enough");
        drop(other);
        assert_eq!(frames.slow_since(), None);
    }
}
