//! What a watch tells.

use serde::{Deserialize, Serialize};

use super::{Encoding, KeyText, RecordBody};
use crate::read::Change;

/// What happened to a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// It was stored.
    Put,
    /// It was removed.
    Delete,
}

impl EventKind {
    /// Its name, as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            EventKind::Put => "put",
            EventKind::Delete => "delete",
        }
    }
}

/// A change of a key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EventBody {
    /// What happened.
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// The store's revision with this change.
    pub revision: u64,
    /// The key.
    #[serde(flatten)]
    pub key: KeyText,
    /// Its record from then on; none if it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none", flatten)]
    #[cfg_attr(feature = "openapi", schema(value_type = super::schema::MaybeRecord))]
    pub record: Option<RecordBody>,
    /// Its record before, if that was asked for and there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<RecordBody>,
}

impl EventBody {
    /// Writes a change, with or without what was before.
    #[must_use]
    pub fn new(change: &Change, with_previous: bool, encoding: Encoding) -> Self {
        let record = |record| RecordBody::new(record, true, encoding);
        let previous = change.previous.as_ref().filter(|_| with_previous);
        EventBody {
            kind: if change.record.is_some() { EventKind::Put } else { EventKind::Delete },
            revision: change.revision.0,
            key: KeyText::new(&change.key, encoding),
            record: change.record.as_ref().map(record),
            previous: previous.map(record),
        }
    }
}

/// The answer to a watch that waits for one page.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WatchPage {
    /// What happened, in order; empty when nothing did while it waited.
    pub events: Vec<EventBody>,
    /// Everything up to this revision was looked at.
    pub revision: u64,
    /// The `from` of the next page.
    pub next: String,
}

/// All changes of the watched keys up to this revision were told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProgressBody {
    /// The revision.
    pub revision: u64,
}

/// Why a node ends a watch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum WatchEnd {
    /// What comes next for this watch is not kept any more.
    Compacted,
    /// The node stops.
    Stopping,
    /// The node has no memory for what comes next.
    Overloaded,
    /// The client takes what it is told too slowly.
    Slow,
    /// The node can't read its state.
    Failed,
}

/// The last word of a watch that its node ends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WatchEndBody {
    /// Why.
    pub reason: WatchEnd,
    /// What happened, and what to do about it.
    pub detail: String,
    /// When it is compacted: the oldest revision that can be watched from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_revision: Option<u64>,
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::{KeyRecord, Revision};

    #[test]
    fn events_read_as_the_manual_says() {
        let record = |value: &'static str, revision, lease| KeyRecord {
            value: Bytes::from(value),
            create_revision: Revision(1),
            mod_revision: Revision(revision),
            version: revision,
            lease,
        };
        let mut change = Change {
            revision: Revision(3),
            key: Bytes::from("a"),
            record: Some(record("new", 3, 7)),
            previous: Some(record("old", 2, 0)),
        };
        let old = json!({"value": "old", "create_revision": 1, "mod_revision": 2, "version": 2});
        let put = json!({"type": "put", "revision": 3, "key": "a", "value": "new",
            "create_revision": 1, "mod_revision": 3, "version": 3, "lease": 7, "previous": old});
        let written = EventBody::new(&change, true, Encoding::Text);
        assert_eq!(serde_json::to_value(&written).unwrap(), put);
        assert_eq!(serde_json::from_value::<EventBody>(put).unwrap(), written);
        change.record = None;
        let delete = json!({"type": "delete", "revision": 3, "key_base64": "YQ=="});
        let written = EventBody::new(&change, false, Encoding::Base64);
        assert_eq!(serde_json::to_value(&written).unwrap(), delete);
        assert_eq!(serde_json::from_value::<EventBody>(delete).unwrap(), written);
    }
}
