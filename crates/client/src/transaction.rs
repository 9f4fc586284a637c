//! Transactions: several operations at one revision, if what they compare holds.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Map, Value};
use synod_kv::http::{KeyText, OperationName, TxnAnswerBody, TxnResultBody, ValueText};
use synod_kv::{Relation, Revision};

use crate::answer::{Entry, Record};
use crate::answer_body::document;
use crate::attempt::Message;
use crate::client::{Client, garbled_write, unfit};
use crate::error::ClientError;
use crate::json_text::value_text;
use crate::options::TransactionOptions;
use crate::retry::Repeat;
use crate::target::Target;

/// What a transaction asks for: if every comparison holds, the operations of `then`, else those
/// of `otherwise`. All of them happen at one revision, in their order, and each sees what those
/// before it did. Two operations of one branch must not write the same key; a branch has at
/// most 1,024 of them.
///
/// ```
/// use synod_client::{Compare, Operation, Relation, Transaction};
///
/// let transfer = Transaction::new()
///     .when(Compare::value("account/1", Relation::Equal, "100"))
///     .then(Operation::put("account/1", "90"))
///     .then(Operation::put("account/2", "110"))
///     .otherwise(Operation::get("account/1"));
/// ```
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Transaction {
    compares: Vec<Compare>,
    success: Vec<Operation>,
    failure: Vec<Operation>,
}

/// A comparison: what is known of a key stands on the left, what is given here on the right. A
/// key that does not exist has 0 for each number, and no value: nothing holds for its value,
/// not even that it is another one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Compare {
    key: Bytes,
    target: &'static str,
    relation: Relation,
    operand: Operand,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Operand {
    Number(u64),
    Bytes(Bytes),
}

/// One operation of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    name: OperationName,
    /// Members with bytes, such as the key.
    bytes: Vec<(&'static str, Bytes)>,
    numbers: Vec<(&'static str, u64)>,
    flags: Vec<&'static str>,
}

/// What became of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transacted {
    /// The store's revision with its changes; unchanged when there were none.
    pub revision: Revision,
    /// Whether every comparison held.
    pub succeeded: bool,
    /// What became of the operations of that branch, in their order.
    pub results: Vec<OperationResult>,
    /// How many attempts it took.
    pub attempts: u32,
}

/// What became of one operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OperationResult {
    /// Of a put.
    Put {
        /// The revision that created the key.
        create_revision: Revision,
        /// Changes since the creation, which is 1.
        version: u64,
        /// What was replaced, if that was asked for and there was something.
        previous: Option<Record>,
    },
    /// Of a delete.
    Delete {
        /// Whether the key was there.
        existed: bool,
        /// What was removed, if that was asked for and there was something.
        previous: Option<Record>,
    },
    /// Of a range delete.
    DeleteRange {
        /// How many keys were removed.
        deleted: u64,
        /// A limit was reached: where the range goes on.
        next: Option<Bytes>,
    },
    /// Of a read of one key.
    Get {
        /// What is there.
        record: Option<Record>,
    },
    /// Of a read of a range.
    Range {
        /// The keys in order.
        entries: Vec<Entry>,
        /// A limit was reached: where the range goes on.
        next: Option<Bytes>,
    },
}

impl Transaction {
    /// One that does nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more comparison, which must hold, too.
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    /// With one more operation for when everything holds.
    #[must_use]
    pub fn then(mut self, operation: Operation) -> Self {
        self.success.push(operation);
        self
    }

    /// With one more operation for when something does not hold.
    #[must_use]
    pub fn otherwise(mut self, operation: Operation) -> Self {
        self.failure.push(operation);
        self
    }

    /// The body of `POST /v1/txn`.
    fn to_json(&self) -> Bytes {
        let list = |name: &str, items: Vec<Value>| (name.to_owned(), Value::Array(items));
        let operations = |list: &[Operation]| list.iter().map(Operation::to_json).collect();
        let body: Map<String, Value> = [
            list("compare", self.compares.iter().map(Compare::to_json).collect()),
            list("success", operations(&self.success)),
            list("failure", operations(&self.failure)),
        ]
        .into_iter()
        .collect();
        Value::Object(body).to_string().into()
    }

    /// Whether neither branch could change anything.
    fn only_reads(&self) -> bool {
        let mut operations = self.success.iter().chain(&self.failure);
        operations.all(|one| matches!(one.name, OperationName::Get | OperationName::Range))
    }

    /// Whether these may be the results of that branch.
    fn fits(&self, succeeded: bool, results: &[TxnResultBody]) -> bool {
        let operations = if succeeded { &self.success } else { &self.failure };
        let names = operations.iter().map(|operation| operation.name);
        names.eq(results.iter().map(name_of))
    }
}

impl Compare {
    fn new(
        key: impl Into<Bytes>,
        target: &'static str,
        relation: Relation,
        operand: Operand,
    ) -> Self {
        Self { key: key.into(), target, relation, operand }
    }

    /// The value, as bytes in their order. Never holds for a key that does not exist.
    #[must_use]
    pub fn value(key: impl Into<Bytes>, relation: Relation, value: impl Into<Bytes>) -> Self {
        Self::new(key, "value", relation, Operand::Bytes(value.into()))
    }

    /// The number of changes since the key was created, which is 1.
    #[must_use]
    pub fn version(key: impl Into<Bytes>, relation: Relation, version: u64) -> Self {
        Self::new(key, "version", relation, Operand::Number(version))
    }

    /// The revision that created the key.
    #[must_use]
    pub fn create_revision(key: impl Into<Bytes>, relation: Relation, revision: Revision) -> Self {
        Self::new(key, "create", relation, Operand::Number(revision.0))
    }

    /// The revision of the key's last change.
    #[must_use]
    pub fn mod_revision(key: impl Into<Bytes>, relation: Relation, revision: Revision) -> Self {
        Self::new(key, "mod", relation, Operand::Number(revision.0))
    }

    /// The lease that the key lives under; 0 for none.
    #[must_use]
    pub fn lease(key: impl Into<Bytes>, relation: Relation, lease: u64) -> Self {
        Self::new(key, "lease", relation, Operand::Number(lease))
    }

    /// The key exists.
    #[must_use]
    pub fn exists(key: impl Into<Bytes>) -> Self {
        Self::version(key, Relation::NotEqual, 0)
    }

    /// The key does not exist.
    #[must_use]
    pub fn absent(key: impl Into<Bytes>) -> Self {
        Self::version(key, Relation::Equal, 0)
    }

    fn to_json(&self) -> Value {
        let relation = match self.relation {
            Relation::Equal => "=",
            Relation::NotEqual => "!=",
            Relation::Less => "<",
            Relation::Greater => ">",
        };
        let mut members = Map::new();
        put_bytes(&mut members, "key", &self.key);
        members.insert("target".to_owned(), self.target.into());
        members.insert("op".to_owned(), relation.into());
        match &self.operand {
            Operand::Number(number) => {
                members.insert("operand".to_owned(), (*number).into());
            }
            Operand::Bytes(bytes) => put_bytes(&mut members, "operand", bytes),
        }
        members.into()
    }
}

impl Operation {
    fn new(name: OperationName, bytes: Vec<(&'static str, Bytes)>) -> Self {
        Self { name, bytes, numbers: Vec::new(), flags: Vec::new() }
    }

    /// Stores a value.
    #[must_use]
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::new(OperationName::Put, vec![("key", key.into()), ("value", value.into())])
    }

    /// Removes a key if it is there.
    #[must_use]
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self::new(OperationName::Delete, vec![("key", key.into())])
    }

    /// Reads a key.
    #[must_use]
    pub fn get(key: impl Into<Bytes>) -> Self {
        Self::new(OperationName::Get, vec![("key", key.into())])
    }

    /// Reads the keys from `start` on that are below `end`, lowest first: 100 of them unless
    /// [`Operation::limit`] says otherwise.
    #[must_use]
    pub fn range(start: impl Into<Bytes>, end: Option<Bytes>) -> Self {
        Self::new(OperationName::Range, bounds(start.into(), end))
    }

    /// Reads the keys that begin with `prefix`, as [`Operation::range`] does.
    #[must_use]
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        Self::new(OperationName::Range, vec![("prefix", prefix.into())])
    }

    /// Removes the keys from `start` on that are below `end`; one of them must not be empty.
    #[must_use]
    pub fn delete_range(start: impl Into<Bytes>, end: Option<Bytes>) -> Self {
        Self::new(OperationName::DeleteRange, bounds(start.into(), end))
    }

    /// Removes the keys that begin with `prefix`, which must not be empty.
    #[must_use]
    pub fn delete_prefix(prefix: impl Into<Bytes>) -> Self {
        Self::new(OperationName::DeleteRange, vec![("prefix", prefix.into())])
    }

    /// Removes every key there is.
    #[must_use]
    pub fn delete_all() -> Self {
        let mut operation = Self::new(OperationName::DeleteRange, Vec::new());
        operation.flags.push("all");
        operation
    }

    /// A put: the key lives under this lease. Without it, it leaves the one it had.
    #[must_use]
    pub fn lease(mut self, lease: u64) -> Self {
        self.numbers.push(("lease", lease));
        self
    }

    /// A put or delete of a key: bring back what was there.
    #[must_use]
    pub fn want_previous(mut self) -> Self {
        self.flags.push("prev");
        self
    }

    /// A range: of so many keys at the most.
    #[must_use]
    pub fn limit(mut self, limit: u32) -> Self {
        self.numbers.push(("limit", limit.into()));
        self
    }

    /// A range that is read: leave the values out.
    #[must_use]
    pub fn keys_only(mut self) -> Self {
        self.flags.push("keys_only");
        self
    }

    fn to_json(&self) -> Value {
        let mut members = Map::new();
        let name = serde_json::to_value(self.name).expect("a plain name");
        members.insert("op".to_owned(), name);
        self.bytes.iter().for_each(|(name, bytes)| put_bytes(&mut members, name, bytes));
        for (name, number) in &self.numbers {
            members.insert((*name).to_owned(), (*number).into());
        }
        for name in &self.flags {
            members.insert((*name).to_owned(), true.into());
        }
        members.into()
    }
}

fn bounds(start: Bytes, end: Option<Bytes>) -> Vec<(&'static str, Bytes)> {
    [("start", start)].into_iter().chain(end.map(|end| ("end", end))).collect()
}

/// Bytes as text, unless base64 is shorter.
fn put_bytes(members: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match value_text(bytes) {
        ValueText::Text(text) => members.insert(name.to_owned(), text.into()),
        ValueText::Base64(text) => members.insert(format!("{name}_base64"), text.into()),
    };
}

impl Client {
    /// Carries a transaction out.
    ///
    /// # Errors
    /// See [`ClientError`]; `Ambiguous` when it may have been carried out. That a comparison
    /// does not hold is no error.
    pub async fn transact(
        &self,
        transaction: &Transaction,
        options: &TransactionOptions,
    ) -> Result<Transacted, ClientError> {
        let fits = |body: &TxnAnswerBody| transaction.fits(body.succeeded, &body.results);
        let body = transaction.to_json();
        // The cluster keeps no answer to what changes nothing: it may as well be asked again.
        let is_read =
            transaction.only_reads() && options.idempotency_key.is_none() && !options.no_retry;
        if is_read {
            let target = Target::new("/v1/txn").as_str().to_owned();
            let (method, headers) = (Method::POST, HeaderMap::new());
            let message = Message { method, target, headers, body };
            return self.exchange_transaction(message, Repeat::Freely, fits).await;
        }
        self.send_transaction(body, options, fits).await
    }

    /// Carries out a transaction that is written as JSON, as `POST /v1/txn` takes it.
    ///
    /// # Errors
    /// As [`Client::transact`].
    pub async fn transact_json(
        &self,
        document: impl Into<Bytes>,
        options: &TransactionOptions,
    ) -> Result<Transacted, ClientError> {
        self.send_transaction(document.into(), options, |_| true).await
    }

    async fn send_transaction(
        &self,
        body: Bytes,
        options: &TransactionOptions,
        fits: impl FnOnce(&TxnAnswerBody) -> bool,
    ) -> Result<Transacted, ClientError> {
        let target = Target::new("/v1/txn");
        let (message, repeat) = self.write(Method::POST, &target, &options.into(), body)?;
        self.exchange_transaction(message, repeat, fits).await
    }

    async fn exchange_transaction(
        &self,
        message: Message,
        repeat: Repeat,
        fits: impl FnOnce(&TxnAnswerBody) -> bool,
    ) -> Result<Transacted, ClientError> {
        let (answer, attempts) = self.retrier().call(&message, &repeat).await?;
        if answer.status != StatusCode::OK {
            return Err(unfit(&answer, attempts, &repeat));
        }
        let transacted = document::<TxnAnswerBody>(&answer).filter(fits).and_then(|body| {
            let results = body.results.iter().map(OperationResult::from_body);
            Some(Transacted {
                revision: Revision(body.revision),
                succeeded: body.succeeded,
                results: results.collect::<Option<_>>()?,
                attempts,
            })
        });
        transacted.ok_or_else(|| garbled_write(attempts, &repeat))
    }
}

fn name_of(result: &TxnResultBody) -> OperationName {
    match result {
        TxnResultBody::Put { .. } => OperationName::Put,
        TxnResultBody::Delete { .. } => OperationName::Delete,
        TxnResultBody::DeleteRange { .. } => OperationName::DeleteRange,
        TxnResultBody::Get { .. } => OperationName::Get,
        TxnResultBody::Range { .. } => OperationName::Range,
    }
}

impl OperationResult {
    /// Reads it from JSON; none if its base64 is wrong.
    fn from_body(body: &TxnResultBody) -> Option<Self> {
        let record = |body: &Option<_>| match body {
            None => Some(None),
            Some(body) => Record::from_body(body).map(Some),
        };
        let next = |next: &Option<KeyText>| match next {
            None => Some(None),
            Some(next) => next.to_bytes().map(|next| Some(Bytes::from(next))),
        };
        Some(match body {
            TxnResultBody::Put { create_revision, version, previous } => Self::Put {
                create_revision: Revision(*create_revision),
                version: *version,
                previous: record(previous)?,
            },
            TxnResultBody::Delete { deleted, previous } => {
                Self::Delete { existed: *deleted > 0, previous: record(previous)? }
            }
            TxnResultBody::DeleteRange { deleted, next: rest } => {
                Self::DeleteRange { deleted: *deleted, next: next(rest)? }
            }
            TxnResultBody::Get { record: found } => Self::Get { record: record(found)? },
            TxnResultBody::Range { entries, next: rest, .. } => Self::Range {
                entries: entries.iter().map(Entry::from_body).collect::<Option<_>>()?,
                next: next(rest)?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use synod_kv::http::TxnBody;

    use super::*;

    #[test]
    fn a_transaction_is_written_as_the_server_reads_it() {
        let transaction = Transaction::new()
            .when(Compare::value("a", Relation::Less, vec![0xff]))
            .when(Compare::version("a", Relation::Greater, 1))
            .when(Compare::create_revision("a", Relation::Equal, Revision(2)))
            .when(Compare::mod_revision(vec![0xfe], Relation::NotEqual, Revision(3)))
            .when(Compare::lease("a", Relation::Equal, 0))
            .then(Operation::put("a", vec![0xff]).lease(7).want_previous())
            .then(Operation::delete("b").want_previous())
            .then(Operation::delete_range("c", Some(Bytes::from("d"))).limit(5))
            .otherwise(Operation::get("a"))
            .otherwise(Operation::range("c", None))
            .otherwise(Operation::prefix("c").limit(1).keys_only())
            .otherwise(Operation::delete_prefix("d"))
            .otherwise(Operation::delete_all());
        let expected = json!({
            "compare": [
                {"key": "a", "target": "value", "op": "<", "operand_base64": "/w=="},
                {"key": "a", "target": "version", "op": ">", "operand": 1},
                {"key": "a", "target": "create", "op": "=", "operand": 2},
                {"key_base64": "/g==", "target": "mod", "op": "!=", "operand": 3},
                {"key": "a", "target": "lease", "op": "=", "operand": 0},
            ],
            "success": [
                {"op": "put", "key": "a", "value_base64": "/w==", "lease": 7, "prev": true},
                {"op": "delete", "key": "b", "prev": true},
                {"op": "delete_range", "start": "c", "end": "d", "limit": 5},
            ],
            "failure": [
                {"op": "get", "key": "a"},
                {"op": "range", "start": "c"},
                {"op": "range", "prefix": "c", "limit": 1, "keys_only": true},
                {"op": "delete_range", "prefix": "d"},
                {"op": "delete_range", "all": true},
            ],
        });
        let written: Value = serde_json::from_slice(&transaction.to_json()).unwrap();
        assert_eq!(written, expected);
        assert!(serde_json::from_value::<TxnBody>(written).is_ok());
    }
}
