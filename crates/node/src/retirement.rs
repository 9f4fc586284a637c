//! The end of a node that met damage in its state, as soon as it can be spared. The next life
//! takes over another state.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::thread;
use std::time::{Duration, Instant};

use synod_paxos::NodeId;

use crate::fatal::Fatal;
use crate::replaceable::{is_replaceable, is_replaceable_twice, second_look_after};
use crate::shared::Shared;

/// What failed when the state could not be read for a client.
pub(crate) const READING: &str = "reading the state";
/// Between two looks whether the others get on without this node.
const LOOK_EVERY: Duration = Duration::from_secs(10 * 60);
/// Whoever waits looks whether the node stops so often.
const STOP_LOOK_EVERY: Duration = Duration::from_millis(100);

/// When it is to be. It holds nothing of the state: the next life of this process opens it.
#[derive(Debug)]
pub(crate) struct Retirement {
    me: NodeId,
    /// Between the second looks of two members.
    turn: Duration,
    shared: Arc<Shared>,
    fatal: Fatal,
    is_awaited: AtomicBool,
}

impl Retirement {
    pub(crate) fn new(me: NodeId, turn: Duration, shared: Arc<Shared>, fatal: Fatal) -> Arc<Self> {
        Arc::new(Retirement { me, turn, shared, fatal, is_awaited: AtomicBool::new(false) })
    }

    /// A read met damage: tells it, and ends the node when it can be replaced. Nobody waits for
    /// that.
    pub(crate) fn met_damage(self: &Arc<Self>, text: String) {
        // First of all: the end may be a while away.
        self.fatal.note_damage(&text);
        if self.is_awaited.swap(true, Acquire) {
            return;
        }
        let waiting = Arc::clone(self);
        let thread = thread::Builder::new().name("synod-damage".to_owned());
        let spawned = thread.spawn(move || {
            waiting.end_when_replaceable(&text);
            waiting.is_awaited.store(false, Release);
        });
        if spawned.is_err() {
            // The next read tries again.
            self.is_awaited.store(false, Release);
        }
    }

    /// Looks again and again, as long as the state is doubted.
    fn end_when_replaceable(&self, text: &str) {
        let Retirement { me, turn, shared, fatal, .. } = self;
        let wait = || self.pause(second_look_after(*me, shared, *turn));
        while !is_replaceable_twice(|| is_replaceable(*me, shared), wait) {
            if !self.pause(LOOK_EVERY) || !fatal.doubts_state() {
                return;
            }
        }
        fatal.report(READING, text);
    }

    /// Waits for so long, and says whether the node goes on.
    fn pause(&self, time: Duration) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < time && !self.shared.is_stopping() {
            thread::sleep(time.saturating_sub(begun.elapsed()).min(STOP_LOOK_EVERY));
        }
        !self.shared.is_stopping()
    }
}
