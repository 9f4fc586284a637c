//! Takes the body of a request, within its bounds.

use std::mem;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, timeout_at};

use crate::admission::Admission;
use crate::document;
use crate::problem::{Kind, Problem};

/// A whole body, and the room that it takes.
#[derive(Debug)]
pub(crate) struct Received<'a> {
    pub(crate) bytes: Bytes,
    /// Given back when the write is over, for until then the bytes are held.
    _room: SemaphorePermit<'a>,
}

/// Reads `body` to its end.
///
/// # Errors
/// More than `bytes_max` bytes (found before reading where the length is given), no
/// room for it, not whole by `deadline`, or cut off.
pub(crate) async fn receive<B>(
    mut body: B,
    bytes_max: usize,
    admission: &Admission,
    deadline: Instant,
) -> Result<Received<'_>, Problem>
where
    B: Body<Data = Bytes> + Unpin,
{
    let announced =
        body.size_hint().exact().map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    if announced.is_some_and(|bytes| bytes > bytes_max) {
        return Err(too_large(bytes_max));
    }
    let room = admission.body(announced.unwrap_or(bytes_max))?;
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    loop {
        let frame = match timeout_at(deadline, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) => return Err(cut_off()),
            Ok(None) => break,
            Err(_elapsed) => return Err(too_slow()),
        };
        // Trailers say nothing to us.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if first.len() + rest.len() + data.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        if first.is_empty() && rest.is_empty() {
            // A small body comes in one piece and is not copied.
            first = data;
            continue;
        }
        if rest.is_empty() {
            rest.reserve(announced.unwrap_or(0));
            rest.extend_from_slice(&mem::take(&mut first));
        }
        rest.extend_from_slice(&data);
    }
    let bytes = if rest.is_empty() { first } else { rest.freeze() };
    if announced.is_some_and(|announced| announced != bytes.len()) {
        return Err(cut_off());
    }
    Ok(Received { bytes, _room: room })
}

/// Reads a JSON document.
///
/// # Errors
/// When it is not one of this kind.
pub(crate) fn decode<T: DeserializeOwned>(body: &Bytes, what: &str) -> Result<T, Problem> {
    document::read(body, &format!("The body is not {what}"))
}

fn too_large(bytes_max: usize) -> Problem {
    Problem::new(
        Kind::BodyTooLarge,
        format!("The body is larger than the {bytes_max} bytes that are allowed here."),
    )
}

fn cut_off() -> Problem {
    Problem::new(
        Kind::BadRequest,
        "The body was cut off or its chunks are malformed. Nothing was stored.",
    )
}

fn too_slow() -> Problem {
    Problem::new(Kind::RequestTimeout, "The body did not come in time. Nothing was stored.")
}
