//! `POST /v1/txn`: compares, and does several things at once.

use axum::body::Body as Asked;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use synod_kv::http::{
    CompareBody, Encoding, Few, KeyText, ListEntry, Operand, OperationBody, RecordBody,
    RelationName, TargetName, TxnAnswerBody, TxnBody, TxnResultBody,
};
use synod_kv::{
    Command, Compare, Condition, Entry, KeyRecord, Operation, Outcome, Relation, Revision, Target,
    Txn, TxnError, TxnOperation, TxnResult,
};
use synod_wire::command::{COMMAND_BYTES_MAX, encoded_bytes};

use crate::call::{self, Deadline};
use crate::context::Context;
use crate::document;
use crate::limits::Limits;
use crate::operation::{self, wrong};
use crate::problem::{Kind, Problem};
use crate::refusal::refused;
use crate::replica::Replica;
use crate::request_body;
use crate::response::{self, Body, at};
use crate::target::Query;
use crate::txn_name;

/// Answers a transaction.
///
/// # Errors
/// A malformed request, or a command without an outcome.
pub(crate) async fn answer<R: Replica>(
    context: &Context<R>,
    request: Request<Asked>,
) -> Result<Response<Body>, Problem> {
    if request.method() != Method::POST {
        return Err(Problem::not_allowed("POST"));
    }
    let (head, body) = request.into_parts();
    let query = Query::parse(head.uri.query(), &["encoding", "redirect"])?;
    let encoding = query.encoding()?;
    if let Some(redirected) = context.redirect(&head.uri, &query)? {
        return Ok(redirected);
    }
    let deadline = Deadline::of(&head.headers, &context.limits)?;
    let name = context.name_of(&head.headers)?;
    let until = deadline.body(&context.limits);
    let bytes_max = context.limits.txn_bytes_max;
    let received = request_body::receive(body, bytes_max, &context.admission, until).await?;
    // What it is made into is hardly larger.
    let _room = context.admission.body(received.bytes.len())?;
    let txn = read(&received.bytes, &context.limits)?;
    drop(received);
    let idempotency = name.map(|name| {
        let parts = txn_name::parts(&txn);
        let parts: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
        call::name_write(name, "TXN", &parts, Condition::Always, false, b"")
    });
    let ranges = keys_only(&txn);
    let command = Command { idempotency, operation: Operation::Txn(txn) };
    check_size(&command)?;
    let wrote = context.write(command, deadline).await?;
    let has_room = |response| {
        context.hold(response).map_err(|problem| {
            problem.after("The transaction was carried out.").with_effect_unknown()
        })
    };
    let mut response = outcome_answer(wrote.outcome, &ranges, encoding)
        .and_then(has_room)
        .unwrap_or_else(|problem| context.refuse(problem));
    Context::<R>::say_expiry(&mut response, wrote.expires);
    Ok(response)
}

/// Reads a transaction that may be carried out.
fn read(bytes: &Bytes, limits: &Limits) -> Result<Txn, Problem> {
    let body: TxnBody = document::read(bytes, "The body is not a transaction")?;
    let counts = [body.compare.count, body.success.count, body.failure.count];
    let most = limits.txn_operations_max;
    if let Some(count) = counts.into_iter().find(|count| *count > most) {
        let detail = format!(
            "This is no transaction: {count} comparisons or operations where {most} are allowed."
        );
        return Err(Problem::new(Kind::TooManyOperations, detail));
    }
    let compares = body.compare.items.into_iter().enumerate();
    let compares = compares
        .map(|(number, compare)| read_compare(compare, &format!("compare[{number}]"), limits))
        .collect::<Result<_, _>>()?;
    let branch = |branch: Few<OperationBody>, name: &str| {
        let operations = branch.items.into_iter().enumerate();
        operations
            .map(|(number, body)| operation::read(body, &format!("{name}[{number}]"), limits))
            .collect::<Result<Vec<_>, _>>()
    };
    let success = branch(body.success, "success")?;
    let txn = Txn { compares, success, failure: branch(body.failure, "failure")? };
    txn.check().map_err(|error| not_sound(&error))?;
    Ok(txn)
}

fn not_sound(error: &TxnError) -> Problem {
    let kind = match error {
        TxnError::TooMany { .. } => Kind::TooManyOperations,
        TxnError::WrittenTwice { .. } => Kind::WrittenTwice,
    };
    Problem::new(kind, format!("This is no transaction: {error}."))
}

fn check_size(command: &Command) -> Result<(), Problem> {
    let bytes = encoded_bytes(command);
    if bytes <= COMMAND_BYTES_MAX {
        return Ok(());
    }
    let detail = format!(
        "The transaction takes {bytes} bytes in the log; {COMMAND_BYTES_MAX} are allowed. Make \
         several of it."
    );
    Err(Problem::new(Kind::TxnTooLarge, detail))
}

fn read_compare(body: CompareBody, place: &str, limits: &Limits) -> Result<Compare, Problem> {
    let key = operation::key((body.key, body.key_base64), place, limits)?;
    let relation = match body.op {
        RelationName::Equal => Relation::Equal,
        RelationName::NotEqual => Relation::NotEqual,
        RelationName::Less => Relation::Less,
        RelationName::Greater => Relation::Greater,
    };
    let target = match body.target {
        TargetName::Value => {
            let text = match body.operand {
                None => None,
                Some(Operand::Text(text)) => Some(text),
                Some(Operand::Number(_)) => {
                    let what = "\"operand\" is a text where values are compared";
                    return Err(wrong(Kind::BadMember, place, what));
                }
            };
            let given = ("operand", text, body.operand_base64);
            Target::Value(operation::value(given, place, limits)?)
        }
        others => {
            let kind = match (body.operand, body.operand_base64) {
                (Some(Operand::Number(number)), None) => Ok(number),
                (None, None) => Err(Kind::MissingMember),
                (Some(_), Some(_)) => Err(Kind::ContradictoryMembers),
                _ => Err(Kind::BadMember),
            };
            let what = "\"operand\" is a whole number where no values are compared";
            let number = kind.map_err(|kind| wrong(kind, place, what))?;
            match others {
                TargetName::Version => Target::Version(number),
                TargetName::Create => Target::Create(Revision(number)),
                TargetName::Mod => Target::Mod(Revision(number)),
                TargetName::Lease | TargetName::Value => Target::Lease(number),
            }
        }
    };
    Ok(Compare { key, relation, target })
}

/// Which ranges of the two branches bring no values. The outcome does not say.
fn keys_only(txn: &Txn) -> [Vec<bool>; 2] {
    [&txn.failure, &txn.success].map(|branch| {
        let is_bare =
            |one: &TxnOperation| matches!(one, TxnOperation::Range { keys_only: true, .. });
        branch.iter().map(is_bare).collect()
    })
}

fn outcome_answer(
    outcome: Outcome,
    keys_only: &[Vec<bool>; 2],
    encoding: Encoding,
) -> Result<Response<Body>, Problem> {
    match outcome {
        Outcome::Txn { revision, succeeded, results } => {
            let bare =
                keys_only[usize::from(succeeded)].iter().copied().chain(std::iter::repeat(false));
            let results = results.into_iter().zip(bare);
            let body = TxnAnswerBody {
                revision: revision.0,
                succeeded,
                results: results
                    .map(|(result, bare)| result_body(result, bare, encoding))
                    .collect(),
            };
            Ok(at(response::json(StatusCode::OK, &body), revision))
        }
        Outcome::TxnTooLarge { revision } => Err(Problem::new(
            Kind::TxnTooLarge,
            "What the transaction would bring back is too much for one answer, or the values that \
             it compares are too long in all: ask for less, or read afterwards at its revision. \
             Under an Idempotency-Key its reads bring back 64 KiB at the most.",
        )
        .at(revision)),
        outcome => Err(refused(outcome)),
    }
}

fn result_body(result: TxnResult, is_bare: bool, encoding: Encoding) -> TxnResultBody {
    let record = |record: KeyRecord| RecordBody::new(&record, true, encoding);
    let next = |next: Option<Bytes>| next.map(|next| KeyText::new(&next, encoding));
    match result {
        TxnResult::Put { create_revision, version, previous } => TxnResultBody::Put {
            create_revision: create_revision.0,
            version,
            previous: previous.map(record),
        },
        TxnResult::Delete { existed, previous } => {
            TxnResultBody::Delete { deleted: u64::from(existed), previous: previous.map(record) }
        }
        TxnResult::DeleteRange { count, next: rest } => {
            TxnResultBody::DeleteRange { deleted: count, next: next(rest) }
        }
        TxnResult::Get { record: found } => TxnResultBody::Get { record: found.map(record) },
        TxnResult::Range { entries, next: rest } => {
            let entry = |entry: &Entry| ListEntry {
                key: KeyText::new(&entry.key, encoding),
                record: RecordBody::new(&entry.record, !is_bare, encoding),
            };
            TxnResultBody::Range {
                count: entries.len() as u64,
                entries: entries.iter().map(entry).collect(),
                next: next(rest),
            }
        }
    }
}
