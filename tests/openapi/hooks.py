"""What schemathesis does not know of this API. See .ci/openapi-check."""

import re

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    """Lines of a batch: schemathesis knows no NDJSON. What it makes up goes as it is."""
    return {"data": str(value).encode(errors="surrogatepass")}


TIME = re.compile(r"(0|[1-9][0-9]*)(ms|s)")


@schemathesis.hook
def before_call(context, case, kwargs):
    """Keeps what is right from waiting for what never comes: a 503 is the right answer
    then, and schemathesis would call it a server error. What is wrong stays as it is."""
    query, headers = case.query or {}, case.headers or {}
    if TIME.fullmatch(str(headers.get("Synod-Timeout", ""))):
        headers["Synod-Timeout"] = "5s"
    # Far revisions are tried by crates/api/tests.
    if re.fullmatch("[0-9]+", str(query.get("min_revision", ""))):
        query["min_revision"] = "1" if int(query["min_revision"]) else "0"
    if TIME.fullmatch(str(query.get("wait", ""))):
        query["wait"] = "10ms"
    if isinstance(case.body, dict) and TIME.fullmatch(str(case.body.get("wait", ""))):
        case.body["wait"] = "10ms"
