//! Reads keys back through the nodes and holds them against the ledger.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::client::Load;
use super::finding::{CheckResult, Finding};
use super::ledger::{Found, KeyId, judge};
use crate::session::Session;
use crate::{BenchError, NodeId, Protocol};

const SESSIONS_PER_NODE: usize = 8;
const READ_PATIENCE: Duration = Duration::from_secs(2);
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Reads these keys through each of these nodes (indices into the load's),
/// while the load may be running. A read that fails is tried again on the
/// same node until the deadline; none begins after it.
pub(super) fn read_back(
    load: &Arc<Load>,
    protocol: Protocol,
    nodes: &[(usize, NodeId)],
    keys: Arc<[KeyId]>,
    deadline: Instant,
) -> Result<CheckResult, BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut result = CheckResult { keys: load.ledger().count(), ..CheckResult::default() };
    let parts = runtime.block_on(async {
        let mut readers = JoinSet::new();
        for (index, id) in nodes.iter().copied() {
            let next = Arc::new(AtomicUsize::new(0));
            for _ in 0..SESSIONS_PER_NODE {
                let reader = Reader {
                    load: Arc::clone(load),
                    keys: Arc::clone(&keys),
                    next: Arc::clone(&next),
                    session: Session::new(protocol, [load.nodes()[index]].into(), 0),
                    node: id,
                    deadline,
                };
                readers.spawn(reader.run());
            }
        }
        readers.join_all().await
    });
    parts.into_iter().for_each(|part| result.absorb(part));
    Ok(result)
}

struct Reader {
    load: Arc<Load>,
    keys: Arc<[KeyId]>,
    next: Arc<AtomicUsize>,
    session: Session,
    node: NodeId,
    deadline: Instant,
}

impl Reader {
    async fn run(mut self) -> CheckResult {
        let mut result = CheckResult::default();
        while let Some(key) = self.keys.get(self.next.fetch_add(1, Ordering::Relaxed)).copied() {
            self.read(key, &mut result).await;
        }
        result
    }

    async fn read(&mut self, key: KeyId, result: &mut CheckResult) {
        if Instant::now() >= self.deadline {
            result.unanswered += 1;
            return;
        }
        let (before, name) = {
            let ledger = self.load.ledger();
            (ledger.entry(key).clone(), ledger.name(key))
        };
        let value = loop {
            match self.session.get(&name, READ_PATIENCE).await {
                Ok(value) => break value,
                Err(_) if Instant::now() < self.deadline => {
                    self.session.move_on();
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(_) => {
                    result.unanswered += 1;
                    return;
                }
            }
        };
        let (after, found) = {
            let ledger = self.load.ledger();
            (ledger.entry(key).clone(), ledger.parse(key, value.as_ref()))
        };
        result.reads += 1;
        result.note(key, judge(&before, found, &after), |kind| Finding {
            kind,
            key: String::from_utf8_lossy(&name).into_owned(),
            node: self.node,
            found: match found {
                Found::Nothing => "nothing".into(),
                Found::Number(number) => format!("number {number}"),
                Found::Foreign => "a value that no client of this run wrote here".into(),
            },
            acknowledged: before.acknowledged,
            sent: after.sent,
        });
    }
}
