//! The body of a transaction and the answer to it; also a line of a batch, which is one of
//! its operations.
//!
//! What is read here has the right form. Whether the members that are given fit the
//! operation, its reader has to ask.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::{KeyText, ListEntry, Object, RecordBody};
use crate::TXN_OPERATIONS_MAX;

/// The question of a transaction.
#[derive(Clone, PartialEq, Eq, Default, Debug, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TxnBody {
    /// All must hold for `success`.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<CompareBody>, max_items = 1024))]
    pub compare: Few<CompareBody>,
    /// What to do then.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<OperationBody>, max_items = 1024))]
    pub success: Few<OperationBody>,
    /// What to do else.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<OperationBody>, max_items = 1024))]
    pub failure: Few<OperationBody>,
}

/// As many things as a transaction may have; of more, only their number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Few<T> {
    /// The first [`TXN_OPERATIONS_MAX`].
    pub items: Vec<T>,
    /// How many there are.
    pub count: usize,
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Few { items: Vec::new(), count: 0 }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Few<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(FewVisitor(PhantomData))
    }
}

struct FewVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for FewVisitor<T> {
    type Value = Few<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Few<T>, A::Error> {
        let mut few = Few::default();
        while few.items.len() < TXN_OPERATIONS_MAX {
            let Some(Object(item)) = list.next_element()? else {
                break;
            };
            few.items.push(item);
            few.count += 1;
        }
        // What is beyond takes no memory.
        while list.next_element::<IgnoredAny>()?.is_some() {
            few.count += 1;
        }
        Ok(few)
    }
}

/// A comparison.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CompareBody {
    /// The key as text.
    #[serde(default)]
    pub key: Option<String>,
    /// The key in base64.
    #[serde(default)]
    pub key_base64: Option<String>,
    /// What of the key.
    pub target: TargetName,
    /// How it must be to the operand.
    pub op: RelationName,
    /// What it is compared with.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<super::schema::Operand>))]
    pub operand: Option<Operand>,
    /// The same in base64, for values.
    #[serde(default)]
    pub operand_base64: Option<String>,
}

/// What of a key is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum TargetName {
    /// The value.
    Value,
    /// The version.
    Version,
    /// The revision of the creation.
    Create,
    /// The revision of the last change.
    Mod,
    /// The lease.
    Lease,
}

/// How two things are to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum RelationName {
    /// The same.
    #[serde(rename = "=")]
    Equal,
    /// Not the same.
    #[serde(rename = "!=")]
    NotEqual,
    /// Less.
    #[serde(rename = "<")]
    Less,
    /// Greater.
    #[serde(rename = ">")]
    Greater,
}

/// What is compared with: a text for values, a number for everything else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operand {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

impl<'de> Deserialize<'de> for Operand {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OperandVisitor)
    }
}

struct OperandVisitor;

impl Visitor<'_> for OperandVisitor {
    type Value = Operand;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a whole number below 2^64")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Operand, E> {
        Ok(Operand::Number(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Operand, E> {
        Ok(Operand::Text(text.to_owned()))
    }
}

/// An operation of a transaction, or a line of a batch. Bytes are given as text or, with
/// `_base64` behind the name, in base64.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "each is the member of the same name")]
pub struct OperationBody {
    pub op: OperationName,
    #[serde(default)]
    pub key: Option<String>,
    #[serde(default)]
    pub key_base64: Option<String>,
    #[serde(default)]
    pub value: Option<String>,
    #[serde(default)]
    pub value_base64: Option<String>,
    #[serde(default)]
    pub prefix: Option<String>,
    #[serde(default)]
    pub prefix_base64: Option<String>,
    #[serde(default)]
    pub start: Option<String>,
    #[serde(default)]
    pub start_base64: Option<String>,
    #[serde(default)]
    pub end: Option<String>,
    #[serde(default)]
    pub end_base64: Option<String>,
    #[serde(default)]
    pub lease: Option<u64>,
    #[serde(default)]
    pub limit: Option<u32>,
    #[serde(default)]
    pub prev: Option<bool>,
    #[serde(default)]
    pub keys_only: Option<bool>,
    #[serde(default)]
    pub all: Option<bool>,
}

/// Which operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OperationName {
    /// Stores a value.
    Put,
    /// Removes a key.
    Delete,
    /// Removes the keys of a range.
    DeleteRange,
    /// Reads a key.
    Get,
    /// Reads the keys of a range.
    Range,
}

/// The answer to a transaction.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TxnAnswerBody {
    /// The store's revision with its changes (unchanged when there were none).
    pub revision: u64,
    /// Whether all its comparisons held.
    pub succeeded: bool,
    /// What became of the operations of that branch.
    pub results: Vec<TxnResultBody>,
}

/// What became of an operation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum TxnResultBody {
    /// Of a put.
    Put {
        /// The revision that created the key.
        create_revision: u64,
        /// Changes since the creation, which is 1.
        version: u64,
        /// What was replaced, if that was asked for and there was something.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous: Option<RecordBody>,
    },
    /// Of a delete.
    Delete {
        /// How many keys were removed: 0 or 1.
        deleted: u64,
        /// What was removed, if that was asked for and there was something.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous: Option<RecordBody>,
    },
    /// Of a range delete.
    DeleteRange {
        /// How many keys were removed.
        deleted: u64,
        /// A limit was reached: where the range goes on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<KeyText>,
    },
    /// Of a read of one key.
    Get {
        /// What is there; null if there is no such key.
        record: Option<RecordBody>,
    },
    /// Of a read of a range.
    Range {
        /// How many keys there are in `entries`.
        count: u64,
        /// The keys in order.
        entries: Vec<ListEntry>,
        /// A limit was reached: where the range goes on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<KeyText>,
    },
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn more_than_may_be_is_counted_and_not_kept() {
        let get = json!({"op": "get", "key": "a"});
        let list = |count: usize| json!({"success": vec![get.clone(); count]});
        let body: TxnBody = serde_json::from_value(list(TXN_OPERATIONS_MAX)).unwrap();
        assert_eq!((body.success.items.len(), body.success.count), (1024, 1024));
        let body: TxnBody = serde_json::from_value(list(5000)).unwrap();
        assert_eq!((body.success.items.len(), body.success.count), (1024, 5000));
    }

    #[test]
    fn an_operand_is_a_text_or_a_number() {
        let read = |text: &str| serde_json::from_str::<Operand>(text).ok();
        assert_eq!(read("18446744073709551615"), Some(Operand::Number(u64::MAX)));
        assert_eq!(read("\"\\u00e9\""), Some(Operand::Text("é".to_owned())));
        for wrong in ["-1", "1.0", "true", "null", "[1]", "{}", "18446744073709551616"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_answer_reads_as_the_manual_says() {
        let results = vec![
            TxnResultBody::Put { create_revision: 1, version: 2, previous: None },
            TxnResultBody::Get { record: None },
            TxnResultBody::DeleteRange { deleted: 3, next: Some(KeyText::Text("b".to_owned())) },
        ];
        let body = TxnAnswerBody { revision: 4, succeeded: true, results };
        let written = json!({"revision": 4, "succeeded": true, "results": [
            {"op": "put", "create_revision": 1, "version": 2},
            {"op": "get", "record": null},
            {"op": "delete_range", "deleted": 3, "next": {"key": "b"}},
        ]});
        assert_eq!(serde_json::to_value(&body).unwrap(), written);
        assert_eq!(serde_json::from_value::<TxnAnswerBody>(written).unwrap(), body);
    }
}
