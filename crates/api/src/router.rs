//! Finds the handler of a request.

use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::State;
use axum::routing::{MethodRouter, any};
use http::request::Parts;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use tower::ServiceExt;

use crate::admission::Admission;
use crate::context::Context;
use crate::limits::Limits;
use crate::problem::{Kind, Problem};
use crate::replica::Replica;
use crate::response::{self, Body};
use crate::{
    backup, batch, cluster, compaction, key, lease, listing, lock, members, node, openapi,
    precondition, range_delete, txn, watch,
};

/// The road that a request for one key takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// Past the router: one comparison finds it, and its future is not boxed.
    Direct,
    /// Through the router, as all others.
    Routed,
}

/// The door of the server; each connection has a clone.
#[derive(Debug)]
pub(crate) struct Front<R> {
    context: Arc<Context<R>>,
    router: Router,
    route: Route,
}

impl<R> Clone for Front<R> {
    fn clone(&self) -> Self {
        Self { context: Arc::clone(&self.context), router: self.router.clone(), route: self.route }
    }
}

impl<R: Replica> Front<R> {
    pub(crate) fn new(route: Route, replica: R, limits: Arc<Limits>) -> Self {
        let context = Arc::new(Context::new(replica, limits));
        let mut router = Router::new().fallback(not_found::<R>);
        for (path, call) in calls() {
            router = router.route(path, call);
        }
        let router = router.with_state(Arc::clone(&context));
        Self { context, router, route }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.context.limits
    }

    pub(crate) fn admission(&self) -> &Admission {
        &self.context.admission
    }

    /// Hands what happens to the watches for as long as it is let.
    pub(crate) async fn run_watches(&self) {
        self.context.watches.run(self.context.replica.clone()).await;
    }

    /// Ends all watches, also those to come.
    pub(crate) fn stop_watches(&self) {
        self.context.watches.stop();
    }

    /// Answers one request.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let is_key = request.uri().path().starts_with(key::PREFIX);
        let mut response = if is_key && self.route == Route::Direct {
            key::answer(&self.context, request).await
        } else {
            response::from_routed(self.router.clone().oneshot(request).await)
        };
        self.context.stamp(&mut response);
        self.context.counters.count(response.status());
        response
    }

    /// A whole answer as bytes, for a client whose request never got to hyper. The
    /// connection ends with it.
    pub(crate) fn last_words(&self, problem: Problem) -> Vec<u8> {
        let mut response = self.context.refuse(problem);
        self.context.stamp(&mut response);
        self.context.counters.count(response.status());
        let (head, body) = response.into_parts();
        let Body::Whole(Some(body)) = body else { unreachable!("a problem is a whole document") };
        let mut bytes = format!("HTTP/1.1 {}\r\n", head.status).into_bytes();
        for (name, value) in &head.headers {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        let rest = format!("content-length: {}\r\nconnection: close\r\n\r\n", body.len());
        bytes.extend_from_slice(rest.as_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }
}

type Shared<R> = Arc<Context<R>>;
type Asked = Request<axum::body::Body>;
type Routed = Response<axum::body::Body>;

type Call<R> = MethodRouter<Shared<R>, Infallible>;

// Preconditions are for one key. The calls that have one look at them themselves, and so
// does the description, which has a tag; before all others stands their refusal.

/// What this handler makes of a request, and of its body.
macro_rules! whole {
    ($handler:path) => {
        any(|State(context): State<Shared<R>>, request: Asked| async move {
            let result = match precondition::none(request.headers()) {
                Ok(()) => $handler(&context, request).await,
                Err(problem) => Err(problem),
            };
            response::into_routed(result.unwrap_or_else(|problem| context.refuse(problem)))
        })
    };
}

/// What this handler makes of the head of a request. A body is not looked at.
macro_rules! head {
    ($handler:path) => {
        any(|State(context): State<Shared<R>>, request: Asked| async move {
            let (head, _) = request.into_parts();
            let result = match precondition::none(&head.headers) {
                Ok(()) => $handler(&context, &head).await,
                Err(problem) => Err(problem),
            };
            response::into_routed(result.unwrap_or_else(|problem| context.refuse(problem)))
        })
    };
}

/// All resources.
fn calls<R: Replica>() -> [(&'static str, Call<R>); 22] {
    [
        ("/v1/kv", head!(keys)),
        ("/v1/kv/", to_key()),
        ("/v1/kv/{*key}", to_key()),
        ("/v1/txn", whole!(txn::answer)),
        ("/v1/batch", whole!(batch::answer)),
        ("/v1/compact", whole!(compaction::answer)),
        ("/v1/watch", head!(watch::answer)),
        ("/v1/lease", whole!(lease::leases)),
        ("/v1/lease/{*rest}", whole!(lease::one)),
        ("/v1/lock/{*name}", whole!(lock::answer)),
        ("/v1/election/{*name}", whole!(lock::answer)),
        ("/v1/snapshot", head!(backup::answer)),
        ("/v1/status", to_node(node::status)),
        ("/v1/cluster", whole!(members::members)),
        ("/v1/cluster/members", whole!(members::members)),
        ("/v1/cluster/members/{id}", whole!(members::member)),
        ("/v1/cluster/quorums", whole!(members::quorums)),
        ("/v1/cluster/transfer", whole!(cluster::transfer)),
        ("/livez", to_node(node::livez)),
        ("/readyz", to_node(node::readyz)),
        ("/metrics", to_node(node::metrics)),
        ("/openapi.json", to_description()),
    ]
}

/// The paths of all resources as the router knows them, for the test of the description.
#[doc(hidden)]
#[must_use]
pub fn routes<R: Replica>() -> Vec<&'static str> {
    calls::<R>().into_iter().map(|(path, _)| path).collect()
}

fn to_key<R: Replica>() -> Call<R> {
    any(|State(context): State<Shared<R>>, request: Asked| async move {
        response::into_routed(key::answer(&context, request).await)
    })
}

fn to_description<R: Replica>() -> Call<R> {
    any(|State(context): State<Shared<R>>, request: Asked| async move {
        let (head, _) = request.into_parts();
        let result = openapi::answer(&context, &head).await;
        response::into_routed(result.unwrap_or_else(|problem| context.refuse(problem)))
    })
}

/// `/v1/kv`: the keys of a range.
async fn keys<R: Replica>(context: &Context<R>, head: &Parts) -> Result<Response<Body>, Problem> {
    match head.method {
        Method::GET | Method::HEAD => listing::answer(context, head).await,
        Method::DELETE => range_delete::answer(context, head).await,
        _ => Err(Problem::not_allowed("GET, HEAD, DELETE")),
    }
}

/// A route that is only read and takes no parameters.
fn to_node<R: Replica>(handler: fn(&Context<R>) -> Result<Response<Body>, Problem>) -> Call<R> {
    any(move |State(context): State<Shared<R>>, request: Asked| async move {
        let is_sound = precondition::none(request.headers()).and_then(|()| node::check(&request));
        let result = is_sound.and_then(|()| handler(&context));
        response::into_routed(result.unwrap_or_else(|problem| context.refuse(problem)))
    })
}

fn not_found<R: Replica>(State(context): State<Shared<R>>) -> impl Future<Output = Routed> + Send {
    static DETAIL: LazyLock<String> = LazyLock::new(|| {
        let paths = openapi::paths().join(", ");
        format!("There is no such resource. There are {paths}, and the last of them describes all.")
    });
    let response = context.refuse(Problem::new(Kind::NotFound, DETAIL.as_str()));
    std::future::ready(response::into_routed(response))
}
