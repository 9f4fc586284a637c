//! Ports that nobody listens on, below those that the system hands out.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Ports that one local cluster may use above its base port.
const PORTS_PER_CLUSTER: u16 = 20;
const FIRST: u16 = 12_000;
const RANGES: u16 = 900;

/// The base port of a new local cluster. Test processes run at once, so each
/// begins somewhere else and looks whether the ports are free.
pub fn free_base_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % u32::from(RANGES)).expect("below RANGES");
    for _ in 0..RANGES {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed);
        let base = FIRST + ((start * 7 + turn) % RANGES) * PORTS_PER_CLUSTER;
        let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if (base..base + PORTS_PER_CLUSTER).all(free) {
            return base;
        }
    }
    panic!("no free ports between {FIRST} and {}", FIRST + RANGES * PORTS_PER_CLUSTER);
}
