//! Many hosts in one thread, on simulated time, network and disks, from one seed.
//!
//! The hosts, the consensus core, the state machine and the encodings are those of
//! production. Around them stands a small world in which everything that may go
//! wrong does: a [`Plan`] is drawn from a seed, [`run()`] carries it out and checks
//! every property in [`checkers`], and the same seed gives the same run to the byte.
//! A seed that fails is found again by its number, told line by line, and shrunk by
//! [`minimize`]. docs/simulation.md says what is checked and what is not.
//!
//! This crate never reads a clock (but for one moment to count others from), never draws from the system's randomness, never
//! iterates over a map of random order, and never touches a socket or a file.

mod actions;
mod away;
mod backup;
mod campaign;
pub mod checkers;
mod client;
mod clock;
mod copies;
mod coverage;
mod cut;
mod disk;
mod drift;
mod exchange;
mod fault;
mod guests;
mod happening;
mod history;
mod holders;
mod keepers;
mod lifecycle;
mod membership;
mod minimize;
mod mistakes;
mod nemesis;
mod network;
mod node;
mod plan;
pub mod planted;
mod prospect;
mod recovery;
mod releases;
mod repair;
mod run;
mod schedule;
mod snapshot;
mod squeeze;
mod store;
mod successor;
mod trace;
mod watchers;
mod words;
mod world;

pub use campaign::{Summary, drawn_seeds, run_seeds};
pub use checkers::{Checker, Violation};
pub use coverage::{Coverage, Rare, SEEDS_MIN};
pub use fault::Fault;
pub use history::{Answer, Operation, Request};
pub use minimize::minimize;
pub use plan::{Guests, Load, Pace, Plan, Sizes};
pub use run::{Report, Runner, panic_text, run, run_traced, running_seed};
pub use trace::Sink;
