//! What comes back: answers of each status, their bodies and headers.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::content::{Content as MediaType, ContentBuilder};
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::schema::{
    AllOfBuilder, ComponentsBuilder, ObjectBuilder, Schema, SchemaType, Type,
};
use utoipa::openapi::{Ref, Response, ResponseBuilder};

use crate::problem::Kind;

/// A body that its own type describes.
#[derive(Clone, Copy)]
pub(crate) struct Described {
    name: fn() -> Cow<'static, str>,
    add: fn(ComponentsBuilder) -> ComponentsBuilder,
}

impl Described {
    pub(super) fn of<T: ToSchema>() -> Self {
        Self { name: T::name, add: |components| add::<T>(components) }
    }

    pub(super) fn add_to(self, components: ComponentsBuilder) -> ComponentsBuilder {
        (self.add)(components)
    }

    fn reference(self) -> Ref {
        Ref::from_schema_name((self.name)())
    }
}

/// Adds the description of a type and of those that it is made of.
fn add<T: ToSchema>(components: ComponentsBuilder) -> ComponentsBuilder {
    let mut parts = Vec::new();
    T::schemas(&mut parts);
    components.schemas_from_iter(parts).schema(T::name(), T::schema())
}

/// What a body is.
#[derive(Clone, Copy)]
pub(crate) enum Content {
    /// A JSON document.
    Json(Described),
    /// One JSON document a line.
    Lines(Described),
    /// Server-Sent Events.
    Events,
    /// Bytes as they are.
    Octets,
    Text,
    /// Another JSON document, which is described elsewhere.
    Free,
}

impl Content {
    pub(super) fn described(self) -> Option<Described> {
        match self {
            Self::Json(described) | Self::Lines(described) => Some(described),
            _ => None,
        }
    }

    /// Its name, and how it is described, with an example.
    pub(super) fn describe(self, example: Option<Value>) -> (&'static str, MediaType) {
        let text = || Schema::Object(ObjectBuilder::new().schema_type(Type::String).build());
        let content = ContentBuilder::new();
        let (name, content) = match self {
            Self::Json(described) => {
                ("application/json", content.schema(Some(described.reference())))
            }
            // OpenAPI 3.1 has no words for a line: the description names its schema.
            Self::Lines(_) => ("application/x-ndjson", content.schema(Some(text()))),
            Self::Events => ("text/event-stream", content),
            Self::Octets => ("application/octet-stream", content),
            Self::Text => ("text/plain", content.schema(Some(text()))),
            Self::Free => {
                let any = ObjectBuilder::new().schema_type(SchemaType::Type(Type::Object));
                ("application/json", content.schema(Some(Schema::Object(any.build()))))
            }
        };
        (name, content.example(example).build())
    }
}

/// The headers that answers have, and whether each answer that may have it does.
const HEADERS: [(&str, Type, &str); 11] = [
    (
        "Synod-Revision",
        Type::Integer,
        "A revision at which what the answer shows was so; where it shows nothing of the data, \
         the revision of this node.",
    ),
    ("Synod-Leader", Type::String, "Id and URL of the leader, as far as this node knows."),
    ("ETag", Type::String, "The revision of the key's last change, in quotes."),
    ("Synod-Create-Revision", Type::Integer, "The revision that created the key."),
    ("Synod-Version", Type::Integer, "Changes of the key since its creation, which is 1."),
    ("Synod-Lease", Type::Integer, "The lease that the key lives under, if it does."),
    ("Synod-Commands", Type::Integer, "How many commands it took. Each is atomic."),
    (
        "Synod-Idempotency-Expires",
        Type::String,
        "Until when the Idempotency-Key is remembered at least, if there was one.",
    ),
    ("Location", Type::String, "The same target at the leader."),
    ("Allow", Type::String, "The methods that there are."),
    ("Retry-After", Type::Integer, "When to come back, in seconds."),
];

/// The headers, to be referred to.
pub(super) fn headers() -> ComponentsBuilder {
    HEADERS.iter().fold(ComponentsBuilder::new(), |components, (name, kind, text)| {
        let schema = Schema::Object(ObjectBuilder::new().schema_type(kind.clone()).build());
        let header = HeaderBuilder::new().schema(Some(schema)).description(Some(*text));
        components.header(*name, header.build())
    })
}

/// An answer that is no problem.
#[derive(Clone)]
pub(crate) struct Answer {
    pub(super) status: u16,
    pub(super) text: &'static str,
    pub(super) contents: Vec<(Content, Option<Value>)>,
    pub(super) headers: &'static [&'static str],
}

impl Answer {
    /// The description; of HEAD it has no body.
    pub(super) fn describe(&self, is_head: bool) -> Response {
        let contents = self.contents.iter().filter(|_| !is_head);
        let response = contents.fold(response(self.text), |response, (content, example)| {
            let (name, content) = content.describe(example.clone());
            response.content(name, content)
        });
        with_headers(response, self.headers).build()
    }
}

/// The problems that a call may come to, by their statuses.
pub(super) fn problems(kinds: &[&[Kind]], is_head: bool) -> BTreeMap<u16, Response> {
    let mut by_status: BTreeMap<u16, Vec<Kind>> = BTreeMap::new();
    let is_named = kinds.iter().any(|kinds| kinds.contains(&Kind::IdempotencyMismatch));
    for kind in kinds.iter().copied().flatten() {
        let known = by_status.entry(kind.status()).or_default();
        if !known.contains(kind) {
            known.push(*kind);
        }
    }
    by_status
        .into_iter()
        .map(|(status, kinds)| (status, problem(status, &kinds, (is_head, is_named))))
        .collect()
}

fn problem(status: u16, kinds: &[Kind], (is_head, is_named): (bool, bool)) -> Response {
    let types: Vec<_> = kinds.iter().map(|kind| kind.as_type()).collect();
    let words: Vec<_> =
        kinds.iter().map(|kind| format!("`{}`: {}", kind.as_type(), kind.title())).collect();
    let headers: &[&str] = match status {
        405 => &["Allow"],
        412 => &["ETag"],
        503 => &["Retry-After"],
        _ => &[],
    };
    let mut response = with_headers(response(&words.join("; ")), headers);
    if is_named {
        response = with_headers(response, &["Synod-Idempotency-Expires"]);
    }
    if is_head {
        return response.build();
    }
    let kind = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(types));
    let schema = AllOfBuilder::new()
        .item(Ref::from_schema_name("Problem"))
        .item(ObjectBuilder::new().property("type", kind));
    let content = ContentBuilder::new().schema(Some(Schema::AllOf(schema.build())));
    response.content("application/problem+json", content.build()).build()
}

fn response(text: &str) -> ResponseBuilder {
    with_headers(ResponseBuilder::new().description(text), &["Synod-Revision", "Synod-Leader"])
}

fn with_headers(response: ResponseBuilder, names: &[&'static str]) -> ResponseBuilder {
    names.iter().fold(response, |response, name| {
        response.header_ref(*name, Ref::new(format!("#/components/headers/{name}")))
    })
}
