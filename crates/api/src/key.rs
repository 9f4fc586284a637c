//! The calls on one key: the hot routes.

use bytes::Bytes;
use http::header::HeaderValue;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body as HttpBody;
use synod_kv::http::{DeleteBody, Encoding, PutBody, RecordBody};
use synod_kv::{Command, Condition, KeyRecord, Look, Operation, Outcome, read};

use crate::call::{self, Deadline};
use crate::context::{Context, Wrote};
use crate::leased_put::{self, Attach, Put};
use crate::precondition::{self, Known};
use crate::problem::{Kind, Problem};
use crate::refusal::refused;
use crate::replica::Replica;
use crate::request_body;
use crate::response::{self, Body, at};
use crate::target::{self, Query};

/// What stands before the key in a path.
pub(crate) const PREFIX: &str = "/v1/kv/";
const ALLOWED: &str = "GET, HEAD, PUT, DELETE";

const READ_PARAMETERS: [&str; 4] = ["consistency", "min_revision", "revision", "redirect"];
const WRITE_PARAMETERS: [&str; 2] = ["prev", "redirect"];
const PUT_PARAMETERS: [&str; 4] = ["lease", "ttl", "prev", "redirect"];

/// Answers a request whose path begins with [`PREFIX`].
pub(crate) async fn answer<R, B>(context: &Context<R>, request: Request<B>) -> Response<Body>
where
    R: Replica,
    B: HttpBody<Data = Bytes> + Unpin,
{
    let (head, body) = request.into_parts();
    let result = match head.method {
        Method::GET | Method::HEAD => get(context, &head).await,
        Method::PUT => put(context, &head, body).await,
        Method::DELETE => delete(context, &head).await,
        _ => Err(Problem::not_allowed(ALLOWED)),
    };
    result.unwrap_or_else(|problem| context.refuse(problem))
}

async fn get<R: Replica>(context: &Context<R>, head: &Parts) -> Result<Response<Body>, Problem> {
    let query = Query::parse(head.uri.query(), &READ_PARAMETERS)?;
    let key = key_of(context, head)?;
    let known = Known::of_read(&head.headers)?;
    if let Some(redirected) = context.redirect(&head.uri, &query)? {
        return Ok(redirected);
    }
    let asked = context.prepare_read(&head.headers, &query).await?;
    let Look { record, revision } = match asked {
        None => context.replica.get(&key)?,
        Some(asked) => context.replica.read(|map| read::look_at(map, &key, asked))?,
    };
    let Some(record) = record else {
        let detail = match asked {
            None => "There is no such key.",
            Some(_) => "There was no such key at that revision.",
        };
        return Err(Problem::new(Kind::KeyNotFound, detail).at(revision));
    };
    let mut response = if known.covers(record.mod_revision) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        response::value(record.value.clone())
    };
    describe(response.headers_mut(), &record);
    context.hold(at(response, revision))
}

/// What the headers of an answer say about a key.
fn describe(headers: &mut HeaderMap, record: &KeyRecord) {
    response::insert_etag(headers, record.mod_revision);
    headers.insert(response::CREATE_REVISION, HeaderValue::from(record.create_revision.0));
    headers.insert(response::VERSION, HeaderValue::from(record.version));
    if record.lease != 0 {
        headers.insert(response::LEASE, HeaderValue::from(record.lease));
    }
}

async fn put<R, B>(context: &Context<R>, head: &Parts, body: B) -> Result<Response<Body>, Problem>
where
    R: Replica,
    B: HttpBody<Data = Bytes> + Unpin,
{
    let query = Query::parse(head.uri.query(), &PUT_PARAMETERS)?;
    let key = key_of(context, head)?;
    let condition = precondition::of_write(&head.headers)?;
    let want_previous = query.flag("prev")?;
    let attach = Attach::of(&query, &context.limits)?;
    if let Some(redirected) = context.redirect(&head.uri, &query)? {
        return Ok(redirected);
    }
    let deadline = Deadline::of(&head.headers, &context.limits)?;
    let name = context.name_of(&head.headers)?;
    let received = request_body::receive(
        body,
        context.limits.value_bytes_max,
        &context.admission,
        deadline.body(&context.limits),
    )
    .await?;
    let value = received.bytes.clone();
    if let Some(attach) = attach {
        let put = Put { key, value, condition, want_previous };
        let (id, wrote) = leased_put::write(context, attach, put, name, deadline).await?;
        let mut response = answer_write(context, wrote);
        if response.status().is_success() {
            response.headers_mut().insert(response::LEASE, HeaderValue::from(id.0));
        }
        return Ok(response);
    }
    let idempotency =
        name.map(|name| call::name_write(name, "PUT", &[&key], condition, want_previous, &value));
    let operation = Operation::Put { key, value, condition, want_previous };
    let wrote = context.write(Command { idempotency, operation }, deadline).await?;
    Ok(answer_write(context, wrote))
}

async fn delete<R: Replica>(context: &Context<R>, head: &Parts) -> Result<Response<Body>, Problem> {
    let query = Query::parse(head.uri.query(), &WRITE_PARAMETERS)?;
    let key = key_of(context, head)?;
    let condition = precondition::of_write(&head.headers)?;
    if condition == Condition::Absent {
        return Err(Problem::new(
            Kind::BadHeader,
            "If-None-Match: * asks that the key be absent, and then there is nothing to delete.",
        ));
    }
    let want_previous = query.flag("prev")?;
    if let Some(redirected) = context.redirect(&head.uri, &query)? {
        return Ok(redirected);
    }
    let deadline = Deadline::of(&head.headers, &context.limits)?;
    let idempotency = context
        .name_of(&head.headers)?
        .map(|name| call::name_write(name, "DELETE", &[&key], condition, want_previous, b""));
    let operation = Operation::Delete { key, condition, want_previous };
    let wrote = context.write(Command { idempotency, operation }, deadline).await?;
    Ok(answer_write(context, wrote))
}

/// The answer to a write of one key.
fn answer_write<R: Replica>(context: &Context<R>, wrote: Wrote) -> Response<Body> {
    let has_room = |response| {
        context
            .hold(response)
            .map_err(|problem| problem.after("The write was carried out.").with_effect_unknown())
    };
    let mut response = outcome_answer(wrote.outcome)
        .and_then(has_room)
        .unwrap_or_else(|problem| context.refuse(problem));
    Context::<R>::say_expiry(&mut response, wrote.expires);
    response
}

fn outcome_answer(outcome: Outcome) -> Result<Response<Body>, Problem> {
    match outcome {
        Outcome::Stored { revision, create_revision, version, previous } => {
            let status = if version == 1 { StatusCode::CREATED } else { StatusCode::OK };
            let body = PutBody {
                key: None,
                revision: revision.0,
                create_revision: create_revision.0,
                version,
                previous: previous.map(record_body),
            };
            let mut response = response::json(status, &body);
            response::insert_etag(response.headers_mut(), revision);
            Ok(at(response, revision))
        }
        Outcome::Deleted { revision, previous } => {
            let previous = previous.map(record_body);
            let body = DeleteBody { revision: revision.0, deleted: 1, more: false, previous };
            Ok(at(response::json(StatusCode::OK, &body), revision))
        }
        Outcome::NotFound { revision } => {
            Err(Problem::new(Kind::KeyNotFound, "There is no such key.").at(revision))
        }
        outcome => Err(refused(outcome)),
    }
}

fn record_body(record: KeyRecord) -> RecordBody {
    RecordBody::new(&record, true, Encoding::Text)
}

fn key_of<R: Replica>(context: &Context<R>, head: &Parts) -> Result<Bytes, Problem> {
    // A path that got here begins with the prefix, or is the prefix.
    let raw = head.uri.path().strip_prefix(PREFIX).unwrap_or("");
    target::key(raw, context.limits.key_bytes_max)
}
