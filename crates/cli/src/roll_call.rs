//! Asks every member of a cluster how it does, those that nobody named too.

use serde::Serialize;
use synod_client::{Client, ClientError, MemberBody, MembersBody, StatusBody};
use tokio::task::JoinSet;

use crate::cluster::statuses;
use crate::talk;

/// Who was asked may know members that the others did not: so often it is asked on. Each
/// round takes as long as one attempt at one node at the most.
const ROUNDS_MAX: usize = 3;

/// What became of the question to one node.
#[derive(Debug, Serialize)]
pub(crate) struct NodeReport {
    /// None if nobody knows who is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<u32>,
    pub(crate) url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<StatusBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// What became of all the questions.
#[derive(Debug, Default)]
pub(crate) struct RollCall {
    /// Of the members, and of others that answered, by id.
    pub(crate) nodes: Vec<NodeReport>,
    /// Of addresses that were named and at which there is no member.
    pub(crate) strays: Vec<NodeReport>,
}

/// Asks the nodes that the client was told of, and then the members that they know.
pub(crate) async fn call(client: &Client, timeout_ms: u64) -> RollCall {
    let answers = statuses(client).await;
    let asked = client.endpoints().iter().cloned().zip(answers);
    let mut reports: Vec<NodeReport> =
        asked.map(|(url, answer)| NodeReport::new(url, answer)).collect();
    for _ in 0..ROUNDS_MAX {
        let missing = missing(&mut reports);
        if missing.is_empty() {
            break;
        }
        reports.extend(ask(missing, timeout_ms).await);
    }
    sort(reports)
}

impl NodeReport {
    fn new(url: String, answer: Result<StatusBody, ClientError>) -> Self {
        match answer {
            Ok(status) => Self { node: Some(status.node), url, status: Some(status), error: None },
            Err(error) => Self { node: None, url, status: None, error: Some(error.to_string()) },
        }
    }

    fn of_member(member: &Missing, answer: Result<StatusBody, ClientError>) -> Self {
        let Missing { cluster, id, url } = member;
        let mut report = Self::new(url.clone(), answer);
        if let Some(other) = report.status.take_if(|is| is.node != *id || is.cluster != *cluster) {
            report.error = Some(match other.cluster == *cluster {
                true => format!("node {} answers there", other.node),
                false => format!("a node of the cluster {} answers there", other.cluster),
            });
        }
        Self { node: Some(*id), ..report }
    }

    fn membership(&self) -> Option<&MembersBody> {
        self.status.as_ref()?.membership.as_ref()
    }
}

/// A member that was not asked.
struct Missing {
    cluster: String,
    id: u32,
    url: String,
}

/// The newest list of members. Whoever is of another cluster than the first that answered was
/// named by mistake, and nobody else of that one is asked.
fn newest(reports: &[NodeReport]) -> Option<&MembersBody> {
    let lists = || reports.iter().filter_map(NodeReport::membership);
    let cluster = &lists().next()?.cluster;
    lists().filter(|list| list.cluster == *cluster).max_by_key(|list| list.configuration)
}

/// The members that were not asked. Those that were and did not answer get their id.
fn missing(reports: &mut [NodeReport]) -> Vec<Missing> {
    let Some(list) = newest(reports).cloned() else { return Vec::new() };
    let mut missing = Vec::new();
    for MemberBody { id, client_url, .. } in &list.members {
        let url = base(client_url);
        let is_here = |report: &NodeReport| match &report.status {
            Some(status) => status.node == *id && status.cluster == list.cluster,
            None => report.node == Some(*id),
        };
        if reports.iter().any(is_here) {
            continue;
        }
        let is_silent = |report: &&mut NodeReport| report.status.is_none() && report.node.is_none();
        let mut silent = reports.iter_mut().filter(is_silent);
        match silent.find(|report| report.url == url) {
            Some(report) => report.node = Some(*id),
            None => missing.push(Missing { cluster: list.cluster.clone(), id: *id, url }),
        }
    }
    missing
}

/// As the client writes it.
fn base(url: &str) -> String {
    let client = talk::client(&[url.to_owned()], 1);
    client.map_or_else(|_| url.to_owned(), |client| client.endpoints()[0].clone())
}

/// Asks all of them at once.
async fn ask(members: Vec<Missing>, timeout_ms: u64) -> Vec<NodeReport> {
    let mut questions = JoinSet::new();
    for member in members {
        questions.spawn(async move {
            let answer = match talk::client(std::slice::from_ref(&member.url), timeout_ms) {
                Ok(client) => client.status_of(0).await,
                Err(error) => Err(error),
            };
            NodeReport::of_member(&member, answer)
        });
    }
    questions.join_all().await
}

/// Leaves out who is a member no more, if a newer list than its own says so, or it is silent.
fn sort(reports: Vec<NodeReport>) -> RollCall {
    let Some(list) = newest(&reports).cloned() else {
        return RollCall { nodes: reports, strays: Vec::new() };
    };
    let is_listed = |id| list.members.iter().any(|member| member.id == id);
    let is_shown = |report: &NodeReport| match (&report.status, report.node) {
        (Some(status), _) => {
            let knows =
                report.membership().is_none_or(|own| own.configuration >= list.configuration);
            status.cluster != list.cluster || is_listed(status.node) || knows
        }
        (None, node) => node.is_some_and(is_listed),
    };
    let (mut nodes, strays): (Vec<_>, Vec<_>) = reports.into_iter().partition(is_shown);
    nodes.sort_by_key(|report| report.node);
    RollCall { nodes, strays }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn list(configuration: u64, ids: &[u32]) -> Value {
        let member = |id: &u32| {
            json!({"id": id, "role": "voter", "peer": format!("h{id}:1"),
                   "client_url": format!("http://h{id}:7001")})
        };
        json!({"cluster": "0f", "configuration": configuration, "pending": false,
               "promise_quorum": 2, "accept_quorum": 2, "alpha": 8, "ids_used_upto": 9,
               "members": Vec::from_iter(ids.iter().map(member)),
               "first": {"voters": [1, 2, 3], "promise_quorum": 2, "accept_quorum": 2, "alpha": 8}})
    }

    fn status(node: u32, membership: Value) -> StatusBody {
        let status = json!({
            "node": node, "cluster": "0f", "version": "1", "uptime_seconds": 1, "role": "leader",
            "ballot": "1.1", "leader": null, "chosen_slot": 0, "applied_slot": 0,
            "durable_slot": 0, "truncated_slot": 0, "revision": 0, "journal_bytes": 0,
            "state_bytes": 0, "failures_survivable": 0, "peers": [], "membership": membership
        });
        serde_json::from_value(status).expect("a status")
    }

    fn silent(url: &str) -> NodeReport {
        let error = Some("refused".to_owned());
        NodeReport { node: None, url: url.to_owned(), status: None, error }
    }

    #[test]
    fn members_that_nobody_named_are_asked_and_the_silent_ones_have_a_name() {
        let old = NodeReport::new("http://h1:7001".to_owned(), Ok(status(1, list(3, &[1, 2, 3]))));
        // Under another name than the cluster knows.
        let new =
            NodeReport::new("http://x:7001".to_owned(), Ok(status(2, list(4, &[1, 2, 4, 5]))));
        let mut reports = vec![old, new, silent("http://h5:7001"), silent("http://h3:7001")];
        let missing = missing(&mut reports);
        let missing: Vec<_> = missing.iter().map(|one| (one.id, one.url.as_str())).collect();
        assert_eq!(missing, [(4, "http://h4:7001")]);
        let RollCall { nodes, strays } = sort(reports);
        let shown: Vec<_> = nodes.iter().map(|report| report.node).collect();
        assert_eq!(shown, [Some(1), Some(2), Some(5)]);
        // It was removed, or never was one.
        assert_eq!(strays.len(), 1);
        assert_eq!(strays[0].url, "http://h3:7001");
    }

    #[test]
    fn one_that_was_removed_and_still_answers_is_left_out() {
        let removed = NodeReport::new("http://h3:7001".to_owned(), Ok(status(3, list(3, &[1, 3]))));
        let stays = NodeReport::new("http://h1:7001".to_owned(), Ok(status(1, list(4, &[1]))));
        let joins = NodeReport::new("http://h5:7001".to_owned(), Ok(status(5, Value::Null)));
        let RollCall { nodes, strays } = sort(vec![removed, joins, stays]);
        let shown: Vec<_> = nodes.iter().map(|report| report.node).collect();
        assert_eq!((shown, strays.len()), (vec![Some(1), Some(5)], 1));
    }

    #[test]
    fn without_an_answer_everybody_who_was_named_is_shown() {
        let mut reports = vec![silent("http://h2:7001"), silent("http://h1:7001")];
        assert!(missing(&mut reports).is_empty());
        assert_eq!(sort(reports).nodes.len(), 2);
    }

    #[test]
    fn another_node_at_the_address_of_one_is_not_that_one() {
        let member =
            |id| Missing { cluster: "0f".to_owned(), id, url: "http://h4:7001".to_owned() };
        let is = NodeReport::of_member(&member(4), Ok(status(4, Value::Null)));
        assert!(is.status.is_some() && is.error.is_none());
        let other = NodeReport::of_member(&member(3), Ok(status(4, Value::Null)));
        assert_eq!((other.node, other.status), (Some(3), None));
        assert!(other.error.is_some_and(|error| error.contains("node 4 answers there")));
    }
}
