//! What a journal does not need any more beside a state that is doubted. It is no part of it, and is
//! kept for what it shows.

use synod_paxos::Slot;

use super::{Behind, Disk};

impl Disk {
    /// As [`Disk::mend`], but what is dropped is kept aside.
    pub(crate) fn mend_aside(&mut self, behind: Behind) {
        self.aside.extend(self.groups.iter().take(behind.groups).cloned());
        self.mend(behind);
    }

    /// As [`Disk::truncate`], but what is dropped is kept aside. Before anybody is told of segments.
    pub(crate) fn truncate_aside(&mut self, upto: Slot) {
        let before = self.groups.clone();
        self.truncate(upto);
        let dropped = before.len() - self.groups.len();
        self.aside.extend(before.into_iter().take(dropped));
        self.filled.drain(..dropped / self.segment_groups);
    }

    /// What is aside is not needed any more.
    pub(crate) fn drop_aside(&mut self) {
        self.aside.clear();
    }
}
