//! Locks and elections: what both are, and their plain calls. [`crate::LockGuard`] and
//! [`crate::Leadership`] hold them.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use synod_kv::http::{ClaimBody, HeldBody, HolderBody, ProblemKind, ReleasedBody, ValueText};
use synod_kv::{LeaseId, Revision};
use tokio::time::Instant;

use crate::answer_body::{document, garbled, refusal};
use crate::claimed::Claimed;
use crate::client::{Client, garbled_write};
use crate::error::ClientError;
use crate::json_text::value_text;
use crate::lease::{post, to_json};
use crate::options::PutOptions;
use crate::retry::{Repeat, Times};
use crate::target::{Target, percent_encode, time_text};

/// The longest wait that one request asks for: within what a node lets a request take.
const TURN_MAX: Duration = Duration::from_secs(44);
/// What a request may take beside its wait.
const TURN_EXTRA: Duration = Duration::from_secs(5);

/// A claim whose lease nobody confirmed while it waited.
fn unconfirmed() -> ClientError {
    let last = "nobody confirmed in time that the lease of the claim lives".to_owned();
    ClientError::Unreachable { attempts: 1, last }
}

/// What can be claimed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Office {
    Lock,
    Election,
}

/// How to ask for a lock or an office.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClaimOptions {
    /// How long it is held when its holder falls silent: from a second on, in whole
    /// milliseconds. The guard renews that by itself.
    pub ttl: Duration,
    /// How long to wait for it; none: as long as it takes. Who asks first gets it first, but
    /// after about three quarters of a minute one that waits asks again, behind all others.
    pub wait: Option<Duration>,
}

impl Default for ClaimOptions {
    /// Ten seconds, and no wait.
    fn default() -> Self {
        Self { ttl: Duration::from_secs(10), wait: Some(Duration::ZERO) }
    }
}

/// Who holds a lock, or won an election.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// The lease under which it is held.
    pub lease: LeaseId,
    /// The fencing token.
    pub token: Revision,
    /// What the winner of an election says.
    pub value: Option<Bytes>,
    /// How long it is held at the least; only the leader of the cluster knows.
    pub remaining: Option<Duration>,
    /// How many wait for it.
    pub waiters: u64,
}

/// What the winner of an election says, and the name under which it is said once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Word<'a> {
    pub(crate) value: &'a [u8],
    pub(crate) name: String,
}

/// What is held under a lease.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) office: Office,
    pub(crate) name: Vec<u8>,
    pub(crate) token: Revision,
}

impl Held {
    /// Whether it certainly is not held any more, while the lease lives.
    pub(crate) async fn is_lost(&self, client: &Client) -> bool {
        let holder = client.holder(self.office, &self.name).await;
        holder.is_ok_and(|holder| holder.is_none_or(|holder| holder.token != self.token))
    }
}

impl Office {
    pub(crate) fn target(self, name: &[u8]) -> Result<Target, ClientError> {
        if name.is_empty() {
            return Err(ClientError::invalid("a name has at least one byte"));
        }
        let kind = match self {
            Office::Lock => "lock",
            Office::Election => "election",
        };
        Ok(Target::new(&format!("/v1/{kind}/{}", percent_encode(name))))
    }
}

impl Client {
    /// Who holds a lock; none when it is free.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn lock_holder(&self, name: &[u8]) -> Result<Option<Holder>, ClientError> {
        self.holder(Office::Lock, name).await
    }

    /// Lets a lock go that was taken with this token, whoever holds it: for operators. False when
    /// it is not held with it.
    ///
    /// # Errors
    /// See [`ClientError`]; `Ambiguous` when it may have been let go.
    pub async fn unlock(&self, name: &[u8], token: Revision) -> Result<bool, ClientError> {
        self.release(Office::Lock, name, token).await
    }

    /// Claims under a lease of its own, which is kept alive from before the claim on; none
    /// when somebody else has it until the wait is over.
    pub(crate) async fn claim(
        &self,
        office: Office,
        name: &[u8],
        value: Option<&[u8]>,
        options: &ClaimOptions,
    ) -> Result<Option<Claimed>, ClientError> {
        let target = office.target(name)?;
        let until = match options.wait {
            None => None,
            Some(wait) => {
                let until = Instant::now().checked_add(wait);
                Some(until.ok_or_else(|| ClientError::invalid("so long a wait has no end"))?)
            }
        };
        // No lease is taken for what would not be waited for.
        if options.wait == Some(Duration::ZERO) && self.holder(office, name).await?.is_some() {
            return Ok(None);
        }
        // Asked for under a lease that is there, it can be asked for again as often as it takes.
        let mut keeper = self.grant_kept(options.ttl).await?;
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let turn = left.unwrap_or(TURN_MAX).min(TURN_MAX);
            let turn = Duration::from_millis(u64::try_from(turn.as_millis()).unwrap_or(0));
            // An attempt that comes late must not say this again when something else was said.
            // To claim again does no harm.
            let word = value.map(|value| Word { value, name: self.new_name() });
            let under = (&target, keeper.id());
            let claimed = self.claim_once(under, word.as_ref(), turn, &Repeat::Freely).await;
            let error = match claimed {
                Ok(Some(token)) if keeper.is_held() => {
                    keeper.hold(Held { office, name: name.to_vec(), token });
                    return Ok(Some(Claimed::new(keeper, token)));
                }
                Ok(None) if left.is_some_and(|left| left <= TURN_MAX) => {
                    // Nobody has to wait until it is gone; if this fails it ends by itself.
                    let _ = keeper.close().await;
                    return Ok(None);
                }
                Ok(None) if keeper.is_held() => continue,
                Ok(_) => unconfirmed(),
                Err(error) if error.is_lease_over() => error,
                Err(error) => return Err(error),
            };
            // The lease ended during the wait, or may have: what is claimed under it would be
            // another's before its holder hears of that. There is nothing wrong with the wait.
            let _ = keeper.close().await;
            if until.is_some_and(|until| Instant::now() >= until) {
                return Err(error);
            }
            keeper = self.grant_kept(options.ttl).await?;
        }
    }

    /// Claims under a lease, and waits for so long; none when it was held by another.
    pub(crate) async fn claim_once(
        &self,
        (target, lease): (&Target, LeaseId),
        word: Option<&Word<'_>>,
        wait: Duration,
        repeat: &Repeat,
    ) -> Result<Option<Revision>, ClientError> {
        let (value, value_base64) = match word.map(|word| value_text(word.value)) {
            None => (None, None),
            Some(ValueText::Text(text)) => (Some(text), None),
            Some(ValueText::Base64(text)) => (None, Some(text)),
        };
        let (lease, wait_text) = (Some(lease.0), Some(time_text(wait)?));
        let body = ClaimBody { ttl: None, lease, wait: wait_text, value, value_base64 };
        let message = match word {
            None => post(target.as_str().to_owned(), to_json(&body)),
            Some(Word { name, .. }) => {
                let idempotency_key = Some(name.clone());
                let options = PutOptions { idempotency_key, ..PutOptions::default() };
                self.write(Method::POST, target, &options, to_json(&body))?.0
            }
        };
        // Nodes keep a tenth of a request's time for themselves.
        let attempt = (wait * 5 / 4 + TURN_EXTRA).max(self.retrier().options.attempt_timeout);
        let call = attempt + self.retrier().options.call_timeout;
        let times = Times { call, attempt };
        match self.retrier().call_within(&message, repeat, times).await {
            Ok((answer, attempts)) => {
                let held = document::<HeldBody>(&answer);
                let held = held.ok_or_else(|| match repeat {
                    Repeat::Freely => garbled(),
                    repeat => garbled_write(attempts, repeat),
                })?;
                Ok(Some(Revision(held.token)))
            }
            Err(ClientError::Refused(problem)) if problem.kind() == Some(ProblemKind::LockHeld) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn holder(
        &self,
        office: Office,
        name: &[u8],
    ) -> Result<Option<Holder>, ClientError> {
        let answer = self.read(&office.target(name)?).await?;
        if answer.status != StatusCode::OK {
            return Err(refusal(&answer));
        }
        let body: HolderBody = document(&answer).ok_or_else(garbled)?;
        let (Some(lease), Some(token), true) = (body.lease, body.token, body.held) else {
            return Ok(None);
        };
        let value = body.value.map(|value| value.to_bytes().ok_or_else(garbled)).transpose()?;
        Ok(Some(Holder {
            lease: LeaseId(lease),
            token: Revision(token),
            value: value.map(Bytes::from),
            remaining: body.remaining_ms.map(Duration::from_millis),
            waiters: body.waiters,
        }))
    }

    pub(crate) async fn release(
        &self,
        office: Office,
        name: &[u8],
        token: Revision,
    ) -> Result<bool, ClientError> {
        let target = office.target(name)?.with("token", token.to_string().as_bytes());
        let options = PutOptions::default();
        let (message, repeat) = self.write(Method::DELETE, &target, &options, Bytes::new())?;
        match self.retrier().call(&message, &repeat).await {
            Ok((answer, attempts)) => document::<ReleasedBody>(&answer)
                .map(|_| true)
                .ok_or_else(|| garbled_write(attempts, &repeat)),
            Err(ClientError::Refused(problem))
                if problem.kind() == Some(ProblemKind::LockNotHeld) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}
