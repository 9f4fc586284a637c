//! What a journal holds for whoever makes a new cluster of it, as `synod_journal::Remains` reads it.

use std::collections::BTreeMap;

use synod_paxos::{Ballot, RecordBody, Slot, Standing, Value};

use super::record::slot_of;
use super::{Disk, Tail};
use crate::mistakes::Mistake;

/// What is left of a whole journal. Nobody votes from it.
#[derive(Debug)]
pub(crate) struct Remains {
    /// It holds nothing up to here.
    pub(crate) truncated_upto: Slot,
    /// Every slot up to here is known as chosen.
    pub(crate) chosen_upto: Slot,
    /// The chosen value of each slot, or the acceptance of the highest ballot.
    pub(crate) values: BTreeMap<Slot, (Standing, Value)>,
    /// Acceptances that nobody was told of: they were being written, and are there.
    pub(crate) unheard: Vec<(Slot, Ballot, Value)>,
}

impl Remains {
    /// The slots that have a value and are not known as chosen by the watermark.
    pub(crate) fn open(&self) -> impl Iterator<Item = (Slot, &(Standing, Value))> {
        self.values.range(self.chosen_upto.next()..).map(|(slot, held)| (*slot, held))
    }
}

impl Disk {
    /// What would be left if the process died now, and this became of its last group.
    pub(crate) fn remains(&self, tail: Tail, mistake: Option<Mistake>) -> Remains {
        let mut disk = self.clone();
        let unheard = disk.crash(tail).iter().filter_map(|(_, record)| match &record.body {
            RecordBody::Accepted { slot, ballot, value } => Some((*slot, *ballot, value.clone())),
            _ => None,
        });
        let unheard = unheard.collect();
        let recovered = disk.recover(None);
        let held =
            disk.held.iter().map(|(slot, held)| (*slot, (held.standing, held.value.clone())));
        let mut remains = Remains {
            truncated_upto: recovered.truncated_upto,
            chosen_upto: recovered.chosen_upto,
            values: held.collect(),
            unheard,
        };
        if mistake == Some(Mistake::RecoveryTakesFirst) {
            disk.take_first(&mut remains);
        }
        remains
    }

    /// Whether the group that is being written leaves a slot out, or has another value in one, that is
    /// not known as chosen: what is made of this journal then tells most.
    pub(crate) fn is_telling(&self) -> bool {
        let records = self.writing.iter().flat_map(|group| &group.records);
        records.into_iter().any(|(_, record)| match &record.body {
            RecordBody::Accepted { slot, value, .. } if *slot > self.synced_chosen_upto => {
                let before = Slot(slot.0 - 1);
                let is_other = self.synced.get(slot).is_some_and(|held| held.value != *value);
                is_other || before > self.synced_chosen_upto && !self.held.contains_key(&before)
            }
            _ => false,
        })
    }

    /// A planted mistake: of each open slot what was written first.
    fn take_first(&self, remains: &mut Remains) {
        for (_, record) in self.groups.iter().rev().flat_map(|group| group.records.iter().rev()) {
            if let RecordBody::Accepted { ballot, value, .. } = &record.body
                && let Some(slot) = slot_of(record).filter(|slot| *slot > remains.chosen_upto)
                && let Some(held) = remains.values.get_mut(&slot)
            {
                *held = (Standing::Accepted(*ballot), value.clone());
            }
        }
    }
}
