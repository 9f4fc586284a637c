//! What calls answer.

use bytes::Bytes;
use synod_kv::http::{ListEntry, ListPage, RecordBody};
use synod_kv::{LeaseId, Revision};

/// A key's record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// The value; none when it was not asked for.
    pub value: Option<Bytes>,
    /// The revision that created the key.
    pub create_revision: Revision,
    /// The revision of the last change.
    pub mod_revision: Revision,
    /// Changes since the creation, which is 1.
    pub version: u64,
    /// The lease that the key lives under.
    pub lease: Option<LeaseId>,
}

/// A key that was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The value.
    pub value: Bytes,
    /// The revision that created the key.
    pub create_revision: Revision,
    /// The revision of the last change.
    pub mod_revision: Revision,
    /// Changes since the creation, which is 1.
    pub version: u64,
    /// The lease that the key lives under.
    pub lease: Option<LeaseId>,
    /// A revision of the store at which this was so. Whoever goes on from here needs
    /// the changes after it, and no others.
    pub revision: Revision,
}

/// A put that had effect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// The store's revision with it, which is the key's `mod_revision`.
    pub revision: Revision,
    /// The revision that created the key.
    pub create_revision: Revision,
    /// Changes since the creation, which is 1.
    pub version: u64,
    /// What was replaced, if that was asked for and there was something.
    pub previous: Option<Record>,
    /// The lease that the key lives under.
    pub lease: Option<LeaseId>,
    /// How many attempts it took.
    pub attempts: u32,
}

/// A delete of one key that had effect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Deleted {
    /// The store's revision with it.
    pub revision: Revision,
    /// What was removed, if that was asked for.
    pub previous: Option<Record>,
    /// How many attempts it took.
    pub attempts: u32,
}

/// A range that was removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Removed {
    /// The store's revision with the last of it.
    pub revision: Revision,
    /// How many keys.
    pub deleted: u64,
}

/// A key of a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// Its record.
    pub record: Record,
}

/// A page of a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// The page shows the range as it was at this revision.
    pub revision: Revision,
    /// How many keys it has or, if it only counts, counted.
    pub count: u64,
    /// The keys in the order asked for.
    pub entries: Vec<Entry>,
    /// Where the next page begins (see [`crate::ListOptions::after`]); none on the
    /// last one.
    pub next: Option<Bytes>,
}

impl Record {
    /// Reads it from JSON; none if its base64 is wrong.
    pub(crate) fn from_body(body: &RecordBody) -> Option<Self> {
        let value = match &body.value {
            None => None,
            Some(text) => Some(Bytes::from(text.to_bytes()?)),
        };
        Some(Self {
            value,
            create_revision: Revision(body.create_revision),
            mod_revision: Revision(body.mod_revision),
            version: body.version,
            lease: body.lease.map(LeaseId),
        })
    }
}

impl Entry {
    /// Reads it from JSON; none if its base64 is wrong.
    pub(crate) fn from_body(body: &ListEntry) -> Option<Self> {
        let key = Bytes::from(body.key.to_bytes()?);
        Some(Self { key, record: Record::from_body(&body.record)? })
    }
}

impl Page {
    /// Reads it from JSON; none if something in it is not encoded as it should be.
    pub(crate) fn from_body(body: &ListPage) -> Option<Self> {
        let next = match &body.next {
            None => None,
            Some(text) => Some(crate::target::decode(text)?),
        };
        Some(Self {
            revision: Revision(body.revision),
            count: body.count,
            entries: body.entries.iter().map(Entry::from_body).collect::<Option<_>>()?,
            next,
        })
    }
}
