//! A replica of one: the real state machine over a map in memory, and switches that
//! make it refuse, hang or stay behind.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses a part of it")]

mod stand_in;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use synod_api::{BackupParts, ChangeRefused, Leader, MemberChange, Refused, Replica};
use synod_kv::http::{FirstBody, LeaderHint, MembersBody, RoleName, StatusBody};
use synod_kv::read::{self, ListQuery, Look, Page, ReadError};
use synod_kv::{
    Command, KvOptions, LeaseId, LeaseOperation, MapError, MemoryMap, Operation, Outcome, Revision,
    ServerId, StateMachine, Taken, lease,
};
use tokio::sync::watch;
use tokio::time::Instant;

/// What becomes of calls that wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Serve,
    Refuse(Refused),
    /// As long as this is set, calls wait, whatever their deadline.
    Hang,
    /// Takes the write and then loses its outcome.
    ServeAndLose,
    Duplicate,
}

#[derive(Clone)]
pub struct Fake {
    shared: Arc<Shared>,
}

struct Shared {
    machine: Mutex<StateMachine<MemoryMap>>,
    sequence: Mutex<u64>,
    clock: Mutex<Clock>,
    /// Every operation that was applied.
    operations: Mutex<Vec<Operation>>,
    /// How many of them came under a name.
    named: Mutex<u64>,
    writes: watch::Sender<Mode>,
    /// What becomes of the next writes, before that counts.
    next_writes: Mutex<VecDeque<Mode>>,
    barriers: watch::Sender<Mode>,
    /// How many calls wait now.
    waiting: watch::Sender<usize>,
    writes_seen: watch::Sender<u64>,
    /// How many looks at the map there were.
    reads: AtomicU64,
    /// Leases are renewed without a command.
    keeps_time: AtomicBool,
    revision: watch::Sender<u64>,
    leader: Mutex<Option<Leader>>,
    ready: Mutex<Result<(), String>>,
    is_broken: Mutex<bool>,
    is_published: Mutex<bool>,
    after_get: Mutex<Option<Command>>,
    /// Every change of the members that was asked for.
    changes: Mutex<Vec<MemberChange>>,
    change_refused: Mutex<Option<ChangeRefused>>,
}

/// Cluster time: each command moves it by a step.
struct Clock {
    now_ms: u64,
    step_ms: u64,
}

pub const NODE: u32 = 1;
/// Another member.
pub const OTHER: u32 = 2;

/// One member, in the configuration of this number.
fn members(configuration: u64) -> MembersBody {
    let first = FirstBody {
        voters: vec![NODE],
        promise_quorum: 1,
        accept_quorum: 1,
        alpha: 8,
        restored: None,
    };
    MembersBody {
        cluster: "0f".to_owned(),
        configuration,
        pending: false,
        promise_quorum: 1,
        accept_quorum: 1,
        alpha: 8,
        ids_used_upto: NODE,
        members: Vec::new(),
        first,
    }
}

impl Default for Fake {
    fn default() -> Self {
        Self::new(KvOptions::default())
    }
}

impl Fake {
    pub fn new(options: KvOptions) -> Self {
        let machine = StateMachine::open(MemoryMap::new(), options).unwrap();
        Self {
            shared: Arc::new(Shared {
                machine: Mutex::new(machine),
                sequence: Mutex::new(0),
                clock: Mutex::new(Clock { now_ms: 0, step_ms: 1 }),
                operations: Mutex::default(),
                named: Mutex::default(),
                writes: watch::Sender::new(Mode::Serve),
                next_writes: Mutex::default(),
                barriers: watch::Sender::new(Mode::Serve),
                waiting: watch::Sender::new(0),
                writes_seen: watch::Sender::new(0),
                reads: AtomicU64::new(0),
                keeps_time: AtomicBool::new(false),
                revision: watch::Sender::new(0),
                leader: Mutex::new(Some(Leader::new(NODE, "http://127.0.0.1:7001/"))),
                ready: Mutex::new(Ok(())),
                is_broken: Mutex::new(false),
                is_published: Mutex::new(true),
                after_get: Mutex::default(),
                changes: Mutex::default(),
                change_refused: Mutex::default(),
            }),
        }
    }

    pub fn set_clock(&self, now_ms: u64, step_ms: u64) {
        *self.shared.clock.lock().unwrap() = Clock { now_ms, step_ms };
    }

    pub fn operations(&self) -> Vec<Operation> {
        self.shared.operations.lock().unwrap().clone()
    }

    pub fn named_writes(&self) -> u64 {
        *self.shared.named.lock().unwrap()
    }

    pub fn set_writes(&self, mode: Mode) {
        self.shared.writes.send_replace(mode);
    }

    /// What becomes of each of the next writes.
    pub fn set_next_writes(&self, modes: &[Mode]) {
        *self.shared.next_writes.lock().unwrap() = modes.iter().copied().collect();
    }

    pub fn set_barriers(&self, mode: Mode) {
        self.shared.barriers.send_replace(mode);
    }

    pub fn set_leader(&self, leader: Option<Leader>) {
        *self.shared.leader.lock().unwrap() = leader;
    }

    pub fn set_ready(&self, ready: Result<(), String>) {
        *self.shared.ready.lock().unwrap() = ready;
    }

    /// From now on commits are in the data, but not in the revision yet.
    pub fn stop_publishing(&self) {
        *self.shared.is_published.lock().unwrap() = false;
    }

    /// What is applied right behind the next look at a key.
    pub fn after_get(&self, operation: Operation) {
        let command = Command { idempotency: None, operation };
        *self.shared.after_get.lock().unwrap() = Some(command);
    }

    /// The changes of the members that came since the last look.
    pub fn take_changes(&self) -> Vec<MemberChange> {
        std::mem::take(&mut self.shared.changes.lock().unwrap())
    }

    /// The next change is refused.
    pub fn refuse_change(&self, refused: ChangeRefused) {
        *self.shared.change_refused.lock().unwrap() = Some(refused);
    }

    pub fn break_reads(&self) {
        *self.shared.is_broken.lock().unwrap() = true;
    }

    /// Waits until so many calls wait here.
    pub async fn waiting(&self, calls: usize) {
        self.shared.waiting.subscribe().wait_for(|waiting| *waiting == calls).await.unwrap();
    }

    pub fn writes_seen(&self) -> u64 {
        *self.shared.writes_seen.borrow()
    }

    /// From now on leases are renewed as by a leader, without a command.
    pub fn keep_time(&self) {
        self.shared.keeps_time.store(true, Relaxed);
    }

    /// How many looks at the map there were.
    pub fn reads(&self) -> u64 {
        self.shared.reads.load(Relaxed)
    }

    pub async fn saw_writes(&self, writes: u64) {
        self.shared.writes_seen.subscribe().wait_for(|seen| *seen >= writes).await.unwrap();
    }

    pub fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.get(key).unwrap().record.map(|record| record.value.to_vec())
    }

    fn apply(&self, command: Command) -> Taken {
        let mut machine = self.shared.machine.lock().unwrap();
        let mut sequence = self.shared.sequence.lock().unwrap();
        *sequence += 1;
        let id = ServerId { origin: NODE, incarnation: 1, sequence: *sequence };
        let mut clock = self.shared.clock.lock().unwrap();
        clock.now_ms += clock.step_ms;
        self.shared.operations.lock().unwrap().push(command.operation.clone());
        *self.shared.named.lock().unwrap() += u64::from(command.idempotency.is_some());
        let mut taken = machine.apply(*sequence, clock.now_ms, &[(id, command)]).unwrap();
        machine.commit().unwrap();
        if *self.shared.is_published.lock().unwrap() {
            self.shared.revision.send_replace(machine.revision().0);
        }
        taken.remove(0)
    }

    async fn pass(&self, modes: &watch::Sender<Mode>) -> Mode {
        let _waiting = Waiting::new(&self.shared.waiting);
        let mut modes = modes.subscribe();
        let mode = modes.wait_for(|mode| *mode != Mode::Hang).await.unwrap();
        *mode
    }

    fn check(&self) -> Result<(), MapError> {
        match *self.shared.is_broken.lock().unwrap() {
            true => Err(MapError("a secret of the disk".to_owned())),
            false => Ok(()),
        }
    }
}

/// Counts a call while it waits, also when it is dropped.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl<'a> Waiting<'a> {
    fn new(waiting: &'a watch::Sender<usize>) -> Self {
        waiting.send_modify(|calls| *calls += 1);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|calls| *calls -= 1);
    }
}

impl Replica for Fake {
    type Map = MemoryMap;

    async fn write(&self, command: Command, _: Instant) -> Result<Taken, Refused> {
        self.shared.writes_seen.send_modify(|seen| *seen += 1);
        let next = self.shared.next_writes.lock().unwrap().pop_front();
        let mode = match next {
            Some(mode) => mode,
            None => self.pass(&self.shared.writes).await,
        };
        match mode {
            Mode::Refuse(refused) => Err(refused),
            Mode::ServeAndLose => {
                self.apply(command);
                Err(Refused::Lost)
            }
            Mode::Duplicate => Ok(Taken::Duplicate),
            Mode::Serve | Mode::Hang => Ok(self.apply(command)),
        }
    }

    async fn read_barrier(&self, _: Instant) -> Result<(), Refused> {
        match self.pass(&self.shared.barriers).await {
            Mode::Refuse(refused) => Err(refused),
            _ => Ok(()),
        }
    }

    async fn keep_alive(
        &self,
        ids: Vec<LeaseId>,
        deadline: Instant,
    ) -> Result<Vec<Option<u64>>, Refused> {
        if self.shared.keeps_time.load(Relaxed) {
            let machine = self.shared.machine.lock().unwrap();
            let ttl_ms = |id| lease::find(machine.map(), id).unwrap().map(|lease| lease.ttl_ms);
            return Ok(ids.into_iter().map(ttl_ms).collect());
        }
        let operation = Operation::Lease(LeaseOperation::KeepAlive { ids });
        match self.write(Command { idempotency: None, operation }, deadline).await? {
            Taken::Applied { outcome: Outcome::LeasesKept { ttls_ms, .. }, .. } => Ok(ttls_ms),
            _ => Err(Refused::Lost),
        }
    }

    async fn wait_revision(&self, revision: Revision, _: Instant) -> Result<(), Refused> {
        let _waiting = Waiting::new(&self.shared.waiting);
        let mut reached = self.shared.revision.subscribe();
        reached.wait_for(|reached| *reached >= revision.0).await.unwrap();
        Ok(())
    }

    async fn transfer(&self, to: Option<u32>, _: Instant) -> Result<Leader, Refused> {
        match self.pass(&self.shared.writes).await {
            Mode::Refuse(refused) => Err(refused),
            _ => Ok(Leader::new(to.unwrap_or(OTHER), "http://127.0.0.1:7009")),
        }
    }

    fn is_member(&self, node: u32) -> bool {
        [NODE, OTHER].contains(&node)
    }

    fn members(&self) -> Option<MembersBody> {
        Some(members(7))
    }

    async fn change_members(
        &self,
        change: MemberChange,
        _: Instant,
    ) -> Result<MembersBody, ChangeRefused> {
        self.shared.changes.lock().unwrap().push(change);
        if let Some(refused) = self.shared.change_refused.lock().unwrap().take() {
            return Err(refused);
        }
        match self.pass(&self.shared.writes).await {
            Mode::Refuse(refused) => Err(ChangeRefused::Replica(refused)),
            _ => Ok(members(8)),
        }
    }

    fn get(&self, key: &[u8]) -> Result<Look, MapError> {
        self.check()?;
        let reached = self.revision();
        let look = read::look(self.shared.machine.lock().unwrap().map(), key, reached);
        if let Some(command) = self.shared.after_get.lock().unwrap().take() {
            self.apply(command);
        }
        look
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&MemoryMap) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        self.check()?;
        self.shared.reads.fetch_add(1, Relaxed);
        read(self.shared.machine.lock().unwrap().map())
    }

    async fn count(
        &self,
        query: ListQuery,
        at: Option<Revision>,
        visits_max: usize,
        goes_on: impl Fn() -> bool + Send,
    ) -> Result<Page, ReadError> {
        self.check()?;
        let map = self.shared.machine.lock().unwrap().map().clone();
        stand_in::count(&map, (&query, at), visits_max, goes_on).await
    }

    fn backup(&self) -> Result<BackupParts, Refused> {
        Ok(stand_in::backup())
    }

    fn revision(&self) -> Revision {
        Revision(*self.shared.revision.borrow())
    }

    fn cluster_time_ms(&self) -> u64 {
        self.shared.clock.lock().unwrap().now_ms
    }

    fn node(&self) -> u32 {
        NODE
    }

    fn leader(&self) -> Option<Leader> {
        self.shared.leader.lock().unwrap().clone()
    }

    fn status(&self) -> StatusBody {
        let leader = self.leader();
        let is_leader = leader.as_ref().is_some_and(|leader| leader.node == NODE);
        let role = if is_leader { RoleName::Leader } else { RoleName::Follower };
        let leader = leader.map(|leader| LeaderHint { id: leader.node, url: None });
        StatusBody { leader, role, revision: self.revision().0, ..stand_in::status(NODE) }
    }

    fn ready(&self) -> Result<(), String> {
        self.shared.ready.lock().unwrap().clone()
    }

    fn metrics(&self) -> String {
        "synod_fake 1".to_owned()
    }
}
