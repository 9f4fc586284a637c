//! Elections, for applications whose replicas have a leader of their own.

use std::ops::Deref;
use std::time::Duration;

use synod_kv::Revision;
use tokio::sync::Mutex;

use crate::claim::{ClaimOptions, Holder, Office, Word};
use crate::claimed::Claimed;
use crate::client::Client;
use crate::error::ClientError;
use crate::retry::Repeat;
use crate::underway::Underway;
use crate::watch::{Watch, WatchOptions, WatchStep};

/// An office that was won, and is kept until it is [resigned](Leadership::resign), lost or
/// dropped. As for a [`LockGuard`](crate::LockGuard), whatever the leader does to others should
/// carry its [token](Claimed::token).
#[derive(Debug)]
pub struct Leadership {
    client: Client,
    name: Vec<u8>,
    claimed: Claimed,
    /// What was said last, and its name, while nobody knows whether it is.
    unsettled: Mutex<Option<(String, Vec<u8>)>>,
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
    /// The look that is being taken.
    looking: Option<Underway<Result<Option<Holder>, ClientError>>>,
    /// A watch that takes the place of the one that came too late.
    rewatching: Option<Underway<Result<Watch, ClientError>>>,
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
        value: impl AsRef<[u8]>,
        options: &ClaimOptions,
    ) -> Result<Option<Leadership>, ClientError> {
        let claimed = self.claim(Office::Election, name, Some(value.as_ref()), options).await?;
        let (client, name) = (self.clone(), name.to_vec());
        let unsettled = Mutex::default();
        Ok(claimed.map(|claimed| Leadership { client, name, claimed, unsettled }))
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
            looking: None,
            rewatching: None,
        })
    }
}

/// The keys of all claims, which change whenever the winner does.
fn claims_of(name: &[u8]) -> WatchOptions {
    WatchOptions::prefix([b"_synod/election/", name, b"\0"].concat())
}

impl Leadership {
    /// Says another value. False when the office is held no more.
    ///
    /// # Errors
    /// See [`ClientError`]. `Ambiguous` when the value may be said all the same, or may still be:
    /// the next call of this settles that first, so that what is said later stays.
    pub async fn proclaim(&self, value: impl AsRef<[u8]>) -> Result<bool, ClientError> {
        let value = value.as_ref();
        let mut unsettled = self.unsettled.lock().await;
        if let Some((name, value)) = unsettled.clone() {
            match self.say(name, &value).await {
                // So late that it can't be sent any more: nor is it on its way any more.
                Err(ClientError::Ambiguous { attempts: 0, .. }) => {}
                Err(error) if error.outcome_unknown() => return Err(error),
                _ => {}
            }
        }
        let name = self.client.new_name();
        // It is sent for certain only if this future lives on.
        *unsettled = Some((name.clone(), value.to_vec()));
        let said = self.say(name, value).await;
        if !said.as_ref().is_err_and(ClientError::outcome_unknown) {
            *unsettled = None;
        }
        said
    }

    async fn say(&self, name: String, value: &[u8]) -> Result<bool, ClientError> {
        let target = Office::Election.target(&self.name)?;
        let (word, repeat) = (Word { value, name: name.clone() }, Repeat::Named(name));
        let under = (&target, self.lease());
        match self.client.claim_once(under, Some(&word), Duration::ZERO, &repeat).await {
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
        self.claimed.close().await
    }
}

impl Deref for Leadership {
    type Target = Claimed;

    fn deref(&self) -> &Claimed {
        &self.claimed
    }
}

impl Observer {
    /// Who is elected at first, and then whenever somebody else is, nobody is any more, or who
    /// is says something else. Who was it only in between may not be told. Nothing is lost when
    /// this is dropped before it is ready: so it may stand in a `select!` in a loop.
    ///
    /// # Errors
    /// As [`Client::leader_of`]; the next call goes on.
    pub async fn next(&mut self) -> Result<Option<Holder>, ClientError> {
        loop {
            if !self.must_look {
                self.something_happens().await?;
                self.must_look = true;
            }
            let holder = self.look().await?;
            self.must_look = false;
            let is_news = !self.told.as_ref().is_some_and(|told| is_same(told, &holder));
            self.told = Some(holder.clone());
            if is_news {
                return Ok(holder);
            }
        }
    }

    /// Who is elected. A look that was dropped goes on.
    async fn look(&mut self) -> Result<Option<Holder>, ClientError> {
        let looking = self.looking.get_or_insert_with(|| {
            let (client, name) = (self.client.clone(), self.name.clone());
            Underway::begin(async move { client.leader_of(&name).await })
        });
        let holder = looking.end().await;
        self.looking = None;
        holder.unwrap_or_else(|| Err(runtime_ended()))
    }

    /// Watches from now on. What was dropped goes on.
    async fn watch_anew(&mut self) -> Result<(), ClientError> {
        let rewatching = self.rewatching.get_or_insert_with(|| {
            let (client, options) = (self.client.clone(), claims_of(&self.name));
            Underway::begin(async move { client.watch(options).await })
        });
        let watch = rewatching.end().await;
        self.rewatching = None;
        self.watch = watch.unwrap_or_else(|| Err(runtime_ended()))?;
        Ok(())
    }

    /// Waits for a change of the claims.
    async fn something_happens(&mut self) -> Result<(), ClientError> {
        // What happened is not known any more, but how it is now.
        if self.rewatching.is_some() {
            return self.watch_anew().await;
        }
        loop {
            match self.watch.step().await {
                Ok(WatchStep::Changes(_)) => return Ok(()),
                Ok(WatchStep::Progress(_)) => {}
                Err(ClientError::Compacted { .. }) => return self.watch_anew().await,
                Err(error) => return Err(error),
            }
        }
    }
}

fn runtime_ended() -> ClientError {
    let last = "the runtime of the observer has ended".to_owned();
    ClientError::Unreachable { attempts: 1, last }
}

/// Whether the same one says the same.
fn is_same(a: &Option<Holder>, b: &Option<Holder>) -> bool {
    let said = |holder: &Option<Holder>| {
        holder.as_ref().map(|holder| (holder.token, holder.value.clone()))
    };
    said(a) == said(b)
}
