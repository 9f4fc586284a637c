//! An answer that is held back for as long as the test says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// So many waits in vain that whoever began anew with each would be seen to get nowhere.
const WAITS: u32 = 10;

/// Holds an answer back until who waits for it did so in many small steps. It lets one answer go,
/// the first that was asked for: whoever gave that question up and asked anew gets none.
#[derive(Clone, Default, Debug)]
pub(crate) struct Held {
    is_asked: Arc<AtomicBool>,
    let_go: Arc<Notify>,
    waits: u32,
}

impl Held {
    /// The node waits here before it answers.
    pub(crate) async fn until_let_go(&self) {
        self.is_asked.store(true, Ordering::Relaxed);
        self.let_go.notified().await;
    }

    /// Says that somebody waited a little, in vain.
    pub(crate) fn was_awaited(&mut self) {
        if self.is_asked.load(Ordering::Relaxed) {
            self.waits += 1;
            if self.waits == WAITS {
                self.let_go.notify_one();
            }
        }
    }
}
