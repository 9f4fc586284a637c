//! One logical client's connection to one node, in the protocol of the
//! cluster that is measured, and what can go wrong on it.

use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::etcd::EtcdConnection;
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

/// Whether a request that failed may have had its effect all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It had none and never will.
    NotApplied,
    /// It may have had it, or may still get it.
    Unknown,
}

/// How a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorKind {
    /// Nobody listens at the node's address.
    Refused,
    /// The connection could not be opened for another reason.
    Connect,
    /// No answer within the client's patience.
    Timeout,
    /// The connection broke before the answer.
    Broken,
    /// An answer that says no, by its HTTP status.
    Status(u16),
    /// An answer that says no, by its gRPC status.
    Grpc(u32),
    /// Bytes that are no answer of this protocol.
    Malformed,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => write!(f, "connection refused"),
            Self::Connect => write!(f, "cannot connect"),
            Self::Timeout => write!(f, "timeout"),
            Self::Broken => write!(f, "connection broken"),
            Self::Status(status) => write!(f, "HTTP {status}"),
            Self::Grpc(code) => write!(f, "gRPC {code}"),
            Self::Malformed => write!(f, "malformed answer"),
        }
    }
}

/// A request that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestError {
    /// How.
    pub kind: ErrorKind,
    /// What is known about the write it asked for.
    pub effect: Effect,
}

impl RequestError {
    pub(crate) fn unsent(kind: ErrorKind) -> Self {
        Self { kind, effect: Effect::NotApplied }
    }

    pub(crate) fn unknown(kind: ErrorKind) -> Self {
        Self { kind, effect: Effect::Unknown }
    }

    /// Whether the connection can be used for the next request.
    pub(crate) fn keeps_connection(self) -> bool {
        matches!(self.kind, ErrorKind::Status(_) | ErrorKind::Grpc(_))
    }
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
