//! Where a record lies in the map.
//!
//! The first byte names a space. In the space of the data a key is written so
//! that the order of the map is the order of the keys, and after it the revision
//! upside down, so that the newest record of a key comes first:
//!
//! ```text
//! 01 · key, each 00 as 00 ff · 00 00 · !revision, 8 bytes, big end first
//! ```
//!
//! No written key is the beginning of another one: 00 00 ends it and cannot be
//! inside it.

use crate::{LeaseId, Revision};

/// Where the record with the applied slot lies. What is durable of it tells how
/// far the whole map is durable, because both are written at once.
pub const APPLIED_KEY: &[u8] = &[SPACE_STATE];

const SPACE_STATE: u8 = 0;
const SPACE_DATA: u8 = 1;
const SPACE_IDEMPOTENCY: u8 = 2;
const SPACE_IDEMPOTENCY_QUEUE: u8 = 3;
const SPACE_CHANGES: u8 = 4;
const SPACE_LEASE: u8 = 5;
const SPACE_LEASE_KEY: u8 = 6;
const SPACE_SAMPLES: u8 = 7;

/// Where the samples lie that say which revision was current when.
pub(crate) const SAMPLES_KEY: &[u8] = &[SPACE_SAMPLES];

/// The place above all records of changes.
pub(crate) const CHANGES_END: &[u8] = &[SPACE_CHANGES + 1];

/// The place above all leases.
pub(crate) const LEASES_END: &[u8] = &[SPACE_LEASE + 1];

const REVISION_BYTES: usize = 8;

/// Appends the place of a key's record at a revision.
pub fn write_data_key(out: &mut Vec<u8>, key: &[u8], revision: Revision) {
    write_key_prefix(out, key);
    write_revision(out, revision);
}

/// Appends a revision to a key's prefix: the place of its record.
pub(crate) fn write_revision(out: &mut Vec<u8>, revision: Revision) {
    out.extend_from_slice(&(!revision.0).to_be_bytes());
}

/// Appends what the places of all records of a key begin with.
pub fn write_key_prefix(out: &mut Vec<u8>, key: &[u8]) {
    write_bound(out, key);
    out.extend_from_slice(&[0, 0]);
}

/// Appends the least place of any record of `key` and of keys above it.
pub fn write_bound(out: &mut Vec<u8>, key: &[u8]) {
    out.push(SPACE_DATA);
    for part in key.split_inclusive(|byte| *byte == 0) {
        out.extend_from_slice(part);
        if part.ends_with(&[0]) {
            out.push(0xff);
        }
    }
}

/// Appends the place above all data.
pub fn write_end(out: &mut Vec<u8>) {
    out.push(SPACE_DATA + 1);
}

/// The places `from..to` of all records of `key`, the newest first. Both begin
/// with the key's prefix.
#[must_use]
pub fn key_range(key: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut from = Vec::with_capacity(key.len() + 16);
    write_key_prefix(&mut from, key);
    let mut to = from.clone();
    // Revision 0 has no changes, so nothing lies at this bound.
    to.extend_from_slice(&[0xff; REVISION_BYTES]);
    (from, to)
}

/// What the place begins with up to the end of its key; none outside the data
/// and for bytes that are not a place.
#[must_use]
pub fn key_prefix(place: &[u8]) -> Option<&[u8]> {
    if place.first() != Some(&SPACE_DATA) {
        return None;
    }
    let mut at = 1;
    loop {
        at += place.get(at..)?.iter().position(|byte| *byte == 0)? + 1;
        match place.get(at)? {
            0 => return Some(&place[..=at]),
            0xff => at += 1,
            _ => return None,
        }
    }
}

/// The key of a prefix that [`key_prefix`] gave.
pub(crate) fn key_of_prefix(prefix: &[u8]) -> Vec<u8> {
    let escaped = &prefix[1..prefix.len() - 2];
    let mut key = Vec::with_capacity(escaped.len());
    let mut parts = escaped.split_inclusive(|byte| *byte == 0);
    if let Some(first) = parts.next() {
        key.extend_from_slice(first);
    }
    // Every part but the first begins with the ff that followed a 00.
    parts.for_each(|part| key.extend_from_slice(&part[1..]));
    key
}

/// The revision of a place whose prefix takes `prefix_bytes`.
pub(crate) fn revision_after(place: &[u8], prefix_bytes: usize) -> Option<Revision> {
    let inverted = place.get(prefix_bytes..)?.try_into().ok()?;
    Some(Revision(!u64::from_be_bytes(inverted)))
}

/// The least bytes above every key that begins with `prefix`; none when there
/// are no such bytes.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// Turns a key's prefix into the least bytes above all its records.
pub(crate) fn skip_key(prefix: &mut [u8]) {
    let last = prefix.len() - 1;
    prefix[last] = 1;
}

/// Where the record of an idempotency key lies.
pub(crate) fn idempotency_key(key: &[u8]) -> Vec<u8> {
    let mut place = Vec::with_capacity(1 + key.len());
    place.push(SPACE_IDEMPOTENCY);
    place.extend_from_slice(key);
    place
}

/// Where the entry of the how-manieth remembered idempotency key lies.
pub(crate) fn idempotency_queue_key(number: u64) -> [u8; 9] {
    let mut place = [SPACE_IDEMPOTENCY_QUEUE; 9];
    place[1..].copy_from_slice(&number.to_be_bytes());
    place
}

/// Where the record lies whose first change is the how-manieth of a revision.
pub(crate) fn changes_key(revision: Revision, number: u32) -> [u8; 13] {
    let mut place = [SPACE_CHANGES; 13];
    place[1..9].copy_from_slice(&revision.0.to_be_bytes());
    place[9..].copy_from_slice(&number.to_be_bytes());
    place
}

/// The first change of the record at a place; none outside of the changes.
pub(crate) fn changes_of(place: &[u8]) -> Option<(Revision, u32)> {
    let rest = place.strip_prefix(&[SPACE_CHANGES])?;
    let (revision, number) = rest.split_first_chunk()?;
    let number = number.try_into().ok()?;
    Some((Revision(u64::from_be_bytes(*revision)), u32::from_be_bytes(number)))
}

/// Where the record of a lease lies.
pub(crate) fn lease_key(lease: LeaseId) -> [u8; 9] {
    let mut place = [SPACE_LEASE; 9];
    place[1..].copy_from_slice(&lease.0.to_be_bytes());
    place
}

/// The lease whose record lies at a place; none outside of the leases.
pub(crate) fn lease_of(place: &[u8]) -> Option<LeaseId> {
    let id = place.strip_prefix(&[SPACE_LEASE])?.try_into().ok()?;
    Some(LeaseId(u64::from_be_bytes(id)))
}

/// Where it is noted that a key lives under a lease; without a key, the bound below all
/// of its keys.
pub(crate) fn lease_attached_key(lease: LeaseId, key: &[u8]) -> Vec<u8> {
    let mut place = Vec::with_capacity(9 + key.len());
    place.push(SPACE_LEASE_KEY);
    place.extend_from_slice(&lease.0.to_be_bytes());
    place.extend_from_slice(key);
    place
}

/// The bound above all keys of a lease.
pub(crate) fn lease_attached_end(lease: LeaseId) -> Vec<u8> {
    match lease.0.checked_add(1) {
        Some(above) => lease_attached_key(LeaseId(above), &[]),
        None => vec![SPACE_LEASE_KEY + 1],
    }
}

/// Decides, for one pass over entries in the order of the map, which of them no
/// read will ever need: a compaction may drop them.
///
/// Everything above the compacted revision stays. Of the records of a key at or below it
/// all go but the first that the pass sees, which is the newest. This is
/// right for a pass over any part of the map, because the newer record stays or
/// is replaced by one that is newer still and not above the compacted revision either. A
/// tombstone that is the newest of these goes only in a pass over the *whole* map: else an
/// older record that the pass does not see would come back to life.
#[derive(Debug)]
pub struct Sweep {
    whole: bool,
    compacted: Revision,
    previous: Vec<u8>,
    /// The pass has seen a record of the key that is not above the compacted revision.
    is_settled: bool,
}

impl Sweep {
    /// Begins a pass; `whole` says that it sees every entry but those which are
    /// written after it began. The compacted revision is that of the map when the pass
    /// begins, or an older one; where a crash can turn the map back, that of what the
    /// crash leaves.
    #[must_use]
    pub fn new(whole: bool, compacted: Revision) -> Self {
        Sweep { whole, compacted, previous: Vec::new(), is_settled: false }
    }

    /// Whether the entry may go. To be called for each entry of the pass, in order.
    pub fn drops(&mut self, place: &[u8], value: &[u8]) -> bool {
        if let Some((first, _)) = changes_of(place) {
            let last = crate::change::last_revision(first, value);
            return last.is_some_and(|last| last <= self.compacted);
        }
        let Some(prefix) = key_prefix(place) else {
            return false;
        };
        let Some(revision) = revision_after(place, prefix.len()) else {
            return false;
        };
        if prefix != self.previous {
            self.previous.clear();
            self.previous.extend_from_slice(prefix);
            self.is_settled = false;
        }
        if revision > self.compacted {
            return false;
        }
        if self.is_settled {
            return true;
        }
        self.is_settled = true;
        self.whole && crate::record::is_tombstone(value)
    }
}

/// Whether a change of the map puts a tombstone, for counting them.
#[must_use]
pub fn is_tombstone(place: &[u8], value: &[u8]) -> bool {
    place.first() == Some(&SPACE_DATA) && crate::record::is_tombstone(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(key: &[u8], revision: u64) -> Vec<u8> {
        let mut out = Vec::new();
        write_data_key(&mut out, key, Revision(revision));
        out
    }

    /// Few different bytes, the two special ones among them.
    fn keys() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 0x7f, 0xfe, 0xff]), 0..6)
    }

    proptest! {
        #[test]
        fn places_order_by_key_then_newest_first(
            a in keys(), b in keys(), x in 1u64..4, y in 1u64..4, large: u64,
        ) {
            let large = large.max(1);
            for (x, y) in [(x, y), (large, y), (x, large)] {
                let expected = a.cmp(&b).then(y.cmp(&x));
                prop_assert_eq!(place(&a, x).cmp(&place(&b, y)), expected);
            }
        }

        #[test]
        fn bounds_part_the_records_as_they_part_the_keys(a in keys(), b in keys(), x in 1u64..) {
            let mut bound = Vec::new();
            write_bound(&mut bound, &b);
            prop_assert_eq!(place(&a, x) < bound, a < b);
            let mut end = Vec::new();
            write_end(&mut end);
            prop_assert!(place(&a, x) < end);
        }

        #[test]
        fn prefix_end_parts_off_the_keys_with_the_prefix(prefix in keys(), key in keys()) {
            let inside = key >= prefix && prefix_end(&prefix).is_none_or(|end| key < end);
            prop_assert_eq!(inside, key.starts_with(&prefix));
        }

        #[test]
        fn a_place_gives_back_key_and_revision(key: Vec<u8>, other in keys(), revision in 1u64..) {
            for key in [key, other] {
                let place = place(&key, revision);
                let prefix = key_prefix(&place).expect("is a place");
                prop_assert_eq!(key_of_prefix(prefix), key.clone());
                prop_assert_eq!(revision_after(&place, prefix.len()), Some(Revision(revision)));
                let (from, to) = key_range(&key);
                prop_assert!(from <= place && place < to);
                prop_assert_eq!(key_prefix(&from), Some(prefix));
                prop_assert_eq!(key_prefix(&to), Some(prefix));
                let mut skipped = prefix.to_vec();
                skip_key(&mut skipped);
                prop_assert!(to < skipped);
            }
        }

        #[test]
        fn skipping_a_key_skips_no_other(a in keys(), b in keys(), x in 1u64..) {
            let mut skipped = Vec::new();
            write_key_prefix(&mut skipped, &a);
            skip_key(&mut skipped);
            prop_assert_eq!(place(&b, x) < skipped, b <= a);
        }

        #[test]
        fn any_bytes_have_a_prefix_or_not_without_panic(bytes in keys(), more: Vec<u8>) {
            for mut bytes in [bytes, more] {
                bytes.insert(0, SPACE_DATA);
                if let Some(prefix) = key_prefix(&bytes) {
                    let key = key_of_prefix(prefix);
                    let mut again = Vec::new();
                    write_key_prefix(&mut again, &key);
                    prop_assert_eq!(again.as_slice(), prefix);
                }
            }
        }
    }

    #[test]
    fn a_sweep_keeps_what_can_be_read() {
        let value = crate::record::encoded_for_tests(Some(b"v"));
        let tombstone = crate::record::encoded_for_tests(None);
        // Whether it goes in a pass over a part, and in one over the whole.
        let pass = [
            (APPLIED_KEY.to_vec(), &value, [false, false]),
            (place(b"a", 9), &value, [false, false]),
            (place(b"a", 6), &tombstone, [false, false]),
            (place(b"a", 5), &value, [false, false]),
            (place(b"a", 3), &value, [true, true]),
            (place(b"a", 2), &tombstone, [true, true]),
            (place(b"a\0", 2), &tombstone, [false, true]),
            (place(b"a\0", 1), &value, [true, true]),
            (place(b"b", 8), &value, [false, false]),
            (place(b"b", 4), &tombstone, [false, true]),
            (place(b"b", 3), &value, [true, true]),
            (place(b"c", 1), &value, [false, false]),
            (idempotency_key(b"b"), &value, [false, false]),
            (idempotency_key(b"b"), &tombstone, [false, false]),
        ];
        let mut part = Sweep::new(false, Revision(5));
        let mut whole = Sweep::new(true, Revision(5));
        let mut never = Sweep::new(true, Revision(0));
        for (place, value, expected) in pass {
            assert_eq!([part.drops(&place, value), whole.drops(&place, value)], expected);
            assert!(!never.drops(&place, value), "nothing is compacted");
        }
    }
}
