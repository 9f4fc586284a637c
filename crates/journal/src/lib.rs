//! The durable log of an acceptor.
