//! What every handler has at hand: the replica, the limits, the places.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue, LOCATION};
use http::{Response, StatusCode, Uri};
use synod_kv::http::{LeaderHint, RedirectBody};
use synod_kv::{Command, Expiry, Outcome, Revision, Taken};
use tokio::time::timeout_at;

use crate::admission::Admission;
use crate::call::{self, Deadline, Name};
use crate::counters::Counters;
use crate::limits::Limits;
use crate::lines::Lines;
use crate::openapi::Document;
use crate::problem::{Kind, Problem};
use crate::replica::{Refused, Replica};
use crate::request_body::{self, Received};
use crate::response::{self, Body};
use crate::target::{self, Query};
use crate::watch::Hub;

/// Answers up to this size are not counted: the bound on connections bounds them.
pub(crate) const ANSWER_BYTES_FREE: usize = 16 * 1024;

/// A document that is sent to us is a few words and addresses.
const DOCUMENT_BYTES_MAX: usize = 4 * 1024;

/// Shared by all connections of a server.
#[derive(Debug)]
pub(crate) struct Context<R> {
    pub(crate) replica: R,
    pub(crate) limits: Arc<Limits>,
    pub(crate) admission: Admission,
    pub(crate) counters: Counters,
    pub(crate) watches: Arc<Hub>,
    pub(crate) lines: Lines,
    /// The description of the calls, made when it is asked for first.
    pub(crate) document: OnceLock<Document>,
}

/// A write that went through the log.
#[derive(Debug)]
pub(crate) struct Wrote {
    pub(crate) outcome: Outcome,
    /// Until when a retry is known.
    pub(crate) expires: Option<Expires>,
}

/// Until when a retry of a write is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expires {
    /// In cluster time, which counts from nowhere in particular.
    pub(crate) at_ms: u64,
    /// By this node's clock, counted from before the write was sent: never too late.
    pub(crate) date: SystemTime,
}

impl<R: Replica> Context<R> {
    pub(crate) fn new(replica: R, limits: Arc<Limits>) -> Self {
        let (admission, watches) = (Admission::new(&limits), Arc::new(Hub::new(&limits)));
        let (counters, lines, document) = (Counters::default(), Lines::default(), OnceLock::new());
        Self { replica, admission, counters, watches, lines, document, limits }
    }

    /// The client's name for a write, if it gave one. To be asked for before the body of
    /// the request is received.
    ///
    /// # Errors
    /// When it is not one.
    pub(crate) fn name_of(&self, headers: &HeaderMap) -> Result<Option<Name>, Problem> {
        call::idempotency_key(headers, self.replica.cluster_time_ms())
    }

    /// The redirect to the leader, if the request asks for it and this is another
    /// node. It leads nowhere but to an address that the cluster itself gave.
    ///
    /// # Errors
    /// When it is asked for and no leader is known.
    pub(crate) fn redirect(
        &self,
        uri: &Uri,
        query: &Query<'_>,
    ) -> Result<Option<Response<Body>>, Problem> {
        if !query.flag("redirect")? {
            return Ok(None);
        }
        self.elsewhere(uri)
    }

    /// The redirect to the leader of a call that only it can answer, if this is another node.
    /// Who led and has just died is known for a moment more, so a quorum is asked first.
    ///
    /// # Errors
    /// No leader in time, or too many calls.
    pub(crate) async fn redirect_to_leader(
        &self,
        uri: &Uri,
        deadline: Deadline,
    ) -> Result<Option<Response<Body>>, Problem> {
        let _place = self.admission.read()?;
        let confirmed = timeout_at(deadline.answer, self.replica.read_barrier(deadline.replica));
        confirmed.await.unwrap_or(Err(Refused::Deadline)).map_err(|refused| match refused {
            Refused::Deadline | Refused::Lost => Problem::of_write(Refused::NoLeader),
            refused => Problem::of_write(refused),
        })?;
        self.elsewhere(uri)
    }

    fn elsewhere(&self, uri: &Uri) -> Result<Option<Response<Body>>, Problem> {
        let Some(leader) = self.replica.leader() else {
            return Err(Problem::of_write(Refused::NoLeader));
        };
        if leader.node == self.replica.node() {
            return Ok(None);
        }
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let location = format!("{}{target}", leader.url);
        let header = HeaderValue::from_str(&location).map_err(|_| {
            Problem::new(
                Kind::BadRequest,
                "The target can't stand in a Location header: percent-encode it.",
            )
        })?;
        let body = RedirectBody {
            detail: format!(
                "Nothing was done here: node {} leads, ask there. curl follows by itself with -L.",
                leader.node
            ),
            leader: LeaderHint { id: leader.node, url: Some(leader.url.to_string()) },
            location,
        };
        let mut response = response::json(StatusCode::TEMPORARY_REDIRECT, &body);
        response.headers_mut().insert(LOCATION, header);
        self.hold(response).map(Some)
    }

    /// Takes the small document of a call about the cluster, and until when there is an
    /// answer to it.
    ///
    /// # Errors
    /// A malformed header, a body that is too large or late, or no room for it.
    pub(crate) async fn receive_document<B>(
        &self,
        headers: &HeaderMap,
        body: B,
    ) -> Result<(Received<'_>, Deadline), Problem>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let deadline = self.deadline(headers)?;
        Ok((self.receive_document_within(body, deadline).await?, deadline))
    }

    /// Until when there is an answer to a call.
    ///
    /// # Errors
    /// A malformed header.
    pub(crate) fn deadline(&self, headers: &HeaderMap) -> Result<Deadline, Problem> {
        Deadline::of(headers, &self.limits)
    }

    /// [`Context::receive_document`] of a call whose time runs already.
    ///
    /// # Errors
    /// A body that is too large or late, or no room for it.
    pub(crate) async fn receive_document_within<B>(
        &self,
        body: B,
        deadline: Deadline,
    ) -> Result<Received<'_>, Problem>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let until = deadline.body(&self.limits);
        request_body::receive(body, DOCUMENT_BYTES_MAX, &self.admission, until).await
    }

    /// Waits until the local state may answer a read with these parameters, and tells at
    /// which revision it is asked for; none for the newest.
    ///
    /// # Errors
    /// A malformed parameter or header, parameters that contradict each other, or a wait
    /// that did not end in time.
    pub(crate) async fn prepare_read(
        &self,
        headers: &HeaderMap,
        query: &Query<'_>,
    ) -> Result<Option<Revision>, Problem> {
        let is_stale = match query.raw("consistency") {
            None | Some("linearizable") => false,
            Some("stale") => true,
            Some(_) => {
                return Err(target::invalid("consistency", "is 'linearizable' or 'stale'"));
            }
        };
        let revision_min = query.number("min_revision")?.map(Revision);
        let at = query.number("revision")?.map(Revision);
        if at.is_some_and(|at| revision_min.is_some_and(|min| at < min)) {
            return Err(target::contradictory(
                "revision",
                "is below 'min_revision', so the answer would be older than it may be",
            ));
        }
        let deadline = Deadline::of(headers, &self.limits)?;
        // What is past does not change: if this node has it, nobody needs to confirm it.
        let is_past = at.is_some_and(|at| at <= self.replica.revision());
        if (is_stale && revision_min.is_none()) || is_past {
            return Ok(at);
        }
        let _place = self.admission.read()?;
        if !is_stale {
            self.confirm(deadline).await?;
        }
        if let Some(revision) = revision_min {
            self.wait_revision(revision, deadline).await?;
        }
        Ok(at)
    }

    /// What this node sees from now on has all that was acknowledged before.
    pub(crate) async fn confirm(&self, deadline: Deadline) -> Result<(), Problem> {
        let barrier = self.replica.read_barrier(deadline.replica);
        let confirmed = timeout_at(deadline.answer, barrier).await;
        confirmed.unwrap_or(Err(Refused::Deadline)).map_err(Problem::of_read)
    }

    async fn wait_revision(&self, revision: Revision, deadline: Deadline) -> Result<(), Problem> {
        if self.replica.revision() >= revision {
            return Ok(());
        }
        let wait = self.replica.wait_revision(revision, deadline.replica);
        match timeout_at(deadline.answer, wait).await.unwrap_or(Err(Refused::Deadline)) {
            Ok(()) => Ok(()),
            Err(Refused::Deadline) => {
                let reached = self.replica.revision();
                Err(Problem::new(
                    Kind::Timeout,
                    format!(
                        "This node is at revision {reached} and did not reach {revision} in time."
                    ),
                ))
            }
            Err(refused) => Err(Problem::of_read(refused)),
        }
    }

    /// Takes a write through the log.
    ///
    /// # Errors
    /// When there is no outcome; the problem says whether there may be an effect.
    pub(crate) async fn write(
        &self,
        command: Command,
        deadline: Deadline,
    ) -> Result<Wrote, Problem> {
        let _place = self.admission.write()?;
        let begun = SystemTime::now();
        let write = self.replica.write(command, deadline.replica);
        let taken = timeout_at(deadline.answer, write).await.unwrap_or(Err(Refused::Deadline));
        match taken.map_err(Problem::of_write)? {
            Taken::Applied { outcome, expiry } => {
                let expires = expiry.map(|Expiry { at_ms, left_ms }| Expires {
                    at_ms,
                    date: begun + Duration::from_millis(left_ms.min(u64::from(u32::MAX))),
                });
                Ok(Wrote { outcome, expires })
            }
            // Not the taking of this write, so not its outcome either.
            Taken::Duplicate | Taken::Gap => Err(Problem::of_write(Refused::Lost)),
        }
    }

    /// Says in an answer until when a retry of its write is known.
    pub(crate) fn say_expiry(response: &mut Response<Body>, expires: Option<Expires>) {
        if let Some(expires) = expires {
            let date = HeaderValue::from_str(&httpdate::fmt_http_date(expires.date))
                .expect("an HTTP date is a header value");
            response.headers_mut().insert(response::IDEMPOTENCY_EXPIRES, date);
        }
    }

    /// Takes room for an answer that is large: its client may be slow to take it.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn hold(&self, response: Response<Body>) -> Result<Response<Body>, Problem> {
        let bytes = response.body().held_bytes();
        if bytes <= ANSWER_BYTES_FREE {
            return Ok(response);
        }
        let room = self.admission.answer(bytes)?;
        Ok(response.map(|body| body.hold(room)))
    }

    /// The answer to a refused request.
    pub(crate) fn refuse(&self, problem: Problem) -> Response<Body> {
        problem.into_response(self.replica.leader().as_ref())
    }

    /// Adds what every answer carries. An answer that saw a revision of its own
    /// keeps it.
    pub(crate) fn stamp(&self, response: &mut Response<Body>) {
        let headers = response.headers_mut();
        if !headers.contains_key(&response::REVISION) {
            headers.insert(response::REVISION, HeaderValue::from(self.replica.revision().0));
        }
        if let Some(leader) = self.replica.leader() {
            headers.insert(response::LEADER, leader.header());
        }
    }
}
