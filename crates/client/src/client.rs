//! The calls.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use http::{Method, StatusCode};
use synod_kv::http::{DeleteBody, ListPage, PutBody, StatusBody};
use synod_kv::{Condition, LeaseId, Revision};

use crate::answer::{Deleted, Found, Page, Record, Stored};
use crate::answer_body::{document, garbled, refusal};
use crate::attempt::{Answer, Message};
use crate::backup::Backup;
use crate::endpoints::Endpoints;
use crate::error::ClientError;
use crate::name::Names;
use crate::options::{Attach, ClientOptions, DeleteOptions, ListOptions, PutOptions, ReadOptions};
use crate::retry::{Repeat, Retrier, give_up};
use crate::target::Target;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A client of one cluster. A clone shares connections and what is known about the
/// nodes. Its calls need a tokio runtime with time and IO.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    retrier: Retrier,
    names: Arc<Names>,
}

impl Client {
    /// A client that asks these nodes: base URLs such as `http://127.0.0.1:7001`, or
    /// hosts with ports. It connects with the first call.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] for no or wrong URLs, or options that don't fit.
    pub fn new<S: AsRef<str>>(
        endpoints: impl IntoIterator<Item = S>,
        options: ClientOptions,
    ) -> Result<Self, ClientError> {
        options.check()?;
        let urls: Vec<S> = endpoints.into_iter().collect();
        let retrier = Retrier::new(Endpoints::new(&urls)?, options);
        let names = Arc::clone(&retrier.names);
        Ok(Self { shared: Arc::new(Shared { retrier, names }) })
    }

    /// The base URLs of the nodes, in the order given.
    #[must_use]
    pub fn endpoints(&self) -> &[String] {
        self.shared.retrier.endpoints.bases()
    }

    /// What the names of all writes of this client and its clones begin with, unless the
    /// caller gave them: its session.
    #[must_use]
    pub fn session(&self) -> &str {
        self.shared.names.session()
    }

    /// A name for a write, for [`PutOptions::idempotency_key`]: to write it down before the
    /// write, and to ask under it again. It may be sent for ten minutes, which this client
    /// sees to; whoever else uses it must do so.
    #[must_use]
    pub fn new_name(&self) -> String {
        self.shared.names.next()
    }

    /// Stores a value.
    ///
    /// # Errors
    /// See [`ClientError`]; `Ambiguous` when it may have been stored.
    pub async fn put(
        &self,
        key: &[u8],
        value: impl Into<Bytes>,
        options: &PutOptions,
    ) -> Result<Stored, ClientError> {
        let target = Target::key(key)?.with_flag("prev", options.want_previous);
        let target = target.with_attach(options.attach)?;
        let (message, repeat) = self.write(Method::PUT, &target, options, value.into())?;
        let (answer, attempts) = self.shared.retrier.call(&message, &repeat).await?;
        if !answer.status.is_success() {
            return Err(refusal(&answer));
        }
        let stored = document::<PutBody>(&answer).and_then(|body| {
            Some(Stored {
                revision: Revision(body.revision),
                create_revision: Revision(body.create_revision),
                version: body.version,
                previous: previous(body.previous.as_ref())?,
                lease: lease_of(&answer),
                attempts,
            })
        });
        // A success all the same, but one without its revision: not to be trusted.
        stored.ok_or_else(|| garbled_write(attempts, &repeat))
    }

    /// The value of a key; none when it does not exist.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get(
        &self,
        key: &[u8],
        options: &ReadOptions,
    ) -> Result<Option<Found>, ClientError> {
        let target = Target::key(key)?.with_read(options);
        let answer = self.read(&target).await?;
        if answer.status != StatusCode::OK {
            return not_found(&answer).map(|()| None);
        }
        let number = |name: &str| answer.number(name).map(Revision);
        let tag = answer.text("etag").map(|tag| tag.trim_matches('"'));
        let mod_revision = tag.and_then(|tag| tag.parse().ok()).map(Revision);
        let found = (|| {
            Some(Found {
                value: answer.body.clone(),
                create_revision: number("synod-create-revision")?,
                mod_revision: mod_revision?,
                version: answer.number("synod-version")?,
                revision: number("synod-revision")?,
                lease: lease_of(&answer),
            })
        })();
        found.map(Some).ok_or_else(garbled)
    }

    /// Removes a key; none when it does not exist.
    ///
    /// # Errors
    /// See [`ClientError`]; `Ambiguous` when it may have been removed.
    pub async fn delete(
        &self,
        key: &[u8],
        options: &DeleteOptions,
    ) -> Result<Option<Deleted>, ClientError> {
        if options.attach != Attach::Nothing {
            return Err(ClientError::invalid("what is removed lives under no lease"));
        }
        let target = Target::key(key)?.with_flag("prev", options.want_previous);
        let (message, repeat) = self.write(Method::DELETE, &target, options, Bytes::new())?;
        let (answer, attempts) = self.shared.retrier.call(&message, &repeat).await?;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            _ => return Err(unfit(&answer, attempts, &repeat)),
        }
        let deleted = document::<DeleteBody>(&answer).and_then(|body| {
            let previous = previous(body.previous.as_ref())?;
            Some(Deleted { revision: Revision(body.revision), previous, attempts })
        });
        deleted.map(Some).ok_or_else(|| garbled_write(attempts, &repeat))
    }

    /// A page of keys.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn list(&self, options: &ListOptions) -> Result<Page, ClientError> {
        let target = options.target();
        let answer = self.read(&target).await?;
        if answer.status != StatusCode::OK {
            return Err(refusal(&answer));
        }
        document::<ListPage>(&answer)
            .and_then(|page| Page::from_body(&page))
            .filter(|page| page.next.as_ref().is_none_or(|next| options.is_left_behind(next)))
            .ok_or_else(garbled)
    }

    /// What a node says about itself and its cluster; whichever answers first.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn status(&self) -> Result<StatusBody, ClientError> {
        let answer = self.read(&Target::new("/v1/status")).await?;
        document(&answer).ok_or_else(garbled)
    }

    /// What one node says: the one at this place of [`Client::endpoints`]. It is asked
    /// once.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn status_of(&self, endpoint: usize) -> Result<StatusBody, ClientError> {
        if endpoint >= self.endpoints().len() {
            return Err(ClientError::invalid("there is no such endpoint"));
        }
        let message = read_message(&Target::new("/v1/status"));
        let answer = self.shared.retrier.call_node(endpoint, &message, &Repeat::Freely).await?;
        document(&answer).ok_or_else(garbled)
    }

    /// Begins a backup at the first of the nodes that makes one. It holds every write
    /// that was acknowledged before this call. Each node has the time of a call to begin.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn backup(&self) -> Result<Backup, ClientError> {
        let retrier = &self.shared.retrier;
        let mut error = ClientError::invalid("no endpoints");
        let message = read_message(&Target::new("/v1/snapshot"));
        for (node, base) in self.endpoints().iter().enumerate() {
            error = match retrier.open(node, &message, retrier.options.call_timeout).await {
                Ok(body) => return Ok(Backup::new(body, base.clone())),
                Err(setback) => give_up(setback, &Repeat::Freely, false, 1),
            };
        }
        Err(error)
    }

    pub(crate) fn retrier(&self) -> &Retrier {
        &self.shared.retrier
    }

    pub(crate) async fn read(&self, target: &Target) -> Result<Answer, ClientError> {
        let message = read_message(target);
        self.shared.retrier.call(&message, &Repeat::Freely).await.map(|(answer, _)| answer)
    }

    pub(crate) fn write(
        &self,
        method: Method,
        target: &Target,
        options: &PutOptions,
        body: Bytes,
    ) -> Result<(Message, Repeat), ClientError> {
        let mut headers = HeaderMap::new();
        match options.condition {
            Condition::Always => None,
            Condition::Absent => headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*")),
            Condition::Exists => headers.insert(IF_MATCH, HeaderValue::from_static("*")),
            Condition::At(revision) => {
                let tag = HeaderValue::from_str(&format!("\"{revision}\""));
                headers.insert(IF_MATCH, tag.expect("digits in quotes are a header value"))
            }
        };
        let repeat = match (&options.idempotency_key, options.no_retry) {
            (name, true) => Repeat::Never(name.clone()),
            (Some(name), false) => Repeat::Named(name.clone()),
            (None, false) => Repeat::Named(self.shared.names.next()),
        };
        if let Repeat::Named(name) | Repeat::Never(Some(name)) = &repeat {
            let is_visible = name.bytes().all(|byte| byte.is_ascii_graphic());
            let value = HeaderValue::from_str(name).ok();
            let value = value.filter(|_| is_visible && (1..=255).contains(&name.len()));
            let reason = "an idempotency key is 1 to 255 visible ASCII characters";
            headers.insert(IDEMPOTENCY_KEY, value.ok_or_else(|| ClientError::invalid(reason))?);
        }
        let target = target.as_str().to_owned();
        Ok((Message { method, target, headers, body }, repeat))
    }
}

fn lease_of(answer: &Answer) -> Option<LeaseId> {
    answer.number("synod-lease").map(LeaseId)
}

pub(crate) fn read_message(target: &Target) -> Message {
    Message {
        method: Method::GET,
        target: target.as_str().to_owned(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
    }
}

#[allow(clippy::option_option, reason = "the outer one is about the document")]
fn previous(body: Option<&synod_kv::http::RecordBody>) -> Option<Option<Record>> {
    body.map_or(Some(None), |body| Record::from_body(body).map(Some))
}

fn not_found(answer: &Answer) -> Result<(), ClientError> {
    if answer.status == StatusCode::NOT_FOUND { Ok(()) } else { Err(refusal(answer)) }
}

/// What a write becomes that was answered otherwise than it should be.
pub(crate) fn unfit(answer: &Answer, attempts: u32, repeat: &Repeat) -> ClientError {
    if answer.status.is_success() { garbled_write(attempts, repeat) } else { refusal(answer) }
}

/// What a write becomes whose success can't be read: it may have had effect.
pub(crate) fn garbled_write(attempts: u32, repeat: &Repeat) -> ClientError {
    let idempotency_key = repeat.name().cloned();
    let last = "a success in a form that no node gives".to_owned();
    ClientError::Ambiguous { attempts, last, idempotency_key }
}
