//! The request target: the key in its path and the parameters of its query.

use bytes::Bytes;
use synod_kv::http::Encoding;

use crate::problem::{Kind, Problem};

/// The key that `raw` stands for: the part of the path behind `/v1/kv/`, as it
/// was sent. Bytes stand for themselves or as `%` and two digits; nothing else is
/// read into them, so `..` and `%00` are keys like any other.
///
/// # Errors
/// An empty or too long key, or a `%` without two digits.
pub(crate) fn key(raw: &str, key_bytes_max: usize) -> Result<Bytes, Problem> {
    if raw.is_empty() {
        return Err(Problem::new(
            Kind::BadKey,
            "The key is empty. A key has at least one byte; keys are listed at /v1/kv without the \
             last slash.",
        ));
    }
    let key = decode(raw.as_bytes()).map_err(|at| {
        Problem::new(
            Kind::BadKey,
            format!(
                "The '%' at byte {at} of the key is not followed by two hexadecimal digits. Write \
                 %25 for a '%'."
            ),
        )
    })?;
    check_length("The key", &key, key_bytes_max)?;
    Ok(key)
}

fn check_length(what: &str, key: &[u8], key_bytes_max: usize) -> Result<(), Problem> {
    if key.len() <= key_bytes_max {
        return Ok(());
    }
    Err(Problem::new(
        Kind::KeyTooLong,
        format!("{what} has {} bytes; at most {key_bytes_max} are allowed.", key.len()),
    ))
}

/// Percent-decodes; an error is the position of the `%` that stands alone.
fn decode(raw: &[u8]) -> Result<Bytes, usize> {
    let Some(first) = raw.iter().position(|byte| *byte == b'%') else {
        return Ok(Bytes::copy_from_slice(raw));
    };
    let mut decoded = Vec::with_capacity(raw.len());
    decoded.extend_from_slice(&raw[..first]);
    let mut at = first;
    while at < raw.len() {
        if raw[at] == b'%' {
            let digit = |offset: usize| raw.get(at + offset).copied().and_then(hex_digit);
            let (Some(high), Some(low)) = (digit(1), digit(2)) else {
                return Err(at);
            };
            decoded.push(high << 4 | low);
            at += 3;
        } else {
            decoded.push(raw[at]);
            at += 1;
        }
    }
    Ok(decoded.into())
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// The parameters of a request: each is known to its route and given once.
#[derive(Debug)]
pub(crate) struct Query<'a> {
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> Query<'a> {
    /// Parses the part behind the `?`, not decoded.
    ///
    /// # Errors
    /// A parameter that is not in `allowed`, or one that is given twice.
    pub(crate) fn parse(raw: Option<&'a str>, allowed: &[&str]) -> Result<Self, Problem> {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for pair in raw.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !allowed.contains(&name) {
                return Err(unknown_parameter(name, allowed));
            }
            // Each name is one of a few and none comes twice, so the list stays short.
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(Problem::new(
                    Kind::DoubledParameter,
                    format!("The parameter '{name}' is given twice. {}", allowed_sentence(allowed)),
                ));
            }
            pairs.push((name, value));
        }
        Ok(Self { pairs })
    }

    /// The value of a parameter as it was sent.
    pub(crate) fn raw(&self, name: &str) -> Option<&'a str> {
        self.pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    /// A parameter that is true when it is given without a value.
    ///
    /// # Errors
    /// A value other than `true` and `false`.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.raw(name) {
            None | Some("false") => Ok(false),
            Some("" | "true") => Ok(true),
            Some(_) => Err(invalid(name, "is 'true' or 'false'")),
        }
    }

    /// How bytes are to be written in JSON.
    ///
    /// # Errors
    /// Anything but `text` and `base64`.
    pub(crate) fn encoding(&self) -> Result<Encoding, Problem> {
        match self.raw("encoding") {
            None | Some("text") => Ok(Encoding::Text),
            Some("base64") => Ok(Encoding::Base64),
            Some(_) => Err(invalid("encoding", "is 'text' or 'base64'")),
        }
    }

    /// A whole number.
    ///
    /// # Errors
    /// Anything but decimal digits of a number below 2^64.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Problem> {
        self.raw(name)
            .map(|value| {
                decimal(value).ok_or_else(|| invalid(name, "is a whole number below 2^64"))
            })
            .transpose()
    }

    /// Bytes, percent-encoded as keys are in a path.
    ///
    /// # Errors
    /// A `%` without two digits, a `+` (forms mean a space by it, people a plus), or
    /// more than `key_bytes_max` bytes.
    pub(crate) fn bytes(&self, name: &str, key_bytes_max: usize) -> Result<Option<Bytes>, Problem> {
        let Some(value) = self.raw(name) else {
            return Ok(None);
        };
        if value.contains('+') {
            return Err(invalid(name, "holds a '+': write %2B for a plus and %20 for a space"));
        }
        let bytes = decode(value.as_bytes()).map_err(|_| {
            invalid(name, "holds a '%' that is not followed by two hexadecimal digits")
        })?;
        check_length(&format!("The parameter '{name}'"), &bytes, key_bytes_max)?;
        Ok(Some(bytes))
    }
}

/// A number in its shortest decimal form.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let shortest = text == "0" || !text.starts_with('0');
    if digits && shortest { text.parse().ok() } else { None }
}

/// A parameter whose value is not what it should be.
pub(crate) fn invalid(name: &str, should: &str) -> Problem {
    wrong(Kind::BadQuery, name, should)
}

/// A parameter that can't be with what else is asked for.
pub(crate) fn contradictory(name: &str, why: &str) -> Problem {
    wrong(Kind::ContradictoryParameters, name, why)
}

/// A parameter without which the call makes no sense.
pub(crate) fn missing(name: &str, why: &str) -> Problem {
    wrong(Kind::MissingParameter, name, why)
}

fn wrong(kind: Kind, name: &str, what: &str) -> Problem {
    Problem::new(kind, format!("The parameter '{name}' {what}."))
}

fn unknown_parameter(name: &str, allowed: &[&str]) -> Problem {
    let shown: String = name.chars().take(64).collect();
    Problem::new(
        Kind::UnknownParameter,
        format!("There is no parameter '{shown}' here. {}", allowed_sentence(allowed)),
    )
}

fn allowed_sentence(allowed: &[&str]) -> String {
    if allowed.is_empty() {
        return "This call takes no parameters.".to_owned();
    }
    format!("This call takes: {}.", allowed.join(", "))
}

/// A key as it may stand in a URL.
pub(crate) fn percent_encode(key: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut text = String::with_capacity(key.len());
    for byte in key {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(byte) {
            text.push(char::from(*byte));
        } else {
            text.push('%');
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_bytes_and_nothing_else() {
        let cases: [(&str, &[u8]); 10] = [
            ("a", b"a"),
            ("a/b//c", b"a/b//c"),
            ("..", b".."),
            ("../../etc", b"../../etc"),
            ("%2e%2E", b".."),
            ("%00", b"\0"),
            ("%ff%FE", b"\xff\xfe"),
            ("a+b", b"a+b"),
            ("%25", b"%"),
            ("%2f", b"/"),
        ];
        for (raw, key_bytes) in cases {
            assert_eq!(key(raw, 64).unwrap(), key_bytes, "{raw}");
        }
    }

    #[test]
    fn bad_keys_are_refused() {
        for raw in ["", "%", "a%", "%2", "%zz", "%2g", "%%41", "%+1"] {
            assert_eq!(key(raw, 64).unwrap_err().kind(), Kind::BadKey, "{raw}");
        }
        assert_eq!(key("%41%41%41", 2).unwrap_err().kind(), Kind::KeyTooLong);
        assert!(key("%41%41", 2).is_ok());
    }

    #[test]
    fn parameters_are_known_and_single() {
        let query = Query::parse(Some("a=1&&b&c=%41"), &["a", "b", "c"]).unwrap();
        assert_eq!(query.number("a").unwrap(), Some(1));
        assert!(query.flag("b").unwrap());
        assert_eq!(query.bytes("c", 1).unwrap().unwrap(), b"A".as_slice());
        assert_eq!(query.raw("d"), None);
        let kind = |raw, allowed: &[&str]| Query::parse(Some(raw), allowed).unwrap_err().kind();
        assert_eq!(kind("x=1", &["a"]), Kind::UnknownParameter);
        assert_eq!(kind("x=1", &[]), Kind::UnknownParameter);
        assert_eq!(kind("a=1&a=1", &["a"]), Kind::DoubledParameter);
        assert_eq!(kind("lease=1", &["a"]), Kind::UnknownParameter);
    }

    #[test]
    fn numbers_have_one_form() {
        assert_eq!(decimal("0"), Some(0));
        assert_eq!(decimal("18446744073709551615"), Some(u64::MAX));
        for text in ["", "00", "01", "+1", "-1", "1.0", "18446744073709551616", " 1", "1e3"] {
            assert_eq!(decimal(text), None, "{text}");
        }
    }
}
