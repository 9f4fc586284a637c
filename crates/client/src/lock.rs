//! Locks that are held while something is done.

use synod_kv::{LeaseId, Revision};

use crate::claim::{ClaimOptions, Office, Won};
use crate::client::Client;
use crate::error::ClientError;
use crate::keeper::LeaseLost;

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
/// Hand the [token](LockGuard::token) to whatever the lock guards, and have that refuse a lower
/// one than it has seen: a holder that was stopped for a while learns too late that it has
/// lost the lock.
///
/// Dropped it is let go without waiting for that; [`LockGuard::release`] waits.
#[derive(Debug)]
pub struct LockGuard {
    won: Won,
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
        let won = self.claim(Office::Lock, name, None, options).await?;
        Ok(won.map(|won| LockGuard { won }))
    }
}

impl LockGuard {
    /// The fencing token: higher than that of every holder before.
    #[must_use]
    pub fn token(&self) -> Revision {
        self.won.token
    }

    /// The lease under which the lock is held. Keys that are put under it go with the lock.
    #[must_use]
    pub fn lease(&self) -> LeaseId {
        self.won.keeper.id()
    }

    /// Whether the lock is certainly held, by the clock as it is now.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.won.keeper.is_held()
    }

    /// Waits until the lock is lost.
    pub async fn lost(&self) -> LeaseLost {
        self.won.lost().await
    }

    /// Lets the lock go, and waits for that.
    ///
    /// # Errors
    /// See [`ClientError`]. It comes free by itself then.
    pub async fn release(self) -> Result<(), ClientError> {
        self.won.keeper.close().await
    }
}
