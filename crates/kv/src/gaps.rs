//! Stretches of keys in which nothing is but removals that are compacted, and that the map has not
//! dropped yet: a range need not pass them one by one a second time.
//!
//! What a range comes to must not depend on what a map has dropped, so these keys can't be
//! counted against a bound of a command: of a million of them one replica may have all and another
//! none. So each replica remembers where it met them. A transaction of a thousand ranges passes
//! them once and not a thousand times, and the next command not at all. It is a matter of
//! time alone: with nothing remembered everything comes to the same.

use std::collections::BTreeMap;

use bytes::Bytes;

/// Fewer keys in a row are passed as fast as they are found here.
const KEYS_MIN: usize = 8;
/// What is remembered takes so much at the most, about.
const BYTES_MAX: usize = 16 << 20;
/// What a gap takes beside the bytes of its bounds.
const GAP_BYTES: usize = 128;

/// What is known of gaps. A gap is in force until something in it is written.
#[derive(Default, Debug)]
pub(crate) struct Gaps {
    /// From the first key of each to the first key beyond it; none if it goes to the end.
    gaps: BTreeMap<Bytes, Option<Bytes>>,
    bytes: usize,
}

/// A row of keys that may come to be a gap.
#[derive(Default, Debug)]
pub(crate) struct Row {
    first: Option<Bytes>,
    keys: usize,
}

impl Gaps {
    /// The gap that has this key: where it ends, which is none for the end of all keys.
    pub(crate) fn behind(&self, key: &Bytes) -> Option<Option<Bytes>> {
        let (_, end) = self.gaps.range(..=key.clone()).next_back()?;
        end.as_ref().is_none_or(|end| key < end).then(|| end.clone())
    }

    /// Something is written under this key.
    pub(crate) fn close(&mut self, key: &Bytes) {
        let Some(start) = self.start_before(key) else { return };
        let is_in = |end: &Option<Bytes>| end.as_ref().is_none_or(|end| key < end);
        if !self.gaps.get(&start).is_some_and(is_in) {
            return;
        }
        let end = self.forget(&start);
        let behind = Bytes::from([key.as_ref(), &[0]].concat());
        if start < *key {
            self.note(start, Some(key.clone()));
        }
        if end.as_ref().is_none_or(|end| behind < *end) {
            self.note(behind, end);
        }
    }

    /// A row of keys ends before this one, or at the end of all keys.
    pub(crate) fn end(&mut self, row: &mut Row, end: Option<&Bytes>) {
        let Row { first, keys } = std::mem::take(row);
        let Some(first) = first.filter(|_| keys >= KEYS_MIN) else { return };
        let meets = |start: &Bytes| self.gaps[start].as_ref().is_none_or(|end| *end >= first);
        let start = self.start_before(&first).filter(meets).unwrap_or(first);
        let inside = |start: &&Bytes| end.is_none_or(|end| *start < end);
        let parts = self.gaps.range(start.clone()..).map(|(start, _)| start).take_while(inside);
        let mut end = end.cloned();
        for part in parts.cloned().collect::<Vec<_>>() {
            // One may reach further than this range did.
            end = match (end, self.forget(&part)) {
                (Some(end), Some(of_part)) => Some(end.max(of_part)),
                _ => None,
            };
        }
        self.note(start, end);
    }

    /// Where the last gap begins that begins at this key or before.
    fn start_before(&self, key: &Bytes) -> Option<Bytes> {
        self.gaps.range(..=key.clone()).next_back().map(|(start, _)| start.clone())
    }

    fn note(&mut self, start: Bytes, end: Option<Bytes>) {
        if self.bytes > BYTES_MAX {
            *self = Gaps::default();
        }
        self.bytes += GAP_BYTES + start.len() + end.as_ref().map_or(0, Bytes::len);
        self.gaps.insert(start, end);
    }

    /// Answers where it ended.
    fn forget(&mut self, start: &Bytes) -> Option<Bytes> {
        let end = self.gaps.remove(start).expect("it was found there");
        self.bytes -= GAP_BYTES + start.len() + end.as_ref().map_or(0, Bytes::len);
        end
    }
}

impl Row {
    /// One more key of the row.
    pub(crate) fn pass(&mut self, key: &Bytes) {
        self.keys += 1;
        if self.first.is_none() {
            self.first = Some(key.clone());
        }
    }

    /// A gap is part of the row.
    pub(crate) fn pass_gap(&mut self, key: &Bytes) {
        self.pass(key);
        self.keys = self.keys.max(KEYS_MIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Bytes {
        Bytes::from(format!("{number:03}"))
    }

    fn row(from: usize) -> Row {
        let mut row = Row::default();
        (from..from + KEYS_MIN).for_each(|number| row.pass(&key(number)));
        row
    }

    fn bytes(gaps: &Gaps) -> usize {
        let bytes = |(start, end): (&Bytes, &Option<Bytes>)| {
            GAP_BYTES + start.len() + end.as_ref().map_or(0, Bytes::len)
        };
        gaps.gaps.iter().map(bytes).sum()
    }

    #[test]
    fn a_gap_is_there_until_something_is_written_in_it() {
        let mut gaps = Gaps::default();
        gaps.end(&mut row(10), Some(&key(50)));
        let end = |gaps: &Gaps, number| gaps.behind(&key(number));
        assert_eq!([9, 10, 49, 50].map(|at| end(&gaps, at).is_some()), [false, true, true, false]);
        gaps.close(&key(30));
        assert_eq!(end(&gaps, 29), Some(Some(key(30))));
        assert_eq!(end(&gaps, 30), None);
        assert_eq!(end(&gaps, 31), Some(Some(key(50))));
        for number in [10, 49, 9, 50, 70] {
            gaps.close(&key(number));
            assert_eq!(end(&gaps, number), None);
        }
        assert_eq!(end(&gaps, 11), Some(Some(key(30))));
        assert_eq!(gaps.bytes, bytes(&gaps));
    }

    #[test]
    fn rows_that_meet_are_one_gap_and_short_ones_are_none() {
        let mut gaps = Gaps::default();
        let mut short = Row::default();
        short.pass(&key(1));
        gaps.end(&mut short, None);
        assert!(gaps.gaps.is_empty());
        gaps.end(&mut row(50), Some(&key(60)));
        gaps.end(&mut row(20), Some(&key(30)));
        gaps.end(&mut row(30), Some(&key(50)));
        assert_eq!(gaps.gaps.len(), 2, "whether the later one is the next nobody has looked");
        let mut over = Row::default();
        over.pass_gap(&key(25));
        gaps.end(&mut over, None);
        assert_eq!(gaps.gaps, [(key(20), None)].into());
        assert_eq!(gaps.bytes, bytes(&gaps));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut gaps = Gaps::default();
        let long = vec![b'k'; 4_000];
        for number in 0..6_000_usize {
            let of = |side: u8| Bytes::from([&long[..], &number.to_be_bytes(), &[side]].concat());
            let mut row = Row::default();
            (0..KEYS_MIN).for_each(|_| row.pass(&of(0)));
            gaps.end(&mut row, Some(&of(1)));
            assert!(gaps.bytes <= BYTES_MAX + 10_000);
        }
        assert_eq!(gaps.bytes, bytes(&gaps));
    }
}
