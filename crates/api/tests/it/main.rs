//! The tests of the server over a replica of one. They are one program: each of them would be
//! the whole server, compiled anew.

mod bad_input;
mod batches;
mod cluster;
mod fake;
mod keys;
mod leases;
mod listings;
mod locks;
mod openapi;
mod raw;
mod refusals;
mod revisions;
mod sockets;
mod transactions;
mod trouble;
mod watch;
