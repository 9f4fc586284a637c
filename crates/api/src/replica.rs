//! What this crate needs from the replica behind it.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use synod_kv::http::{MembersBody, ProblemKind, StatusBody};
use synod_kv::read::{ChangePage, ChangeQuery, ListQuery, Look, Page, ReadError};
use synod_kv::{
    Command, LeaseId, LeaseOperation, MapError, Operation, OrderedMap, Outcome, Revision, Taken,
};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::membership::MemberChange;

/// One replica of the store, as the handlers see it. A clone is a handle to the
/// same replica and costs as much as an `Arc`.
///
/// Each call that waits is given an instant by which it should end. The handler
/// drops the future a little later if it has not, and then answers for it that the
/// outcome is unknown. A future can also be dropped early, when its client goes.
///
/// The calls that do not wait are answered on the thread of the connections, so
/// they may take microseconds, not milliseconds.
///
/// When one of them fails with a [`MapError`] the request is answered 500; it is
/// the replica's business to stop the node.
pub trait Replica: Clone + Send + Sync + 'static {
    /// Where the local state lies.
    type Map: OrderedMap;

    /// Takes a write through the log and waits for its outcome.
    fn write(
        &self,
        command: Command,
        deadline: Instant,
    ) -> impl Future<Output = Result<Taken, Refused>> + Send;

    /// Waits until a local read sees every write that was acknowledged anywhere
    /// before this call.
    fn read_barrier(&self, deadline: Instant) -> impl Future<Output = Result<(), Refused>> + Send;

    /// Renews leases, at most [`synod_kv::KEEP_ALIVES_MAX`]: how long each lives from now on
    /// without another renewal, in milliseconds; none for one that is no more. By a command,
    /// if a replica knows no cheaper way.
    fn keep_alive(
        &self,
        ids: Vec<LeaseId>,
        deadline: Instant,
    ) -> impl Future<Output = Result<Vec<Option<u64>>, Refused>> + Send {
        async move {
            let operation = Operation::Lease(LeaseOperation::KeepAlive { ids });
            match self.write(Command { idempotency: None, operation }, deadline).await? {
                Taken::Applied { outcome: Outcome::LeasesKept { ttls_ms, .. }, .. } => Ok(ttls_ms),
                _ => Err(Refused::Lost),
            }
        }
    }

    /// How long a lease lives at the least, in milliseconds, if this node counts it.
    fn lease_left_ms(&self, id: LeaseId) -> Option<u64> {
        let _ = id;
        None
    }

    /// Waits until the local state is at `revision` or beyond.
    fn wait_revision(
        &self,
        revision: Revision,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), Refused>> + Send;

    /// Asks that another node lead, `to` if it is given, until one does. Only for the
    /// leader to ask.
    fn transfer(
        &self,
        to: Option<u32>,
        deadline: Instant,
    ) -> impl Future<Output = Result<Leader, Refused>> + Send;

    /// Whether a node with this id is a member of the cluster.
    fn is_member(&self, node: u32) -> bool;

    /// The members as this node knows them; none while it starts.
    fn members(&self) -> Option<MembersBody>;

    /// Changes the members and waits until that governs. Only for the leader to do. What
    /// is in force already is no change, and no error.
    fn change_members(
        &self,
        change: MemberChange,
        deadline: Instant,
    ) -> impl Future<Output = Result<MembersBody, ChangeRefused>> + Send;

    /// A key in the local state, and a revision of that state.
    ///
    /// # Errors
    /// When the state cannot be read.
    fn get(&self, key: &[u8]) -> Result<Look, MapError>;

    /// Reads the local state, which may move on meanwhile: whatever must be of one state is
    /// read by one call of [`synod_kv::read`].
    ///
    /// # Errors
    /// As `read` says.
    fn read<T>(
        &self,
        read: impl FnOnce(&Self::Map) -> Result<T, ReadError>,
    ) -> Result<T, ReadError>;

    /// A page of the newest changes, if they are at hand in memory: else they are to be read.
    /// What is before the query's first revision is not asked for again.
    fn recent(&self, query: &ChangeQuery, wants: impl Fn(&[u8]) -> bool) -> Option<ChangePage> {
        let _ = (query, wants);
        None
    }

    /// A count of the keys that the query asks for, all in the local state as it was at a
    /// revision, or else as it is now. After about `visits_max` records others have their
    /// turn, and `goes_on` says whether to go on; where the rest begins is told by `next`.
    ///
    /// # Errors
    /// When the state cannot be read, or not at that revision.
    fn count(
        &self,
        query: ListQuery,
        at: Option<Revision>,
        visits_max: usize,
        goes_on: impl Fn() -> bool + Send,
    ) -> impl Future<Output = Result<Page, ReadError>> + Send;

    /// Begins a backup of the local state. It ends when its parts are dropped.
    ///
    /// # Errors
    /// When there is one already.
    fn backup(&self) -> Result<BackupParts, Refused>;

    /// The revision of the local state: of one that was readable before the call.
    fn revision(&self) -> Revision;

    /// The cluster time of the local state, in milliseconds.
    fn cluster_time_ms(&self) -> u64;

    /// The id of this node.
    fn node(&self) -> u32;

    /// The leader, as far as this node knows.
    fn leader(&self) -> Option<Leader>;

    /// Everything that `/v1/status` says.
    fn status(&self) -> StatusBody;

    /// Whether this node can serve: a live leader is known and this node has
    /// caught up. If not, the text says what is missing.
    ///
    /// # Errors
    /// What is missing.
    fn ready(&self) -> Result<(), String>;

    /// The replica's metrics in the text format of Prometheus.
    fn metrics(&self) -> String;
}

/// The parts of a backup as they are made; an error ends it early.
pub type BackupParts = mpsc::Receiver<Result<Bytes, String>>;

/// Who leads, and where its clients' door is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leader {
    /// The node's id.
    pub node: u32,
    /// The base of its URLs, such as `http://10.0.0.1:7001`, without a slash at
    /// the end.
    pub url: Arc<str>,
    /// Both, as `Synod-Leader` carries them. Made once, for every answer has it.
    header: HeaderValue,
}

impl Leader {
    /// A leader that serves clients at `url`. A slash at the end is dropped. A URL
    /// that can't stand in a header is left out of the header.
    #[must_use]
    pub fn new(node: u32, url: &str) -> Self {
        let url = url.trim_end_matches('/');
        let header = HeaderValue::from_str(&format!("{node} {url}"))
            .unwrap_or_else(|_| HeaderValue::from(node));
        Self { node, url: url.into(), header }
    }

    /// The value of `Synod-Leader`.
    pub(crate) fn header(&self) -> HeaderValue {
        self.header.clone()
    }
}

/// Why the replica gave no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Too much waits already. Not applied.
    Overloaded,
    /// No leader was found in time. Not applied: the request was never sent.
    NoLeader,
    /// The request was sent, and no answer came in time. It may still have effect.
    Deadline,
    /// The request was sent, and its outcome can't be learned any more (the node
    /// took over a snapshot that holds it, for instance). It may have had effect.
    Lost,
    /// The node is stopping. Not applied.
    Stopping,
    /// This node's disk, or those of too many nodes, have no room for more. Not applied.
    NoRoom,
    /// The node's state differs from another's, so it gives no backup of it.
    Differs,
    /// Something of the node's state was found damaged, so it gives no backup of it.
    Doubted,
}

impl Refused {
    /// Whether a write that got this may have had effect, or may still get it.
    #[must_use]
    pub fn outcome_unknown(self) -> bool {
        match self {
            Self::Deadline | Self::Lost => true,
            Self::Overloaded
            | Self::NoLeader
            | Self::Stopping
            | Self::NoRoom
            | Self::Differs
            | Self::Doubted => false,
        }
    }
}

/// Why a change of the members was not made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChangeRefused {
    /// It does not fit the members, or the cluster as it is now. It has no effect.
    Refused {
        /// Which problem.
        kind: ProblemKind,
        /// What is wrong and what to do, in a sentence.
        detail: String,
    },
    /// The replica gave no answer.
    Replica(Refused),
}
