//! What the headers of a request say about the call as a whole: how long it may
//! take, and under which name a retry is known.

use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName};
use synod_kv::{Condition, IdempotencyKey};
use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3;

use crate::limits::Limits;
use crate::problem::{Kind, Problem};
use crate::target::decimal;

/// How long a call may take: `2s` or `500ms`.
pub(crate) const TIMEOUT: HeaderName = HeaderName::from_static("synod-timeout");
/// The client's name for a write.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The longest name that a client may give to a write.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// How much earlier than the caller the replica is told to end, at the most: so
/// that its own answer, which knows more, comes before the handler gives up.
const MARGIN_MAX: Duration = Duration::from_millis(50);

/// When a call must be over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    /// The answer is on its way by then, whatever it is.
    pub(crate) answer: Instant,
    /// The replica is asked to be done by then.
    pub(crate) replica: Instant,
}

impl Deadline {
    /// The deadline of a request that came now.
    ///
    /// # Errors
    /// A `Synod-Timeout` that is malformed, zero or too long.
    pub(crate) fn of(headers: &HeaderMap, limits: &Limits) -> Result<Self, Problem> {
        Self::timeout(headers, limits).map(Self::after)
    }

    /// How long a call may take.
    ///
    /// # Errors
    /// As of [`Deadline::of`].
    pub(crate) fn timeout(headers: &HeaderMap, limits: &Limits) -> Result<Duration, Problem> {
        match single(headers, &TIMEOUT, "Synod-Timeout")? {
            None => Ok(Duration::from_millis(limits.call_timeout_default_ms)),
            Some(text) => parse_timeout(text, limits.call_timeout_max_ms),
        }
    }

    /// The deadline of what begins now and may take so long.
    pub(crate) fn after(timeout: Duration) -> Self {
        let answer = Instant::now() + timeout;
        Self { answer, replica: answer - MARGIN_MAX.min(timeout / 10) }
    }

    /// The deadline of a request that came now and may wait for so long for something to
    /// happen. Its own `Synod-Timeout` bounds that as well.
    ///
    /// # Errors
    /// As of [`Deadline::of`].
    pub(crate) fn of_waiting(
        headers: &HeaderMap,
        limits: &Limits,
        wait: Duration,
    ) -> Result<Self, Problem> {
        let deadline = Self::of(headers, limits)?;
        if headers.contains_key(TIMEOUT) {
            return Ok(deadline);
        }
        Ok(Self { answer: deadline.answer + wait, replica: deadline.replica + wait })
    }

    /// By when the body of the request must be here.
    pub(crate) fn body(self, limits: &Limits) -> Instant {
        self.answer.min(Instant::now() + Duration::from_millis(limits.body_timeout_ms))
    }

    /// Whether it is too late to ask the replica for more.
    pub(crate) fn is_over(self) -> bool {
        Instant::now() >= self.replica
    }
}

fn parse_timeout(text: &str, timeout_ms_max: u64) -> Result<Duration, Problem> {
    match millis(text) {
        Some(timeout_ms @ 1..) if timeout_ms <= timeout_ms_max => {
            Ok(Duration::from_millis(timeout_ms))
        }
        _ => Err(Problem::new(
            Kind::BadHeader,
            format!(
                "Synod-Timeout is a whole number of seconds or milliseconds, such as 2s or 500ms, \
                 and at most {timeout_ms_max}ms."
            ),
        )),
    }
}

/// A time in whole seconds or milliseconds, such as `2s` or `500ms`, in milliseconds.
pub(crate) fn millis(text: &str) -> Option<u64> {
    let (digits, unit_ms) = match text.strip_suffix("ms") {
        Some(digits) => (digits, 1),
        None => (text.strip_suffix('s')?, 1_000),
    };
    decimal(digits)?.checked_mul(unit_ms)
}

/// A client's own name for a write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Name {
    /// As the client sent it.
    pub(crate) key: Bytes,
    /// The cluster time that this node had applied when the request began to arrive. The
    /// rest of it may take its time.
    pub(crate) asked_ms: u64,
}

/// The client's name for a write, if it gave one, of a request that begins to arrive at
/// this cluster time.
///
/// # Errors
/// A name that is empty, longer than 255 bytes or not visible ASCII.
pub(crate) fn idempotency_key(headers: &HeaderMap, asked_ms: u64) -> Result<Option<Name>, Problem> {
    let Some(text) = single(headers, &IDEMPOTENCY_KEY, "Idempotency-Key")? else {
        return Ok(None);
    };
    let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    if text.is_empty() || text.len() > IDEMPOTENCY_KEY_BYTES_MAX || !visible {
        return Err(Problem::new(
            Kind::BadHeader,
            format!(
                "Idempotency-Key is 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible ASCII characters \
                 without spaces; a UUID will do."
            ),
        ));
    }
    Ok(Some(Name { key: Bytes::copy_from_slice(text.as_bytes()), asked_ms }))
}

/// The value of a header that may come once.
///
/// # Errors
/// When it comes twice, or is no text.
pub(crate) fn single<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    title: &str,
) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Problem::new(Kind::DoubledHeader, format!("{title} is given twice.")));
    }
    value
        .to_str()
        .map(Some)
        .map_err(|_| Problem::new(Kind::BadHeader, format!("{title} is not ASCII text.")))
}

/// Names a keyed write together with everything that it asks for.
///
/// The hash is of meanings, not of the bytes sent, so that a retry through another
/// client or node that percent-encodes the key differently is still the same
/// request. It stands in the log: its recipe must not change between versions.
pub(crate) fn name_write(
    name: Name,
    method: &str,
    parts: &[&[u8]],
    condition: Condition,
    want_previous: bool,
    body: &[u8],
) -> IdempotencyKey {
    let mut hash = Xxh3::new();
    let mut part = |bytes: &[u8]| {
        // Each part has its length before it, so no two lists of parts look alike.
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(method.as_bytes());
    part(&(parts.len() as u64).to_le_bytes());
    parts.iter().for_each(|bytes| part(bytes));
    match condition {
        Condition::Always => part(b"always"),
        Condition::Absent => part(b"absent"),
        Condition::Exists => part(b"exists"),
        Condition::At(revision) => {
            part(b"at");
            part(&revision.0.to_le_bytes());
        }
    }
    part(&[u8::from(want_previous)]);
    part(body);
    let Name { key, asked_ms } = name;
    IdempotencyKey { key, asked_ms, request_hash: hash.digest128() }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use synod_kv::Revision;

    use super::*;

    #[test]
    fn timeouts_have_a_unit_and_a_bound() {
        let parse = |text| parse_timeout(text, 60_000).ok();
        assert_eq!(parse("2s"), Some(Duration::from_secs(2)));
        assert_eq!(parse("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse("60s"), Some(Duration::from_secs(60)));
        let refused = [
            "",
            "s",
            "ms",
            "2",
            "0s",
            "0ms",
            "-1s",
            "+1s",
            "1.5s",
            "61s",
            "60001ms",
            "2 s",
            "2S",
            "2m",
            "02s",
            "18446744073709551615s",
            "99999999999999999999s",
        ];
        for text in refused {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn idempotency_keys_are_short_and_visible() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_str(text).unwrap());
            idempotency_key(&headers, 7)
        };
        let name = of("a-1").unwrap().unwrap();
        assert_eq!((name.key.as_ref(), name.asked_ms), (b"a-1".as_slice(), 7));
        assert!(of(&"k".repeat(255)).is_ok());
        assert!(of(&"k".repeat(256)).is_err());
        assert!(of("").is_err());
        assert!(of("a b").is_err());
        assert_eq!(idempotency_key(&HeaderMap::new(), 7).unwrap(), None);
    }

    #[test]
    fn every_part_of_a_request_is_in_its_hash() {
        let hash = |method, key: &[u8], condition, previous, body: &[u8]| {
            let name = Name { key: Bytes::new(), asked_ms: 7 };
            name_write(name, method, &[key], condition, previous, body).request_hash
        };
        let base = hash("PUT", b"k", Condition::Always, false, b"v");
        assert_eq!(base, hash("PUT", b"k", Condition::Always, false, b"v"));
        let others = [
            hash("DELETE", b"k", Condition::Always, false, b"v"),
            hash("PUT", b"kv", Condition::Always, false, b""),
            hash("PUT", b"", Condition::Always, false, b"kv"),
            hash("PUT", b"k", Condition::Absent, false, b"v"),
            hash("PUT", b"k", Condition::At(Revision(0)), false, b"v"),
            hash("PUT", b"k", Condition::Always, true, b"v"),
            hash("PUT", b"k", Condition::Always, false, b"w"),
        ];
        for (at, other) in others.into_iter().enumerate() {
            assert_ne!(base, other, "{at}");
        }
    }
}
