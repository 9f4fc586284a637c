//! A node's journal on a disk that may lie.
//!
//! What a restart may conclude follows the rules that `synod-journal` documents:
//! records are written in groups, one sync each; the next group seals the one
//! before. A group that was being written when the machine stopped is there, or
//! torn and dropped as one. Damage anywhere else is noticed, and then the node
//! must not start, unless the damage lies before the newest segment and the state makes up
//! for what is dropped with it. What the journal cannot notice by design (a last, unsealed
//! group that was acknowledged and turned back into zeros) is not simulated.

mod aside;
mod record;
mod remains;
mod shown;
mod written;

use std::collections::{BTreeMap, VecDeque};

use synod_paxos::{
    AcceptedSlot, Ballot, Load, Position, Record, RecordBody, Recovered, Segment, Slot, Standing,
    Value,
};

use crate::mistakes::Mistake;
use record::{reaches, size_of, slot_of};
pub(crate) use remains::Remains;
pub(crate) use shown::{Drawn, Loss};
pub(crate) use written::Form;
use written::Written;

/// Records that one sync made durable.
#[derive(Clone, Debug)]
struct Group {
    records: Vec<(Position, Record)>,
    damaged: bool,
    /// Not even the headers of its records are known, if it is damaged.
    headers_lost: bool,
    /// It can be read again after a while.
    momentary: bool,
    /// The same as bytes, where somebody may read them otherwise.
    written: Option<Written>,
}

/// What became of the group that was being written when its process died.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tail {
    /// It never reached the disk.
    Lost,
    /// A part of its sectors did.
    Torn,
    /// All of it did, though nobody was told.
    Whole,
}

/// What the journal holds of a slot.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) standing: Standing,
    pub(crate) value: Value,
    /// Where the record stands.
    pub(crate) position: Position,
}

/// What is in force at the start of the oldest group, as its segment's header
/// repeats it.
#[derive(Clone, Copy, Debug)]
struct Base {
    promised: Ballot,
    chosen_upto: Slot,
    truncated_upto: Slot,
    position: Position,
}

/// An intact journal was expected, and something that was synced is not as written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Damaged;

/// What a journal would be of which all is dropped up to its last damage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Behind {
    /// It would begin after this slot.
    pub(crate) upto: Slot,
    groups: usize,
}

/// The journal.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    base: Base,
    groups: VecDeque<Group>,
    /// What came before them, as far as it is kept for what it shows.
    aside: VecDeque<Group>,
    writing: Option<Group>,
    /// Handed over and not being written yet.
    queued: Vec<(Position, Record)>,
    /// The newest record of each slot, durable or not.
    held: BTreeMap<Slot, Held>,
    /// The newest durable record of each slot, and the newest durable watermark.
    synced: BTreeMap<Slot, Held>,
    synced_chosen_upto: Slot,
    /// The newest watermark of a record, durable or not.
    chosen_upto: Slot,
    /// What was dropped, or replaced by a snapshot, durably or not yet.
    truncated_upto: Slot,
    /// The same, as far as it is durable.
    synced_truncated_upto: Slot,
    /// The highest slot of the full segments, and those that nobody was told of.
    filled_upto: Slot,
    filled: Vec<Segment>,
    /// In force durably.
    promised: Ballot,
    /// How many groups a segment has: only whole segments are dropped.
    segment_groups: usize,
    /// No room for another group.
    pub(crate) full: bool,
    /// The next sync fails.
    pub(crate) sync_fails: bool,
    /// Syncs end no earlier than this.
    pub(crate) hangs_until_us: u64,
    /// Something was damaged that no truncation has dropped since.
    pub(crate) damaged_groups: usize,
    /// In which form groups are written, if that matters.
    pub(crate) form: Option<Form>,
    /// Somebody was allowed to write a newer form than that of the beginning.
    pub(crate) was_raised: bool,
}

impl Disk {
    pub(crate) fn new(segment_groups: usize) -> Self {
        let base = Base {
            promised: Ballot::ZERO,
            chosen_upto: Slot::ZERO,
            truncated_upto: Slot::ZERO,
            position: Position::ZERO,
        };
        Disk {
            base,
            groups: VecDeque::new(),
            aside: VecDeque::new(),
            writing: None,
            queued: Vec::new(),
            held: BTreeMap::new(),
            synced: BTreeMap::new(),
            synced_chosen_upto: Slot::ZERO,
            chosen_upto: Slot::ZERO,
            truncated_upto: Slot::ZERO,
            synced_truncated_upto: Slot::ZERO,
            filled_upto: Slot::ZERO,
            filled: Vec::new(),
            promised: Ballot::ZERO,
            segment_groups,
            full: false,
            sync_fails: false,
            hangs_until_us: 0,
            damaged_groups: 0,
            form: None,
            was_raised: false,
        }
    }

    /// Takes records to be written; the last one gets the position `upto`.
    pub(crate) fn append(&mut self, upto: Position, records: Vec<Record>) {
        let first = upto.0 + 1 - records.len() as u64;
        for (position, record) in (first..).map(Position).zip(records) {
            hold(&mut self.held, self.chosen_upto, position, &record);
            if let RecordBody::StartAfter { slot } = record.body {
                self.truncated_upto = self.truncated_upto.max(slot);
                self.held = self.held.split_off(&slot.next());
            }
            self.raise_watermark(record.chosen_upto);
            self.queued.push((position, record));
        }
    }

    /// As the real journal does, this one refuses a watermark over a slot that was
    /// never recorded.
    fn raise_watermark(&mut self, chosen_upto: Slot) {
        while self.chosen_upto < chosen_upto {
            let slot = self.chosen_upto.next();
            assert!(
                slot <= self.truncated_upto || self.held.contains_key(&slot),
                "slot {slot} is recorded as chosen and was never recorded"
            );
            self.chosen_upto = slot;
        }
    }

    /// Starts to write everything queued as one group, unless a group is being
    /// written or nothing is queued. Says whether it did.
    pub(crate) fn begin_group(&mut self) -> bool {
        if self.writing.is_some() || self.queued.is_empty() {
            return false;
        }
        let records = std::mem::take(&mut self.queued);
        let written = self.form.map(|form| Written::of(&records, form));
        self.writing =
            Some(Group { records, damaged: false, headers_lost: true, momentary: false, written });
        true
    }

    /// The sync of the group that is being written ended well. Returns its records.
    pub(crate) fn finish_group(&mut self) -> &[(Position, Record)] {
        let group = self.writing.take().expect("a group is being written");
        self.keep(group)
    }

    fn keep(&mut self, group: Group) -> &[(Position, Record)] {
        for (position, record) in &group.records {
            hold(&mut self.synced, self.synced_chosen_upto, *position, record);
            self.synced_chosen_upto = self.synced_chosen_upto.max(record.chosen_upto);
            self.promised = record.promised;
            if let RecordBody::StartAfter { slot } = record.body {
                self.synced_truncated_upto = self.synced_truncated_upto.max(slot);
                self.synced = self.synced.split_off(&slot.next());
            }
        }
        self.groups.push_back(group);
        self.fill_segment();
        &self.groups.back().expect("just pushed").records
    }

    /// The group that was pushed last begins a segment, and the one before is full.
    fn fill_segment(&mut self) {
        let full = self.groups.len() - 1;
        if full > 0 && full.is_multiple_of(self.segment_groups) {
            let segment = self.segment(full - self.segment_groups);
            self.filled.push(segment);
        }
    }

    /// The full segment that begins with the group at `first`.
    fn segment(&mut self, first: usize) -> Segment {
        let groups = self.groups.range(first..first + self.segment_groups);
        let records = groups.flat_map(|group| &group.records);
        let highest = records.clone().filter_map(|(_, record)| slot_of(record)).max();
        self.filled_upto = self.filled_upto.max(highest.unwrap_or(Slot::ZERO));
        let bytes = records.map(|(_, record)| size_of(record)).sum();
        Segment { upto: self.filled_upto, bytes }
    }

    /// The segments that were filled since this was asked last; after a start, all.
    pub(crate) fn take_filled(&mut self) -> Vec<Segment> {
        std::mem::take(&mut self.filled)
    }

    /// The process died. Returns the records that nobody was told of and that are
    /// durable nevertheless.
    pub(crate) fn crash(&mut self, tail: Tail) -> &[(Position, Record)] {
        self.queued.clear();
        let writing = self.writing.take();
        let kept = writing.filter(|_| tail == Tail::Whole);
        let found = kept.is_some();
        if let Some(group) = kept {
            self.keep(group);
        }
        match self.groups.back() {
            Some(group) if found => &group.records,
            _ => &[],
        }
    }

    /// Whether a group is being written.
    pub(crate) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// What a restart finds in a journal that is whole, or whose damage it overlooks.
    pub(crate) fn recover(&mut self, mistake: Option<Mistake>) -> Recovered {
        assert!(self.writing.is_none() && self.queued.is_empty(), "the process is gone");
        match mistake {
            Some(Mistake::LostWriteUnnoticed) => self.groups.retain(|group| !group.damaged),
            Some(Mistake::RecordElsewhere) => self.shift_damaged(),
            _ => assert!(self.damaged_groups == 0, "a damaged journal is mended or refused"),
        }
        self.damaged_groups = 0;
        let mut held = BTreeMap::new();
        let mut recovered = Recovered {
            promised: self.base.promised,
            chosen_upto: self.base.chosen_upto,
            truncated_upto: self.base.truncated_upto,
            open: Vec::new(),
            position: self.base.position,
        };
        for (position, record) in self.groups.iter().flat_map(|group| &group.records) {
            hold(&mut held, recovered.chosen_upto, *position, record);
            recovered.promised = record.promised;
            recovered.chosen_upto = recovered.chosen_upto.max(record.chosen_upto);
            recovered.position = *position;
            if let RecordBody::StartAfter { slot } = record.body {
                recovered.truncated_upto = recovered.truncated_upto.max(slot);
            }
        }
        held.retain(|slot, _| *slot > recovered.truncated_upto);
        let open = held.range(recovered.chosen_upto.next()..);
        let open = open.map(|(slot, held)| AcceptedSlot {
            slot: *slot,
            standing: held.standing,
            value: held.value.clone(),
        });
        recovered.open = open.collect();
        self.synced.clone_from(&held);
        self.synced_chosen_upto = recovered.chosen_upto;
        self.held = held;
        self.chosen_upto = recovered.chosen_upto;
        self.promised = recovered.promised;
        self.truncated_upto = recovered.truncated_upto;
        self.synced_truncated_upto = recovered.truncated_upto;
        self.filled_upto = self.base.truncated_upto;
        let full = self.groups.len().saturating_sub(1) / self.segment_groups;
        self.filled = (0..full).map(|n| self.segment(n * self.segment_groups)).collect();
        recovered
    }

    /// What a disk left that wrote to another place than it was told.
    fn shift_damaged(&mut self) {
        for group in self.groups.iter_mut().filter(|group| group.damaged) {
            for (_, record) in &mut group.records {
                if let RecordBody::Accepted { slot, .. } | RecordBody::Chosen { slot, .. } =
                    &mut record.body
                {
                    *slot = slot.next();
                }
            }
            group.damaged = false;
        }
    }

    /// What would be left if all up to the last damage were dropped. None when nothing is
    /// damaged.
    ///
    /// # Errors
    /// When the newest segment, behind which nothing is, is damaged in what nothing repeats.
    pub(crate) fn behind_damage(&self) -> Result<Option<Behind>, Damaged> {
        self.behind(self.groups.iter().rposition(|group| group.damaged))
    }

    /// The same if the sealed group at this share were damaged too.
    pub(crate) fn behind_share(&self, share_permille: usize) -> Result<Option<Behind>, Damaged> {
        let known = self.groups.iter().rposition(|group| group.damaged);
        let sealed = self.groups.len().saturating_sub(1);
        self.behind(known.max((sealed > 0).then_some(share_permille * sealed / 1_000)))
    }

    fn behind(&self, last: Option<usize>) -> Result<Option<Behind>, Damaged> {
        let Some(last) = last else { return Ok(None) };
        let mut groups = (last / self.segment_groups + 1) * self.segment_groups;
        if groups >= self.groups.len() {
            // Nothing follows the newest segment. Each group in it repeats the headers of the one before,
            // and what is behind the damage is written into the next one.
            groups = last + 1;
            let newest = last / self.segment_groups * self.segment_groups;
            let is_lost = |at: usize| at == last || self.groups[at].damaged;
            let is_open = |at: usize| at + 1 == self.groups.len() || is_lost(at + 1);
            if (newest..groups).any(|at| is_lost(at) && is_open(at)) {
                return Err(Damaged);
            }
        }
        let records = self.groups.range(..groups).flat_map(|group| &group.records);
        let upto = records.filter_map(|(_, record)| reaches(record)).max();
        let upto = upto.unwrap_or(Slot::ZERO).max(self.base.truncated_upto);
        Ok(Some(Behind { upto, groups }))
    }

    /// Drops the damaged segments, and those before them, which the state makes up for.
    pub(crate) fn mend(&mut self, behind: Behind) {
        self.drop_groups(behind.groups);
    }

    /// Whether anything sealed is damaged that a scrub reads: it leaves the newest segment.
    pub(crate) fn has_scrubbable_damage(&self) -> bool {
        let newest =
            self.groups.len().saturating_sub(1) / self.segment_groups * self.segment_groups;
        let last = self.groups.iter().rposition(|group| group.damaged);
        last.is_some_and(|last| last < newest)
    }

    /// Drops whole segments that hold nothing above `upto`.
    pub(crate) fn truncate(&mut self, upto: Slot) {
        let upto = upto.min(self.chosen_upto);
        while self.groups.len() > self.segment_groups {
            let segment = self.groups.iter().take(self.segment_groups);
            let records = segment.flat_map(|group| &group.records);
            if records.clone().any(|(_, record)| slot_of(record).is_some_and(|slot| slot > upto)) {
                return;
            }
            self.drop_groups(self.segment_groups);
        }
    }

    /// Drops the oldest groups. What was in force after them the next segment's header says.
    fn drop_groups(&mut self, groups: usize) {
        let mut truncated = self.base.truncated_upto;
        for _ in 0..groups {
            let group = self.groups.pop_front().expect("counted");
            self.damaged_groups -= usize::from(group.damaged);
            let reached = group.records.iter().filter_map(|(_, record)| reaches(record)).max();
            truncated = truncated.max(reached.unwrap_or(Slot::ZERO));
            let (position, last) = group.records.last().expect("a group has records");
            self.base.promised = last.promised;
            self.base.chosen_upto = self.base.chosen_upto.max(last.chosen_upto);
            self.base.position = *position;
        }
        // The watermark in force lies in a later segment, or did when this was dropped.
        self.base.chosen_upto = self.base.chosen_upto.max(truncated);
        self.base.truncated_upto = truncated;
        self.truncated_upto = self.truncated_upto.max(truncated);
        self.synced_truncated_upto = self.synced_truncated_upto.max(truncated);
        self.held = self.held.split_off(&truncated.next());
        self.synced = self.synced.split_off(&truncated.next());
    }

    /// Chosen values, as the journal would read them back.
    ///
    /// # Errors
    /// When one of them is not as it was written: the node stops.
    pub(crate) fn load(&self, load: &Load) -> Result<Vec<Value>, Damaged> {
        self.values(load.first, load.last, load.bytes_max)
    }

    /// The chosen values from `first` to `last`, as many as there are without a gap.
    ///
    /// # Errors
    /// As [`Disk::load`].
    pub(crate) fn values(
        &self,
        first: Slot,
        last: Slot,
        bytes_max: usize,
    ) -> Result<Vec<Value>, Damaged> {
        let mut values = Vec::new();
        let (mut slot, mut bytes) = (first, 0);
        while slot <= last && bytes < bytes_max {
            let Some(held) = self.held.get(&slot) else { break };
            if slot > self.chosen_upto && held.standing != Standing::Chosen {
                break;
            }
            if self.is_damaged_at(held.position) {
                return Err(Damaged);
            }
            bytes += held.value.size_bytes();
            values.push(held.value.clone());
            slot = slot.next();
        }
        Ok(values)
    }

    fn is_damaged_at(&self, position: Position) -> bool {
        self.damaged_groups > 0
            && self
                .groups
                .iter()
                .any(|group| group.damaged && group.records.iter().any(|(at, _)| *at == position))
    }

    /// Damages a group: the sealed one at `share` of a thousand from the oldest.
    /// Says whether there is one.
    pub(crate) fn damage(&mut self, share_permille: usize) -> bool {
        let sealed = self.groups.len().saturating_sub(1);
        if sealed == 0 {
            return false;
        }
        let group = &mut self.groups[share_permille * sealed / 1_000];
        self.damaged_groups += usize::from(!group.damaged);
        group.damaged = true;
        true
    }

    /// Damages the group behind the one that [`Disk::damage`] hits, the last one too.
    pub(crate) fn damage_next(&mut self, share_permille: usize) {
        let sealed = self.groups.len().saturating_sub(1);
        if let Some(group) = self.groups.get_mut(share_permille * sealed / 1_000 + 1) {
            self.damaged_groups += usize::from(!group.damaged);
            group.damaged = true;
        }
    }

    /// Damages what would be dropped last to get behind it.
    pub(crate) fn damage_before(&mut self, behind: Behind) {
        let group = &mut self.groups[behind.groups - 1];
        self.damaged_groups += usize::from(!group.damaged);
        group.damaged = true;
    }

    /// The promise in force durably.
    pub(crate) fn promised(&self) -> Ballot {
        self.promised
    }

    /// What the journal durably holds of a slot.
    pub(crate) fn durably_held(&self, slot: Slot) -> Option<&Held> {
        self.synced.get(&slot)
    }

    /// Everything up to here was dropped, or replaced by a snapshot.
    pub(crate) fn durably_truncated_upto(&self) -> Slot {
        self.synced_truncated_upto
    }

    /// Whether a slot of these, not known as chosen here, holds an acceptance.
    pub(crate) fn has_accepted_in(&self, slots: std::ops::RangeInclusive<Slot>) -> bool {
        let accepted = |held: &Held| matches!(held.standing, Standing::Accepted(_));
        !slots.is_empty()
            && self.held.range(slots).any(|(slot, held)| *slot > self.chosen_upto && accepted(held))
    }
}

fn hold(held: &mut BTreeMap<Slot, Held>, chosen_upto: Slot, position: Position, record: &Record) {
    let (slot, standing, value) = match &record.body {
        RecordBody::Accepted { slot, ballot, value } => {
            (*slot, Standing::Accepted(*ballot), value.clone())
        }
        RecordBody::Chosen { slot, value } => (*slot, Standing::Chosen, value.clone()),
        RecordBody::Promise | RecordBody::StartAfter { .. } => return,
    };
    // What is known as chosen stays as it stands; what was learnt beats every ballot.
    let beaten = held.get(&slot).is_some_and(|known| known.standing > standing);
    if slot > chosen_upto && !beaten {
        held.insert(slot, Held { standing, value, position });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_paxos::NodeId;

    const BALLOT: Ballot = Ballot { round: 3, node: NodeId(1) };

    /// Acceptances of these slots, one a group, in segments of two groups.
    fn disk(slots: u64) -> Disk {
        let mut disk = Disk::new(2);
        for slot in 1..=slots {
            let body =
                RecordBody::Accepted { slot: Slot(slot), ballot: BALLOT, value: Value::Noop };
            let record = Record { promised: BALLOT, chosen_upto: Slot(0), body };
            disk.append(Position(slot), vec![record]);
            disk.begin_group();
            disk.finish_group();
        }
        disk.crash(Tail::Lost);
        disk
    }

    #[test]
    fn what_is_behind_the_damage_is_kept() {
        let mut disk = disk(5);
        assert_eq!(disk.behind_damage(), Ok(None));
        assert!(disk.damage(300), "the second of four sealed ones");
        let behind = disk.behind_damage().expect("the newest is whole").expect("it is damaged");
        assert_eq!(behind.upto, Slot(2));
        disk.mend(behind);
        let recovered = disk.recover(None);
        assert_eq!((recovered.promised, recovered.truncated_upto), (BALLOT, Slot(2)));
        assert_eq!((recovered.chosen_upto, recovered.position), (Slot(2), Position(5)));
        let open: Vec<u64> = recovered.open.iter().map(|open| open.slot.0).collect();
        assert_eq!(open, [3, 4, 5]);
    }

    #[test]
    fn behind_a_damaged_newest_segment_is_what_its_groups_repeat() {
        let mut disk = disk(4);
        assert_eq!(disk.behind_share(0).map(|behind| behind.map(|b| b.upto)), Ok(Some(Slot(2))));
        assert!(disk.damage(999), "the third, in the same segment as the last");
        assert!(!disk.has_scrubbable_damage());
        let behind = disk.behind_damage().expect("the last is whole").expect("it is damaged");
        assert_eq!(behind.upto, Slot(3));
        disk.mend(behind);
        let recovered = disk.recover(None);
        assert_eq!((recovered.promised, recovered.position), (BALLOT, Position(4)));
        assert_eq!((recovered.truncated_upto, recovered.chosen_upto), (Slot(3), Slot(3)));
        assert_eq!(recovered.open.len(), 1);
    }

    #[test]
    fn nothing_repeats_the_first_of_two_groups_that_are_lost() {
        let mut disk = Disk { segment_groups: 4, ..disk(4) };
        assert!(disk.damage(999) && disk.damage(400), "the third and the second");
        assert_eq!(disk.behind_damage(), Err(Damaged));
        assert_eq!(disk.behind_share(0), Err(Damaged));
    }
}
