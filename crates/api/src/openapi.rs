//! `GET /openapi.json`: what every call takes and answers, for programs (OpenAPI 3.1).
//!
//! Bodies are described by their own types, problems by the kinds that there are, bounds by
//! the limits of this node. The rest stands in `calls`, and tests/openapi.rs asks each call
//! whether it is so.

mod answer;
mod call;
mod calls;
mod parameter;
mod words;

use bytes::Bytes;
use http::header::{ETAG, HeaderValue, IF_NONE_MATCH};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};
use synod_kv::http::Problem as ProblemBody;
use utoipa::openapi::info::{InfoBuilder, LicenseBuilder};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{OpenApi, OpenApiBuilder, PathItem, Paths};
use xxhash_rust::xxh3::xxh3_128;

use crate::context::Context;
use crate::limits::Limits;
use crate::openapi::answer::Described;
use crate::precondition;
use crate::problem::{Kind, Problem};
use crate::replica::Replica;
use crate::response::{self, Body};
use crate::target::Query;

/// Answers with the description.
///
/// # Errors
/// A malformed request.
pub(crate) async fn answer<R: Replica>(
    context: &Context<R>,
    head: &Parts,
) -> Result<Response<Body>, Problem> {
    if !matches!(head.method, Method::GET | Method::HEAD) {
        return Err(Problem::not_allowed("GET, HEAD"));
    }
    Query::parse(head.uri.query(), &[])?;
    precondition::no_match(&head.headers)?;
    let document = context.document.get_or_init(|| Document::new(&context.limits));
    let mut response = Response::new(Body::empty());
    if document.is_known(head) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        response = response::text(StatusCode::OK, "application/json", String::new())
            .map(|_| Body::whole(document.bytes.clone()));
    }
    response.headers_mut().insert(ETAG, document.etag.clone());
    context.hold(response)
}

/// The description, made once.
#[derive(Debug)]
pub(crate) struct Document {
    bytes: Bytes,
    etag: HeaderValue,
}

impl Document {
    fn new(limits: &Limits) -> Self {
        let bytes = Bytes::from(response::to_json(&openapi(limits)));
        let etag = format!("\"{:032x}\"", xxh3_128(&bytes));
        let etag = HeaderValue::from_str(&etag).expect("digits in quotes are a header value");
        Self { bytes, etag }
    }

    fn is_known(&self, head: &Parts) -> bool {
        let lines = head.headers.get_all(IF_NONE_MATCH).iter();
        let mut tags = lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(','));
        tags.any(|tag| {
            let tag = tag.trim();
            tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == self.etag.as_bytes()
        })
    }
}

/// The paths of all calls; the last one is that of the description.
pub(crate) fn paths() -> Vec<&'static str> {
    calls::all().into_iter().fold(Vec::new(), |mut paths, call| {
        if !paths.contains(&call.path) {
            paths.push(call.path);
        }
        paths
    })
}

/// The description as a document, for the tests.
#[doc(hidden)]
#[must_use]
pub fn openapi(limits: &Limits) -> Value {
    let mut value = serde_json::to_value(describe(limits)).expect("the description is JSON");
    bound_numbers(&mut value);
    let schemas = &mut value["components"]["schemas"];
    for list in ["compare", "success", "failure"] {
        schemas["TxnBody"]["properties"][list]["maxItems"] = json!(limits.txn_operations_max);
    }
    schemas["ProblemType"] = problem_types();
    value
}

fn describe(limits: &Limits) -> OpenApi {
    let mut components = Described::of::<ProblemBody>().add_to(answer::headers());
    let mut paths = Paths::new();
    for call in calls::all() {
        for described in call.bodies() {
            components = described.add_to(components);
        }
        for (method, operation) in call.operations(limits) {
            let item = PathItem::new(method, operation);
            match paths.paths.get_mut(call.path) {
                Some(known) => known.merge_operations(item),
                None => drop(paths.paths.insert(call.path.to_owned(), item)),
            }
        }
    }
    let license = LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0"));
    let info = InfoBuilder::new()
        .title("Synod")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(words::OVERVIEW))
        .license(Some(license.build()));
    let tags = words::TAGS
        .iter()
        .map(|(name, text)| TagBuilder::new().name(*name).description(Some(*text)).build());
    OpenApiBuilder::new()
        .info(info.build())
        .paths(paths)
        .components(Some(components.build()))
        .tags(Some(tags))
        .build()
}

/// Says of each number how large it may be: formats are no part of JSON Schema.
fn bound_numbers(value: &mut Value) {
    match value {
        Value::Object(members) => {
            let (format, most) = match members.get("format").and_then(Value::as_str) {
                Some("u-int64") => ("uint64", u64::MAX),
                Some("u-int32") => ("uint32", u64::from(u32::MAX)),
                Some("u-int16") => ("uint16", u64::from(u16::MAX)),
                _ => return members.values_mut().for_each(bound_numbers),
            };
            members.insert("format".to_owned(), json!(format));
            members.entry("maximum").or_insert_with(|| json!(most));
        }
        Value::Array(items) => items.iter_mut().for_each(bound_numbers),
        _ => {}
    }
}

fn problem_types() -> Value {
    let types: Vec<_> = Kind::ALL.iter().map(|kind| kind.as_type()).collect();
    let lines = Kind::ALL.iter();
    let lines = lines.map(|k| format!("- `{}` ({}): {}", k.as_type(), k.status(), k.title()));
    let lines: Vec<_> = lines.collect();
    json!({"type": "string", "enum": types, "description": lines.join("\n")})
}
