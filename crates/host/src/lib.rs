//! The order of one replica: step, persist, send, apply, reply.
//!
//! A [`Host`] owns the consensus core and speaks in messages only: [`Event`]s go
//! in, [`Action`]s come out. It keeps a message that asserts something durable
//! back until the journal has it, numbers the commands of this node's clients and
//! sends them again until they are taken, cuts the leader's values, and holds
//! reads until the state machine has applied what they must see. A node with
//! threads and a simulation without any run the same host.
//!
//! Beside it stands the [`timekeeper`] of the leases, which is told the time and what
//! happened, and says which leases are over.
//!
//! This crate never touches a socket or a file, never starts a thread, never
//! reads a clock and never knows which thread carries out its actions.

mod agreement;
mod applying;
mod batcher;
mod boundary;
mod cluster_clock;
mod commands;
mod host;
pub mod lease_news;
mod limits;
mod membership;
mod outbox;
mod reads;
mod slot_questions;
pub mod timekeeper;

pub use agreement::Disagreement;
pub use boundary::{Action, Applied, Event, Refusal, RequestId, Waiter};
pub use host::{Host, HostSettings, Queues};
pub use limits::Limits;
pub use membership::{apply_configuration, configurations_of};
pub use slot_questions::{ANSWER_TIMEOUT_US, SlotQuestions};
