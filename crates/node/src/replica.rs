//! The node as the HTTP handlers see it: writes and read barriers go to the owner,
//! reads come straight from the store.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use bytes::Bytes;
use synod_api::{BackupParts, ChangeRefused, Leader, MemberChange, Refused, Replica};
use synod_kv::http::{MembersBody, StatusBody};
use synod_kv::read::{self, ChangePage, ChangeQuery, Counter, ListQuery, Look, Page, ReadError};
use synod_kv::{
    Command, LeaseId, LeaseOperation, MapError, Operation, Revision, Taken, TxnOperation,
};
use synod_paxos::{Configuration, NodeId};
use synod_storage::snapshot::StateFolders;
use synod_storage::{Store, Told, told_by};
use synod_wire::command;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::backup::{BackupError, Taker};
use crate::clock::Clock;
use crate::current::CurrentStore;
use crate::fatal::Fatal;
use crate::founding::Founding;
use crate::leases::Leases;
use crate::node::HANDOVER_EVERY;
use crate::request::Request;
use crate::retirement::{READING, Retirement};
use crate::roster::Roster;
use crate::shared::Shared;
use crate::snapshot::pace::Pace;
use crate::{backup, metrics, status};

/// Parts of a backup that wait for its client, of a megabyte at the most.
const BACKUP_PARTS_MAX: usize = 4;
/// A node that is this many slots behind is not ready to serve.
const LAG_SLOTS_MAX: u64 = 1_000;
/// A transfer that takes longer has failed. Each attempt is an election.
const TRANSFER_MAX: Duration = Duration::from_secs(2);

/// What does not change while a node runs.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) node: NodeId,
    pub(crate) cluster: u128,
    /// The members that the cluster began with.
    pub(crate) first: Configuration,
    /// The state that it began with.
    pub(crate) founding: Founding,
    /// How fast a backup may be made.
    pub(crate) snapshot_bytes_per_s: u64,
}

impl Facts {
    /// What the calls about the members answer.
    pub(crate) fn members(&self, roster: &Roster) -> MembersBody {
        roster.body(self.cluster, &self.first, self.founding)
    }
}

/// A handle of the node. Clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    facts: Facts,
    store: Arc<CurrentStore>,
    folders: StateFolders,
    backing_up: AtomicBool,
    shared: Arc<Shared>,
    clock: Clock,
    requests: Sender<Request>,
    fatal: Fatal,
    retirement: Arc<Retirement>,
    leases: Leases,
}

impl Handle {
    pub(crate) fn new(
        facts: Facts,
        (store, folders): (Arc<CurrentStore>, StateFolders),
        shared: Arc<Shared>,
        clock: Clock,
        requests: Sender<Request>,
        (fatal, retirement): (Fatal, Arc<Retirement>),
    ) -> Self {
        let backing_up = AtomicBool::new(false);
        let inner = Inner {
            facts,
            store,
            folders,
            backing_up,
            shared,
            clock,
            requests,
            fatal,
            retirement,
            leases: Leases::default(),
        };
        Handle { inner: Arc::new(inner) }
    }

    /// While the state is being rebuilt nobody would take a request before its time
    /// is over, and another node may serve it at once.
    fn send(&self, request: Request) -> Result<(), Refused> {
        self.inner.shared.serving().map_err(|_| Refused::NoLeader)?;
        self.inner.requests.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) => Refused::Overloaded,
            TrySendError::Closed(_) => Refused::Stopping,
        })
    }

    /// A state that can't be read stops the node: it can't be trusted to write. But with blocks
    /// that are damaged it goes on while nobody could give it others.
    fn checked<T>(&self, result: Result<T, MapError>) -> Result<T, MapError> {
        if let Err(error) = &result {
            let text = error.to_string();
            match told_by(&text) {
                Some(Told::Damage) => self.inner.retirement.met_damage(text),
                _ => self.inner.fatal.report(READING, error),
            }
        }
        result
    }

    /// Up to where revisions should be forgotten by now, as this node sees it.
    pub(crate) fn compaction_due(&self) -> Option<Revision> {
        self.inner.shared.state.compaction_due()
    }

    /// Whether this node leads, as far as it knows.
    pub(crate) fn leads(&self) -> bool {
        self.inner.shared.owner.leader() == Some(self.inner.facts.node)
    }

    pub(crate) fn leases(&self) -> &Leases {
        &self.inner.leases
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.inner.shared
    }

    fn checked_read<T>(&self, result: Result<T, ReadError>) -> Result<T, ReadError> {
        match result {
            Err(ReadError::Map(error)) => self.checked(Err(error)).map_err(ReadError::Map),
            others => others,
        }
    }
}

/// Whether it may need more room on the disks than is there. Whatever may give some back
/// goes on.
fn adds(operation: &Operation) -> bool {
    match operation {
        Operation::Put { .. } | Operation::Lease(LeaseOperation::Grant { .. }) => true,
        Operation::Txn(txn) => {
            let puts = |one: &TxnOperation| matches!(one, TxnOperation::Put { .. });
            txn.success.iter().chain(&txn.failure).any(puts)
        }
        Operation::Delete { .. }
        | Operation::DeleteRange { .. }
        | Operation::Compact { .. }
        | Operation::Lease(_) => false,
    }
}

impl Inner {
    /// Makes a backup for as long as somebody takes it and the node does not end.
    fn write_backup(&self, to: &Sender<Result<Bytes, String>>) {
        let store = self.store.get();
        let pace = Pace::new(self.facts.snapshot_bytes_per_s, std::time::Instant::now());
        let origin = (self.facts.cluster, self.facts.node.0);
        let mut client = BackupClient { inner: self, pace, to };
        let mut written = backup::write(&store, &self.folders, origin, &mut client);
        let damage = written.as_ref().err().and_then(BackupError::damage);
        // Of a state that another one replaced meanwhile, or of a life that ends, it says nothing.
        let is_present = || self.store.get().path() == store.path() && !self.shared.is_stopping();
        if let Some(text) = damage.filter(|_| is_present()) {
            self.retirement.met_damage(text);
        } else if let Some(doubt) = self.doubt() {
            written = written.and(Err(doubt));
        }
        if let Err(error) = written {
            tracing::warn!(%error, "a backup ends early");
            let _ = to.blocking_send(Err(error.to_string()));
        }
    }

    /// Why the state is none for a backup.
    fn doubt(&self) -> Option<BackupError> {
        if self.shared.owner.differs_after().is_some() {
            return Some(BackupError::Differs);
        }
        self.fatal.doubts_state().then_some(BackupError::Doubted)
    }
}

/// Whoever asked for a backup.
struct BackupClient<'a> {
    inner: &'a Inner,
    /// Of all that is read and sent.
    pace: Pace,
    to: &'a Sender<Result<Bytes, String>>,
}

impl BackupClient<'_> {
    fn moved(&mut self, bytes: usize) {
        let now = std::time::Instant::now();
        std::thread::sleep(self.pace.free_at().saturating_duration_since(now));
        self.pace.moved(bytes, std::time::Instant::now());
    }
}

impl Taker for BackupClient<'_> {
    fn send(&mut self, part: Bytes) -> bool {
        self.moved(part.len());
        let inner = self.inner;
        let may_go = inner.doubt().is_none() && !inner.shared.is_stopping();
        may_go && self.to.blocking_send(Ok(part)).is_ok()
    }

    fn checked(&mut self, bytes: u64) -> bool {
        self.moved(usize::try_from(bytes).unwrap_or(usize::MAX));
        !self.inner.shared.is_stopping() && !self.to.is_closed()
    }
}

impl Replica for Handle {
    type Map = Store;

    async fn write(&self, command: Command, deadline: Instant) -> Result<Taken, Refused> {
        let shared = &self.inner.shared;
        let no_room = adds(&command.operation) && shared.owner.no_disk_room.load(Relaxed);
        if no_room || shared.is_out_of_room.load(Relaxed) {
            return Err(Refused::NoRoom);
        }
        let (reply, answer) = oneshot::channel();
        let command = command::encode(&command);
        let deadline = self.inner.clock.at(deadline.into_std());
        self.send(Request::Write { command, deadline, reply })?;
        // The handler has a timer of its own. A node that ends drops the reply.
        answer.await.unwrap_or(Err(Refused::Lost))
    }

    async fn read_barrier(&self, deadline: Instant) -> Result<(), Refused> {
        let (reply, answer) = oneshot::channel();
        let deadline = self.inner.clock.at(deadline.into_std());
        self.send(Request::Read { deadline, reply })?;
        answer.await.unwrap_or(Err(Refused::Stopping))
    }

    async fn keep_alive(
        &self,
        ids: Vec<LeaseId>,
        deadline: Instant,
    ) -> Result<Vec<Option<u64>>, Refused> {
        self.renew(ids, deadline).await
    }

    fn lease_left_ms(&self, id: LeaseId) -> Option<u64> {
        self.inner.leases.left_ms(id)
    }

    async fn wait_revision(&self, revision: Revision, deadline: Instant) -> Result<(), Refused> {
        let reached = self.inner.shared.state.wait_revision(revision);
        timeout_at(deadline, reached).await.map_err(|_| Refused::Deadline)
    }

    fn get(&self, key: &[u8]) -> Result<Look, MapError> {
        // The revision first: the store of a moment later has it, too.
        let revision = self.revision();
        self.checked(read::look(&self.inner.store.get(), key, revision))
    }

    fn read<T>(&self, read: impl FnOnce(&Store) -> Result<T, ReadError>) -> Result<T, ReadError> {
        self.checked_read(read(&self.inner.store.get()))
    }

    fn recent(&self, query: &ChangeQuery, wants: impl Fn(&[u8]) -> bool) -> Option<ChangePage> {
        // Whoever commits does not wait until it is looked through.
        let tail = self.inner.shared.state.recent().since(query)?;
        tail.page(query, wants)
    }

    async fn count(
        &self,
        query: ListQuery,
        at: Option<Revision>,
        visits_max: usize,
        goes_on: impl Fn() -> bool + Send,
    ) -> Result<Page, ReadError> {
        let store = self.inner.store.get();
        let mut counter = self.checked_read(Counter::new_at(&store, &query, at))?;
        while !self.checked(counter.go_on(visits_max))? && goes_on() {
            tokio::task::yield_now().await;
        }
        Ok(counter.page().clone())
    }

    fn backup(&self) -> Result<BackupParts, Refused> {
        let (sender, parts) = tokio::sync::mpsc::channel(BACKUP_PARTS_MAX);
        let inner = Arc::clone(&self.inner);
        match inner.doubt() {
            Some(BackupError::Differs) => return Err(Refused::Differs),
            Some(_) => return Err(Refused::Doubted),
            None => {}
        }
        // One at a time: each keeps files that the state does not need any more.
        if inner.backing_up.swap(true, Acquire) {
            return Err(Refused::Overloaded);
        }
        let handle = self.clone();
        let thread = std::thread::Builder::new().name("synod-backup".to_owned());
        let spawned = thread.spawn(move || {
            handle.inner.write_backup(&sender);
            handle.inner.backing_up.store(false, Release);
        });
        if spawned.is_err() {
            inner.backing_up.store(false, Release);
            return Err(Refused::Overloaded);
        }
        Ok(parts)
    }

    fn revision(&self) -> Revision {
        self.inner.shared.state.revision()
    }

    fn cluster_time_ms(&self) -> u64 {
        self.inner.shared.state.cluster_time_ms()
    }

    async fn transfer(&self, to: Option<u32>, deadline: Instant) -> Result<Leader, Refused> {
        let me = self.node();
        let to = to.map(NodeId);
        let deadline = deadline.min(Instant::now() + TRANSFER_MAX);
        loop {
            match self.leader() {
                Some(leader) if to.map_or(leader.node != me, |to| leader.node == to.0) => {
                    return Ok(leader);
                }
                // A third one was elected: to go on would unseat it.
                Some(leader) if leader.node != me => return Err(Refused::Deadline),
                Some(_) | None => {}
            }
            // Again and again: who is asked may not be fit at first, or not hear it.
            self.send(Request::HandOver { to })?;
            let again = Instant::now() + HANDOVER_EVERY;
            if again >= deadline {
                return Err(Refused::Deadline);
            }
            sleep_until(again).await;
        }
    }

    fn is_member(&self, node: u32) -> bool {
        let roster = self.inner.shared.owner.roster();
        roster.is_some_and(|roster| roster.newest.contains(NodeId(node)))
    }

    fn members(&self) -> Option<MembersBody> {
        status::membership(&self.inner.facts, &self.inner.shared)
    }

    async fn change_members(
        &self,
        change: MemberChange,
        deadline: Instant,
    ) -> Result<MembersBody, ChangeRefused> {
        // A leader that was unseated and does not know it would answer from old members.
        self.read_barrier(deadline).await.map_err(ChangeRefused::Replica)?;
        let (reply, answer) = oneshot::channel();
        self.send(Request::Change { change, reply }).map_err(ChangeRefused::Replica)?;
        let lost = |refused| Err(ChangeRefused::Replica(refused));
        let answer = timeout_at(deadline, answer).await;
        // A node that ends drops the reply.
        let roster = answer.map_or(lost(Refused::Deadline), |answer| {
            answer.unwrap_or_else(|_| lost(Refused::Lost))
        })?;
        Ok(self.inner.facts.members(&roster))
    }

    fn node(&self) -> u32 {
        self.inner.facts.node.0
    }

    fn leader(&self) -> Option<Leader> {
        let leader = self.inner.shared.owner.leader()?;
        self.inner.shared.owner.roster()?.door(leader).cloned()
    }

    fn status(&self) -> StatusBody {
        let (leader, damage) = (self.leader(), self.inner.fatal.damage());
        let uptime = self.inner.clock.uptime();
        status::body(&self.inner.facts, &self.inner.shared, uptime, leader, damage)
    }

    fn ready(&self) -> Result<(), String> {
        self.inner.shared.serving()?;
        if self.inner.shared.is_out_of_room.load(Relaxed) {
            return Err("this node's disk is full: it takes no more values".to_owned());
        }
        if self.inner.shared.owner.leader().is_none() {
            return Err("no leader is known to this node".to_owned());
        }
        let Some(snapshot) = self.inner.shared.owner.snapshot() else {
            return Err("this node has just begun".to_owned());
        };
        let applied = self.inner.shared.state.applied();
        let behind = snapshot.status.known_chosen.0.saturating_sub(applied.0);
        if behind > LAG_SLOTS_MAX {
            return Err(format!("this node is {behind} slots behind"));
        }
        Ok(())
    }

    fn metrics(&self) -> String {
        metrics::text(&self.inner.facts, &self.inner.shared, self.inner.clock.uptime())
    }
}
