//! What /openapi.json says of a call. Every answer that a test gets is held against it.

use std::sync::LazyLock;

use serde_json::Value;
use synod_api::Limits;

use super::Answer;

/// The description, with the usual limits.
pub static DOCUMENT: LazyLock<Value> = LazyLock::new(|| synod_api::openapi(&Limits::default()));

/// Whether a target's path is one that this pattern describes. A key or a name has any bytes,
/// an id has no slashes.
pub fn fits(pattern: &str, path: &str) -> bool {
    let Some((before, rest)) = pattern.split_once('{') else { return pattern == path };
    let (name, behind) = rest.split_once('}').unwrap();
    let middle = path.strip_prefix(before).and_then(|rest| rest.strip_suffix(behind));
    middle.is_some_and(|middle| {
        let is_any = ["key", "name"].contains(&name);
        is_any || (!middle.is_empty() && !middle.contains('/') && middle != "keepalive")
    })
}

/// The operations of the resource that is asked.
fn item(target: &str) -> Option<&'static Value> {
    let path = target.split('?').next().unwrap();
    let paths = DOCUMENT["paths"].as_object().unwrap();
    paths.iter().find(|(pattern, _)| fits(pattern, path)).map(|(_, item)| item)
}

/// Checks that the description says of this call that it may be answered so.
pub fn check(line: &str, answer: &Answer) {
    let (method, target) = line.split_once(' ').unwrap();
    let Some(item) = item(target) else {
        assert!([400, 404, 414].contains(&answer.status), "{line}: {answer:?}");
        return;
    };
    let Some(operation) = item.get(method.to_ascii_lowercase()) else {
        assert!([400, 405, 414].contains(&answer.status), "{line}: {answer:?}");
        return;
    };
    let described = &operation["responses"][answer.status.to_string()];
    assert!(described.is_object(), "{line}: the status is not described: {answer:?}");
    let contents = described["content"].as_object();
    let kind = answer.header("content-type").split(';').next().unwrap();
    let content = contents.and_then(|contents| contents.get(kind));
    if answer.status >= 400 && method != "HEAD" {
        let content = content.unwrap_or_else(|| panic!("{line}: not described: {answer:?}"));
        let types = &content["schema"]["allOf"][1]["properties"]["type"]["enum"];
        let kind = &answer.json()["type"];
        assert!(types.as_array().unwrap().contains(kind), "{line}: {kind} is not described");
    } else if !answer.body.is_empty() {
        assert!(content.is_some(), "{line}: the body is not described: {answer:?}");
    }
    for name in answer.headers.keys() {
        let ours = name.starts_with("synod-") || ["etag", "location"].contains(&name.as_str());
        let headers = described["headers"].as_object().unwrap();
        let is_described = headers.keys().any(|known| known.eq_ignore_ascii_case(name));
        assert!(!ours || is_described, "{line}: {name} is not described: {answer:?}");
    }
}
