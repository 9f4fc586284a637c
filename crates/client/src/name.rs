//! Names for writes: what makes a retry of this client's have effect once.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::moment::Moment;

/// How long the cluster remembers a name at the least, from its first effect on, and so from
/// when it was made on. (It remembers names for a minute more: for clocks that run at another
/// rate, and requests that take their time on the way.)
const NAME_LIFE: Duration = Duration::from_secs(600);

/// A session: makes names that no other client makes, of 128 bits that the operating system
/// drew for this client, a number, and the time. From the time is told whether a name may
/// still be sent, whoever brings it back, and without remembering any. That time goes on while
/// the machine sleeps, as it does for the cluster.
#[derive(Debug)]
pub(crate) struct Names {
    session: String,
    begun: Moment,
    next: AtomicU64,
}

impl Names {
    pub(crate) fn new() -> Self {
        // Two hashes under a random key are two numbers that nobody else has.
        let random = RandomState::new();
        let session = format!("{:016x}{:016x}", random.hash_one(0_u8), random.hash_one(1_u8));
        Self { session, begun: Moment::now(), next: AtomicU64::new(1) }
    }

    /// What all names of this client begin with.
    pub(crate) fn session(&self) -> &str {
        &self.session
    }

    /// A name that was not given before.
    pub(crate) fn next(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{}-{number}-{}", self.session, self.begun.elapsed().as_millis())
    }

    /// Until when a write may be sent under this name; none if it was not made here, so that
    /// only whoever made it knows.
    pub(crate) fn expiry(&self, name: &str) -> Option<Moment> {
        let (_, made_ms) = name.strip_prefix(&self.session)?.strip_prefix('-')?.split_once('-')?;
        // The further requests of a range delete have numbers behind its name.
        let made_ms = made_ms.split('/').next()?.parse().ok()?;
        let made = Duration::from_millis(made_ms);
        Some(self.begun.plus(made).plus(NAME_LIFE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moment::tests::suspend;

    #[test]
    fn no_name_comes_twice() {
        let (a, b) = (Names::new(), Names::new());
        let names = [a.next(), a.next(), b.next(), b.next()];
        for (at, name) in names.iter().enumerate() {
            assert!(!names[..at].contains(name));
            assert!(name.len() <= 255 && name.bytes().all(|byte| byte.is_ascii_graphic()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_tells_how_long_it_may_be_used() {
        let names = Names::new();
        tokio::time::advance(Duration::from_millis(1_234)).await;
        let name = names.next();
        assert_eq!(names.expiry(&name), Some(Moment::now().plus(NAME_LIFE)));
        assert_eq!(names.expiry(&format!("{name}/2")), names.expiry(&name));
        tokio::time::advance(NAME_LIFE / 2).await;
        suspend(NAME_LIFE / 2);
        assert_eq!(names.expiry(&name), Some(Moment::now()));
        for other in [Names::new().next(), "mine".to_owned(), names.session().to_owned()] {
            assert_eq!(names.expiry(&other), None, "{other}");
        }
    }
}
