//! Mistakes in what the simulation has a model of only: the files of a journal and of a
//! state, and what a start does about damaged ones.

macro_rules! mistakes {
    ($($variant:ident = $row:literal, $text:literal;)*) => {
        /// A mistake in the model of a node's files.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Mistake {
            $(#[doc = $text] $variant,)*
        }

        impl Mistake {
            /// All of them.
            pub const ALL: &[Mistake] = &[$(Mistake::$variant),*];

            /// The row of the list of pitfalls that tells of it.
            #[must_use]
            pub const fn row(self) -> u32 {
                match self { $(Mistake::$variant => $row,)* }
            }

            /// What it does, for people.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Mistake::$variant => $text,)* }
            }
        }
    };
}

mistakes! {
    MendsBeyondState = 25, "damaged segments are dropped though the state lacks what they held";
    FilledForgotten = 26, "a state that was filled by peers is not told to the journal: what that holds counts on";
    MendForgetsPromise = 27, "a journal that was mended begins without a promise";
    RecoveryTakesFirst = 8, "`recover` takes the first acceptance of a slot, not that of the highest ballot";
    SnapshotUnchecked = 28, "a snapshot is installed that does not fit its checksum";
    DamageServed = 28, "blocks of the state that do not fit their checksum are read all the same";
    RebuiltTooOld = 34, "a damaged state is replaced by one that ends before the journal begins";
    DamagedCounts = 34, "what went into a damaged state counts as durable there, so that the journal drops it";
    DoubtUnmarked = 34, "a node that goes on with a damaged state leaves no mark of that for its next life";
    SnapshotOfEarlierSlot = 37, "a snapshot says a later slot than that of its data";
    BackupTorn = 37, "what is read last of a backup is of a later revision";
    BackupOfFlushed = 37, "a backup is of the state that is flushed, and misses what was applied last";
    RestoredKeepsSequences = 37, "a restored cluster goes on with the command numbers of the old one";
    LostWriteUnnoticed = 38, "a group of records that the disk never wrote is not missed";
    RecordElsewhere = 38, "records that the disk put elsewhere count for the slot of that place";
    RenewedUnconfirmed = 42, "a lease is kept by a leader that asks nobody whether it still leads";
    WatchResumesAtLast = 45, "a watch that goes on begins with the revision that it has, not behind it";
    WatchIdTooEarly = 45, "each event of a revision has its id, not the last one only";
    WatchAheadOfState = 45, "a quiet watch is told of progress up to what others have, not this node";
    WatchSkipsCompacted = 45, "a watch whose next changes are compacted goes on with what is left, without a word";
    BackupUnconfirmed = 45, "a backup is taken at once, from a node that may be behind";
    NewFormTooEarly = 50, "a leader writes the newer form as soon as it may, whoever cannot read it";
    UnmetReadNewest = 50, "a member that a leader has not met counts as one that reads the newer form";
    OlderFormMisread = 50, "the newer release reads batches of the older one as if they were its own";
    UnknownFieldRefused = 50, "a message with a field more than the reader knows is refused";
    JournalInNewestForm = 50, "a journal is written in the newest form known, not in the one allowed";
    FormNotNamed = 50, "a journal does not say that what follows has the newer form";
}
