//! Forgetting old revisions.

use bytes::Bytes;
use http::{Method, StatusCode};
use synod_kv::Revision;
use synod_kv::http::{CompactBody, CompactedBody};

use crate::answer_body::document;
use crate::client::{Client, garbled_write, unfit};
use crate::error::ClientError;
use crate::options::WriteOptions;
use crate::target::Target;

/// A compaction that was carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Compacted {
    /// The store's revision.
    pub revision: Revision,
    /// The oldest revision that can be read from now on.
    pub oldest: Revision,
}

impl Client {
    /// Forgets what was replaced or removed before `revision`, which is the oldest that can be
    /// read and watched from then on.
    ///
    /// # Errors
    /// See [`ClientError`]; a refusal is `AlreadyCompacted` when there is nothing to do and
    /// `FutureRevision` when there is no such revision yet.
    pub async fn compact(
        &self,
        revision: Revision,
        options: &WriteOptions,
    ) -> Result<Compacted, ClientError> {
        let body = serde_json::to_vec(&CompactBody { revision: revision.0 }).expect("plain fields");
        let target = Target::new("/v1/compact");
        let body = Bytes::from(body);
        let (message, repeat) = self.write(Method::POST, &target, &options.into(), body)?;
        let (answer, attempts) = self.retrier().call(&message, &repeat).await?;
        if answer.status != StatusCode::OK {
            return Err(unfit(&answer, attempts, &repeat));
        }
        let Some(body) = document::<CompactedBody>(&answer) else {
            return Err(garbled_write(attempts, &repeat));
        };
        let CompactedBody { revision, compacted_revision } = body;
        Ok(Compacted { revision: Revision(revision), oldest: Revision(compacted_revision) })
    }
}
