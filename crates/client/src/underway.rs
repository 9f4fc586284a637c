//! What goes on though nobody waits for it at the moment.

use std::future::Future;

use tokio::task::JoinHandle;

/// A piece of work in a task of its own, whose owner may wait for it a little at a time, as in a
/// `select!` in a loop: begun anew each time, it would never come to its end. It ends with its owner.
#[derive(Debug)]
pub(crate) struct Underway<T>(JoinHandle<T>);

impl<T: Send + 'static> Underway<T> {
    pub(crate) fn begin(work: impl Future<Output = T> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }

    /// Waits for its end; none when the runtime ended first. Nothing is lost when this is dropped
    /// before it is ready; afterwards there is nothing more to wait for.
    pub(crate) async fn end(&mut self) -> Option<T> {
        match (&mut self.0).await {
            Ok(done) => Some(done),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => None,
            },
        }
    }
}

impl<T> Drop for Underway<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
