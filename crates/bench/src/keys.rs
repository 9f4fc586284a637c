//! Which keys and values a client asks for.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::BenchError;

/// Values are slices of this many random bytes (plus one value's), so that
/// making one costs nothing and no two compress alike.
const VALUE_POOL_BYTES: usize = 64 << 10;

/// How often which key of the key space is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// Each as often as any other.
    #[default]
    Uniform,
    /// The n-th most popular in proportion to n to the power of minus theta.
    Zipf {
        /// How skewed: above 0; around 1 is common in caches.
        theta: f64,
    },
}

/// Draws keys of a key space.
#[derive(Debug, Clone)]
pub(crate) struct KeySpace {
    keys: u64,
    key_bytes: usize,
    zipf: Option<Zipf>,
}

impl KeySpace {
    /// Keys of exactly `key_bytes` bytes each.
    pub(crate) fn new(
        keys: u64,
        key_bytes: usize,
        distribution: Distribution,
    ) -> Result<Self, BenchError> {
        if keys == 0 {
            return Err(BenchError::option("--keys", "must be at least 1"));
        }
        let digits = (keys - 1).to_string().len();
        if key_bytes <= digits || key_bytes > 4096 {
            let reason = format!("must be {} to 4096 for {keys} keys", digits + 1);
            return Err(BenchError::option("--key-bytes", reason));
        }
        let zipf = match distribution {
            Distribution::Uniform => None,
            Distribution::Zipf { theta } if theta > 0.0 && theta <= 10.0 => {
                Some(Zipf::new(keys, theta))
            }
            Distribution::Zipf { .. } => {
                return Err(BenchError::option("--zipf", "must be above 0 and at most 10"));
            }
        };
        Ok(Self { keys, key_bytes, zipf })
    }

    pub(crate) fn draw(&self, random: &mut fastrand::Rng) -> u64 {
        match &self.zipf {
            None => random.u64(..self.keys),
            Some(zipf) => zipf.draw(random) - 1,
        }
    }

    /// Writes a key's name: `k`, then its number with leading zeros.
    pub(crate) fn name(&self, key: u64, name: &mut Vec<u8>) {
        name.clear();
        name.resize(self.key_bytes, b'0');
        name[0] = b'k';
        let mut rest = key;
        for place in name[1..].iter_mut().rev() {
            if rest == 0 {
                break;
            }
            *place = b'0' + u8::try_from(rest % 10).expect("a digit");
            rest /= 10;
        }
    }
}

/// Zipf's law by rejection-inversion (Hörmann and Derflinger, 1996): constant
/// time and memory for any exponent and any number of keys.
#[derive(Debug, Clone)]
struct Zipf {
    keys: f64,
    theta: f64,
    integral_at_first: f64,
    integral_at_last: f64,
    accepted_width: f64,
}

impl Zipf {
    fn new(keys: u64, theta: f64) -> Self {
        let mut zipf = Self {
            keys: keys as f64,
            theta,
            integral_at_first: 0.0,
            integral_at_last: 0.0,
            accepted_width: 0.0,
        };
        zipf.integral_at_first = zipf.integral(1.5) - 1.0;
        zipf.integral_at_last = zipf.integral(zipf.keys + 0.5);
        zipf.accepted_width = 2.0 - zipf.inverse(zipf.integral(2.5) - 2f64.powf(-theta));
        zipf
    }

    /// A rank from 1 to the number of keys.
    fn draw(&self, random: &mut fastrand::Rng) -> u64 {
        loop {
            let span = self.integral_at_first - self.integral_at_last;
            let drawn = self.integral_at_last + random.f64() * span;
            let x = self.inverse(drawn);
            let rank = x.round().clamp(1.0, self.keys);
            let near = rank - x <= self.accepted_width;
            if near || drawn >= self.integral(rank + 0.5) - rank.powf(-self.theta) {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "clamped"
                )]
                return rank as u64;
            }
        }
    }

    /// The integral of x to the power of minus theta, from 1 on.
    fn integral(&self, x: f64) -> f64 {
        let power = 1.0 - self.theta;
        if power.abs() < 1e-9 { x.ln() } else { (x.powf(power) - 1.0) / power }
    }

    fn inverse(&self, integral: f64) -> f64 {
        let power = 1.0 - self.theta;
        if power.abs() < 1e-9 {
            integral.exp()
        } else {
            // Rounding may carry the base just below zero when theta > 1.
            (1.0 + integral * power).max(0.0).powf(1.0 / power)
        }
    }
}

/// Makes values of one size.
#[derive(Debug, Clone)]
pub(crate) struct Values {
    pool: Bytes,
    value_bytes: usize,
}

impl Values {
    pub(crate) fn new(value_bytes: usize, random: &mut fastrand::Rng) -> Self {
        let pool: Vec<u8> =
            (0..VALUE_POOL_BYTES + value_bytes).map(|_| random.alphanumeric() as u8).collect();
        Self { pool: pool.into(), value_bytes }
    }

    pub(crate) fn draw(&self, random: &mut fastrand::Rng) -> Bytes {
        let start = random.usize(..=VALUE_POOL_BYTES);
        self.pool.slice(start..start + self.value_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: usize = 200_000;

    fn counts(keys: u64, distribution: Distribution) -> Vec<f64> {
        let space = KeySpace::new(keys, 32, distribution).unwrap();
        let mut random = fastrand::Rng::with_seed(7);
        let mut counts = vec![0.0; usize::try_from(keys).unwrap()];
        for _ in 0..DRAWS {
            counts[usize::try_from(space.draw(&mut random)).unwrap()] += 1.0;
        }
        counts
    }

    #[test]
    fn uniform_keys_are_equally_frequent() {
        let expected = DRAWS as f64 / 100.0;
        for count in counts(100, Distribution::Uniform) {
            // Six standard deviations of a binomial count.
            assert!((count - expected).abs() < 6.0 * expected.sqrt(), "{count}");
        }
    }

    #[test]
    fn zipf_keys_follow_the_law_for_exponents_around_one() {
        for theta in [0.5, 0.99, 1.0, 1.3, 2.5] {
            let weights: Vec<f64> = (1..=1000).map(|rank| f64::from(rank).powf(-theta)).collect();
            let total: f64 = weights.iter().sum();
            let counts = counts(1000, Distribution::Zipf { theta });
            for rank in [0, 1, 2, 10, 100] {
                let expected = DRAWS as f64 * weights[rank] / total;
                let tolerance = 6.0 * expected.sqrt() + 1.0;
                let found = counts[rank];
                assert!((found - expected).abs() < tolerance, "{theta} {rank} {found} {expected}");
            }
        }
    }

    #[test]
    fn a_key_space_of_one_key_has_that_key() {
        for distribution in [Distribution::Uniform, Distribution::Zipf { theta: 1.2 }] {
            assert_eq!(counts(1, distribution), [DRAWS as f64]);
        }
    }

    #[test]
    fn names_have_the_size_asked_for_and_differ() {
        let space = KeySpace::new(1001, 8, Distribution::Uniform).unwrap();
        let mut name = Vec::new();
        space.name(0, &mut name);
        assert_eq!(name, b"k0000000");
        space.name(1000, &mut name);
        assert_eq!(name, b"k0001000");
        assert!(KeySpace::new(1000, 3, Distribution::Uniform).is_err());
        assert!(KeySpace::new(0, 8, Distribution::Uniform).is_err());
        assert!(KeySpace::new(5, 8, Distribution::Zipf { theta: 0.0 }).is_err());
        assert!(KeySpace::new(5, 8, Distribution::Zipf { theta: f64::NAN }).is_err());
    }

    #[test]
    fn values_have_the_size_asked_for() {
        let mut random = fastrand::Rng::with_seed(1);
        for value_bytes in [0, 1, 256, 100_000] {
            let values = Values::new(value_bytes, &mut random);
            assert_eq!(values.draw(&mut random).len(), value_bytes);
        }
    }
}
