//! `If-Match` and `If-None-Match`.

use http::header::{HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use synod_kv::{Condition, Revision};

use crate::problem::{Kind, Problem};
use crate::target::decimal;

/// What the headers ask of a put or a delete.
///
/// # Errors
/// Anything but `If-Match: "N"`, `If-Match: *` and `If-None-Match: *`, or two of
/// them: a write whose condition is not understood is not carried out.
pub(crate) fn of_write(headers: &HeaderMap) -> Result<Condition, Problem> {
    let matches = single(headers, &IF_MATCH)?;
    let none_match = single(headers, &IF_NONE_MATCH)?;
    match (matches, none_match) {
        (None, None) => Ok(Condition::Always),
        (Some(_), Some(_)) => Err(Problem::new(
            Kind::ContradictoryHeaders,
            "If-Match and If-None-Match exclude each other: send one of them.",
        )),
        (Some("*"), None) => Ok(Condition::Exists),
        (Some(tag), None) => Ok(Condition::At(strong_tag(&IF_MATCH, tag)?)),
        (None, Some("*")) => Ok(Condition::Absent),
        (None, Some(_)) => Err(malformed(
            "If-None-Match of a write takes only '*' (create the key, or fail). To write only \
             over a known revision send If-Match: \"N\"."
                .to_owned(),
        )),
    }
}

/// Refuses preconditions of a call that has not one key for them: somebody means something
/// by them, and a write whose condition is not understood is not carried out.
///
/// # Errors
/// When there are any.
pub(crate) fn none(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(IF_NONE_MATCH) {
        return Err(not_here());
    }
    no_match(headers)
}

/// Refuses `If-Match`, for a call that has not one key and takes an `If-None-Match`.
///
/// # Errors
/// When there is one.
pub(crate) fn no_match(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(IF_MATCH) { Err(not_here()) } else { Ok(()) }
}

fn not_here() -> Problem {
    malformed(
        "If-Match and If-None-Match are for one key (/v1/kv/{key}), not for this call, and nothing \
         was done. What depends on several keys is a transaction (/v1/txn), which compares by \
         itself."
            .to_owned(),
    )
}

/// The revisions that a reader has already, for which it wants 304.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Known {
    /// It has none.
    Nothing,
    /// Any will do.
    Anything,
    /// These.
    Revisions(Vec<Revision>),
}

impl Known {
    /// What the headers of a read say.
    ///
    /// # Errors
    /// `If-Match`, or a tag that is no revision in quotes.
    pub(crate) fn of_read(headers: &HeaderMap) -> Result<Self, Problem> {
        if headers.contains_key(IF_MATCH) {
            return Err(malformed(
                "If-Match is a precondition of PUT and DELETE. A read takes If-None-Match: \"N\" \
                 and answers 304 when nothing changed."
                    .to_owned(),
            ));
        }
        // Lines of the same name are one list (RFC 9110, 5.3).
        let lines = headers.get_all(IF_NONE_MATCH).iter();
        let lines = lines.map(|line| text(&IF_NONE_MATCH, line)).collect::<Result<Vec<_>, _>>()?;
        match lines.as_slice() {
            [] => Ok(Self::Nothing),
            ["*"] => Ok(Self::Anything),
            lines => lines
                .iter()
                .flat_map(|tags| tags.split(','))
                .map(|tag| {
                    let tag = tag.trim();
                    // A read compares weakly (RFC 9110, 13.1.2), so caches may weaken.
                    strong_tag(&IF_NONE_MATCH, tag.strip_prefix("W/").unwrap_or(tag))
                })
                .collect::<Result<_, _>>()
                .map(Self::Revisions),
        }
    }

    /// Whether the reader has `revision`.
    pub(crate) fn covers(&self, revision: Revision) -> bool {
        match self {
            Self::Nothing => false,
            Self::Anything => true,
            Self::Revisions(known) => known.contains(&revision),
        }
    }
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        let detail = format!("{} is given twice: send it once.", title(name));
        return Err(Problem::new(Kind::DoubledHeader, detail));
    }
    text(name, value).map(Some)
}

fn text<'a>(name: &HeaderName, value: &'a HeaderValue) -> Result<&'a str, Problem> {
    let text = value
        .to_str()
        .map_err(|_| malformed(format!("{} holds bytes that are no text.", title(name))))?;
    Ok(text.trim())
}

/// The revision in `"N"`.
fn strong_tag(name: &HeaderName, tag: &str) -> Result<Revision, Problem> {
    let advice = if tag.contains(',') {
        "takes one tag, not a list"
    } else if tag.starts_with("W/") {
        "takes a strong tag: leave out the W/"
    } else if let Some(inner) = tag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        match decimal(inner) {
            Some(revision) => return Ok(Revision(revision)),
            None => "takes a revision, such as \"17\": the ETag that a read or a write answered",
        }
    } else {
        "takes the revision in double quotes, such as \"17\""
    };
    Err(malformed(format!("{} {advice}.", title(name))))
}

fn title(name: &HeaderName) -> &'static str {
    if name == IF_MATCH { "If-Match" } else { "If-None-Match" }
}

fn malformed(detail: String) -> Problem {
    Problem::new(Kind::BadHeader, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(name.clone(), HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn writes_take_three_forms() {
        let of = |pairs: &[_]| of_write(&headers(pairs)).ok();
        assert_eq!(of(&[]), Some(Condition::Always));
        assert_eq!(of(&[(IF_MATCH, "*")]), Some(Condition::Exists));
        assert_eq!(of(&[(IF_MATCH, "\"17\"")]), Some(Condition::At(Revision(17))));
        assert_eq!(of(&[(IF_NONE_MATCH, "*")]), Some(Condition::Absent));
        let refused = ["17", "\"a\"", "W/\"17\"", "\"1\", \"2\"", "\"01\"", "\"", "\"\"", ""];
        for tag in refused {
            assert_eq!(of(&[(IF_MATCH, tag)]), None, "{tag}");
        }
        assert_eq!(of(&[(IF_NONE_MATCH, "\"17\"")]), None);
        assert_eq!(of(&[(IF_MATCH, "*"), (IF_MATCH, "*")]), None);
        assert_eq!(of(&[(IF_MATCH, "*"), (IF_NONE_MATCH, "*")]), None);
    }

    #[test]
    fn reads_take_lists_and_weak_tags() {
        let of = |tags| Known::of_read(&headers(&[(IF_NONE_MATCH, tags)]));
        assert_eq!(of("*").unwrap(), Known::Anything);
        let known = of("\"1\", W/\"2\"").unwrap();
        assert_eq!(known, Known::Revisions(vec![Revision(1), Revision(2)]));
        assert!(known.covers(Revision(2)) && !known.covers(Revision(3)));
        let twice = headers(&[(IF_NONE_MATCH, "\"1\""), (IF_NONE_MATCH, "W/\"2\"")]);
        assert_eq!(Known::of_read(&twice).unwrap(), known);
        let any = headers(&[(IF_NONE_MATCH, "*"), (IF_NONE_MATCH, "\"1\"")]);
        assert!(Known::of_read(&any).is_err());
        assert!(of("1").is_err());
        assert!(of("\"1\",").is_err());
        assert!(Known::of_read(&headers(&[(IF_MATCH, "*")])).is_err());
        assert_eq!(Known::of_read(&headers(&[])).unwrap(), Known::Nothing);
    }
}
