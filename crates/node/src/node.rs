//! One running node: its threads, from the first lock to the last flush.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use synod_journal::Opened;
use synod_kv::StateMachine;
use synod_paxos::{NodeId, Slot};
use synod_storage::Store;
use synod_wire::version;
use tokio::sync::mpsc;

use crate::apply_thread::{Applier, Installer};
use crate::assembly::{Assembly, Running};
use crate::bond;
use crate::clock::Clock;
use crate::current::CurrentStore;
use crate::doors::{self, ClientDoor, provide_descriptors};
use crate::durability_trace::DurabilityTrace;
use crate::fatal::Fatal;
use crate::filled::Filled;
use crate::folder::{self, Folder, MARKER_FILE, REMOVED_FILE};
use crate::identity::{self, Identity};
use crate::marks::{self, DIFFERS, REBUILD, WENT_BACK};
use crate::pins::Pins;
use crate::rebuild::{self, Rebuild};
use crate::recovery::{self, Recovery};
use crate::replaceable::FORBEARANCE;
use crate::report::Report;
use crate::request::Answers;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::start_error::{NodeFailure, StartError};
use crate::tuning;
use crate::upkeep::durable_slot;

/// Requests between the HTTP thread and the owner.
const REQUESTS_MAX: usize = 16_384;
/// Characters that are told of a file that says why the node must not start.
const WORDS_MAX: usize = 1_000;
/// Between two attempts to hand over.
pub(crate) const HANDOVER_EVERY: Duration = Duration::from_millis(20);
/// How long a leader that stops looks for a successor.
pub(crate) const HANDOVER_TIMEOUT: Duration = Duration::from_millis(1_000);

/// A node that runs.
#[derive(Debug)]
pub struct Node {
    client_addr: SocketAddr,
    peer_addr: SocketAddr,
    id: NodeId,
    shared: Arc<Shared>,
    fatal: Fatal,
    store: Arc<CurrentStore>,
    client_door: ClientDoor,
    running: Running,
    /// Last, so that a node that stopped in order has the lock to the end.
    _folder: Folder,
}

impl Node {
    /// Starts a node: takes its folder, opens its doors, rebuilds its state, starts
    /// its threads. Clients are answered from the start: while the state is being
    /// rebuilt they are told that this node is not ready.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(settings: &Settings) -> Result<Node, StartError> {
        Node::start_unless(settings, &AtomicBool::new(false))
    }

    /// [`Node::start`] for whoever may set `stop` meanwhile: what takes long before anybody is
    /// served ends then.
    ///
    /// # Errors
    /// See [`StartError`]; [`StartError::Stopped`] when it ended for that.
    pub fn start_unless(settings: &Settings, stop: &AtomicBool) -> Result<Node, StartError> {
        let folder = identity::take(&settings.data_dir)?;
        let identity = Identity::open(&folder, settings)?;
        refuse_ended(folder.path())?;
        bond::keep(&folder, &identity)?;
        let connections_max = provide_descriptors(settings.limits.connections_max)?;
        let peer = doors::open_to_peers(settings)?;
        Rebuild { folder: &folder, settings, identity: &identity, stop }.run(&peer)?;
        let instead = |error| rebuild::instead_of(error, &folder, settings, &identity);
        rebuild::look_at_suspect(&folder, settings, &identity, stop).map_err(instead)?;
        let options = tuning::store_options(settings);
        let states = folder.states();
        for left in states.clean()? {
            tracing::info!(left, "removed what an earlier life of this node left");
        }
        rebuild::refuse_gone(&folder, &identity).map_err(instead)?;
        let opened = Store::open(states.current()?, &options).map_err(StartError::Store);
        let store = opened.map_err(instead)?;
        let client = doors::open_to_clients(settings)?;
        let (client_addr, peer_addr) = (doors::local_addr(&client)?, doors::local_addr(&peer)?);
        let current = Arc::new(CurrentStore::new(store.clone()));
        let shared = Arc::new(Shared::default());
        if let Some(path) = &settings.trace_durability {
            let trace = DurabilityTrace::open(path, identity.node);
            let failed = |source| StartError::Trace { path: path.clone(), source };
            // Set once: this is where the shared state begins.
            let _ = shared.trace.set(trace.map_err(failed)?);
        }
        if let Some(slot) = marks::difference(folder.path())? {
            tracing::error!(%slot, "the state differs from a peer's, says the file {DIFFERS}");
            shared.owner.set_differs_after(Some(slot));
        }
        if folder.has(REBUILD)? {
            // Set once, as the trace.
            let _ = shared.forbears_until.set(Instant::now() + FORBEARANCE);
        }
        let (clock, fatal) = (Clock::new(), Fatal::of(folder.path()));
        let assembly = Assembly { settings, identity: identity.clone(), shared, clock, fatal };

        let (requests, request_queue) = mpsc::channel(REQUESTS_MAX);
        let (answers, answer_queue) = Answers::new(assembly.shared.clone());
        let handle = assembly.handle((current.clone(), states.clone()), requests);
        let limits = tuning::api_limits(settings, connections_max);
        let client_door = assembly.start_http(client, handle, answer_queue, limits)?;
        let recovered = recover(&folder, &assembly, store, stop);
        let started = recovered.and_then(|recovery| {
            let (current, fatal) = (current.clone(), assembly.fatal.clone());
            let installer = Installer { folders: states, current, options, fatal };
            assembly.start_threads(peer, request_queue, answers, installer, recovery)
        });
        let running = match started {
            Ok(running) => running,
            Err(error) => {
                client_door.close();
                return Err(instead(error));
            }
        };
        let Assembly { shared, fatal, .. } = assembly;
        tracing::info!(
            node = %identity.node, cluster = settings.cluster.name, %client_addr, %peer_addr,
            version = version::NEWEST, write_version = settings.write_version,
            "the node runs"
        );
        Ok(Node {
            client_addr,
            peer_addr,
            id: identity.node,
            shared,
            fatal,
            store: current,
            client_door,
            running,
            _folder: folder,
        })
    }

    /// Where clients are served.
    #[must_use]
    pub fn client_addr(&self) -> SocketAddr {
        self.client_addr
    }

    /// Where peers are heard.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer_addr
    }

    /// Whether this node leads, as of a moment ago.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.shared.owner.leader() == Some(self.id)
    }

    /// Waits until the node fails by itself. To be called once.
    pub async fn failed(&self) -> NodeFailure {
        NodeFailure(self.fatal.wait().await)
    }

    /// Waits until something on the disk is found damaged that the next start can mend, and
    /// says what. The node is to be stopped then, and started again.
    pub async fn damaged(&self) -> String {
        self.fatal.wait_damage().await
    }

    /// Waits until the node hears from its peers that it is a member no more and that
    /// nobody needs it; answers the number of the configuration that says so. It is to be
    /// stopped then.
    pub async fn removed(&self) -> u64 {
        self.fatal.wait_removed().await
    }

    /// Stops in an orderly way: hands over, lets requests under way end, closes the
    /// peers' door, and makes everything durable.
    ///
    /// # Errors
    /// When something failed before or meanwhile.
    pub fn stop(self) -> Result<(), NodeFailure> {
        self.hand_over();
        self.client_door.close();
        self.running.stop();
        if let Some(message) = self.fatal.reported() {
            return Err(NodeFailure(message));
        }
        self.store.get().flush().map_err(|error| NodeFailure(error.to_string()))?;
        self.store.end();
        Ok(())
    }

    /// Asks others to lead, until one does. A single node has nobody to ask.
    fn hand_over(&self) {
        let asked_at = Instant::now();
        let has_peers = self
            .shared
            .owner
            .snapshot()
            .is_some_and(|snapshot| snapshot.status.peers.iter().any(|peer| peer.reachable));
        while has_peers && self.is_leader() && asked_at.elapsed() < HANDOVER_TIMEOUT {
            // Again and again: what it takes may not be known at the first time.
            let _ = self.running.reports.send(Report::HandOver);
            thread::sleep(HANDOVER_EVERY);
        }
    }
}

/// Refuses a node that ended for good in an earlier life.
pub(crate) fn refuse_ended(data: &Path) -> Result<(), StartError> {
    let words_in = |name: &str| -> Result<Option<(PathBuf, String)>, StartError> {
        let Some(words) = folder::read(data, name)? else { return Ok(None) };
        let words = String::from_utf8_lossy(&words).chars().take(WORDS_MAX).collect();
        Ok(Some((data.join(name), words)))
    };
    if let Some((path, words)) = words_in(MARKER_FILE)? {
        return Err(StartError::Violation { path, words });
    }
    if let Some((path, words)) = words_in(WENT_BACK)? {
        return Err(StartError::WentBack { path, words });
    }
    let removed = data.join(REMOVED_FILE);
    match folder::exists(&removed)? {
        true => Err(StartError::Removed(removed)),
        false => Ok(()),
    }
}

/// Opens and rebuilds everything that the disk holds, unless this node is to stop meanwhile.
fn recover(
    folder: &Folder,
    to: &Assembly<'_>,
    store: Store,
    stop: &AtomicBool,
) -> Result<Recovery, StartError> {
    let Assembly { settings, identity, shared, fatal, .. } = to;
    let state_upto = durable_slot(&store).map_err(StartError::State)?;
    let filled = Filled::read(folder.path())?;
    let filled = filled.as_ref();
    let mut opened =
        rebuild::open_journal(folder, (settings, identity), fatal, state_upto, filled)?;
    rebuild::tell_journal(folder, settings, (&store, state_upto), filled, &mut opened)?;
    let Opened { journal, recovered, incarnation } = opened;
    fatal.note_whole_journal();
    let machine = StateMachine::open(store.clone(), settings.history.kv_options())
        .map_err(StartError::State)?;
    let mut applier = Applier::new(machine, identity, incarnation, shared.clone());
    shared.rebuilding(recovered.chosen_upto);
    if !recovery::replay(&journal, &recovered, &mut applier, || !stop.load(Relaxed))? {
        return Err(StartError::Stopped);
    }
    // A state that is doubted, and goes on since nobody has another one, is no reason to drop
    // anything of the journal.
    let durable = durable_slot(&store).map_err(StartError::State)?;
    shared.state.set_durable(durable);
    shared.state.set_spare(match folder.has(REBUILD)? {
        true => recovered.truncated_upto,
        false => durable,
    });
    let configurations = applier.configurations().map_err(StartError::State)?;
    if configurations.number() == 0 && identity.joined.is_none() {
        identity.check_members(folder.path(), settings)?;
    }
    let pins = Pins::open(folder)?;
    let copied_upto = Slot(folder.states().copied_upto()?);
    let state_copied_upto = marks::not_found_right(folder.path(), copied_upto)?;
    Ok(Recovery { journal, recovered, incarnation, applier, pins, state_copied_upto })
}
