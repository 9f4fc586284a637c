//! Drives the real binary: processes, folders, plain HTTP, waiting.
//!
//! Every test file uses its own part of this.
#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod cluster;
pub mod damage;
pub mod http;
pub mod nodes;
pub mod ports;
pub mod script;
pub mod skip;
pub mod wait;
pub mod writers;
