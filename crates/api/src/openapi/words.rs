//! What the description says about the whole.

pub(super) const OVERVIEW: &str = "A replicated key-value store. Any node answers any call; one \
     that changes the members or hands over the leader's office it answers with a 307 to the leader. Keys and values are bytes: raw in paths and bodies, and in JSON text where they are UTF-8, \
     else base64 (`key_base64`, `value_base64`).\n\n\
     Every refusal is an `application/problem+json` document (RFC 9457) with a stable `type` \
     (`ProblemType` lists all of them) and an `outcome`: `not_applied`, or `unknown`, and then \
     it may be sent again only with an `Idempotency-Key`. What is no resource is answered 404 \
     `urn:synod:not-found`.\n\n\
     docs/http.md shows every call with curl.";

/// The groups of calls.
pub(super) const TAGS: [(&str, &str); 8] = [
    ("keys", "One key, and the keys of a range."),
    ("transactions", "Several operations in one call: at once, or one by one."),
    ("history", "What was before, and what happens."),
    ("leases", "Keys that live as long as somebody renews them."),
    ("locks", "One holder at a time, in the order of asking."),
    ("elections", "As locks, with a word of the winner."),
    ("cluster", "The members and who leads."),
    ("node", "The node that answers."),
];
