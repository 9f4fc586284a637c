//! What of a stream is on its way to the socket.
//!
//! The connection takes frames ahead of what its client takes, up to about 80 KiB. Of ten
//! thousand slow clients that would be most of a gigabyte that nobody counts. So a stream
//! makes another frame only when little of those before is left.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as Task, Poll, Waker};

use bytes::Bytes;

/// With less on its way there may be another frame. Small ones need not wait for each other.
const SENDING_BYTES_MAX: usize = 4 * 1024;

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
    waker: Option<Waker>,
}

impl Frames {
    /// No frames yet. What is on its way is counted in `all` as well.
    pub(crate) fn new(all: Arc<AtomicUsize>) -> Self {
        Frames { sending: Arc::default(), all }
    }

    /// Waits until there may be another frame.
    pub(crate) fn poll_ready(&self, task: &Task<'_>) -> Poll<()> {
        let mut sending = self.sending();
        if sending.bytes < SENDING_BYTES_MAX {
            return Poll::Ready(());
        }
        sending.waker = Some(task.waker().clone());
        Poll::Pending
    }

    /// The next frame. It is on its way until the last of it is in the socket.
    pub(crate) fn send(&self, bytes: Bytes) -> Bytes {
        self.sending().bytes += bytes.len();
        self.all.fetch_add(bytes.len(), Relaxed);
        Bytes::from_owner(Frame { bytes, frames: self.clone() })
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
        self.frames.all.fetch_sub(self.bytes.len(), Relaxed);
        let is_ready = sending.bytes < SENDING_BYTES_MAX;
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
    }
}
