//! One call, and its description as an operation.

use serde_json::Value;
use synod_kv::http::RedirectBody;
use utoipa::ToSchema;
use utoipa::openapi::path::{Operation, OperationBuilder};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::{HttpMethod, Required};

use crate::limits::Limits;
use crate::openapi::answer::{self, Answer, Content, Described};
use crate::openapi::parameter::{self, Parameter};
use crate::problem::Kind;

/// A call.
pub(crate) struct Call {
    pub(super) path: &'static str,
    method: HttpMethod,
    /// There is HEAD beside GET.
    has_head: bool,
    id: &'static str,
    tag: &'static str,
    summary: &'static str,
    text: &'static str,
    parameters: Vec<Parameter>,
    body: Option<Asked>,
    answers: Vec<Answer>,
    problems: Vec<&'static [Kind]>,
}

/// The body of a request.
struct Asked {
    content: Content,
    text: &'static str,
    example: Value,
    /// It may be left out.
    is_optional: bool,
}

/// What may happen to any request.
const ALWAYS: &[Kind] = &[
    Kind::BadRequest,
    Kind::BadQuery,
    Kind::UnknownParameter,
    Kind::DoubledParameter,
    Kind::MethodNotAllowed,
    // Of conditions that a call does not take, if of nothing else.
    Kind::BadHeader,
    Kind::RequestTimeout,
    Kind::KeyTooLong,
    Kind::HeadersTooLarge,
    Kind::Overloaded,
];
const BODY: &[Kind] = &[Kind::BodyTooLarge];
const DOCUMENT: &[Kind] = &[
    Kind::BadJson,
    Kind::BadUtf8,
    Kind::BadMember,
    Kind::UnknownMember,
    Kind::DoubledMember,
    Kind::MissingMember,
    Kind::ContradictoryMembers,
];
const HEADERS: &[Kind] = &[Kind::BadHeader, Kind::DoubledHeader];
const REDIRECTED: &[Kind] = &[Kind::NoLeader];
const READ: &[Kind] = &[Kind::Internal, Kind::NoLeader, Kind::Timeout, Kind::ShuttingDown];
const WRITE: &[Kind] = &[
    Kind::Internal,
    Kind::NoLeader,
    Kind::Timeout,
    Kind::OutcomeUnknown,
    Kind::ShuttingDown,
    Kind::NoRoom,
];
const NAMED: &[Kind] = &[Kind::IdempotencyMismatch, Kind::IdempotencyFull, Kind::IdempotencyLate];

impl Call {
    pub(super) fn new(
        (method, path): (HttpMethod, &'static str),
        (tag, id): (&'static str, &'static str),
        summary: &'static str,
    ) -> Self {
        Self {
            path,
            method,
            has_head: false,
            id,
            tag,
            summary,
            text: "",
            parameters: Vec::new(),
            body: None,
            answers: Vec::new(),
            problems: vec![ALWAYS],
        }
    }

    pub(super) fn text(mut self, text: &'static str) -> Self {
        self.text = text;
        self
    }

    pub(super) fn and_head(mut self) -> Self {
        self.has_head = true;
        self
    }

    pub(super) fn takes(mut self, parameters: &[Parameter]) -> Self {
        self.parameters.extend_from_slice(parameters);
        self
    }

    /// It reads the data.
    pub(super) fn reads(mut self) -> Self {
        self.problems.push(READ);
        self.takes(&[parameter::TIMEOUT]).fails(HEADERS)
    }

    /// It goes through the log.
    pub(super) fn writes(mut self) -> Self {
        self.problems.push(WRITE);
        self.takes(&[parameter::TIMEOUT]).fails(HEADERS)
    }

    /// It goes through the log, and may have a name.
    pub(super) fn writes_named(mut self) -> Self {
        self.problems.push(NAMED);
        self.writes().takes(&[parameter::IDEMPOTENCY_KEY])
    }

    /// It may be sent on to the leader.
    pub(super) fn redirects(self) -> Self {
        self.takes(&[parameter::REDIRECT]).only_at_the_leader()
    }

    /// Another node than the leader sends it there in any case.
    pub(super) fn only_at_the_leader(mut self) -> Self {
        self.problems.push(REDIRECTED);
        let text = "This node does not lead: ask there.";
        let body = Content::Json(Described::of::<RedirectBody>());
        let (contents, headers) = (vec![(body, None)], &["Location"]);
        self.answers.push(Answer { status: 307, text, contents, headers });
        self
    }

    pub(super) fn asks(mut self, content: Content, text: &'static str, example: Value) -> Self {
        self.problems.push(BODY);
        self.body = Some(Asked { content, text, example, is_optional: false });
        self
    }

    /// Its body is this JSON document.
    pub(super) fn asks_json<T: ToSchema>(self, example: Value) -> Self {
        self.asks(Content::Json(Described::of::<T>()), "", example).fails(DOCUMENT)
    }

    /// Its body may be left out.
    pub(super) fn or_nothing(mut self) -> Self {
        self.body = self.body.map(|body| Asked { is_optional: true, ..body });
        self
    }

    pub(super) fn answers(
        mut self,
        status: u16,
        text: &'static str,
        contents: &[Content],
        headers: &'static [&'static str],
    ) -> Self {
        let contents = contents.iter().map(|content| (*content, None)).collect();
        self.answers.push(Answer { status, text, contents, headers });
        self
    }

    /// It answers this JSON document.
    pub(super) fn answers_json<T: ToSchema>(
        self,
        status: u16,
        text: &'static str,
        headers: &'static [&'static str],
    ) -> Self {
        self.answers(status, text, &[Content::Json(Described::of::<T>())], headers)
    }

    pub(super) fn fails(mut self, kinds: &'static [Kind]) -> Self {
        self.problems.push(kinds);
        self
    }

    /// The bodies that are described by their types.
    pub(super) fn bodies(&self) -> impl Iterator<Item = Described> {
        let asked = self.body.iter().map(|body| body.content);
        let answered = self.answers.iter().flat_map(|answer| answer.contents.iter().map(|c| c.0));
        asked.chain(answered).filter_map(Content::described)
    }

    /// The operations: one, or GET and HEAD.
    pub(super) fn operations(&self, limits: &Limits) -> Vec<(HttpMethod, Operation)> {
        let mut operations = vec![(self.method.clone(), self.operation(limits, false))];
        if self.has_head {
            operations.push((HttpMethod::Head, self.operation(limits, true)));
        }
        operations
    }

    fn operation(&self, limits: &Limits, is_head: bool) -> Operation {
        let id = if is_head { format!("{}Head", self.id) } else { self.id.to_owned() };
        let mut operation = OperationBuilder::new()
            .operation_id(Some(id))
            .tag(self.tag)
            .summary(Some(self.summary))
            .description((!self.text.is_empty()).then_some(self.text))
            .parameters(Some(self.parameters.iter().map(|parameter| parameter.describe(limits))))
            .request_body(self.body.as_ref().map(Asked::describe));
        for answer in &self.answers {
            operation = operation.response(answer.status.to_string(), answer.describe(is_head));
        }
        for (status, problem) in answer::problems(&self.problems, is_head) {
            operation = operation.response(status.to_string(), problem);
        }
        operation.build()
    }
}

impl Asked {
    fn describe(&self) -> RequestBody {
        let (name, content) = self.content.describe(Some(self.example.clone()));
        let required = if self.is_optional { Required::False } else { Required::True };
        RequestBodyBuilder::new()
            .content(name, content)
            .description((!self.text.is_empty()).then_some(self.text))
            .required(Some(required))
            .build()
    }
}
