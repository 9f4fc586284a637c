//! Elections, for applications whose replicas have a leader of their own.

use synod_kv::{LeaseId, Revision};

use crate::claim::{ClaimOptions, Holder, Office, Won};
use crate::client::Client;
use crate::error::ClientError;
use crate::keeper::LeaseLost;
use crate::watch::{Watch, WatchOptions, WatchStep};

/// An office that was won, and is kept until it is [resigned](Leadership::resign), lost or
/// dropped. As for a [`LockGuard`](crate::LockGuard), whatever the leader does to others should
/// carry its [token](Leadership::token).
#[derive(Debug)]
pub struct Leadership {
    client: Client,
    name: Vec<u8>,
    won: Won,
}

/// Who leads, whenever that changes.
#[derive(Debug)]
pub struct Observer {
    client: Client,
    name: Vec<u8>,
    watch: Watch,
    /// What was told last; none before the first time.
    told: Option<Option<Holder>>,
    /// Something happened since the last look.
    must_look: bool,
}

impl Client {
    /// Stands for an office, with a value that others see while it is held, such as an address;
    /// none when somebody else has it until the wait is over.
    ///
    /// # Errors
    /// See [`ClientError`]. What was asked for is given up then, or ends by itself.
    pub async fn campaign(
        &self,
        name: &[u8],
        value: &str,
        options: &ClaimOptions,
    ) -> Result<Option<Leadership>, ClientError> {
        let won = self.claim(Office::Election, name, Some(value), options).await?;
        let (client, name) = (self.clone(), name.to_vec());
        Ok(won.map(|won| Leadership { client, name, won }))
    }

    /// Who was elected; none when nobody is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn leader_of(&self, name: &[u8]) -> Result<Option<Holder>, ClientError> {
        self.holder(Office::Election, name).await
    }

    /// Has whoever was elected with this token be it no more: for operators. False when nobody
    /// is it with that.
    ///
    /// # Errors
    /// See [`ClientError`]; `Ambiguous` when it may have been done.
    pub async fn depose(&self, name: &[u8], token: Revision) -> Result<bool, ClientError> {
        self.release(Office::Election, name, token).await
    }

    /// Follows who is elected, and what they say.
    ///
    /// # Errors
    /// As [`Client::watch`].
    pub async fn observe(&self, name: &[u8]) -> Result<Observer, ClientError> {
        Office::Election.target(name)?;
        let watch = self.watch(claims_of(name)).await?;
        Ok(Observer {
            client: self.clone(),
            name: name.to_vec(),
            watch,
            told: None,
            must_look: true,
        })
    }
}

/// The keys of all claims, which change whenever the winner does.
fn claims_of(name: &[u8]) -> WatchOptions {
    WatchOptions::prefix([b"_synod/election/", name, b"\0"].concat())
}

impl Leadership {
    /// The fencing token: higher than that of everybody who was elected before.
    #[must_use]
    pub fn token(&self) -> Revision {
        self.won.token
    }

    /// The lease under which the office is held. Keys that are put under it go with the office.
    #[must_use]
    pub fn lease(&self) -> LeaseId {
        self.won.keeper.id()
    }

    /// Whether the office is certainly held, by the clock as it is now.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.won.keeper.is_held()
    }

    /// Waits until the office is lost.
    pub async fn lost(&self) -> LeaseLost {
        self.won.lost().await
    }

    /// Says another value. False when the office is held no more.
    ///
    /// # Errors
    /// See [`ClientError`]; the value may be said all the same.
    pub async fn proclaim(&self, value: &str) -> Result<bool, ClientError> {
        let target = Office::Election.target(&self.name)?;
        let wait = std::time::Duration::ZERO;
        let claimed = self.client.claim_once(&target, self.lease(), Some(value), wait).await;
        match claimed {
            Ok(Some(token)) if token != self.token() => {
                // It had been let go, and was won once more: by somebody who does not know.
                self.client.release(Office::Election, &self.name, token).await?;
                Ok(false)
            }
            Ok(token) => Ok(token.is_some()),
            Err(error) if error.is_lease_over() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lays the office down, and waits for that.
    ///
    /// # Errors
    /// See [`ClientError`]. It comes free by itself then.
    pub async fn resign(self) -> Result<(), ClientError> {
        self.won.keeper.close().await
    }
}

impl Observer {
    /// Who is elected at first, and then whenever somebody else is, nobody is any more, or who
    /// is says something else. Who was it only in between may not be told. Nothing is lost when
    /// this is dropped before it is ready.
    ///
    /// # Errors
    /// As [`Client::leader_of`]; the next call goes on.
    pub async fn next(&mut self) -> Result<Option<Holder>, ClientError> {
        loop {
            if !self.must_look {
                self.something_happens().await?;
                self.must_look = true;
            }
            let holder = self.client.leader_of(&self.name).await?;
            self.must_look = false;
            let is_news = !self.told.as_ref().is_some_and(|told| is_same(told, &holder));
            self.told = Some(holder.clone());
            if is_news {
                return Ok(holder);
            }
        }
    }

    /// Waits for a change of the claims.
    async fn something_happens(&mut self) -> Result<(), ClientError> {
        loop {
            match self.watch.step().await {
                Ok(WatchStep::Changes(_)) => return Ok(()),
                Ok(WatchStep::Progress(_)) => {}
                Err(ClientError::Compacted { .. }) => {
                    // What happened is not known any more, but how it is now.
                    self.watch = self.client.watch(claims_of(&self.name)).await?;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether the same one says the same.
fn is_same(a: &Option<Holder>, b: &Option<Holder>) -> bool {
    let said = |holder: &Option<Holder>| {
        holder.as_ref().map(|holder| (holder.token, holder.value.clone()))
    };
    said(a) == said(b)
}
