//! A backup, which is too long to be held as other answers are.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::error::ClientError;

/// A node that sends nothing for this long is not waited for.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A backup on its way from one node.
#[derive(Debug)]
pub struct Backup {
    pub(crate) body: Incoming,
    pub(crate) node: String,
}

impl Backup {
    /// The base URL of the node that makes it.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The next bytes; none at the end. Whether it is whole is told by the backup itself.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when the connection breaks or falls silent.
    pub async fn next(&mut self) -> Result<Option<bytes::Bytes>, ClientError> {
        let cut = |last: String| ClientError::Unreachable { attempts: 1, last };
        loop {
            let frame = timeout(SILENCE_MAX, self.body.frame()).await;
            let frame = frame.map_err(|_| cut(format!("{} sends nothing any more", self.node)))?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| cut(format!("the backup was cut off: {error}")))?;
            // Trailers say nothing about a backup.
            if let Ok(bytes) = frame.into_data() {
                return Ok(Some(bytes));
            }
        }
    }
}
