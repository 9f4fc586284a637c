//! What a damaged journal still shows, and damage that leaves something to show.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fastrand::Rng;
use synod_paxos::{Planted, Position, RecordBody, ShownSlots, Slot, Standing, Value};

use super::record::{reaches, slot_of};
use super::{Disk, Group};

/// So many groups are lost at once, at the most, if not all of a segment is.
const GROUPS_MAX: usize = 3;

/// What may be lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Drawn {
    pub(crate) losses: Vec<Loss>,
    /// It was chosen on purpose.
    pub(crate) is_worst: bool,
}

/// A group of which the values are lost, as long as that lasts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Loss {
    /// Its first record.
    first: Position,
    /// So are the headers of its records, both copies.
    headers: bool,
}

impl Disk {
    /// The places of the values that are known as chosen, by the rules of the real journal.
    pub(crate) fn shown(&self, planted: Planted) -> BTreeMap<Slot, Position> {
        let mut shown = ShownSlots::new(planted);
        for group in self.aside.iter().chain(&self.groups) {
            if group.damaged && group.headers_lost {
                shown.interrupt();
                continue;
            }
            for (position, record) in &group.records {
                match record.body {
                    RecordBody::Accepted { slot, ballot, .. } => {
                        shown.take(slot, Standing::Accepted(ballot), *position);
                    }
                    RecordBody::Chosen { slot, .. } => {
                        shown.take(slot, Standing::Chosen, *position);
                    }
                    RecordBody::StartAfter { slot } => shown.start_after(slot),
                    RecordBody::Promise => {}
                }
            }
            let (_, last) = group.records.last().expect("a group has records");
            shown.pass(last.chosen_upto);
        }
        shown.into_places()
    }

    /// The values of the slots from `first` to `last` at these places, as far as they are there
    /// and whole.
    pub(crate) fn shown_values(
        &self,
        places: &BTreeMap<Slot, Position>,
        (first, last): (Slot, Slot),
        bytes_max: usize,
    ) -> Vec<Value> {
        let (mut values, mut bytes, mut slot) = (Vec::new(), 0, first);
        while slot <= last && bytes < bytes_max {
            let Some(value) = places.get(&slot).and_then(|place| self.value_at(*place)) else {
                break;
            };
            bytes += value.size_bytes();
            values.push(value);
            slot = slot.next();
        }
        values
    }

    /// The value of the record at a place, if it is whole.
    pub(crate) fn value_at(&self, place: Position) -> Option<Value> {
        let ends_before = |group: &Group| group.records.last().is_none_or(|(at, _)| *at < place);
        let found = |groups: &VecDeque<Group>| groups.partition_point(ends_before);
        let aside = self.aside.get(found(&self.aside));
        let group = aside.or_else(|| self.groups.get(found(&self.groups)))?;
        let (_, record) = group.records.iter().find(|(at, _)| *at == place && !group.damaged)?;
        match &record.body {
            RecordBody::Accepted { value, .. } | RecordBody::Chosen { value, .. } => {
                Some(value.clone())
            }
            RecordBody::Promise | RecordBody::StartAfter { .. } => None,
        }
    }

    /// Every slot up to here is durably known as chosen.
    pub(crate) fn durably_chosen_upto(&self) -> Slot {
        self.synced_chosen_upto
    }

    /// Draws what may be lost of slots above this one, before the newest segment. `differs` says
    /// of which slots another value was chosen.
    pub(crate) fn draw_losses(
        &self,
        above: Slot,
        differs: impl Fn(Slot, &Value) -> bool,
        rng: &mut Rng,
    ) -> Option<Drawn> {
        let full = self.groups.len().saturating_sub(1) / self.segment_groups * self.segment_groups;
        let is_above = |group: &Group| {
            group.records.iter().any(|(_, record)| slot_of(record).is_some_and(|slot| slot > above))
        };
        let may = (0..full).filter(|at| !self.groups[*at].damaged && is_above(&self.groups[*at]));
        let may: Vec<usize> = may.collect();
        let worst = self.worst_losses((above, full), &may, differs);
        if !worst.is_empty() {
            let (hit, headers) = &worst[rng.usize(..worst.len())];
            return Some(Drawn { losses: self.losses(hit, *headers), is_worst: true });
        }
        let any = |rng: &mut Rng| may[rng.usize(..may.len())];
        let hit = match rng.u8(..4) {
            _ if may.is_empty() => return None,
            // The disk refuses to read the file.
            0 => {
                let first = any(rng) / self.segment_groups * self.segment_groups;
                (first..first + self.segment_groups).collect()
            }
            _ => (0..rng.usize(1..=GROUPS_MAX)).map(|_| any(rng)).collect::<Vec<usize>>(),
        };
        Some(Drawn { losses: self.losses(&hit, rng.bool()), is_worst: false })
    }

    fn losses(&self, groups: &[usize], headers: bool) -> Vec<Loss> {
        groups.iter().map(|at| Loss { first: self.groups[*at].records[0].0, headers }).collect()
    }

    /// Where it hurts most: groups without which the journal holds, of some slot, only an acceptance
    /// beside which another value was chosen, or nothing at all.
    fn worst_losses(
        &self,
        (above, full): (Slot, usize),
        may: &[usize],
        differs: impl Fn(Slot, &Value) -> bool,
    ) -> Vec<(Vec<usize>, bool)> {
        let mut held: BTreeMap<Slot, Vec<(usize, bool)>> = BTreeMap::new();
        for (at, group) in self.groups.iter().enumerate() {
            for (_, record) in &group.records {
                if let RecordBody::Accepted { slot, value, .. } | RecordBody::Chosen { slot, value } =
                    &record.body
                    && *slot > above
                {
                    held.entry(*slot).or_default().push((at, differs(*slot, value)));
                }
            }
        }
        let mut worst = Vec::new();
        for records in held.values() {
            let Some(stale) = records.iter().position(|(_, differs)| *differs) else { continue };
            let (at, later) = (records[stale].0, &records[stale + 1..]);
            let later: Vec<usize> =
                later.iter().filter(|(_, differs)| !differs).map(|(at, _)| *at).collect();
            if later.iter().all(|later| may.contains(later) && *later != at) && !later.is_empty() {
                worst.push((later, true));
            } else if later.is_empty() && at < full {
                // What is lost lies behind it, or beside it.
                let segment = at / self.segment_groups * self.segment_groups;
                let behind = may.iter().filter(|group| **group >= segment && **group != at);
                worst.extend(behind.map(|group| (vec![*group], false)));
            }
        }
        if worst.is_empty() {
            worst = self.before_gaps(above, may, &held.into_keys().collect());
        }
        worst
    }

    /// The groups which are dropped, if they are lost, with slots that the journal never held.
    fn before_gaps(
        &self,
        above: Slot,
        may: &[usize],
        held: &BTreeSet<Slot>,
    ) -> Vec<(Vec<usize>, bool)> {
        let is_before = |at: &&usize| {
            let end = (**at / self.segment_groups + 1) * self.segment_groups;
            let records = self.groups.range(..end).flat_map(|group| &group.records);
            let upto = records.filter_map(|(_, record)| reaches(record)).max();
            (above.0 + 1..=upto.unwrap_or(above).0).any(|slot| !held.contains(&Slot(slot)))
        };
        may.iter().filter(is_before).map(|at| (vec![*at], false)).collect()
    }

    /// The disk gives other bytes for these groups, or none.
    pub(crate) fn lose(&mut self, losses: &[Loss], is_momentary: bool) {
        for group in &mut self.groups {
            let Some(loss) = losses.iter().find(|loss| group.records[0].0 == loss.first) else {
                continue;
            };
            self.damaged_groups += usize::from(!group.damaged);
            group.momentary = is_momentary && (group.momentary || !group.damaged);
            group.headers_lost = loss.headers || group.damaged && group.headers_lost;
            group.damaged = true;
        }
    }

    /// What could not be read for a while can be read again. Says whether there was such.
    pub(crate) fn find_again(&mut self) -> bool {
        let before = self.damaged_groups;
        for group in self.groups.iter_mut().filter(|group| group.damaged && group.momentary) {
            (group.damaged, group.momentary) = (false, false);
            self.damaged_groups -= 1;
        }
        self.damaged_groups < before
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Position, Record};
    use super::*;
    use synod_paxos::{Ballot, NodeId};

    /// Acceptances of these slots, one a group, in segments of two groups; each tells that
    /// the one before is chosen.
    fn disk(slots: u64) -> Disk {
        let ballot = Ballot { round: 3, node: NodeId(1) };
        let mut disk = Disk::new(2);
        for slot in 1..=slots {
            let body = RecordBody::Accepted { slot: Slot(slot), ballot, value: Value::Noop };
            let record = Record { promised: ballot, chosen_upto: Slot(slot - 1), body };
            disk.append(Position(slot), vec![record]);
            disk.begin_group();
            disk.finish_group();
        }
        disk
    }

    fn told(disk: &Disk, first: u64) -> usize {
        let shown = disk.shown(Planted::NONE);
        disk.shown_values(&shown, (Slot(first), Slot(9)), usize::MAX).len()
    }

    #[test]
    fn what_is_shown_ends_at_the_damage_and_goes_on_behind_it() {
        let mut disk = disk(7);
        assert_eq!(told(&disk, 1), 6, "the last one may not be chosen");
        disk.lose(&[Loss { first: Position(3), headers: false }], true);
        assert_eq!((told(&disk, 1), told(&disk, 3), told(&disk, 4)), (2, 0, 3));
        disk.lose(&[Loss { first: Position(5), headers: true }], false);
        assert_eq!(told(&disk, 4), 0, "whether 4 was accepted anew nobody knows");
        assert_eq!((told(&disk, 5), told(&disk, 6), disk.damaged_groups), (0, 1, 2));
        assert!(disk.find_again() && !disk.find_again());
        assert_eq!((told(&disk, 1), disk.damaged_groups), (3, 1));
    }

    #[test]
    fn what_is_kept_aside_is_shown_as_before() {
        let mut disk = disk(7);
        disk.lose(&[Loss { first: Position(3), headers: false }], false);
        let behind = disk.behind_damage().expect("the newest is whole").expect("it is damaged");
        disk.mend_aside(behind);
        assert_eq!(
            (told(&disk, 1), told(&disk, 3), told(&disk, 4), disk.damaged_groups),
            (2, 0, 3, 0)
        );
        assert_eq!(disk.recover(None).truncated_upto, Slot(4));
        disk.truncate_aside(Slot(6));
        assert_eq!((disk.recover(None).truncated_upto, told(&disk, 4)), (Slot(6), 3));
        disk.drop_aside();
        assert_eq!((told(&disk, 1), told(&disk, 4)), (0, 0));
    }

    #[test]
    fn only_what_is_above_and_before_the_newest_segment_is_lost() {
        let (disk, mut rng) = (disk(7), Rng::with_seed(1));
        for _ in 0..100 {
            let drawn = disk.draw_losses(Slot(2), |_, _| false, &mut rng).expect("some");
            let mut losses = drawn.losses.iter();
            assert!(losses.all(|loss| (3..=6).contains(&loss.first.0)), "{drawn:?}");
            assert!(!drawn.is_worst && !drawn.losses.is_empty());
        }
        assert_eq!(disk.draw_losses(Slot(6), |_, _| false, &mut rng), None);
        // Slot 3 was chosen otherwise: what is lost is not the acceptance of it.
        for _ in 0..100 {
            let drawn = disk.draw_losses(Slot(2), |slot, _| slot == Slot(3), &mut rng);
            let drawn = drawn.expect("some");
            assert!(drawn.is_worst && (4..=6).contains(&drawn.losses[0].first.0), "{drawn:?}");
        }
    }
}
