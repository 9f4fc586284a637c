//! One running node: its threads, from the first lock to the last flush.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use synod_host::{Host, HostSettings};
use synod_journal::{Journal, JournalError, Opened};
use synod_kv::StateMachine;
use synod_paxos::{NodeId, Recovered, Slot};
use synod_storage::Store;
use synod_storage::snapshot::StateFolders;
use synod_transport::Transport;
use synod_wire::version;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet};

use crate::apply_thread::{Applier, ApplyThread, Installer};
use crate::chores;
use crate::clock::Clock;
use crate::current::CurrentStore;
use crate::doors::{self, ClientDoor, provide_descriptors};
use crate::durability_trace::DurabilityTrace;
use crate::fatal::Fatal;
use crate::filled::Filled;
use crate::folder::{Folder, MARKER_FILE, REMOVED_FILE};
use crate::identity::{self, Identity};
use crate::journal_thread::JournalThread;
use crate::leases;
use crate::marks::{self, DIFFERS, REBUILD, WENT_BACK};
use crate::membership::Membership;
use crate::owner::{Core, Ears, Owner};
use crate::pins::Pins;
use crate::rebuild::{self, Rebuild};
use crate::recovery;
use crate::replaceable::{self, FORBEARANCE};
use crate::replica::{Facts, Handle};
use crate::report::Report;
use crate::request::{self, AnswerQueue, Answers};
use crate::retirement::Retirement;
use crate::roster::Known;
use crate::scrub::Scrub;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::snapshot::{Outlets, SnapshotThread};
use crate::start_error::{NodeFailure, StartError};
use crate::tuning;
use crate::upkeep::{Upkeep, durable_slot};
use crate::workers::{Queues, Workers};

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

/// The threads behind the doors, and how they are told what to do.
#[derive(Debug)]
struct Running {
    reports: mpsc::UnboundedSender<Report>,
    workers: Workers,
    shared: Arc<Shared>,
    owner: JoinHandle<()>,
    threads: Vec<JoinHandle<()>>,
}

/// What the disk brought back.
struct Recovery {
    journal: Journal,
    recovered: Recovered,
    incarnation: u64,
    applier: Applier,
    pins: Pins,
    state_copied_upto: Slot,
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
            let installer = Installer { folders: states, current: current.clone(), options };
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

impl Running {
    fn stop(self) {
        self.shared.stop();
        let _ = self.reports.send(Report::Stop);
        let _ = self.owner.join();
        self.workers.stop();
        for thread in self.threads {
            let _ = thread.join();
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
    let mut opened = rebuild::open_journal(folder, settings, identity, state_upto, filled)?;
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

/// What the threads are put together from.
struct Assembly<'a> {
    settings: &'a Settings,
    identity: Identity,
    shared: Arc<Shared>,
    clock: Clock,
    fatal: Fatal,
}

impl Assembly<'_> {
    fn start_threads(
        &self,
        peers_door: TcpListener,
        requests: mpsc::Receiver<request::Request>,
        answers: Answers,
        installer: Installer,
        mut recovery: Recovery,
    ) -> Result<Running, StartError> {
        let (reports, report_queue) = mpsc::unbounded_channel();
        let (workers, queues) = Workers::new(answers);
        let core = self.core(&mut recovery)?;
        let Recovered { promised, position, .. } = recovery.recovered;
        let held = (promised, position, recovery.incarnation);
        let transport = core.membership.transport_settings(self.settings, &self.identity, held);
        let threads = self.start_workers(&workers, queues, &reports, installer, recovery)?;
        let (clock, owner_shared) = (self.clock, (self.shared.clone(), self.fatal.clone()));
        let owner_workers = workers.clone();
        let owner = self.spawn_runtime("synod-owner", move |runtime| {
            LocalSet::new().block_on(&runtime, async move {
                let (transport, incoming) = Transport::start(transport, peers_door)?;
                let ears = Ears { reports: report_queue, requests, incoming };
                Owner::new(core, clock, transport, ears, owner_workers, owner_shared).run().await;
                Ok(())
            })
        })?;
        self.shared.begin_to_serve();
        Ok(Running { reports, workers, shared: self.shared.clone(), owner, threads })
    }

    /// Starts the threads to which the owner hands out work.
    fn start_workers(
        &self,
        workers: &Workers,
        queues: Queues,
        reports: &mpsc::UnboundedSender<Report>,
        installer: Installer,
        recovery: Recovery,
    ) -> Result<Vec<JoinHandle<()>>, StartError> {
        let shared = &self.shared;
        let (folders, current) = (installer.folders.clone(), installer.current.clone());
        let scrubbed = (folders.clone(), current.clone());
        let journal = JournalThread::new(
            recovery.journal,
            queues.journal,
            reports.clone(),
            shared.clone(),
            self.fatal.clone(),
        );
        let journal = self.spawn(
            "synod-journal",
            || journal.run(),
            |error: JournalError| format!("writing the journal: {error}"),
        )?;
        let apply = ApplyThread::new(
            recovery.applier,
            installer,
            queues.apply,
            reports.clone(),
            workers.answers.clone(),
            shared.clone(),
        );
        let apply =
            self.spawn("synod-apply", || apply.run(), |error| format!("the state: {error}"))?;
        let snapshot = SnapshotThread::new(
            folders.clone(),
            current.clone(),
            &self.settings.snapshot,
            queues.snapshot,
            Outlets { reports: reports.clone(), apply: workers.apply.clone() },
            shared.clone(),
        );
        let snapshot =
            self.spawn("synod-snapshot", || snapshot.run(), |error| format!("snapshots: {error}"))?;
        let upkeep = Upkeep::new(
            (current, folders),
            recovery.pins,
            queues.upkeep,
            reports.clone(),
            (shared.clone(), self.fatal.clone()),
            self.settings,
        );
        let upkeep =
            self.spawn("synod-upkeep", || upkeep.run(), |error| format!("the disk: {error}"))?;
        let scrub = Scrub::new(
            (self.settings, &self.identity),
            scrubbed,
            (queues.scrub, workers.journal.clone()),
            shared.clone(),
            self.fatal.clone(),
        );
        let run = || {
            scrub.run();
            Ok::<(), Infallible>(())
        };
        let scrub = self.spawn("synod-scrub", run, |never| match never {})?;
        Ok(vec![snapshot, journal, apply, upkeep, scrub])
    }

    fn core(&self, recovery: &mut Recovery) -> Result<Core, StartError> {
        let mut configurations = recovery.applier.configurations().map_err(StartError::State)?;
        if let Some(joined) = &self.identity.joined {
            configurations = configurations.joined_in(joined.clone());
        }
        let known = Known::new(self.settings, &recovery.pins, &self.identity);
        let membership = Membership::new(self.identity.node, known, configurations.talked_to());
        self.shared.owner.set_roster(membership.roster().clone());
        let mut options = tuning::core_options(self.settings, recovery.incarnation);
        options.state_copied_upto = recovery.state_copied_upto;
        let settings = HostSettings {
            node: self.identity.node,
            incarnation: recovery.incarnation,
            configurations,
            options,
            limits: tuning::host_limits(self.settings),
        };
        let applied = recovery.applier.report();
        let recovered = recovery.recovered.clone();
        let host = Host::new(settings, recovered, &applied, self.clock.now());
        Ok(Core { host, applied, membership, written: self.settings.write_version })
    }

    fn handle(
        &self,
        store: (Arc<CurrentStore>, StateFolders),
        requests: mpsc::Sender<request::Request>,
    ) -> Handle {
        let facts = Facts {
            node: self.identity.node,
            cluster: self.identity.cluster,
            first: self.identity.configuration.clone(),
            founding: self.identity.founding,
            snapshot_bytes_per_s: self.settings.snapshot.rate_bytes_per_s,
        };
        let fatal = self.fatal.clone();
        let turn = replaceable::turn(self.settings);
        let retirement = Retirement::new(facts.node, turn, self.shared.clone(), fatal.clone());
        Handle::new(facts, store, self.shared.clone(), self.clock, requests, (fatal, retirement))
    }

    /// The thread that serves clients and completes their answers.
    fn start_http(
        &self,
        listener: TcpListener,
        handle: Handle,
        answers: AnswerQueue,
        limits: synod_api::Limits,
    ) -> Result<ClientDoor, StartError> {
        let (stop, mut stopped) = watch::channel(false);
        let thread = self.spawn_runtime("synod-http", move |runtime| {
            runtime.block_on(async move {
                listener.set_nonblocking(true)?;
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let delivery = tokio::spawn(request::deliver(answers));
                let mut chores = JoinSet::new();
                chores.spawn(chores::run(handle.clone()));
                chores.spawn(leases::keep_time(handle.clone()));
                chores.spawn(leases::renew_waiting(handle.clone()));
                let stop = async move {
                    // An error says that the node is gone, which is a stop as well.
                    let _ = stopped.wait_for(|stopped| *stopped).await;
                };
                synod_api::serve(listener, handle, limits, stop).await;
                chores.abort_all();
                delivery.abort();
                Ok(())
            })
        })?;
        Ok(ClientDoor { thread, stop })
    }

    /// Starts a thread with a runtime of its own.
    fn spawn_runtime(
        &self,
        name: &'static str,
        run: impl FnOnce(Runtime) -> std::io::Result<()> + Send + 'static,
    ) -> Result<JoinHandle<()>, StartError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(StartError::Thread)?;
        self.spawn(name, move || run(runtime), |error| error.to_string())
    }

    /// Starts a thread whose failure, or panic, is the node's.
    fn spawn<E>(
        &self,
        name: &'static str,
        run: impl FnOnce() -> Result<(), E> + Send + 'static,
        describe: impl FnOnce(E) -> String + Send + 'static,
    ) -> Result<JoinHandle<()>, StartError> {
        let fatal = self.fatal.clone();
        let thread = thread::Builder::new().name(name.to_owned());
        let spawned = thread.spawn(move || {
            let _guard = fatal.guard(name);
            if let Err(error) = run() {
                fatal.report(name, describe(error));
            }
        });
        spawned.map_err(StartError::Thread)
    }
}
