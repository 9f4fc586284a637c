//! Removing all keys of a range.

use bytes::Bytes;
use http::{Method, StatusCode};
use synod_kv::Revision;
use synod_kv::http::DeleteBody;

use crate::answer::Removed;
use crate::answer_body::{document, garbled};
use crate::client::{Client, garbled_write, unfit};
use crate::error::ClientError;
use crate::options::{PutOptions, WriteOptions};
use crate::retry::Repeat;
use crate::target::Target;

/// So many range deletes in a row that do not get on and say that there is more.
const IDLE_DELETES_MAX: u32 = 16;
/// So many range deletes for one range. A node that says that there is more was at it for the time
/// of a request, and each of its commands removed 10,000 keys unless it is set otherwise.
const DELETES_MAX: u32 = 100_000;

/// The longest name of a range delete: that of each further request has a number behind it.
const NAME_BYTES_MAX: usize = 248;

impl Client {
    /// Removes every key that begins with `prefix`, which must not be empty. It is
    /// atomic up to the number of keys that one command takes (10,000 by default).
    ///
    /// # Errors
    /// See [`ClientError`]; `Ambiguous` when some may have been removed. The rest is removed
    /// under the name that it has; under a name that you gave, the answer counts all keys.
    pub async fn delete_prefix(
        &self,
        prefix: &[u8],
        options: &WriteOptions,
    ) -> Result<Removed, ClientError> {
        if prefix.is_empty() {
            return Err(ClientError::invalid("the empty prefix means all keys: see delete_all"));
        }
        self.delete_range(&Target::new("/v1/kv").with("prefix", prefix), options).await
    }

    /// Removes every key there is.
    ///
    /// # Errors
    /// As [`Client::delete_prefix`].
    pub async fn delete_all(&self, options: &WriteOptions) -> Result<Removed, ClientError> {
        self.delete_range(&Target::new("/v1/kv").with_flag("all", true), options).await
    }

    async fn delete_range(
        &self,
        target: &Target,
        options: &WriteOptions,
    ) -> Result<Removed, ClientError> {
        let whole = options.idempotency_key.as_ref();
        if whole.is_some_and(|name| name.len() > NAME_BYTES_MAX) {
            let reason = "the idempotency key of a range delete has at most 248 characters";
            return Err(ClientError::invalid(reason));
        }
        let (mut deleted, mut idle, mut reached) = (0, 0, 0);
        let mut last = Repeat::Freely;
        for request in 1..=DELETES_MAX {
            let options = PutOptions::from(&of_request(options, request));
            let (message, repeat) = self.write(Method::DELETE, target, &options, Bytes::new())?;
            let in_part = |error| in_part(error, deleted, whole.or(repeat.name()));
            let called = self.retrier().call(&message, &repeat).await;
            let (answer, attempts) = called.map_err(in_part)?;
            if answer.status != StatusCode::OK {
                return Err(in_part(unfit(&answer, attempts, &repeat)));
            }
            let Some(body) = document::<DeleteBody>(&answer) else {
                return Err(in_part(garbled_write(attempts, &repeat)));
            };
            deleted += body.deleted;
            if !body.more {
                return Ok(Removed { revision: Revision(body.revision), deleted });
            }
            // A node may pass by what others removed, but not for ever. What removes something is
            // a new revision.
            let gets_on = body.deleted > 0 && body.revision > reached;
            reached = reached.max(body.revision);
            idle = if gets_on { 0 } else { idle + 1 };
            last = repeat;
            if idle == IDLE_DELETES_MAX {
                break;
            }
        }
        Err(in_part(garbled(), deleted, whole.or(last.name())))
    }
}

/// How a request of a range delete is sent: a name that the caller gave to the whole is that of
/// the first one, and each further one has its own, which is the same when all are sent again.
fn of_request(options: &WriteOptions, request: u32) -> WriteOptions {
    let name = options.idempotency_key.as_ref().filter(|_| request > 1);
    match name {
        Some(name) => {
            WriteOptions { idempotency_key: Some(format!("{name}/{request}")), ..*options }
        }
        None => options.clone(),
    }
}

/// What the end of a range delete becomes when requests before it removed keys: even a
/// refusal does not mean any more that there was no effect.
fn in_part(error: ClientError, deleted: u64, name: Option<&String>) -> ClientError {
    let idempotency_key = name.cloned();
    match error {
        ClientError::Ambiguous { attempts, last, .. } => {
            ClientError::Ambiguous { attempts, last, idempotency_key }
        }
        _ if deleted == 0 => error,
        error => ClientError::Ambiguous {
            attempts: 1,
            last: format!("{deleted} keys were removed, then: {error}"),
            idempotency_key,
        },
    }
}
