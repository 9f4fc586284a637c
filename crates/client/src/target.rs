//! Request targets.

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use synod_kv::LeaseId;

use crate::error::ClientError;
use crate::options::{Attach, Consistency, ReadOptions};

/// A path and its parameters, as they are sent.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    text: String,
    has_parameters: bool,
}

impl Target {
    /// A resource without parameters in its path.
    pub(crate) fn new(path: &str) -> Self {
        Self { text: path.to_owned(), has_parameters: false }
    }

    /// One key.
    ///
    /// # Errors
    /// An empty key.
    pub(crate) fn key(key: &[u8]) -> Result<Self, ClientError> {
        if key.is_empty() {
            return Err(ClientError::invalid("a key has at least one byte"));
        }
        let mut text = String::with_capacity(64);
        text.push_str("/v1/kv/");
        encode(key, &mut text);
        Ok(Self { text, has_parameters: false })
    }

    /// Adds a parameter.
    pub(crate) fn with(mut self, name: &str, value: &[u8]) -> Self {
        self.text.push(if self.has_parameters { '&' } else { '?' });
        self.text.push_str(name);
        self.text.push('=');
        encode(value, &mut self.text);
        self.has_parameters = true;
        self
    }

    /// Adds a parameter that is true, if it is.
    pub(crate) fn with_flag(self, name: &str, is_set: bool) -> Self {
        if is_set { self.with(name, b"true") } else { self }
    }

    /// Adds what a read asks for.
    pub(crate) fn with_read(mut self, read: &ReadOptions) -> Self {
        if read.consistency == Consistency::Stale {
            self = self.with("consistency", b"stale");
        }
        for (name, revision) in [("min_revision", read.min_revision), ("revision", read.revision)] {
            if let Some(revision) = revision {
                self = self.with(name, revision.to_string().as_bytes());
            }
        }
        self
    }

    /// Adds what a key is to live under.
    ///
    /// # Errors
    /// A time to live that is none.
    pub(crate) fn with_attach(self, attach: Attach) -> Result<Self, ClientError> {
        Ok(match attach {
            Attach::Nothing => self,
            Attach::To(LeaseId(id)) => self.with("lease", id.to_string().as_bytes()),
            Attach::Own { ttl } => self.with("ttl", time_text(ttl)?.as_bytes()),
        })
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

/// A time as nodes read it.
///
/// # Errors
/// One that is no whole number of milliseconds.
pub(crate) fn time_text(time: Duration) -> Result<String, ClientError> {
    if !time.subsec_nanos().is_multiple_of(1_000_000) {
        return Err(ClientError::invalid("a time is a whole number of milliseconds"));
    }
    Ok(format!("{}ms", time.as_millis()))
}

/// A key as it may stand in a URL: what a listing's answers say as `next`.
#[must_use]
pub fn percent_encode(key: &[u8]) -> String {
    let mut text = String::with_capacity(key.len());
    encode(key, &mut text);
    text
}

/// Percent-encodes everything that has a meaning in a URL.
fn encode(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(byte) {
            text.push(char::from(*byte));
        } else {
            write!(text, "%{byte:02X}").expect("a string takes what is written to it");
        }
    }
}

/// Percent-decodes; none if a `%` is not followed by two digits.
pub(crate) fn decode(text: &str) -> Option<Bytes> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2)?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        bytes.push(u8::try_from(digit(digits[0])? << 4 | digit(digits[1])?).ok()?);
        rest = behind;
    }
    Some(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        let mut text = String::new();
        encode(&bytes, &mut text);
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
        assert!(!text.contains(['?', '#', '+', '&', ' ']));
        assert_eq!(decode(&text).unwrap(), bytes);
        for wrong in ["%", "%1", "%g1", "a%"] {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn parameters_are_joined() {
        let target = Target::key(b"a b").unwrap().with("x", b"1&2").with_flag("y", true);
        assert_eq!(target.with_flag("z", false).as_str(), "/v1/kv/a%20b?x=1%262&y=true");
        assert!(Target::key(b"").is_err());
    }
}
