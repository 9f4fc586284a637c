//! When all files of the state are written anew for want of room.
//!
//! What was forgotten takes its room until its files are written anew. More writes would bring that
//! about, but with little room they are refused. Nobody knows beforehand how much room it gives. On
//! a disk that stays small something is forgotten all the time, so that, asked for nothing else, a
//! node would write the same records again and again.

use std::time::{Duration, Instant};

use synod_kv::Revision;

/// Between two of them at the least.
const REST_MIN: Duration = Duration::from_secs(5);
/// And so many times as long as the last one took.
const REST_TIMES: u32 = 10;
/// At the most, unless one takes longer than that itself.
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// This part of the bytes, or of the records, is worth it.
const WORTH_PART: u64 = 8;

/// What the last one gave, and what follows for the next one.
#[derive(Debug)]
pub(crate) struct Merges {
    /// Up to which revision everything was forgotten when the last one began.
    upto: Revision,
    /// So many keys were removed before it, some of them perhaps as late as in this revision. Those
    /// gave nothing yet.
    left: (Revision, u64),
    /// When the one that is under way began, and how many bytes there were.
    now: Option<(Instant, u64)>,
    ended_at: Instant,
    /// Before the next one, however much was forgotten.
    rest: Duration,
    /// Before the next one if little was forgotten since. The longer the less the last ones gave.
    pause: Duration,
}

impl Merges {
    /// Of a life that begins.
    pub(crate) fn new(now: Instant) -> Merges {
        let (rest, pause) = (REST_MIN, REST_MIN);
        let (upto, left) = (Revision(0), (Revision(0), 0));
        Merges { upto, left, now: None, ended_at: now, rest, pause }
    }

    /// Whether another one may give room: something was forgotten up to here, and so many keys that
    /// were removed since, or so many revisions, are much beside so many records, or the last one is
    /// long ago.
    pub(crate) fn may_help(
        &self,
        forgotten: Revision,
        (removed, records): (u64, u64),
        now: Instant,
    ) -> bool {
        let count = forgotten.0.saturating_sub(self.upto.0);
        let removed = removed + if forgotten >= self.left.0 { self.left.1 } else { 0 };
        let is_much = count.max(removed) >= records / WORTH_PART;
        let wait = if is_much { self.rest } else { self.pause };
        count > 0 && now.duration_since(self.ended_at) >= wait
    }

    /// One begins, with so many bytes in files, after so many more keys were removed up to the newest
    /// revision.
    pub(crate) fn begun(
        &mut self,
        (forgotten, newest): (Revision, Revision),
        removed: u64,
        (bytes, now): (u64, Instant),
    ) {
        let left = if forgotten >= self.left.0 { 0 } else { self.left.1 };
        self.left = (newest, left + removed);
        (self.upto, self.now) = (forgotten, Some((now, bytes)));
    }

    /// None is under way any more, if one was, and so many bytes are left.
    pub(crate) fn ended(&mut self, bytes: u64, now: Instant) {
        let Some((begun_at, before)) = self.now.take() else { return };
        let took = Duration::from_secs(now.duration_since(begun_at).as_secs());
        self.ended_at = now;
        self.rest = (took * REST_TIMES).min(PAUSE_MAX).max(took).max(REST_MIN);
        let is_worth_it = bytes <= before - before / WORTH_PART;
        let longer = if is_worth_it { self.rest } else { (self.pause * 2).min(PAUSE_MAX) };
        self.pause = longer.max(self.rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDS: u64 = 80_000;
    const BYTES: u64 = 64 << 20;

    /// Of a node that looks each second for so long and forgets a revision at each look, those that
    /// a merge that takes no time gave so many bytes.
    fn count(seconds: u64, each_gives: u64) -> usize {
        let begun_at = Instant::now();
        let mut merges = Merges::new(begun_at);
        let looks = (0..seconds).filter(|second| {
            let now = begun_at + Duration::from_secs(*second);
            let may_help = merges.may_help(Revision(*second), (0, RECORDS), now);
            if may_help {
                merges.begun((Revision(*second), Revision(*second + 300)), 1, (BYTES, now));
                merges.ended(BYTES - each_gives, now);
            }
            may_help
        });
        looks.count()
    }

    #[test]
    fn a_disk_that_stays_full_is_not_written_again_and_again() {
        let day = 24 * 60 * 60;
        let in_vain = count(day, BYTES / 100);
        assert!((100..200).contains(&in_vain), "{in_vain}");
        // As long as it helps it goes on.
        assert_eq!(count(600, BYTES / 8), 119);
    }

    #[test]
    fn what_was_forgotten_since_gives_room_soon() {
        let begun_at = Instant::now();
        let at = |seconds| begun_at + Duration::from_secs(seconds);
        let mut merges = Merges::new(begun_at);
        for (begun, ended) in [(5, 7), (100, 102), (300, 302)] {
            merges.begun((Revision(10), Revision(10)), 0, (BYTES, at(begun)));
            merges.ended(BYTES, at(ended));
        }
        // Ten times as long as the last one took for much, longer for little, never for nothing.
        let much = RECORDS / WORTH_PART;
        let may = |revisions, removed, seconds| {
            merges.may_help(Revision(10 + revisions), (removed, RECORDS), at(seconds))
        };
        assert!(!may(much, 0, 321) && !may(1, much, 321));
        assert!(may(much, 0, 322) && may(1, much, 322));
        assert!(!may(much - 1, much - 1, 322) && !may(1, 0, 322));
        assert!(may(1, 0, 302 + 600));
        assert!(!may(0, much, 302 + 10_000));
        // A merge came between the removal and the moment at which it was forgotten.
        merges.begun((Revision(11), Revision(50)), much, (BYTES, at(400)));
        merges.ended(BYTES, at(400));
        for (forgotten, expected) in [(12, false), (49, false), (50, true)] {
            assert_eq!(merges.may_help(Revision(forgotten), (0, RECORDS), at(405)), expected);
        }
        merges.begun((Revision(50), Revision(50)), 0, (BYTES, at(405)));
        merges.ended(BYTES, at(405));
        assert!(!merges.may_help(Revision(51), (0, RECORDS), at(410)));
    }
}
