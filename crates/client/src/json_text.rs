//! Keys and values as a JSON document holds them.
//!
//! Text is for people, and what most keys and values are. But JSON writes a control character
//! as six bytes and a quote as two, so that text may be several times longer than the bytes
//! that a cluster is willing to take. Base64 is never longer than four thirds of them.

use synod_kv::http::{Encoding, KeyText, ValueText};

/// A key for a JSON document: as text, unless base64 is shorter.
#[must_use]
pub fn key_text(bytes: &[u8]) -> KeyText {
    KeyText::new(bytes, shortest(bytes))
}

/// A value for a JSON document: as text, unless base64 is shorter.
#[must_use]
pub fn value_text(bytes: &[u8]) -> ValueText {
    ValueText::new(bytes, shortest(bytes))
}

/// Text where it is not longer than base64. (Bytes that are no text at all become base64 with
/// either.)
fn shortest(bytes: &[u8]) -> Encoding {
    let escaped: usize = bytes.iter().map(|byte| escaped_bytes(*byte)).sum();
    if escaped <= bytes.len().div_ceil(3) * 4 { Encoding::Text } else { Encoding::Base64 }
}

/// How long a byte is in a JSON string.
fn escaped_bytes(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..=0x1f => 6,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_longer_than_in_base64() {
        let line = [b"plain text\n".as_slice(), &[b'x'; 40]].concat();
        let cases =
            [b"".as_slice(), b"a", b"\"quoted\"", "é\u{7f}".as_bytes(), b"\0", b"\0\0\0", &line];
        let ascii = (0..=0x7f_u8).map(|byte| vec![byte; 1_000]);
        for bytes in cases.into_iter().map(<[u8]>::to_vec).chain(ascii) {
            let base64_bytes = bytes.len().div_ceil(3) * 4;
            let text = serde_json::to_vec(std::str::from_utf8(&bytes).unwrap()).unwrap();
            let is_text = matches!(value_text(&bytes), ValueText::Text(_));
            assert_eq!(is_text, text.len() - 2 <= base64_bytes, "{bytes:?}");
            assert_eq!(value_text(&bytes).to_bytes().as_ref(), Some(&bytes));
            assert_eq!(key_text(&bytes).to_bytes(), Some(bytes));
        }
        assert!(matches!(value_text(&line), ValueText::Text(_)));
        assert!(matches!(value_text(&[0xff]), ValueText::Base64(_)));
    }
}
