//! The running hash that shows whether replicas agree.

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const FACTOR: u64 = 0xd6e8_feb8_6659_fd93;

/// A hash over everything mixed in so far. It finds differences made by bugs and
/// damage, not by an adversary.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct RunningHash(pub(crate) u64);

impl RunningHash {
    /// Mixes in a number.
    pub(crate) fn number(&mut self, number: u64) {
        let wide = u128::from(self.0.rotate_left(23) ^ number ^ SEED) * u128::from(FACTOR);
        let bytes = wide.to_le_bytes();
        let (low, high) = bytes.split_at(8);
        self.0 = word(low) ^ word(high);
    }

    /// Mixes in a byte string and its length, a word at a time.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.number(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            self.number(word(rest));
        }
    }
}

/// Up to eight bytes as a number.
fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(parts: &[&[u8]]) -> u64 {
        let mut hash = RunningHash::default();
        parts.iter().for_each(|part| hash.bytes(part));
        hash.0
    }

    #[test]
    fn the_hash_sees_order_boundaries_and_every_byte() {
        let mut seen = vec![
            of(&[]),
            of(&[b""]),
            of(&[b"\0"]),
            of(&[b"ab", b"c"]),
            of(&[b"a", b"bc"]),
            of(&[b"c", b"ab"]),
        ];
        for length in 1..40 {
            for changed in 0..length {
                let mut bytes = vec![7; length];
                bytes[changed] = 8;
                seen.push(of(&[&bytes]));
            }
        }
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }

    #[test]
    fn the_hash_is_the_same_in_every_release() {
        // Replicas of two releases compare hashes, so this number never changes.
        assert_eq!(of(&[b"a key", b"and a longer value"]), 17_343_623_441_671_378_536);
    }
}
