//! A client for one subcommand, and what its errors mean for people.

use std::future::Future;
use std::time::Duration;

use synod_client::{Client, ClientError, ClientOptions, Problem, ProblemKind};

use crate::arguments::Reach;
use crate::endpoints;
use crate::failure::Failure;

/// How long a long work may stand still.
const PATIENCE_MS: u64 = 30_000;

/// Runs one conversation with the cluster that `reach` names.
pub(crate) fn with_client<T, F>(
    reach: &Reach,
    conversation: impl FnOnce(Client) -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let urls = endpoints::resolve(&reach.endpoints);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = client(&urls, reach.timeout_ms).map_err(|error| failure(&error, &urls))?;
        conversation(client).await.map_err(|error| failure(&error, &urls))
    })
}

/// The same for one write of a command that takes `--idempotency-key`.
pub(crate) fn write_with_client<T, F>(
    reach: &Reach,
    conversation: impl FnOnce(Client) -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let written = |client| async { Ok(conversation(client).await) };
    with_client(reach, written)?.map_err(|error| match &error {
        ClientError::Ambiguous { idempotency_key: Some(name), .. } => Failure::failed(format!(
            "{error}.\nRepeat it with --idempotency-key {name} within ten minutes, and it is \
             carried out once"
        )),
        error => failure(error, &endpoints::resolve(&reach.endpoints)),
    })
}

/// The same for a conversation of many steps, each of which may need more patience than a
/// single request: it goes on through an election, or the start of a node.
pub(crate) fn with_patient_client<T, F>(
    reach: &Reach,
    conversation: impl FnOnce(Client) -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let timeout_ms = reach.timeout_ms.max(PATIENCE_MS);
    with_client(&Reach { timeout_ms, ..reach.clone() }, conversation)
}

pub(crate) fn client(urls: &[String], timeout_ms: u64) -> Result<Client, ClientError> {
    let call_timeout = Duration::from_millis(timeout_ms);
    let defaults = ClientOptions::default();
    let options = ClientOptions {
        call_timeout,
        attempt_timeout: defaults.attempt_timeout.min(call_timeout),
        ..defaults
    };
    Client::new(urls, options)
}

/// What went wrong, and what to do about it.
pub(crate) fn failure(error: &ClientError, urls: &[String]) -> Failure {
    match error {
        ClientError::ConditionFailed { .. } => Failure::refused(error.to_string()),
        ClientError::Refused(problem) if problem.kind() == Some(ProblemKind::KeyNotFound) => {
            Failure::refused("there is no such key")
        }
        ClientError::Refused(problem) if is_no(problem) => Failure::refused(&problem.detail),
        ClientError::Compacted { .. } => Failure::refused(error.to_string()),
        ClientError::Unreachable { .. } => Failure::failed(format!(
            "{error}.\nTried {}: start a cluster (`synod cluster`), or name one with --endpoints",
            urls.join(", ")
        )),
        ClientError::Refused(problem) if problem.kind() == Some(ProblemKind::AlreadyCompacted) => {
            Failure::refused(problem.detail.clone())
        }
        ClientError::Ambiguous { .. } => {
            Failure::failed(format!("{error}.\nLook whether it took effect before you do it again"))
        }
        ClientError::Invalid { .. } => Failure::usage(error.to_string()),
        _ => Failure::failed(error.to_string()),
    }
}

/// The cluster's answer is no, which is no failure.
fn is_no(problem: &Problem) -> bool {
    matches!(problem.kind(), Some(ProblemKind::LeaseNotFound | ProblemKind::LeaseExists))
}
