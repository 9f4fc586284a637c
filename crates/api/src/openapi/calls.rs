//! Every call. The examples are good one after another, in this order, for an empty store.

use serde_json::json;
use synod_kv::http::{
    AddMemberBody, BatchResultBody, ChangeMemberBody, ClaimBody, CompactBody, CompactedBody,
    DeleteBody, GrantBody, GrantedBody, HeldBody, HolderBody, KeepAliveBody, KeptBody, KeptLease,
    LeaderHint, LeaseBody, LeasesBody, ListEntry, ListPage, MembersBody, OperationBody, PutBody,
    QuorumsBody, ReleasedBody, RevokedBody, StatusBody, TxnAnswerBody, TxnBody, WatchPage,
};
use utoipa::openapi::HttpMethod::{Delete, Get, Post, Put};

use crate::cluster::TransferBody;
use crate::openapi::answer::{Content, Described};
use crate::openapi::call::Call;
use crate::openapi::parameter as p;
use crate::problem::Kind;

const KEY: &[Kind] = &[Kind::BadKey];
const NO_KEY: &[Kind] = &[Kind::KeyNotFound];
const CONDITION: &[Kind] = &[Kind::PreconditionFailed, Kind::ContradictoryHeaders];
const OLD: &[Kind] = &[Kind::Compacted, Kind::FutureRevision];
const NO_LEASE: &[Kind] = &[Kind::LeaseNotFound];
const NO_MORE_LEASES: &[Kind] = &[Kind::LeasesFull];
const HEADERS: &[Kind] = &[Kind::BadHeader, Kind::DoubledHeader];
const ID: &[Kind] = &[Kind::BadId];
const NEEDS_PARAMETER: &[Kind] = &[Kind::MissingParameter];
const CONTRADICTION: &[Kind] = &[Kind::ContradictoryParameters];
const OPERATIONS: &[Kind] = &[
    Kind::BadBase64,
    Kind::BadKey,
    Kind::TooManyOperations,
    Kind::WrittenTwice,
    Kind::TxnTooLarge,
    Kind::LeaseNotFound,
];
const MEMBERS: &[Kind] = &[
    Kind::NoSuchMember,
    Kind::MemberConflict,
    Kind::ChangePending,
    Kind::ChangeUnsafe,
    Kind::PreconditionFailed,
];
const DESCRIBED: &[&str] = &["ETag", "Synod-Create-Revision", "Synod-Version", "Synod-Lease"];
const STORED: &[&str] = &["ETag", "Synod-Lease", "Synod-Idempotency-Expires"];
const EXPIRES: &[&str] = &["Synod-Idempotency-Expires"];

pub(super) fn all() -> Vec<Call> {
    let groups = [keys(), ranges(), transactions(), history(), leases(), renewals()];
    let mut calls: Vec<_> = groups.into_iter().flatten().collect();
    let ids = ["takeLock", "lookAtLock", "letLockGo"];
    calls.extend(offices(("locks", "/v1/lock/{name}", p::LOCK), ids));
    let ids = ["standForElection", "lookAtElection", "resign"];
    calls.extend(offices(("elections", "/v1/election/{name}", p::ELECTION), ids));
    calls.extend(members());
    calls.extend(roles());
    calls.extend(node());
    calls
}

fn keys() -> Vec<Call> {
    vec![
        Call::new((Put, "/v1/kv/{key}"), ("keys", "putKey"), "Stores a value.")
            .text("The body is the value. A put without `lease` and `ttl` takes the key off its lease.")
            .takes(&[p::KEY, p::LEASE, p::TTL, p::PREV, p::IF_MATCH, p::IF_ABSENT])
            .asks(Content::Octets, "The value: 1 MiB at the most, unless the settings say otherwise.", json!("hello"))
            .or_nothing()
            .redirects()
            .answers_json::<PutBody>(201, "The key is new.", STORED)
            .answers_json::<PutBody>(200, "The key was there, and its value is replaced.", STORED)
            .writes_named()
            .fails(KEY)
            .fails(CONDITION)
            .fails(CONTRADICTION)
            .fails(NO_LEASE)
            .fails(NO_MORE_LEASES),
        Call::new((Get, "/v1/kv/{key}"), ("keys", "getKey"), "Reads a value.")
            .and_head()
            .takes(&[p::KEY, p::CONSISTENCY, p::MIN_REVISION, p::REVISION, p::IF_NONE_MATCH])
            .redirects()
            .answers(200, "The value.", &[Content::Octets], DESCRIBED)
            .answers(304, "It is what the reader has.", &[], DESCRIBED)
            .reads()
            .fails(KEY)
            .fails(CONTRADICTION)
            .fails(NO_KEY)
            .fails(OLD),
        Call::new((Delete, "/v1/kv/{key}"), ("keys", "deleteKey"), "Removes a key.")
            .takes(&[p::KEY, p::PREV, p::IF_MATCH])
            .redirects()
            .answers_json::<DeleteBody>(200, "The key is removed.", EXPIRES)
            .writes_named()
            .fails(KEY)
            .fails(NO_KEY)
            .fails(CONDITION),
    ]
}

fn ranges() -> Vec<Call> {
    let page =
        [Content::Json(Described::of::<ListPage>()), Content::Lines(Described::of::<ListEntry>())];
    vec![
        Call::new((Get, "/v1/kv"), ("keys", "listKeys"), "Lists the keys of a range, in order.")
            .text("A page in JSON, whose `next_page` is the path and query of the next one, at the same revision; or, with \
                   `Accept: application/x-ndjson`, all of them as a stream of `ListEntry`, one a line.")
            .and_head()
            .takes(&[p::PREFIX, p::START, p::END, p::LIMIT, p::REVERSE, p::KEYS_ONLY])
            .takes(&[p::COUNT_ONLY, p::ENCODING, p::CONSISTENCY, p::MIN_REVISION, p::REVISION])
            .redirects()
            .answers(200, "The keys.", &page, &[])
            .reads()
            .fails(CONTRADICTION)
            .fails(OLD),
        Call::new((Delete, "/v1/kv"), ("keys", "deleteKeys"), "Removes the keys of a range.")
            .text("Atomic up to 10,000 keys; beyond, it goes on in further commands. `\"more\": true`: time ran out, ask again.")
            .takes(&[p::PREFIX, p::ALL])
            .redirects()
            .answers_json::<DeleteBody>(
                200,
                "How many were removed.",
                &["Synod-Commands", "Synod-Idempotency-Expires"],
            )
            .writes_named()
            .fails(NEEDS_PARAMETER)
            .fails(CONTRADICTION),
    ]
}

fn transactions() -> Vec<Call> {
    let example = json!({
        "compare": [{"key": "a", "target": "version", "op": "=", "operand": 0}],
        "success": [{"op": "put", "key": "a", "value": "1"}],
        "failure": [{"op": "get", "key": "a"}],
    });
    let lines = "{\"op\": \"put\", \"key\": \"b\", \"value\": \"1\"}\n{\"op\": \"delete\", \"key\": \"c\"}\n";
    vec![
        Call::new((Post, "/v1/txn"), ("transactions", "transact"), "Compares, and carries out one of two lists of operations.")
            .text("One command: all its changes have one revision, and nobody sees half of it.")
            .takes(&[p::ENCODING])
            .asks_json::<TxnBody>(example)
            .redirects()
            .answers_json::<TxnAnswerBody>(200, "What became of each operation.", EXPIRES)
            .writes_named()
            .fails(OPERATIONS),
        Call::new((Post, "/v1/batch"), ("transactions", "batch"), "Puts and deletes, each a command of its own.")
            .text("Each line is an `OperationBody` with the `op` put or delete, and each line that was read has a result line, a \
                   `BatchResultBody`, in the same order.")
            .asks(Content::Lines(Described::of::<OperationBody>()), "One JSON object a line.", json!(lines))
            .or_nothing()
            .redirects()
            .answers(200, "One result a line.", &[Content::Lines(Described::of::<BatchResultBody>())], &[])
            .takes(&[p::TIMEOUT])
            .fails(HEADERS),
    ]
}

fn history() -> Vec<Call> {
    let events = [Content::Events, Content::Json(Described::of::<WatchPage>())];
    vec![
        Call::new((Post, "/v1/compact"), ("history", "compact"), "Forgets what was replaced up to a revision.")
            .asks_json::<CompactBody>(json!({"revision": 1}))
            .redirects()
            .answers_json::<CompactedBody>(200, "The oldest revision that can be read from now on.", EXPIRES)
            .writes_named()
            .fails(&[Kind::AlreadyCompacted, Kind::FutureRevision]),
        Call::new((Get, "/v1/watch"), ("history", "watch"), "Tells what happens to keys.")
            .text("A stream of Server-Sent Events, each an `EventBody`; with `wait`, one page in JSON. Only the last event of a \
                   revision has an `id`, which is the revision.")
            .takes(&[p::WATCHED_KEY, p::PREFIX, p::START, p::END, p::FROM, p::PREV, p::ENCODING])
            .takes(&[p::WAIT, p::LAST_EVENT_ID])
            .answers(200, "What happens.", &events, &[])
            .reads()
            .fails(CONTRADICTION)
            .fails(OLD),
    ]
}

fn leases() -> Vec<Call> {
    vec![
        Call::new((Post, "/v1/lease"), ("leases", "grantLease"), "Grants a lease.")
            .asks_json::<GrantBody>(json!({"ttl": "30s", "id": 7}))
            .redirects()
            .answers_json::<GrantedBody>(201, "The lease.", EXPIRES)
            .writes_named()
            .fails(NO_MORE_LEASES)
            .fails(&[Kind::LeaseExists]),
        Call::new((Get, "/v1/lease"), ("leases", "listLeases"), "Lists all leases by their ids.")
            .and_head()
            .takes(&[p::FROM_LEASE, p::LIMIT, p::CONSISTENCY, p::MIN_REVISION])
            .redirects()
            .answers_json::<LeasesBody>(
                200,
                "A page of leases, as they are when it is asked for. One that is there from the \
                 first page to the last is on exactly one of them; one that is granted or ended \
                 meanwhile may be on none.",
                &[],
            )
            .reads(),
        Call::new((Get, "/v1/lease/{id}"), ("leases", "lookAtLease"), "Shows a lease.")
            .and_head()
            .takes(&[p::LEASE_ID, p::KEYS, p::START_OF_KEYS, p::LIMIT])
            .takes(&[p::CONSISTENCY, p::MIN_REVISION])
            .redirects()
            .answers_json::<LeaseBody>(200, "The lease.", &[])
            .reads()
            .fails(ID)
            .fails(CONTRADICTION)
            .fails(NO_LEASE),
    ]
}

fn renewals() -> Vec<Call> {
    vec![
        Call::new((Post, "/v1/lease/{id}/keepalive"), ("leases", "keepAlive"), "Renews a lease.")
            .takes(&[p::LEASE_ID])
            .redirects()
            .answers_json::<KeptLease>(200, "It lives for its full time from now on.", &[])
            .writes()
            .fails(ID)
            .fails(NO_LEASE),
        Call::new(
            (Post, "/v1/lease/keepalive"),
            ("leases", "keepManyAlive"),
            "Renews many leases.",
        )
        .asks_json::<KeepAliveBody>(json!({"ids": [7, 8]}))
        .redirects()
        .answers_json::<KeptBody>(
            200,
            "Each of them; `ttl_ms` is null for one that is no more.",
            &[],
        )
        .writes(),
        Call::new(
            (Delete, "/v1/lease/{id}"),
            ("leases", "endLease"),
            "Ends a lease, and removes its keys.",
        )
        .takes(&[p::LEASE_ID])
        .redirects()
        .answers_json::<RevokedBody>(200, "It is ended.", EXPIRES)
        .writes_named()
        .fails(ID)
        .fails(NO_LEASE),
    ]
}

fn offices(
    (tag, path, name): (&'static str, &'static str, p::Parameter),
    ids: [&'static str; 3],
) -> Vec<Call> {
    let mut example = json!({"ttl": "30s", "wait": "1s"});
    let mut of_value: &[Kind] = &[];
    if tag == "elections" {
        example["value"] = json!("10.0.0.7:8080");
        of_value = &[Kind::BadBase64];
    }
    vec![
        Call::new((Post, path), (tag, ids[0]), "Waits for it, and takes it.")
            .text("Under a lease of its own (`ttl`) or one of yours (`lease`). The token is higher than that of every holder before.")
            .takes(&[name])
            .asks_json::<ClaimBody>(example)
            .redirects()
            .answers_json::<HeldBody>(200, "It is yours, as long as its lease lives.", &["Synod-Lease"])
            .writes_named()
            .fails(KEY)
            .fails(NO_LEASE)
            .fails(NO_MORE_LEASES)
            .fails(of_value)
            .fails(&[Kind::LockHeld]),
        Call::new((Get, path), (tag, ids[1]), "Says who holds it.")
            .and_head()
            .takes(&[name, p::CONSISTENCY, p::MIN_REVISION])
            .redirects()
            .answers_json::<HolderBody>(200, "Who holds it, if anybody.", &[])
            .reads()
            .fails(KEY),
        Call::new((Delete, path), (tag, ids[2]), "Lets it go.")
            .takes(&[name, p::TOKEN])
            .redirects()
            .answers_json::<ReleasedBody>(200, "It is free for the next one.", EXPIRES)
            .writes_named()
            .fails(KEY)
            .fails(NEEDS_PARAMETER)
            .fails(&[Kind::LockNotHeld]),
    ]
}

fn members() -> Vec<Call> {
    let show = |path, id| {
        Call::new((Get, path), ("cluster", id), "Shows the members as this node knows them.")
            .and_head()
            .answers_json::<MembersBody>(200, "The newest configuration.", &[])
            .fails(&[Kind::NotReady])
    };
    let change = |call: Call| {
        call.only_at_the_leader()
            .answers_json::<MembersBody>(200, "The members, as it governs.", &[])
            .writes()
            .fails(MEMBERS)
    };
    let member = json!({"id": 4, "store": "9c41000000000000000000000000b001",
        "peer": "10.0.0.4:7011", "client_url": "http://10.0.0.4:7001"});
    let one = "/v1/cluster/members/{id}";
    let all = "/v1/cluster/members";
    vec![
        show("/v1/cluster", "showCluster"),
        show(all, "showMembers"),
        change(
            Call::new(
                (Post, all),
                ("cluster", "addMember"),
                "Adds a member, which learns and does not vote.",
            )
            .asks_json::<AddMemberBody>(member),
        ),
        change(
            Call::new(
                (Put, one),
                ("cluster", "changeMember"),
                "Makes a member vote, or puts it in another's place, or tells its new addresses.",
            )
            .takes(&[p::MEMBER_ID])
            .fails(ID)
            .asks_json::<ChangeMemberBody>(json!({"role": "voter"})),
        ),
        change(
            Call::new((Delete, one), ("cluster", "removeMember"), "Removes a member.")
                .takes(&[p::MEMBER_ID, p::CONFIGURATION, p::FORCE])
                .fails(ID)
                .fails(&[Kind::BodyTooLarge]),
        ),
    ]
}

fn roles() -> Vec<Call> {
    vec![
        Call::new(
            (Put, "/v1/cluster/quorums"),
            ("cluster", "setQuorums"),
            "Sets other quorums of the same voters.",
        )
        .asks_json::<QuorumsBody>(json!({"promise": 2, "accept": 2}))
        .only_at_the_leader()
        .answers_json::<MembersBody>(200, "The members, as it governs.", &[])
        .writes()
        .fails(MEMBERS),
        Call::new(
            (Post, "/v1/cluster/transfer"),
            ("cluster", "transfer"),
            "Makes another node the leader.",
        )
        .asks_json::<TransferBody>(json!({}))
        .or_nothing()
        .only_at_the_leader()
        .answers_json::<LeaderHint>(200, "It leads.", &[])
        .writes()
        .fails(&[Kind::NoSuchMember, Kind::NotTransferred]),
    ]
}

fn node() -> Vec<Call> {
    let call = |path, id, summary| Call::new((Get, path), ("node", id), summary);
    vec![
        call("/v1/status", "status", "Says what this node is and how far it has come.")
            .and_head()
            .answers_json::<StatusBody>(200, "This node's view of itself and the cluster.", &[]),
        call("/v1/snapshot", "backUp", "Streams a backup of the whole store.")
            .text("Packed and checksummed; it says itself where it ends. `synod backup` saves and checks it.")
            .takes(&[p::CONSISTENCY, p::MIN_REVISION])
            .answers(200, "The backup.", &[Content::Octets], &[])
            .reads()
            .fails(&[Kind::NotReady]),
        call("/livez", "livez", "Says that the process serves.").and_head().answers(200, "It does.", &[Content::Text], &[]),
        call("/readyz", "readyz", "Says whether the node knows a live leader and has caught up.")
            .and_head()
            .answers(200, "It does and has.", &[Content::Text], &[])
            .fails(&[Kind::NotReady]),
        call("/metrics", "metrics", "Counts and gauges, for Prometheus.")
            .and_head()
            .answers(200, "The metrics.", &[Content::Text], &[]),
        call("/openapi.json", "describe", "Describes every call: this document.")
            .and_head()
            .takes(&[p::IF_CHANGED])
            .answers(200, "The description.", &[Content::Free], &["ETag"])
            .answers(304, "It is what the reader has.", &[], &["ETag"]),
    ]
}
