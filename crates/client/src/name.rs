//! Names for writes.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes names that no other client makes: 128 bits that the operating system drew
/// for this client, and a number.
#[derive(Debug)]
pub(crate) struct Names {
    client: String,
    next: AtomicU64,
}

impl Names {
    pub(crate) fn new() -> Self {
        // Two hashes under a random key are two numbers that nobody else has.
        let random = RandomState::new();
        let client = format!("{:016x}{:016x}", random.hash_one(0_u8), random.hash_one(1_u8));
        Self { client, next: AtomicU64::new(1) }
    }

    /// A name that was not given before.
    pub(crate) fn next(&self) -> String {
        format!("{}-{}", self.client, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_comes_twice() {
        let (a, b) = (Names::new(), Names::new());
        let names = [a.next(), a.next(), b.next(), b.next()];
        for (at, name) in names.iter().enumerate() {
            assert!(!names[..at].contains(name));
            assert!(name.len() <= 255 && name.bytes().all(|byte| byte.is_ascii_graphic()));
        }
    }
}
