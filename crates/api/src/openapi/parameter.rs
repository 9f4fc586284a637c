//! What a request says beside its body: in its path, its query and its headers.

use serde_json::{Value, json};
use utoipa::openapi::path::{Parameter as Described, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{Object, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::{KnownFormat, Required, SchemaFormat};

use crate::limits::Limits;

/// A time, such as `2s` or `500ms`.
pub(crate) const TIME: &str = "^(0|[1-9][0-9]*)(ms|s)$";

/// A parameter of a call.
#[derive(Clone, Copy)]
pub(crate) struct Parameter {
    name: &'static str,
    place: Place,
    shape: Shape,
    text: &'static str,
    /// One that is good for a store with nothing in it but the other examples.
    example: Option<&'static str>,
}

/// Where it stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Path,
    Query,
    /// In the query, and it must be there.
    MustQuery,
    Header,
}

/// What it may be.
#[derive(Clone, Copy)]
enum Shape {
    /// It is true when it is given without a value.
    Flag,
    Number {
        least: u64,
        most: u64,
    },
    /// Entries of a page.
    Entries,
    /// The beginning of a key or the whole of one, percent-encoded; with so many bytes more
    /// than a key may have.
    Key {
        least: usize,
        more: isize,
    },
    Words(&'static [&'static str]),
    Pattern(&'static str),
    /// Any text.
    Free,
}

const fn query(name: &'static str, shape: Shape, text: &'static str) -> Parameter {
    Parameter { name, place: Place::Query, shape, text, example: None }
}

const fn header(name: &'static str, pattern: &'static str, text: &'static str) -> Parameter {
    let shape = Shape::Pattern(pattern);
    Parameter { name, place: Place::Header, shape, text, example: None }
}

const fn path(name: &'static str, shape: Shape, text: &'static str) -> Parameter {
    Parameter { name, place: Place::Path, shape, text, example: None }
}

const fn name(more: isize) -> Parameter {
    let text = "The name: as a key, without zero bytes, and a little shorter.";
    path("name", Shape::Key { least: 1, more }, text).with_example("primary")
}

const ANY: Shape = Shape::Number { least: 0, most: u64::MAX };
const FROM_ONE: Shape = Shape::Number { least: 1, most: u64::MAX };
const BOUND: Shape = Shape::Key { least: 0, more: 1 };

pub(crate) const KEY: Parameter = path(
    "key",
    Shape::Key { least: 1, more: 0 },
    "The key: bytes, percent-encoded where they must be. Slashes may stand as they are, and \
     nothing is normalised.",
)
.with_example("a");
pub(crate) const LEASE_ID: Parameter = path("id", ANY, "The lease.").with_example("7");
/// The claims have `_synod/lock/` before the name and 17 bytes behind it, or one word more.
pub(crate) const LOCK: Parameter = name(-29);
pub(crate) const ELECTION: Parameter = name(-33);
pub(crate) const MEMBER_ID: Parameter =
    path("id", Shape::Number { least: 1, most: u32::MAX as u64 }, "The member.").with_example("4");

pub(crate) const TIMEOUT: Parameter = header(
    "Synod-Timeout",
    TIME,
    "How long the call may take: 5s unless given, 60s at the most (with the usual limits).",
);
pub(crate) const IDEMPOTENCY_KEY: Parameter = header(
    "Idempotency-Key",
    "^[!-~]{1,255}$",
    "The client's name for this write. Sent again under the same name it has effect once, and \
     each time the first outcome is answered, for ten minutes at least.",
);
pub(crate) const IF_MATCH: Parameter = header(
    "If-Match",
    "^(\\*|\"(0|[1-9][0-9]{0,18})\")$",
    "Only if the key was last changed at this revision, in quotes; `*`: only if it exists. Not \
     together with If-None-Match.",
);
pub(crate) const IF_ABSENT: Parameter =
    header("If-None-Match", "^\\*$", "`*`: only if the key does not exist.");
pub(crate) const IF_NONE_MATCH: Parameter = header(
    "If-None-Match",
    "^(\\*|(W/)?\"(0|[1-9][0-9]{0,18})\"(, *(W/)?\"(0|[1-9][0-9]{0,18})\")*)$",
    "The revisions that the reader has, each in quotes: 304 if it is one of them.",
);
pub(crate) const IF_CHANGED: Parameter = Parameter {
    name: "If-None-Match",
    place: Place::Header,
    shape: Shape::Free,
    text: "The ETags that the reader has: 304 if it is one of them.",
    example: None,
};
pub(crate) const LAST_EVENT_ID: Parameter = header(
    "Last-Event-ID",
    "^(0|[1-9][0-9]{0,18})$",
    "The id of the last event that came: the watch goes on behind it. It counts more than `from`.",
);

pub(crate) const CONSISTENCY: Parameter = query(
    "consistency",
    Shape::Words(&["linearizable", "stale"]),
    "`linearizable`, unless given: sees every write that was acknowledged before. `stale`: what \
     this node has.",
);
pub(crate) const MIN_REVISION: Parameter =
    query("min_revision", ANY, "Waits until this node has that revision.");
pub(crate) const REVISION: Parameter = query("revision", ANY, "What was so at that revision.");
pub(crate) const REDIRECT: Parameter = query(
    "redirect",
    Shape::Flag,
    "307 to the leader, if this is another node, instead of passing the request on. Then this \
     node looks neither at the headers nor at the body.",
);
pub(crate) const LEASE: Parameter =
    query("lease", FROM_ONE, "The key lives as long as that lease. Not together with `ttl`.");
pub(crate) const TTL: Parameter = query(
    "ttl",
    Shape::Pattern(TIME),
    "The key lives as long as a lease of its own with this time to live.",
);
pub(crate) const PREV: Parameter =
    query("prev", Shape::Flag, "The answer brings back what was there before.");
pub(crate) const PREFIX: Parameter =
    query("prefix", Shape::Key { least: 0, more: 0 }, "Keys that begin with it.").with_example("a");
pub(crate) const ALL: Parameter =
    query("all", Shape::Flag, "Every key; with no prefix, or an empty one.");
pub(crate) const START: Parameter = query("start", BOUND, "The first key.");
pub(crate) const END: Parameter = query("end", BOUND, "The first key beyond.");
pub(crate) const LIMIT: Parameter =
    query("limit", Shape::Entries, "Entries of the page; 100 unless given.");
pub(crate) const REVERSE: Parameter = query("reverse", Shape::Flag, "From the last key on.");
pub(crate) const KEYS_ONLY: Parameter = query("keys_only", Shape::Flag, "Without values.");
pub(crate) const COUNT_ONLY: Parameter = query(
    "count_only",
    Shape::Flag,
    "Only their number. Goes without `limit`, `reverse` and `keys_only`.",
);
pub(crate) const ENCODING: Parameter = query(
    "encoding",
    Shape::Words(&["text", "base64"]),
    "`text`, unless given: keys and values are text where they are UTF-8, else base64. `base64`: \
     always that.",
);
pub(crate) const WATCHED_KEY: Parameter = query(
    "key",
    Shape::Key { least: 1, more: 0 },
    "Of one key. Goes without `prefix`, `start` and `end`.",
);
pub(crate) const FROM: Parameter = query(
    "from",
    Shape::Pattern("^[1-9][0-9]{0,18}(\\.(0|[1-9][0-9]{0,8}))?$"),
    "What happened at that revision and later: a revision, or the `next` of a page. From now on, \
     unless given.",
);
pub(crate) const WAIT: Parameter = query(
    "wait",
    Shape::Pattern(TIME),
    "One page in JSON instead of a stream: as soon as something happened, and empty when nothing \
     did in that time.",
)
.with_example("0s");
pub(crate) const FROM_LEASE: Parameter = query("from", ANY, "The first id.");
pub(crate) const KEYS: Parameter = query("keys", Shape::Flag, "Also the keys that live under it.");
pub(crate) const START_OF_KEYS: Parameter = query(
    "start",
    Shape::Key { least: 0, more: 0 },
    "The first key; together with `keys`, as `limit`.",
);
pub(crate) const TOKEN: Parameter =
    query("token", FROM_ONE, "The token that came when it was taken.").must();
pub(crate) const CONFIGURATION: Parameter =
    query("configuration", ANY, "Only if the newest configuration has this number.");
pub(crate) const FORCE: Parameter =
    query("force", Shape::Flag, "Also when it is risky, as the refusal says.");

impl Parameter {
    const fn with_example(self, example: &'static str) -> Self {
        Self { example: Some(example), ..self }
    }

    const fn must(self) -> Self {
        Self { place: Place::MustQuery, ..self }
    }

    /// The description of it, with the bounds of this node.
    pub(super) fn describe(&self, limits: &Limits) -> Described {
        let place = match self.place {
            Place::Path => ParameterIn::Path,
            Place::Query | Place::MustQuery => ParameterIn::Query,
            Place::Header => ParameterIn::Header,
        };
        let must = matches!(self.place, Place::Path | Place::MustQuery);
        let example = self.example.map(|text| match self.shape {
            Shape::Number { .. } | Shape::Entries => {
                text.parse().map_or(Value::Null, |n: u64| json!(n))
            }
            _ => json!(text),
        });
        ParameterBuilder::new()
            .name(self.name)
            .parameter_in(place)
            .required(if must { Required::True } else { Required::False })
            .description(Some(self.text))
            .schema(Some(Schema::Object(self.shape.describe(limits))))
            .example(example)
            .build()
    }
}

impl Shape {
    fn describe(self, limits: &Limits) -> Object {
        let of = |kind| ObjectBuilder::new().schema_type(SchemaType::Type(kind));
        let number = |least: u64, most: u64| {
            of(Type::Integer)
                .format(Some(SchemaFormat::KnownFormat(KnownFormat::UInt64)))
                .minimum(Some(utoipa::Number::UInt(usize::try_from(least).unwrap_or(usize::MAX))))
                .maximum(Some(utoipa::Number::UInt(usize::try_from(most).unwrap_or(usize::MAX))))
        };
        match self {
            Shape::Flag => of(Type::String).enum_values(Some(["true", "false", ""])),
            Shape::Number { least, most } => number(least, most),
            Shape::Entries => number(1, limits.list_entries_max as u64),
            Shape::Key { least, more } => of(Type::String)
                .min_length((least > 0).then_some(least))
                .max_length(Some(limits.key_bytes_max.saturating_add_signed(more))),
            Shape::Words(words) => of(Type::String).enum_values(Some(words.iter().copied())),
            Shape::Pattern(pattern) => of(Type::String).pattern(Some(pattern)),
            Shape::Free => of(Type::String),
        }
        .build()
    }
}
