//! Locks that are held while something is done.

use std::ops::Deref;

use crate::claim::{ClaimOptions, Office};
use crate::claimed::Claimed;
use crate::client::Client;
use crate::error::ClientError;

/// A lock that is held, and kept.
///
/// Its lease is renewed in the background; see [`LeaseKeeper`](crate::LeaseKeeper) for what
/// that promises. Whoever does long work under a lock does it until that is done or the lock is
/// lost:
///
/// ```no_run
/// # async fn f(client: synod_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// # async fn work(token: synod_client::Revision) {}
/// let options = synod_client::ClaimOptions { wait: None, ..Default::default() };
/// let lock = client.lock(b"backup", &options).await?.expect("it waits as long as it takes");
/// tokio::select! {
///     () = work(lock.token()) => lock.release().await?,
///     lost = lock.lost() => return Err(lost.into()),
/// }
/// # Ok(()) }
/// ```
///
/// Hand the [token](Claimed::token) to whatever the lock guards, and have that refuse a lower
/// one than it has seen: a holder that was stopped for a while learns too late that it has
/// lost the lock.
///
/// Dropped it is let go without waiting for that; [`LockGuard::release`] waits.
#[derive(Debug)]
pub struct LockGuard {
    claimed: Claimed,
}

impl Client {
    /// Takes a lock; none when somebody else has it until the wait is over.
    ///
    /// # Errors
    /// See [`ClientError`]. What was asked for is given up then, or ends by itself.
    pub async fn lock(
        &self,
        name: &[u8],
        options: &ClaimOptions,
    ) -> Result<Option<LockGuard>, ClientError> {
        let claimed = self.claim(Office::Lock, name, None, options).await?;
        Ok(claimed.map(|claimed| LockGuard { claimed }))
    }
}

impl LockGuard {
    /// Lets the lock go, and waits for that.
    ///
    /// # Errors
    /// See [`ClientError`]. It comes free by itself then.
    pub async fn release(self) -> Result<(), ClientError> {
        self.claimed.close().await
    }
}

impl Deref for LockGuard {
    type Target = Claimed;

    fn deref(&self) -> &Claimed {
        &self.claimed
    }
}
