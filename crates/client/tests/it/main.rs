//! The tests of the client, against the real server over a replica of one and against servers that
//! misbehave. They are one program: each of them would be the whole server, compiled anew.

mod client;
mod leases;
mod long_calls;
mod session;
mod transactions;
mod watch;
mod world;
