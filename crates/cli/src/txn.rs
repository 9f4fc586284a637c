//! `synod txn`: a transaction from a file.

use serde_json::Value;
use synod_client::{OperationResult, Record, Transacted};
use synod_kv::http::{Encoding, KeyText, TxnAnswerBody, TxnResultBody, base64};

use crate::arguments::Txn;
use crate::failure::Failure;
use crate::input::read_whole;
use crate::keys::{list_entry, record_body, shown};
use crate::output::{columns, print, print_bytes, print_json};
use crate::talk::write_with_client;

/// More than any cluster takes as a transaction.
const BYTES_MAX: u64 = 16 << 20;

/// Exit code 3 says that something compared does not hold; what was done instead is printed in
/// any case.
pub(crate) fn run(arguments: &Txn) -> Result<(), Failure> {
    let document = read_whole(&arguments.file, BYTES_MAX)?;
    let asked = document.clone();
    let options = arguments.named.options();
    let done = write_with_client(&arguments.reach, |client| async move {
        client.transact_json(asked, &options).await
    })?;
    if arguments.reach.json {
        print_json(&body(&done))?;
    } else {
        print_results(&done, &operations(&document, done.succeeded))?;
    }
    match done.succeeded {
        true => Ok(()),
        false => Err(Failure::refused("not everything that was compared holds")),
    }
}

/// The operations of a branch, as they were asked for.
fn operations(document: &[u8], succeeded: bool) -> Vec<Value> {
    let mut document: Value = serde_json::from_slice(document).unwrap_or_default();
    let branch = if succeeded { "success" } else { "failure" };
    match document[branch].take() {
        Value::Array(operations) => operations,
        _ => Vec::new(),
    }
}

fn print_results(done: &Transacted, operations: &[Value]) -> Result<(), Failure> {
    let branch = if done.succeeded { "success" } else { "failure" };
    print(&format!("{branch} at revision {}", done.revision))?;
    let mut rows = Vec::new();
    for (number, result) in done.results.iter().enumerate() {
        let operation = operations.get(number).unwrap_or(&Value::Null);
        let name = operation["op"].as_str().unwrap_or_default();
        let cells = [(number + 1).to_string(), shown(name.as_bytes()), shown(&what(operation))];
        let mut row = cells.to_vec();
        row.push(said(result));
        rows.push(row);
        if let OperationResult::Range { entries, .. } = result {
            rows.extend(entries.iter().map(|entry| {
                let text = record_text(&entry.record);
                vec![String::new(), String::new(), format!("  {}", shown(&entry.key)), text]
            }));
        }
    }
    print_bytes(columns(&rows).as_bytes())
}

/// The key or the range of an operation.
fn what(operation: &Value) -> Vec<u8> {
    let member = |name: &str| {
        let text = operation[name].as_str().map(|text| text.as_bytes().to_vec());
        text.or_else(|| base64::decode(operation[format!("{name}_base64")].as_str()?))
    };
    let range = || {
        let prefix = member("prefix").map(|mut prefix| {
            prefix.push(b'*');
            prefix
        });
        prefix.unwrap_or_else(|| {
            let bound = |name| member(name).unwrap_or_default();
            [bound("start"), b"..".to_vec(), bound("end")].concat()
        })
    };
    member("key").unwrap_or_else(range)
}

fn said(result: &OperationResult) -> String {
    let more = |next: &Option<bytes::Bytes>| match next {
        Some(next) => format!(", and more from {} on", shown(next)),
        None => String::new(),
    };
    let was = |previous: &Option<Record>| match previous {
        Some(record) => format!(", was {}", record_text(record)),
        None => String::new(),
    };
    match result {
        OperationResult::Put { version: 1, previous, .. } => format!("created{}", was(previous)),
        OperationResult::Put { version, previous, .. } => {
            format!("version {version}{}", was(previous))
        }
        OperationResult::Delete { existed: true, previous } => format!("deleted{}", was(previous)),
        OperationResult::Delete { .. } | OperationResult::Get { record: None } => {
            "no such key".to_owned()
        }
        OperationResult::DeleteRange { deleted, next } => {
            format!("{deleted} keys deleted{}", more(next))
        }
        OperationResult::Get { record: Some(record) } => record_text(record),
        OperationResult::Range { entries, next } => {
            format!("{} keys{}", entries.len(), more(next))
        }
    }
}

fn record_text(record: &Record) -> String {
    let value = record.value.as_deref().map(shown).unwrap_or_default();
    format!("{value} (revision {})", record.mod_revision)
}

/// As `POST /v1/txn` answers.
fn body(done: &Transacted) -> TxnAnswerBody {
    let record = |record: &Option<Record>| record.as_ref().map(record_body);
    let next =
        |next: &Option<bytes::Bytes>| next.as_ref().map(|next| KeyText::new(next, Encoding::Text));
    let result = |result: &OperationResult| match result {
        OperationResult::Put { create_revision, version, previous } => TxnResultBody::Put {
            create_revision: create_revision.0,
            version: *version,
            previous: record(previous),
        },
        OperationResult::Delete { existed, previous } => {
            TxnResultBody::Delete { deleted: u64::from(*existed), previous: record(previous) }
        }
        OperationResult::DeleteRange { deleted, next: rest } => {
            TxnResultBody::DeleteRange { deleted: *deleted, next: next(rest) }
        }
        OperationResult::Get { record: found } => TxnResultBody::Get { record: record(found) },
        OperationResult::Range { entries, next: rest } => TxnResultBody::Range {
            count: entries.len() as u64,
            entries: entries.iter().map(list_entry).collect(),
            next: next(rest),
        },
    };
    TxnAnswerBody {
        revision: done.revision.0,
        succeeded: done.succeeded,
        results: done.results.iter().map(result).collect(),
    }
}
