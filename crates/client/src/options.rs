//! How a client behaves, and what a call may ask for.

use std::time::Duration;

use bytes::Bytes;
use synod_kv::http::Encoding;
use synod_kv::{Condition, LeaseId, Revision};

use crate::answer::Page;
use crate::error::ClientError;
use crate::target::Target;

/// How a [`crate::Client`] behaves.
///
/// Each write gets a name unless [`PutOptions::no_retry`] says otherwise, and the
/// cluster remembers names for ten minutes, up to a bound: about 7,500 new ones a
/// second can be given for long, by all clients together. Beyond that named writes are
/// refused (`idempotency-full`) until the oldest names expire.
#[derive(Clone, PartialEq, Debug)]
pub struct ClientOptions {
    /// A call, with all its attempts, takes at most this long. At most five
    /// minutes, for the names of writes are not remembered for ever.
    pub call_timeout: Duration,
    /// One attempt at one node takes at most this long. At most five minutes.
    pub attempt_timeout: Duration,
    /// A connection is made within this time. At most five minutes.
    pub connect_timeout: Duration,
    /// The wait before the second attempt at a node; it doubles with each further
    /// one. Each wait is drawn between nothing and its length.
    pub backoff_min: Duration,
    /// The longest of these waits.
    pub backoff_max: Duration,
    /// How many retries may be saved up. Zero: never retry.
    pub retries_saved_max: u32,
    /// How many retries each call adds to what is saved. In the long run a client
    /// sends at most this much more than it is asked for, so retries can't keep a
    /// cluster overloaded.
    pub retries_per_call: f64,
    /// Ask the leader first, if it is among the endpoints: a write through another
    /// node takes one hop more. Without it the client stays where it was answered.
    pub prefer_leader: bool,
    /// Idle connections that are kept to a node.
    pub idle_connections_max: usize,
    /// How long one is kept. Less than the servers keep it.
    pub idle_timeout: Duration,
    /// The largest answer that is read, in bytes.
    pub answer_bytes_max: usize,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            call_timeout: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_millis(500),
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_millis(500),
            retries_saved_max: 256,
            retries_per_call: 0.2,
            prefer_leader: true,
            idle_connections_max: 256,
            idle_timeout: Duration::from_secs(60),
            answer_bytes_max: 64 * 1024 * 1024,
        }
    }
}

/// The longest call: well below the ten minutes that a name is remembered.
const TIMEOUT_MAX: Duration = Duration::from_secs(300);

impl ClientOptions {
    /// Checks that the options fit together.
    pub(crate) fn check(&self) -> Result<(), ClientError> {
        let positive = [self.call_timeout, self.attempt_timeout, self.connect_timeout];
        if positive.iter().any(|time| *time < Duration::from_millis(1)) {
            return Err(ClientError::invalid("a time-out must be at least one millisecond"));
        }
        if positive.iter().any(|time| *time > TIMEOUT_MAX) {
            return Err(ClientError::invalid("a time-out must be at most five minutes"));
        }
        if !(0.0..=10.0).contains(&self.retries_per_call) {
            return Err(ClientError::invalid("retries_per_call must be from 0 to 10"));
        }
        Ok(())
    }
}

/// Which state a read shows.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Consistency {
    /// Every write that was acknowledged before the call.
    #[default]
    Linearizable,
    /// Whatever the node has. Needs no other node.
    Stale,
}

/// What a read may ask for.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ReadOptions {
    /// Which state.
    pub consistency: Consistency,
    /// Wait until the node has this revision.
    pub min_revision: Option<Revision>,
    /// Show the data as they were at this revision, not below `min_revision`.
    pub revision: Option<Revision>,
}

/// What a put may ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PutOptions {
    /// Store only if.
    pub condition: Condition,
    /// Bring back the record that was replaced.
    pub want_previous: bool,
    /// The write's name; none: the client makes one.
    ///
    /// A name that a client made comes back with [`ClientError::Ambiguous`], or from
    /// [`crate::Client::new_name`]. Give it here to ask for the outcome again: the write has
    /// effect once in all. It is sent for ten minutes after it was made, and later that is
    /// `Ambiguous` again, without being sent: the cluster may have forgotten it, and then
    /// it would have effect a second time. How old other names are only you know.
    pub idempotency_key: Option<String>,
    /// Send it without a name of the client's making, and again only if it certainly
    /// had no effect. For many writes a second that may as well be done twice, or
    /// whose outcome may stay unknown: a name can't be given later.
    pub no_retry: bool,
    /// What the key lives under; not for deletes.
    pub attach: Attach,
}

/// What a key lives under.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Attach {
    /// Nothing: it stays until it is removed. A key under a lease is taken off it.
    #[default]
    Nothing,
    /// A lease: the key is removed when that ends.
    To(LeaseId),
    /// A lease of its own with this time to live, which is granted first. Nothing keeps it
    /// alive unless you do ([`Stored::lease`](crate::Stored::lease)).
    Own {
        /// From a second on, in whole milliseconds.
        ttl: Duration,
    },
}

/// What a delete may ask for.
pub type DeleteOptions = PutOptions;

/// How a write is sent that asks for nothing else: a range delete, a transaction, a compaction,
/// the grant and the end of a lease.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct WriteOptions {
    /// Its name; none: the client makes one, unless it only reads. As
    /// [`PutOptions::idempotency_key`].
    pub idempotency_key: Option<String>,
    /// Send it without a name of the client's making, and again only if it certainly had no
    /// effect.
    pub no_retry: bool,
}

/// How a transaction is sent.
pub type TransactionOptions = WriteOptions;

impl From<&WriteOptions> for PutOptions {
    fn from(options: &WriteOptions) -> Self {
        let WriteOptions { idempotency_key, no_retry } = options.clone();
        Self { idempotency_key, no_retry, ..Self::default() }
    }
}

impl Default for PutOptions {
    fn default() -> Self {
        Self {
            condition: Condition::Always,
            want_previous: false,
            idempotency_key: None,
            no_retry: false,
            attach: Attach::Nothing,
        }
    }
}

impl PutOptions {
    /// With this condition.
    #[must_use]
    pub fn only_if(condition: Condition) -> Self {
        Self { condition, ..Self::default() }
    }

    /// Under this lease.
    #[must_use]
    pub fn under(lease: LeaseId) -> Self {
        Self { attach: Attach::To(lease), ..Self::default() }
    }
}

/// What a listing shows.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ListOptions {
    /// Keys that begin with this.
    pub prefix: Bytes,
    /// The lowest key.
    pub start: Option<Bytes>,
    /// The first key beyond the range.
    pub end: Option<Bytes>,
    /// At most so many keys; none: as many as the node likes.
    pub limit: Option<u32>,
    /// Highest key first.
    pub reverse: bool,
    /// Leave the values out.
    pub keys_only: bool,
    /// Only count.
    pub count_only: bool,
    /// Which state.
    pub read: ReadOptions,
    /// How keys and values travel; the result is the same.
    pub encoding: Encoding,
}

impl ListOptions {
    /// Every key that begins with `prefix`.
    #[must_use]
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        Self { prefix: prefix.into(), ..Self::default() }
    }

    pub(crate) fn target(&self) -> Target {
        let mut target = Target::new("/v1/kv").with_read(&self.read);
        if !self.prefix.is_empty() {
            target = target.with("prefix", &self.prefix);
        }
        for (name, bound) in [("start", &self.start), ("end", &self.end)] {
            if let Some(bound) = bound {
                target = target.with(name, bound);
            }
        }
        if let Some(limit) = self.limit {
            target = target.with("limit", limit.to_string().as_bytes());
        }
        if self.encoding == Encoding::Base64 {
            target = target.with("encoding", b"base64");
        }
        target
            .with_flag("reverse", self.reverse)
            .with_flag("keys_only", self.keys_only)
            .with_flag("count_only", self.count_only)
    }

    /// Whether a page that ends here leads on: else it would be asked for for ever.
    pub(crate) fn is_left_behind(&self, next: &Bytes) -> bool {
        match self.reverse {
            true => self.end.as_ref().is_none_or(|end| next < end),
            false => *next > self.start.clone().unwrap_or_default(),
        }
    }

    /// The same question for what follows a page, at the page's revision: all pages show
    /// one state. None if it was the last one.
    #[must_use]
    pub fn after(mut self, page: &Page) -> Option<Self> {
        let next = page.next.clone()?;
        if self.reverse {
            self.end = Some(next);
        } else {
            self.start = Some(next);
        }
        self.read.revision = Some(page.revision);
        // Another node may be asked, and be behind the first one.
        self.read.min_revision = Some(page.revision);
        Some(self)
    }
}
