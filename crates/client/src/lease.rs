//! The calls about leases, under which keys live. [`crate::LeaseKeeper`] keeps one alive.

use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Method, StatusCode};
use serde::Serialize;
use synod_kv::http::{
    GrantBody, GrantedBody, KeepAliveBody, KeptBody, KeptLease, LeaseBody, LeasesBody, RevokedBody,
};
use synod_kv::{KEEP_ALIVES_MAX, LeaseId, Revision};

use crate::answer_body::{document, garbled, refusal};
use crate::attempt::Message;
use crate::client::{Client, garbled_write};
use crate::error::ClientError;
use crate::options::{ReadOptions, WriteOptions};
use crate::retry::{Repeat, Times};
use crate::target::{Target, decode, time_text};

const LEASES: &str = "/v1/lease";

/// A lease that was granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Granted {
    /// Its id.
    pub id: LeaseId,
    /// How long it lives without being renewed.
    pub ttl: Duration,
}

/// A lease that was ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Revoked {
    /// The store's revision with that.
    pub revision: Revision,
    /// How many keys went with it.
    pub deleted: u64,
    /// It has further keys, which go soon.
    pub more: bool,
}

/// What is known about a lease.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseInfo {
    /// Its id.
    pub id: LeaseId,
    /// How long it lives without being renewed.
    pub ttl: Duration,
    /// How long it still lives at the least. Only the leader knows.
    pub remaining: Option<Duration>,
    /// It is coming to its end: it takes no keys and can't be renewed.
    pub is_ending: bool,
    /// The keys that live under it; empty in lists.
    pub keys: Vec<Bytes>,
}

/// A page of leases in the order of their ids.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeasePage {
    /// The leases, without their keys.
    pub leases: Vec<LeaseInfo>,
    /// Where the next page begins; none on the last one.
    pub next: Option<LeaseId>,
}

impl Client {
    /// Grants a lease with this time to live: from a second to 366 days, in whole
    /// milliseconds, unless the servers' settings say otherwise. It gets the id that is
    /// given, which must be one that [may be chosen](LeaseId::may_be_chosen), or one that no
    /// other lease ever gets.
    ///
    /// # Errors
    /// See [`ClientError`]; refused with `LeaseExists` when the id is taken, and `Ambiguous` when
    /// it may have been granted: it ends by itself then.
    pub async fn grant(
        &self,
        ttl: Duration,
        id: Option<LeaseId>,
        options: &WriteOptions,
    ) -> Result<Granted, ClientError> {
        let body = GrantBody { ttl: time_text(ttl)?, id: id.map(|id| id.0) };
        let target = Target::new(LEASES);
        let (message, repeat) =
            self.write(Method::POST, &target, &options.into(), to_json(&body))?;
        let (answer, attempts) = self.retrier().call(&message, &repeat).await?;
        let granted = document::<GrantedBody>(&answer);
        let granted = granted.ok_or_else(|| garbled_write(attempts, &repeat))?;
        Ok(Granted { id: LeaseId(granted.id), ttl: Duration::from_millis(granted.ttl_ms) })
    }

    /// Renews a lease once: from when this was called on it lives for its full time, which is
    /// answered. None when it is over.
    ///
    /// # Errors
    /// See [`ClientError`]. Whether it was renewed is not known then; ask again, which does no
    /// harm.
    pub async fn keep_alive(&self, id: LeaseId) -> Result<Option<Duration>, ClientError> {
        let options = &self.retrier().options;
        let times = Times { call: options.call_timeout, attempt: options.attempt_timeout };
        self.keep_alive_within(id, times).await
    }

    /// Renews many leases at once, in calls of at most 4,096. Each answer stands in the place
    /// of its lease.
    ///
    /// # Errors
    /// As [`Client::keep_alive`]; some may have been renewed.
    pub async fn keep_alive_all(
        &self,
        ids: &[LeaseId],
    ) -> Result<Vec<Option<Duration>>, ClientError> {
        let mut kept = Vec::with_capacity(ids.len());
        for ids in ids.chunks(KEEP_ALIVES_MAX) {
            let body = KeepAliveBody { ids: ids.iter().map(|id| id.0).collect() };
            let message = post("/v1/lease/keepalive".to_owned(), to_json(&body));
            let (answer, _) = self.retrier().call(&message, &Repeat::Freely).await?;
            let KeptBody { leases } = document(&answer).ok_or_else(garbled)?;
            if !leases.iter().map(|lease| lease.id).eq(ids.iter().map(|id| id.0)) {
                return Err(garbled());
            }
            kept.extend(leases.iter().map(|lease| lease.ttl_ms.map(Duration::from_millis)));
        }
        Ok(kept)
    }

    /// Ends a lease, and removes its keys; none when there is none.
    ///
    /// # Errors
    /// See [`ClientError`]; `Ambiguous` when it may have been ended.
    pub async fn revoke(
        &self,
        id: LeaseId,
        options: &WriteOptions,
    ) -> Result<Option<Revoked>, ClientError> {
        let target = Target::new(&format!("{LEASES}/{id}"));
        let (message, repeat) =
            self.write(Method::DELETE, &target, &options.into(), Bytes::new())?;
        let called = self.retrier().call(&message, &repeat).await;
        let Some((answer, attempts)) = unless_over(called)? else { return Ok(None) };
        let body = document::<RevokedBody>(&answer);
        let RevokedBody { revision, deleted, more, .. } =
            body.ok_or_else(|| garbled_write(attempts, &repeat))?;
        Ok(Some(Revoked { revision: Revision(revision), deleted, more }))
    }

    /// A lease with all its keys; none when there is none. Between two pages of very many keys
    /// some may come and go.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn lease(
        &self,
        id: LeaseId,
        options: &ReadOptions,
    ) -> Result<Option<LeaseInfo>, ClientError> {
        let mut keys = Vec::new();
        let mut next: Option<Bytes> = None;
        loop {
            let path = format!("{LEASES}/{id}");
            let mut target = Target::new(&path).with_flag("keys", true).with_read(options);
            target = target.with("limit", b"1000");
            if let Some(next) = &next {
                target = target.with("start", next);
            }
            let Some(answer) = unless_over(self.read(&target).await)? else { return Ok(None) };
            let body: LeaseBody = document(&answer).ok_or_else(garbled)?;
            for key in body.keys.iter().flatten() {
                keys.push(key.to_bytes().map(Bytes::from).ok_or_else(garbled)?);
            }
            let Some(text) = &body.next else {
                return Ok(Some(LeaseInfo { keys, ..LeaseInfo::of(&body) }));
            };
            // What does not lead on would be asked for for ever.
            let last = next.unwrap_or_default();
            let further = decode(text).filter(|further| *further > last);
            next = Some(further.ok_or_else(garbled)?);
        }
    }

    /// A page of leases, from this id on, as they are when it is asked for: no older state of
    /// leases is kept, so pages are not of one moment.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn leases(&self, from: LeaseId, limit: u32) -> Result<LeasePage, ClientError> {
        let target = Target::new(LEASES)
            .with("from", from.to_string().as_bytes())
            .with("limit", limit.to_string().as_bytes());
        let answer = self.read(&target).await?;
        if answer.status != StatusCode::OK {
            return Err(refusal(&answer));
        }
        let LeasesBody { leases, next } = document(&answer).ok_or_else(garbled)?;
        if next.is_some_and(|next| next <= from.0) {
            return Err(garbled());
        }
        let leases = leases.iter().map(LeaseInfo::of).collect();
        Ok(LeasePage { leases, next: next.map(LeaseId) })
    }

    pub(crate) async fn keep_alive_within(
        &self,
        id: LeaseId,
        times: Times,
    ) -> Result<Option<Duration>, ClientError> {
        let message = post(format!("{LEASES}/{id}/keepalive"), Bytes::new());
        let called = self.retrier().call_within(&message, &Repeat::Freely, times).await;
        let Some((answer, _)) = unless_over(called)? else { return Ok(None) };
        let kept = document::<KeptLease>(&answer);
        let ttl_ms = kept.and_then(|kept| kept.ttl_ms).ok_or_else(garbled)?;
        Ok(Some(Duration::from_millis(ttl_ms)))
    }
}

impl LeaseInfo {
    fn of(body: &LeaseBody) -> Self {
        Self {
            id: LeaseId(body.id),
            ttl: Duration::from_millis(body.ttl_ms),
            remaining: body.remaining_ms.map(Duration::from_millis),
            is_ending: body.ending,
            keys: Vec::new(),
        }
    }
}

/// What a call about a lease gave; none if there is no such lease.
fn unless_over<T>(called: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
    match called {
        Err(error) if error.is_lease_over() => Ok(None),
        called => called.map(Some),
    }
}

pub(crate) fn post(target: String, body: Bytes) -> Message {
    Message { method: Method::POST, target, headers: HeaderMap::new(), body }
}

pub(crate) fn to_json(body: &impl Serialize) -> Bytes {
    serde_json::to_vec(body).expect("plain fields").into()
}
