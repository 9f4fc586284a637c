//! JSON that clients send, read as what it should be.

use serde::de::DeserializeOwned;
use serde_json::error::Category;
use synod_kv::http::Object;

use crate::problem::{Kind, Problem};

/// Reads a document. `otherwise` begins the sentence that says what it is not.
///
/// # Errors
/// Bytes that are no UTF-8 or no JSON, and members that are unknown, missing, doubled or of a
/// wrong type.
pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8], otherwise: &str) -> Result<T, Problem> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let detail = format!(
            "{otherwise}: byte {} is the first that is not UTF-8. Where bytes can stand in JSON, \
             they are written in base64.",
            error.valid_up_to()
        );
        Problem::new(Kind::BadUtf8, detail)
    })?;
    serde_json::from_str(text).map(|Object(document)| document).map_err(|error| {
        let text = error.to_string();
        Problem::new(kind(error.classify(), &text), shown(otherwise, &text))
    })
}

/// What a reader of JSON says, in so many words that it can be sent back: it may quote
/// what it was given.
fn shown(otherwise: &str, text: &str) -> String {
    const CHARS_MAX: usize = 300;
    let sentence: String = format!("{otherwise}: {text}").chars().take(CHARS_MAX).collect();
    format!("{sentence}.")
}

/// A wrong member is told by words alone.
fn kind(category: Category, text: &str) -> Kind {
    if category != Category::Data {
        return Kind::BadJson;
    }
    let kinds = [
        ("missing field", Kind::MissingMember),
        ("unknown field", Kind::UnknownMember),
        ("duplicate field", Kind::DoubledMember),
    ];
    let found = kinds.into_iter().find(|(words, _)| text.starts_with(words));
    found.map_or(Kind::BadMember, |(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use synod_kv::http::GrantBody;

    use super::*;

    #[test]
    fn each_kind_of_nonsense_is_called_by_its_name() {
        let cases: [(&[u8], Kind, &str); 12] = [
            (b"{\"ttl\": \"\xffs\"}", Kind::BadUtf8, "byte 9"),
            (b"", Kind::BadJson, "EOF"),
            (b"{\"ttl\": ", Kind::BadJson, "EOF"),
            (b"{ttl: 1}", Kind::BadJson, "key must be a string"),
            (b"{\"ttl\": \"1s\"} {}", Kind::BadJson, "trailing"),
            (b"[\"1s\"]", Kind::BadMember, "an object"),
            (b"null", Kind::BadMember, "an object"),
            (b"{\"ttl\": 1}", Kind::BadMember, "a string"),
            (b"{\"ttl\": \"1s\", \"id\": -1}", Kind::BadMember, "u64"),
            (b"{}", Kind::MissingMember, "`ttl`"),
            (b"{\"ttl\": \"1s\", \"missing field\": 1}", Kind::UnknownMember, "`missing field`"),
            (b"{\"ttl\": \"1s\", \"ttl\": \"1s\"}", Kind::DoubledMember, "`ttl`"),
        ];
        for (bytes, kind, words) in cases {
            let problem = read::<GrantBody>(bytes, "The body is not a lease").unwrap_err();
            let text = String::from_utf8_lossy(bytes);
            assert_eq!(problem.kind(), kind, "{text}");
            let detail = problem.document().detail;
            assert!(detail.starts_with("The body is not a lease: "), "{detail}");
            assert!(detail.contains(words), "{text}: {detail}");
        }
    }
}
