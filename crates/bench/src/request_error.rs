//! How a request can go wrong, and what is then known of its effect.

use std::fmt;

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
