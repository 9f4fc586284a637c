//! Envelopes between peers over TCP.
//!
//! Each node dials each peer twice, and what it dials it only sends on: one
//! connection (a *lane*) for votes, heartbeats and everything else that is small,
//! one for what is large, so that the small never waits behind the large. Clients'
//! commands all take the second, since they count in their order only. Messages may
//! be lost, doubled by a retry of the core, or overtake each other between the
//! lanes; they are never damaged and never said to come from somebody else than the
//! node that shook hands.
//!
//! Everything runs as local tasks on the caller's single-threaded runtime, so a
//! message reaches its owner without crossing a thread: call [`Transport::start`]
//! inside a `tokio::task::LocalSet` (or local runtime). The one exception is the
//! lookup of a host name, for which tokio uses a helper thread of its own; an
//! address given in digits needs none.
//!
//! This crate never decides anything about the protocol, never blocks its caller,
//! never starts a thread, and never keeps more than its limits for a peer that does
//! not read or a stranger that does not speak.

mod accept;
mod addresses;
mod admission;
mod backoff;
mod connection;
mod dial;
mod evidence;
mod grumble;
mod incoming;
mod lane_queue;
mod metrics;
mod peer;
mod settings;
mod transport;

pub use incoming::{Incoming, IncomingEvent};
pub use metrics::{PeerMetrics, TransportMetrics};
pub use settings::{Limits, Own, PeerAddress, Pin, Removed, TransportSettings};
pub use transport::Transport;
