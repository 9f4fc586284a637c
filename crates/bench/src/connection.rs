//! One logical client's connection to one node, in the protocol of the
//! cluster that is measured.

use std::net::SocketAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::etcd::EtcdConnection;
use crate::request_error::{ErrorKind, RequestError};
use crate::synod::SynodConnection;

/// What kind of cluster is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Synod over HTTP/1.1.
    #[default]
    Synod,
    /// etcd v3 over gRPC.
    Etcd,
}

/// An open connection to one node.
#[derive(Debug)]
pub(crate) enum Connection {
    Synod(SynodConnection),
    Etcd(Box<EtcdConnection>),
}

impl Connection {
    pub(crate) async fn open(protocol: Protocol, node: SocketAddr) -> Result<Self, RequestError> {
        let stream = tokio::net::TcpStream::connect(node).await.map_err(|error| {
            RequestError::unsent(match error.kind() {
                std::io::ErrorKind::ConnectionRefused => ErrorKind::Refused,
                _ => ErrorKind::Connect,
            })
        })?;
        stream.set_nodelay(true).map_err(|_| RequestError::unsent(ErrorKind::Connect))?;
        match protocol {
            Protocol::Synod => Ok(Self::Synod(SynodConnection::new(stream, node))),
            Protocol::Etcd => Ok(Self::Etcd(Box::new(EtcdConnection::new(stream, node).await?))),
        }
    }

    /// Gives the body of the answer.
    pub(crate) async fn put(&mut self, key: &[u8], value: &Bytes) -> Result<Bytes, RequestError> {
        match self {
            Self::Synod(connection) => connection.put(key, value).await,
            Self::Etcd(connection) => connection.put(key, value).await,
        }
    }

    /// A linearizable read; none if the key does not exist.
    pub(crate) async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, RequestError> {
        match self {
            Self::Synod(connection) => connection.get(key).await,
            Self::Etcd(connection) => connection.get(key).await,
        }
    }

    /// Whether another request may follow on this connection.
    pub(crate) fn is_open(&self) -> bool {
        match self {
            Self::Synod(connection) => connection.is_open(),
            Self::Etcd(_) => true,
        }
    }
}
