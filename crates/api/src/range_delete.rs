//! `DELETE /v1/kv?prefix=`: removes all keys of a range.

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode};
use synod_kv::http::DeleteBody;
use synod_kv::{Command, Condition, Operation, Outcome, layout};

use crate::call::{self, Deadline};
use crate::context::{Context, Wrote};
use crate::key::{at, refused};
use crate::precondition;
use crate::problem::{Kind, Problem};
use crate::replica::Replica;
use crate::response::{self, Body};
use crate::target::{self, Query};

const PARAMETERS: [&str; 3] = ["prefix", "all", "redirect"];

/// How many commands the range took: each is atomic, all together are not.
const COMMANDS: HeaderName = HeaderName::from_static("synod-commands");

/// Answers a range delete.
///
/// One command removes at most `range_delete_keys_max` keys. When there are more,
/// further commands follow until the range is empty or the time is over; then
/// `more` is true and the client may ask again.
///
/// # Errors
/// A malformed request, or a command without an outcome.
pub(crate) async fn answer<R: Replica>(
    context: &Context<R>,
    head: &Parts,
) -> Result<Response<Body>, Problem> {
    let query = Query::parse(head.uri.query(), &PARAMETERS)?;
    let prefix = prefix_of(context, &query)?;
    if precondition::of_write(&head.headers)? != Condition::Always {
        return Err(Problem::new(
            Kind::BadHeader,
            "If-Match and If-None-Match are for one key, not for a range.",
        ));
    }
    if let Some(redirected) = context.redirect(&head.uri, &query)? {
        return Ok(redirected);
    }
    let deadline = Deadline::of(&head.headers, &context.limits)?;
    let name = call::idempotency_key(&head.headers)?;
    let mut deleted = 0;
    let mut commands: u64 = 0;
    loop {
        let command = command(context, &prefix, name.as_ref(), commands);
        commands += 1;
        let wrote = match context.write(command, deadline).await {
            Ok(wrote) => wrote,
            Err(problem) if deleted > 0 => {
                let before = format!("{deleted} keys were removed already.");
                return Err(problem.after(&before).with_effect_unknown());
            }
            Err(problem) => return Err(problem),
        };
        let Wrote { outcome, idempotency_expires } = wrote;
        let Outcome::RangeDeleted { revision, count, more } = outcome else {
            return Err(refused(outcome));
        };
        deleted += count;
        if more && !deadline.is_over() {
            continue;
        }
        let body = DeleteBody { revision: revision.0, deleted, more, previous: None };
        let mut response = at(response::json(StatusCode::OK, &body), revision);
        let headers = response.headers_mut();
        headers.insert(COMMANDS, HeaderValue::from(commands));
        if let Some(expires) = idempotency_expires {
            headers.insert(response::IDEMPOTENCY_EXPIRES, expires);
        }
        return Ok(response);
    }
}

fn prefix_of<R: Replica>(context: &Context<R>, query: &Query<'_>) -> Result<Bytes, Problem> {
    let prefix = query.bytes("prefix", context.limits.key_bytes_max)?;
    let all = query.flag("all")?;
    match prefix {
        Some(prefix) if !prefix.is_empty() && all => {
            Err(target::invalid("all", "is for the empty prefix; with another prefix leave it out"))
        }
        Some(prefix) if !prefix.is_empty() => Ok(prefix),
        _ if all => Ok(Bytes::new()),
        _ => Err(target::invalid(
            "prefix",
            "is missing or empty, which would remove every key: say so with all=true, or name a \
             prefix",
        )),
    }
}

/// The next command of the range. With a name, each command has a name of its own
/// that a client can't give, so a retry goes through the same outcomes again.
fn command<R: Replica>(
    context: &Context<R>,
    prefix: &Bytes,
    name: Option<&Bytes>,
    before: u64,
) -> Command {
    let idempotency = name.map(|name| {
        let name = match before {
            0 => name.clone(),
            _ => [name, b"\0".as_slice(), before.to_string().as_bytes()].concat().into(),
        };
        call::name_write(name, "DELETE RANGE", &[prefix], Condition::Always, false, b"")
    });
    let operation = Operation::DeleteRange {
        start: prefix.clone(),
        end: layout::prefix_end(prefix).map(Bytes::from),
        limit: context.limits.range_delete_keys_max,
    };
    Command { idempotency, operation }
}
