//! Which node to ask.

use std::sync::Mutex;
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;
use tokio::time::Instant;

use crate::error::ClientError;

/// How long a node that failed is left alone: at first, and at most.
const REST_MIN: Duration = Duration::from_millis(100);
const REST_MAX: Duration = Duration::from_secs(2);

/// The nodes that the client was given. It never asks any other: what a node says
/// about its leader only chooses among these.
#[derive(Debug)]
pub(crate) struct Endpoints {
    bases: Vec<String>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    preferred: usize,
    nodes: Vec<Node>,
}

#[derive(Clone, Debug)]
struct Node {
    failures: u32,
    rests_until: Option<Instant>,
}

impl Endpoints {
    /// Nodes by their base URLs, such as `http://127.0.0.1:7001`; a host and a port
    /// alone are taken for one.
    ///
    /// # Errors
    /// None at all, or one that is no such URL.
    pub(crate) fn new<S: AsRef<str>>(urls: &[S]) -> Result<Self, ClientError> {
        let bases =
            urls.iter().map(|url| base(url.as_ref())).collect::<Result<Vec<String>, _>>()?;
        if bases.is_empty() {
            return Err(ClientError::invalid("a client needs the URL of at least one node"));
        }
        let nodes = vec![Node { failures: 0, rests_until: None }; bases.len()];
        let state = State { preferred: fastrand::usize(..bases.len()), nodes };
        Ok(Self { bases, state: Mutex::new(state) })
    }

    /// The base URLs, in the order given.
    pub(crate) fn bases(&self) -> &[String] {
        &self.bases
    }

    /// The node to ask next: the preferred one and then the others in turn, without
    /// those that the call has tried or that rest, as long as there are such.
    pub(crate) fn choose(&self, tried: &[usize]) -> usize {
        let state = self.lock();
        let now = Instant::now();
        let count = state.nodes.len();
        let in_turn = || (0..count).map(|offset| (state.preferred + offset) % count);
        let rests = |node: &usize| state.nodes[*node].rests_until.is_some_and(|until| until > now);
        in_turn()
            .find(|node| !rests(node) && !tried.contains(node))
            .or_else(|| in_turn().find(|node| !tried.contains(node)))
            .or_else(|| in_turn().find(|node| !rests(node)))
            .unwrap_or(state.preferred)
    }

    /// The node answered; `leader` is the URL of the leader, if it is to be preferred.
    pub(crate) fn answered(&self, node: usize, leader: Option<&str>) {
        let leader = leader.and_then(|url| self.bases.iter().position(|base| base == url));
        let mut state = self.lock();
        state.nodes[node] = Node { failures: 0, rests_until: None };
        if let Some(leader) = leader {
            state.preferred = leader;
        }
    }

    /// The node answered, but can't serve for now.
    pub(crate) fn refused(&self, node: usize) {
        self.lock().pass_by(node);
    }

    /// The node did not answer.
    pub(crate) fn failed(&self, node: usize) {
        let mut state = self.lock();
        let failing = &mut state.nodes[node];
        let rest = REST_MIN.saturating_mul(1 << failing.failures.min(8)).min(REST_MAX);
        failing.failures = failing.failures.saturating_add(1);
        // Jitter keeps many clients from coming back in one moment.
        failing.rests_until = Some(Instant::now() + rest.mul_f64(0.5 + fastrand::f64() / 2.0));
        state.pass_by(node);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

impl State {
    fn pass_by(&mut self, node: usize) {
        if self.preferred == node {
            self.preferred = (node + 1) % self.nodes.len();
        }
    }
}

fn base(url: &str) -> Result<String, ClientError> {
    let invalid = || {
        let reason = format!("'{url}' is not the URL of a node, such as http://127.0.0.1:7001");
        ClientError::invalid(reason)
    };
    let whole = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let uri: Uri = whole.parse().map_err(|_| invalid())?;
    let authority = uri.authority().ok_or_else(invalid)?;
    let is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
    if uri.scheme() != Some(&Scheme::HTTP) || !is_bare || authority.as_str().contains('@') {
        return Err(invalid());
    }
    Ok(format!("http://{authority}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Endpoints {
        let endpoints = Endpoints::new(&["http://a:1/", "b:2", "http://c:3"]).unwrap();
        endpoints.lock().preferred = 0;
        endpoints
    }

    #[test]
    fn urls_are_checked() {
        assert_eq!(three().bases(), ["http://a:1", "http://b:2", "http://c:3"]);
        for url in ["", "https://a:1", "http://a:1/path", "http://a:1/?q", "http://u@a:1", "a b"] {
            assert!(Endpoints::new(&[url]).is_err(), "{url}");
        }
        assert!(Endpoints::new::<&str>(&[]).is_err());
    }

    #[test]
    fn the_leader_is_preferred_if_it_is_known() {
        let endpoints = three();
        assert_eq!(endpoints.choose(&[]), 0);
        endpoints.answered(0, Some("http://c:3"));
        assert_eq!(endpoints.choose(&[]), 2);
        endpoints.answered(2, Some("http://evil:1"));
        assert_eq!(endpoints.choose(&[]), 2);
    }

    #[test]
    fn a_node_that_failed_rests_and_one_that_refused_comes_later() {
        let endpoints = three();
        endpoints.failed(0);
        assert_eq!(endpoints.choose(&[]), 1);
        assert_eq!(endpoints.choose(&[1]), 2);
        assert_eq!(endpoints.choose(&[1, 2]), 0, "an untried one, though it rests");
        assert_eq!(endpoints.choose(&[0, 1, 2]), 1);
        endpoints.refused(1);
        assert_eq!(endpoints.choose(&[]), 2);
        endpoints.answered(0, None);
        assert_eq!(endpoints.choose(&[2]), 0);
    }
}
