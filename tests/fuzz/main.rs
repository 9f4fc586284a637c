//! Every decoder that is given bytes from outside, under bytes that nobody meant:
//! it must not panic, must not take more memory than it declares, and must read
//! what was written and nothing else. See docs/fuzzing.md.
#![allow(missing_docs)]

mod commands;
mod engine;
mod http;
mod journal;
mod memory;
mod mutation;
mod peers;
#[path = "../../crates/wire/tests/samples/mod.rs"]
mod samples;
#[path = "../../crates/api/tests/it/fake/stand_in.rs"]
mod stand_in;
mod store;
mod text;
