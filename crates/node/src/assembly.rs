//! The threads of a node: what each is given, and how they are told to end.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use synod_host::{Host, HostSettings};
use synod_journal::JournalError;
use synod_paxos::Recovered;
use synod_storage::snapshot::StateFolders;
use synod_transport::Transport;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet};

use crate::apply_thread::{ApplyThread, Installer};
use crate::clock::Clock;
use crate::current::CurrentStore;
use crate::doors::ClientDoor;
use crate::fatal::Fatal;
use crate::identity::Identity;
use crate::journal_thread::JournalThread;
use crate::membership::Membership;
use crate::owner::{Core, Ears, Owner};
use crate::recovery::Recovery;
use crate::replica::{Facts, Handle};
use crate::report::Report;
use crate::request::{self, AnswerQueue, Answers};
use crate::retirement::Retirement;
use crate::roster::Known;
use crate::scrub::Scrub;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::snapshot::{Outlets, SnapshotThread};
use crate::start_error::StartError;
use crate::upkeep::Upkeep;
use crate::workers::{Queues, Workers};
use crate::{chores, leases, replaceable, tuning};

/// What the threads are put together from.
pub(crate) struct Assembly<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) identity: Identity,
    pub(crate) shared: Arc<Shared>,
    pub(crate) clock: Clock,
    pub(crate) fatal: Fatal,
}

impl Assembly<'_> {
    pub(crate) fn start_threads(
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

    pub(crate) fn handle(
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
    pub(crate) fn start_http(
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

/// The threads behind the doors, and how they are told what to do.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) reports: mpsc::UnboundedSender<Report>,
    workers: Workers,
    shared: Arc<Shared>,
    owner: JoinHandle<()>,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    /// Ends all of them, in the order in which they depend on each other.
    pub(crate) fn stop(self) {
        self.shared.stop();
        let _ = self.reports.send(Report::Stop);
        let _ = self.owner.join();
        self.workers.stop();
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}
