//! What an answer's body says.

use http::StatusCode;
use serde::de::DeserializeOwned;
use synod_kv::Revision;
use synod_kv::http::Problem;

use crate::attempt::Answer;
use crate::error::ClientError;

/// The document in the body, if it is one.
pub(crate) fn document<T: DeserializeOwned>(answer: &Answer) -> Option<T> {
    serde_json::from_slice(&answer.body).ok()
}

/// What a definite refusal of the call becomes.
pub(crate) fn refusal(answer: &Answer) -> ClientError {
    let Some(problem) = document::<Problem>(answer) else { return garbled() };
    if answer.status == StatusCode::PRECONDITION_FAILED {
        return ClientError::ConditionFailed { current: problem.current_revision.map(Revision) };
    }
    ClientError::of_problem(Box::new(problem))
}

/// An answer that no node gives.
pub(crate) fn garbled() -> ClientError {
    ClientError::Unreachable { attempts: 1, last: "an answer that no node gives".to_owned() }
}
