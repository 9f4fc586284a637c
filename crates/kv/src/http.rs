//! The JSON bodies of the HTTP interface, for the server and its clients.

pub mod base64;
mod batch;
mod lease;
mod members;
mod object;
mod problem;
mod redirect;
#[cfg(feature = "openapi")]
mod schema;
mod status;
mod txn;
mod watch;

use serde::{Deserialize, Serialize};

use crate::{Entry, KeyRecord, Page};

pub use batch::BatchResultBody;
pub use lease::{
    ClaimBody, GrantBody, GrantedBody, HeldBody, HolderBody, KeepAliveBody, KeptBody, KeptLease,
    LeaseBody, LeasesBody, ReleasedBody, RevokedBody,
};
pub use members::{
    AddMemberBody, ChangeMemberBody, FirstBody, MemberBody, MemberRole, MembersBody, QuorumsBody,
    RestoredBody,
};
pub use object::Object;
pub use problem::{Effect, LeaderHint, Problem, ProblemKind};
pub use redirect::RedirectBody;
pub use status::{
    DamageBody, DamagedPart, PeerBody, RoleName, ScrubBody, SnapshotBody, StatusBody,
};
pub use txn::{
    CompareBody, Few, Operand, OperationBody, OperationName, RelationName, TargetName,
    TxnAnswerBody, TxnBody, TxnResultBody,
};
pub use watch::{EventBody, EventKind, ProgressBody, WatchEnd, WatchEndBody, WatchPage};

/// The answer to a put.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PutBody {
    /// The key; only where the request named several.
    #[serde(default, skip_serializing_if = "Option::is_none", flatten)]
    #[cfg_attr(feature = "openapi", schema(ignore))]
    pub key: Option<KeyText>,
    /// The store's revision with this change, which is the key's `mod_revision`.
    pub revision: u64,
    /// The revision that created the key.
    pub create_revision: u64,
    /// Changes since the creation, which is 1.
    pub version: u64,
    /// What was replaced, if that was asked for and there was something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<RecordBody>,
}

/// The answer to a delete of one key or of a range.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeleteBody {
    /// The store's revision with this change.
    pub revision: u64,
    /// How many keys were removed.
    pub deleted: u64,
    /// A range delete stopped at its limit: there may be more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// What was removed, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<RecordBody>,
}

/// The question of a compaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CompactBody {
    /// The oldest revision that shall stay readable.
    pub revision: u64,
}

/// The answer to a compaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CompactedBody {
    /// The store's revision.
    pub revision: u64,
    /// The oldest revision that can be read from now on.
    pub compacted_revision: u64,
}

/// A page of keys.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ListPage {
    /// The page shows the range as it was at this revision.
    pub revision: u64,
    /// How many keys the page has or, if it only counts, counted.
    pub count: u64,
    /// The keys in the order asked for; empty if it only counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entries: Vec<ListEntry>,
    /// Where the next page begins; none on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Path and query of the next page, at the same revision; none on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page: Option<String>,
}

/// A key of a page.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ListEntry {
    /// The key.
    #[serde(flatten)]
    pub key: KeyText,
    /// Its newest record.
    #[serde(flatten)]
    pub record: RecordBody,
}

/// A key's record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RecordBody {
    /// The value; none if it was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none", flatten)]
    #[cfg_attr(feature = "openapi", schema(value_type = schema::MaybeValue))]
    pub value: Option<ValueText>,
    /// The revision that created the key.
    pub create_revision: u64,
    /// The revision of the last change.
    pub mod_revision: u64,
    /// Changes since the creation, which is 1.
    pub version: u64,
    /// The lease that the key lives under; none if it lives by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<u64>,
}

/// A key in JSON: as text where it is UTF-8, else in base64.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum KeyText {
    /// The bytes are UTF-8.
    #[serde(rename = "key")]
    Text(String),
    /// Any bytes, in base64 with padding.
    #[serde(rename = "key_base64")]
    Base64(String),
}

/// A value in JSON: as text where it is UTF-8, else in base64.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ValueText {
    /// The bytes are UTF-8.
    #[serde(rename = "value")]
    Text(String),
    /// Any bytes, in base64 with padding.
    #[serde(rename = "value_base64")]
    Base64(String),
}

/// How bytes are written in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Encoding {
    /// Text where it is UTF-8.
    #[default]
    Text,
    /// Always base64.
    Base64,
}

impl KeyText {
    /// Writes a key.
    #[must_use]
    pub fn new(bytes: &[u8], encoding: Encoding) -> Self {
        text(bytes, encoding).map_or_else(|| KeyText::Base64(base64::encode(bytes)), KeyText::Text)
    }

    /// The key; none for wrong base64.
    #[must_use]
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        match self {
            KeyText::Text(text) => Some(text.as_bytes().to_vec()),
            KeyText::Base64(text) => base64::decode(text),
        }
    }
}

impl ValueText {
    /// Writes a value.
    #[must_use]
    pub fn new(bytes: &[u8], encoding: Encoding) -> Self {
        text(bytes, encoding)
            .map_or_else(|| ValueText::Base64(base64::encode(bytes)), ValueText::Text)
    }

    /// The value; none for wrong base64.
    #[must_use]
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        match self {
            ValueText::Text(text) => Some(text.as_bytes().to_vec()),
            ValueText::Base64(text) => base64::decode(text),
        }
    }
}

impl RecordBody {
    /// Writes a record, with or without its value.
    #[must_use]
    pub fn new(record: &KeyRecord, with_value: bool, encoding: Encoding) -> Self {
        RecordBody {
            value: with_value.then(|| ValueText::new(&record.value, encoding)),
            create_revision: record.create_revision.0,
            mod_revision: record.mod_revision.0,
            version: record.version,
            lease: (record.lease != 0).then_some(record.lease),
        }
    }
}

impl ListPage {
    /// Writes a page, with or without values. What follows it, if [`Page::next`] says that
    /// something does, is for the caller to add.
    #[must_use]
    pub fn new(page: &Page, with_values: bool, encoding: Encoding) -> Self {
        let entry = |entry: &Entry| ListEntry {
            key: KeyText::new(&entry.key, encoding),
            record: RecordBody::new(&entry.record, with_values, encoding),
        };
        ListPage {
            revision: page.revision.0,
            count: page.count,
            entries: page.entries.iter().map(entry).collect(),
            next: None,
            next_page: None,
        }
    }
}

fn text(bytes: &[u8], encoding: Encoding) -> Option<String> {
    match encoding {
        Encoding::Text => std::str::from_utf8(bytes).ok().map(str::to_owned),
        Encoding::Base64 => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page_reads_as_the_manual_says() {
        let record = |value: Option<ValueText>, lease| RecordBody {
            value,
            create_revision: 1,
            mod_revision: 2,
            version: 3,
            lease,
        };
        let page = ListPage {
            revision: 9,
            count: 2,
            entries: vec![
                ListEntry {
                    key: KeyText::new(b"a", Encoding::Text),
                    record: record(Some(ValueText::new(b"\xff", Encoding::Text)), Some(7)),
                },
                ListEntry { key: KeyText::new(b"a", Encoding::Base64), record: record(None, None) },
            ],
            next: None,
            next_page: None,
        };
        let written = json!({"revision": 9, "count": 2, "entries": [
            {"key": "a", "value_base64": "/w==",
             "create_revision": 1, "mod_revision": 2, "version": 3, "lease": 7},
            {"key_base64": "YQ==", "create_revision": 1, "mod_revision": 2, "version": 3},
        ]});
        assert_eq!(serde_json::to_value(&page).unwrap(), written);
        assert_eq!(serde_json::from_value::<ListPage>(written).unwrap(), page);
    }

    #[test]
    fn an_answer_without_extras_is_short() {
        let put =
            PutBody { key: None, revision: 1, create_revision: 1, version: 1, previous: None };
        let written = r#"{"revision":1,"create_revision":1,"version":1}"#;
        assert_eq!(serde_json::to_string(&put).unwrap(), written);
        assert_eq!(serde_json::from_str::<PutBody>(written).unwrap(), put);
        let delete = DeleteBody { revision: 4, deleted: 1, more: false, previous: None };
        let written = r#"{"revision":4,"deleted":1}"#;
        assert_eq!(serde_json::to_string(&delete).unwrap(), written);
        assert_eq!(serde_json::from_str::<DeleteBody>(written).unwrap(), delete);
    }
}
