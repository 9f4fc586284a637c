//! The order of one replica: step, persist, send, apply, reply.

mod boundary;

pub use boundary::{Action, Applied, Event, Refusal, RequestId, Waiter};
