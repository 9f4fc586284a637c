//! A backup, which is too long to be held as other answers are.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::error::ClientError;
use crate::silence::Silence;

/// A node that sends nothing for this long is not waited for.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A backup on its way from one node.
#[derive(Debug)]
pub struct Backup {
    body: Incoming,
    node: String,
    silence: Silence,
}

impl Backup {
    pub(crate) fn new(body: Incoming, node: String) -> Self {
        Self { body, node, silence: Silence::default() }
    }

    /// The base URL of the node that makes it.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The next bytes; none at the end. Whether it is whole is told by the backup itself. Nothing
    /// is lost if the future is dropped before.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when the connection breaks or falls silent.
    pub async fn next(&mut self) -> Result<Option<bytes::Bytes>, ClientError> {
        let cut = |last: String| ClientError::Unreachable { attempts: 1, last };
        loop {
            let frame = self.silence.wait(SILENCE_MAX, self.body.frame()).await;
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
