//! `DELETE /v1/kv?prefix=`: removes all keys of a range.

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode};
use synod_kv::http::DeleteBody;
use synod_kv::{Command, Condition, IDEMPOTENCY_GRACE_MS, Operation, Outcome, Revision, layout};

use crate::call::{self, Deadline, Name};
use crate::context::{Context, Expires, Wrote};
use crate::problem::Problem;
use crate::refusal::refused;
use crate::replica::Replica;
use crate::response::{self, Body, at};
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
    if let Some(redirected) = context.redirect(&head.uri, &query)? {
        return Ok(redirected);
    }
    let deadline = Deadline::of(&head.headers, &context.limits)?;
    let name = context.name_of(&head.headers)?;
    let mut walk = Walk { start: prefix.clone(), prefix, name, commands: 0, expires: None };
    let mut deleted = 0;
    loop {
        let command = walk.command(context.limits.range_delete_keys_max);
        let wrote = context.write(command, deadline).await;
        let (revision, next) = match wrote.and_then(|wrote| walk.take(wrote)) {
            Ok((revision, count, next)) => {
                deleted += count;
                (revision, next)
            }
            Err(problem) => return Err(partial(problem, deleted)),
        };
        let more = next.is_some();
        let is_late = walk.is_late(context.replica.cluster_time_ms());
        if let Some(next) = next.filter(|_| !deadline.is_over() && !is_late) {
            walk.start = next;
            continue;
        }
        let body = DeleteBody { revision: revision.0, deleted, more, previous: None };
        let mut response = at(response::json(StatusCode::OK, &body), revision);
        response.headers_mut().insert(COMMANDS, HeaderValue::from(walk.commands));
        Context::<R>::say_expiry(&mut response, walk.expires);
        return Ok(response);
    }
}

/// What a command that failed says, after others removed keys: the call as a whole
/// had an effect, whatever became of its last part.
fn partial(problem: Problem, deleted: u64) -> Problem {
    match deleted {
        0 => problem,
        _ => problem.after(&format!("{deleted} keys were removed already.")).with_effect_unknown(),
    }
}

fn prefix_of<R: Replica>(context: &Context<R>, query: &Query<'_>) -> Result<Bytes, Problem> {
    let prefix = query.bytes("prefix", context.limits.key_bytes_max)?;
    let all = query.flag("all")?;
    match prefix {
        Some(prefix) if !prefix.is_empty() && all => Err(target::contradictory(
            "all",
            "is for the empty prefix; with another prefix leave it out",
        )),
        Some(prefix) if !prefix.is_empty() => Ok(prefix),
        _ if all => Ok(Bytes::new()),
        _ => Err(target::missing(
            "prefix",
            "is missing or empty, which would remove every key: say so with all=true, or name a \
             prefix",
        )),
    }
}

/// A range delete on its way through its range.
struct Walk {
    prefix: Bytes,
    /// Where the next command begins. Behind what the commands before removed, for
    /// each of them would pass all those tombstones again, on every replica.
    start: Bytes,
    /// The client's name for the whole.
    name: Option<Name>,
    /// Commands so far.
    commands: u64,
    /// Until when the first command is remembered, and with it the whole.
    expires: Option<Expires>,
}

impl Walk {
    /// The next command.
    fn command(&self, limit: u32) -> Command {
        let idempotency = self.name.as_ref().map(|name| {
            let name = Name { key: self.name_of_command(&name.key), asked_ms: name.asked_ms };
            call::name_write(name, "DELETE RANGE", &[&self.prefix], Condition::Always, false, b"")
        });
        let operation = Operation::DeleteRange {
            start: self.start.clone(),
            end: layout::prefix_end(&self.prefix).map(Bytes::from),
            limit,
        };
        Command { idempotency, operation }
    }

    /// The first command has the client's name. Each further one has a name that no
    /// client can give, so a retry goes through the same outcomes again. All outlive
    /// the first, and none may answer for a later life of it: hence its expiry.
    fn name_of_command(&self, name: &Bytes) -> Bytes {
        match self.expires {
            None => name.clone(),
            Some(Expires { at_ms, .. }) => {
                let rest = format!("\0{}\0{at_ms}", self.commands);
                [name.as_ref(), rest.as_bytes()].concat().into()
            }
        }
    }

    /// Whether the next command would soon be too late for its idempotency key, which
    /// counts from when the whole was asked. The client asks again, and goes on.
    fn is_late(&self, now_ms: u64) -> bool {
        let taken_ms = |name: &Name| now_ms.saturating_sub(name.asked_ms);
        self.name.as_ref().is_some_and(|name| taken_ms(name) > IDEMPOTENCY_GRACE_MS / 4)
    }

    /// Takes note of an outcome: its revision, its keys, and where the range goes on.
    fn take(&mut self, wrote: Wrote) -> Result<(Revision, u64, Option<Bytes>), Problem> {
        let Outcome::RangeDeleted { revision, count, next } = wrote.outcome else {
            return Err(refused(wrote.outcome));
        };
        self.commands += 1;
        self.expires = self.expires.or(wrote.expires);
        Ok((revision, count, next))
    }
}
