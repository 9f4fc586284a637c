//! One logical client: it talks to one node until that fails it, then goes on
//! to another.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::NodeId;
use crate::connection::{Connection, Protocol};
use crate::request_error::{ErrorKind, RequestError};

/// Which node a client talks to first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// The nodes in turn, so that each has as many clients as any other.
    #[default]
    Spread,
    /// All the leader, as it was at the start.
    Leader,
    /// All this one.
    Node(NodeId),
}

/// A client's connection, wherever it points now.
#[derive(Debug)]
pub(crate) struct Session {
    protocol: Protocol,
    nodes: Arc<[SocketAddr]>,
    at: usize,
    connection: Option<Connection>,
}

impl Session {
    /// Nothing is opened before the first request.
    pub(crate) fn new(protocol: Protocol, nodes: Arc<[SocketAddr]>, first: usize) -> Self {
        assert!(first < nodes.len(), "a session starts at one of its nodes");
        Self { protocol, nodes, at: first, connection: None }
    }

    /// The node of the next request, as an index into the nodes.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Gives the body of the answer.
    pub(crate) async fn put(
        &mut self,
        key: &[u8],
        value: &Bytes,
        patience: Duration,
    ) -> Result<Bytes, RequestError> {
        let connection = self.connection(patience).await?;
        let answer = timeout(patience, connection.put(key, value)).await;
        self.settle(answer.unwrap_or(Err(RequestError::unknown(ErrorKind::Timeout))))
    }

    pub(crate) async fn get(
        &mut self,
        key: &[u8],
        patience: Duration,
    ) -> Result<Option<Bytes>, RequestError> {
        let connection = self.connection(patience).await?;
        let answer = timeout(patience, connection.get(key)).await;
        self.settle(answer.unwrap_or(Err(RequestError::unsent(ErrorKind::Timeout))))
    }

    /// Goes on to the next node.
    pub(crate) fn move_on(&mut self) {
        self.connection = None;
        self.at = (self.at + 1) % self.nodes.len();
    }

    async fn connection(&mut self, patience: Duration) -> Result<&mut Connection, RequestError> {
        if self.connection.is_none() {
            let open = Connection::open(self.protocol, self.nodes[self.at]);
            let opened = timeout(patience, open).await;
            let opened = opened.unwrap_or(Err(RequestError::unsent(ErrorKind::Timeout)))?;
            self.connection = Some(opened);
        }
        Ok(self.connection.as_mut().expect("it was opened above"))
    }

    /// An answer that came late would be taken for the next request's, so a
    /// connection that failed in any way is given up.
    fn settle<T>(&mut self, answer: Result<T, RequestError>) -> Result<T, RequestError> {
        let spent = match &answer {
            Ok(_) => false,
            Err(error) => !error.keeps_connection(),
        };
        if spent || !self.connection.as_ref().is_some_and(Connection::is_open) {
            self.connection = None;
        }
        answer
    }
}
