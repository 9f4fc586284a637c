//! How a node whose state is lost gets the state of a peer, before it takes part in
//! anything.
//!
//! What an acceptor owes others is in its journal. A state is only the sum of the chosen
//! slots, and any peer's of a slot that the journal still begins behind will do: from there
//! on the journal's own chosen values are applied, as in every start. So the node asks its
//! peers for their state and for nothing else, answers nobody, and goes on as one that took
//! over a snapshot. A file says that this is to be done, and goes when it is; each step is
//! one that a crash may interrupt.
//!
//! Until a peer's state is here and checked everything stays as it is. No peer may have one:
//! what this node holds, damaged or not, may be all there is. And damage may have been told by
//! mistake, on most nodes at once even, by a disk that failed for a moment: unless an operator
//! wants another state, one that can be read to its end is kept.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use synod_host::configurations_of;
use synod_journal::{Behind, Journal, OpenError, Opened};
use synod_kv::{KvOptions, StateMachine};
use synod_paxos::{Configuration, NodeId, Slot};
use synod_storage::snapshot::{StateFolders, Verified};
use synod_storage::{Store, StoreError, Told, told_by};
use synod_transport::{Incoming, IncomingEvent, Transport};
use synod_wire::PeerMessage;
use tokio::runtime::Builder;
use tokio::task::LocalSet;

use crate::folder::{self, Folder};
use crate::identity::Identity;
use crate::marks::{self, DIFFERS, REBUILD, SUSPECT, WHOLE};
use crate::membership::Membership;
use crate::pins::Pins;
use crate::recovery::RecoveryError;
use crate::roster::Known;
use crate::settings::Settings;
use crate::snapshot::{Fetch, FetchOut};
use crate::start_error::StartError;
use crate::tuning;
use crate::upkeep::durable_slot;

/// A node to which nobody gives anything for this long ends; another start tries again.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often is looked whether somebody can be asked.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long the last messages may take to leave.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(200);

/// If a start failed because of the state, and peers may have a better one, this leaves the
/// mark by which the next start fetches it.
pub(crate) fn instead_of(
    error: StartError,
    folder: &Folder,
    settings: &Settings,
    identity: &Identity,
) -> StartError {
    let is_behind = matches!(&error, StartError::Recovery(RecoveryError::StateLost { .. }));
    let is_state = is_behind || tells_damage(&error);
    if !is_state || peers_of(folder, settings, identity).is_empty() {
        return error;
    }
    let reason = error.to_string();
    match folder.replace(REBUILD, &marks::doubt_text(&reason)) {
        Ok(()) => StartError::Rebuild { reason },
        Err(error) => error.into(),
    }
}

/// Whether the state's files do not hold what was written.
fn tells_damage(error: &StartError) -> bool {
    match error {
        StartError::Store(StoreError::Damaged { .. }) => true,
        StartError::State(_) | StartError::Recovery(_) => {
            told_by(&error.to_string()) == Some(Told::Damage)
        }
        _ => false,
    }
}

/// Reads all of a state that may be damaged, if an earlier life said so.
///
/// # Errors
/// When it is, and when this node is to stop.
pub(crate) fn look_at_suspect(folder: &Folder, stop: &AtomicBool) -> Result<(), StartError> {
    let current = folder.states().current()?;
    if !current.exists() || !folder.path().join(SUSPECT).exists() {
        return Ok(());
    }
    tracing::warn!("the last life doubted the state: reading all of it");
    read_all(&Store::open_to_verify(&current)?, stop)?;
    Ok(folder::remove(folder.path(), SUSPECT)?)
}

fn read_all(store: &Store, stop: &AtomicBool) -> Result<(), StartError> {
    let read = store.verify(|| !stop.load(Relaxed));
    read.map(drop).map_err(|error| match stop.load(Relaxed) {
        true => StartError::Stopped,
        false => StartError::State(error),
    })
}

/// Opens the journal, and mends it where the state holds what is damaged.
pub(crate) fn open_journal(
    folder: &Folder,
    settings: &Settings,
    identity: &Identity,
    state_upto: Slot,
) -> Result<Opened, StartError> {
    let options = tuning::journal_options(settings);
    let (dir, lineage) = (folder.journal(), identity.lineage());
    let damage = match Journal::open(&dir, lineage, &options) {
        Err(OpenError::Damaged(damage)) => damage,
        opened => return Ok(opened?),
    };
    match Journal::mend(&dir, lineage, &options, state_upto) {
        Ok(Some(mended)) if mended.is_done => {
            let upto = mended.upto;
            tracing::warn!(
                %damage, %upto,
                "the journal was damaged, and what was hit is in the state: it begins behind it now"
            );
            Ok(Journal::open(&dir, lineage, &options)?)
        }
        // The state would lack slots that nothing else of this node has.
        Ok(Some(mended)) => {
            tracing::warn!(%damage, "the journal is damaged in what the state lacks");
            let (applied, truncated) = (state_upto, mended.upto);
            Err(RecoveryError::StateLost { applied, truncated }.into())
        }
        Ok(None) | Err(_) => Err(OpenError::Damaged(damage).into()),
    }
}

/// What a start has at hand before there is a state.
pub(crate) struct Rebuild<'a> {
    pub(crate) folder: &'a Folder,
    pub(crate) settings: &'a Settings,
    pub(crate) identity: &'a Identity,
    /// Set when the node is to stop.
    pub(crate) stop: &'a AtomicBool,
}

impl Rebuild<'_> {
    /// Does what an earlier life, or an operator, left a mark for: puts a peer's state in the
    /// place of this node's. Nothing goes before that is here.
    ///
    /// # Errors
    /// When nobody gives one, when the disk refuses, and when this node is to stop.
    pub(crate) fn run(&self, door: &TcpListener) -> Result<(), StartError> {
        let states = self.folder.states();
        let Some(mark) = self.folder.read(REBUILD)? else {
            // What was set aside and has no successor is still what this node has.
            states.take_back()?;
            return Ok(states.remove_aside()?);
        };
        // One that an earlier switch left would bear no mark: the journal knew of it.
        let is_replaced =
            states.aside().exists() && StateFolders::mark(&states.current()?)?.is_some();
        if !is_replaced && !self.replace(&mark, door)? {
            return Ok(());
        }
        self.folder.step("state replaced")?;
        self.remove_marks(&[DIFFERS, SUSPECT, WHOLE, REBUILD])?;
        states.remove_aside()?;
        Ok(self.folder.step("repair ended")?)
    }

    /// Puts another state, or none, in the place of the state. Says whether it did: one that
    /// only seemed to be damaged stays.
    fn replace(&self, mark: &[u8], door: &TcpListener) -> Result<bool, StartError> {
        let states = self.folder.states();
        self.folder.step("repair begun")?;
        states.take_back()?;
        states.clean()?;
        // If nothing behind the damage is a journal, no state helps.
        let (dir, lineage) = (self.folder.journal(), self.identity.lineage());
        let mut journal = Journal::look_behind_damage(&dir, lineage)?;
        // The journal does not know yet of a state that was restored or switched to last.
        let switched = StateFolders::mark(&states.current()?)?.map_or(Slot::ZERO, Slot);
        journal.upto = journal.upto.max(switched);
        let is_doubt = marks::is_doubt(mark);
        let was_read = self.folder.path().join(WHOLE).exists();
        if is_doubt && !was_read && self.is_whole(journal.upto)? {
            self.keep()?;
            return Ok(false);
        }
        let reason = String::from_utf8_lossy(mark);
        tracing::warn!(
            reason = reason.trim(),
            "the state is not used any more: another takes its place"
        );
        if journal.upto == Slot::ZERO {
            tracing::info!("the journal goes back to the beginning: no peer is needed");
            states.set_aside()?;
            self.folder.step("state set aside")?;
            // While the mark is there: what lies aside without one is taken back.
            states.remove_aside()?;
            return Ok(true);
        }
        let verified = match self.fetch(journal, door) {
            // Perhaps those that have one gave it up, too, for no good reason.
            Err(StartError::NoState { .. })
                if is_doubt && was_read && self.is_whole(journal.upto)? =>
            {
                self.keep()?;
                return Ok(false);
            }
            fetched => fetched?,
        };
        self.folder.step("state fetched")?;
        let prepared = states.prepare(verified)?;
        self.folder.step("state prepared")?;
        states.set_aside()?;
        self.folder.step("state set aside")?;
        let installed = states.install(prepared)?;
        tracing::info!(slot = installed.slot, "a peer's state took the place of the other one");
        Ok(true)
    }

    /// Whether all of the state can be read, and it ends not before this slot.
    fn is_whole(&self, upto: Slot) -> Result<bool, StartError> {
        let current = self.folder.states().current()?;
        if !current.exists() {
            return Ok(false);
        }
        let read = || {
            let store = Store::open_to_verify(&current)?;
            if durable_slot(&store).map_err(StartError::State)? < upto {
                return Ok(false);
            }
            tracing::warn!("before the state is given up all of it is read once more");
            read_all(&store, self.stop).map(|()| true)
        };
        match read() {
            Err(error) if tells_damage(&error) => Ok(false),
            read => read,
        }
    }

    /// The state stays what it is. If it is doubted again it is replaced first.
    fn keep(&self) -> Result<(), StartError> {
        tracing::warn!("all of the state can be read: nothing is wrong with it, and it stays");
        self.folder.replace(WHOLE, b"the state was doubted, and all of it was read\n")?;
        self.folder.step("state kept")?;
        self.remove_marks(&[SUSPECT, REBUILD])
    }

    fn remove_marks(&self, marks: &[&str]) -> Result<(), StartError> {
        for mark in marks {
            folder::remove(self.folder.path(), mark)?;
            self.folder.step(&format!("{mark} gone"))?;
        }
        Ok(())
    }

    /// Brings the state of some peer behind which this node's journal goes on.
    fn fetch(&self, journal: Behind, door: &TcpListener) -> Result<Verified, StartError> {
        let Rebuild { folder, settings, identity, stop } = *self;
        if peers_of(folder, settings, identity).is_empty() {
            return Err(StartError::NoState { why: "this node has no peers".to_owned() });
        }
        let Behind { upto, promised, position, incarnation } = journal;
        let members = membership(folder, settings, identity)?;
        let transport =
            members.transport_settings(settings, identity, (promised, position, incarnation));
        let door = door.try_clone().map_err(StartError::Thread)?;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(StartError::Thread)?;
        let now = Instant::now();
        let fetch = Fetch::new(folder.states(), settings.snapshot.clone(), now);
        let (above, up) = (Slot(upto.0 - 1), BTreeMap::new());
        let fetching = Fetching { fetch, above, up, asked: None, heard_at: now, stop };
        LocalSet::new().block_on(&runtime, async move {
            let started = Transport::start(transport, door).map_err(StartError::Thread)?;
            let (transport, incoming) = started;
            let fetched = fetching.run(&transport, incoming).await;
            transport.close(CLOSE_TIMEOUT).await;
            fetched
        })
    }
}

/// Everybody that may have a state.
fn peers_of(folder: &Folder, settings: &Settings, identity: &Identity) -> Vec<NodeId> {
    let pins = Pins::open(folder).map(|pins| pins.list()).unwrap_or_default();
    let members = settings.members.iter().map(|member| NodeId(member.id));
    let mut peers: Vec<NodeId> = identity.configuration.members().to_vec();
    peers.extend(members.chain(pins.into_iter().map(|pin| pin.node)));
    peers.retain(|peer| *peer != identity.node);
    peers.sort_unstable();
    peers.dedup();
    peers
}

/// The members as the state names them, if that much can be read of it.
fn membership(
    folder: &Folder,
    settings: &Settings,
    identity: &Identity,
) -> Result<Membership, StartError> {
    let states = folder.states();
    let found = [states.aside(), states.current()?].iter().find_map(|path| {
        let store = Store::open_read_only(path).ok()?;
        let machine = StateMachine::open(store, KvOptions::default()).ok()?;
        configurations_of(&machine, &identity.configuration).ok()
    });
    let joined = identity.joined.as_ref();
    let talked_to = match (found, joined) {
        (Some(found), Some(joined)) => found.joined_in(joined.clone()).talked_to(),
        (Some(found), None) => found.talked_to(),
        (None, joined) => {
            let first: &Configuration = joined.unwrap_or(&identity.configuration);
            vec![Arc::new(first.clone())]
        }
    };
    let known = Known::new(settings, &Pins::open(folder)?, identity);
    Ok(Membership::new(identity.node, known, talked_to))
}

/// The question to one peer after the other.
struct Fetching<'a> {
    fetch: Fetch,
    above: Slot,
    /// The peers that are there, and how often each failed.
    up: BTreeMap<NodeId, u32>,
    asked: Option<NodeId>,
    /// When something came last.
    heard_at: Instant,
    stop: &'a AtomicBool,
}

impl Fetching<'_> {
    async fn run(
        mut self,
        transport: &Transport,
        mut incoming: Incoming,
    ) -> Result<Verified, StartError> {
        let no_state = |why: &str| Err(StartError::NoState { why: why.to_owned() });
        let mut batch = Vec::new();
        loop {
            for event in batch.drain(..) {
                if let IncomingEvent::Dismissed { number, .. } = event {
                    let why = format!("this node was removed by configuration {number}");
                    return no_state(&why);
                }
                self.receive(event);
            }
            self.ask_somebody();
            let now = Instant::now();
            self.fetch.look(now);
            // To check what is here may take long.
            let outs = self.fetch.take_out(|| !self.stop.load(Relaxed));
            if self.stop.load(Relaxed) {
                return Err(StartError::Stopped);
            }
            for out in outs {
                match out {
                    FetchOut::Send { to, message } => {
                        transport.send(to, &PeerMessage::Snapshot(message));
                    }
                    FetchOut::Failed { from } => {
                        self.asked = None;
                        self.up.entry(from).and_modify(|failures| *failures += 1);
                    }
                    FetchOut::Arrived { verified, .. } => return Ok(verified),
                }
            }
            if self.heard_at.elapsed() >= PATIENCE {
                return no_state("no peer gives it");
            }
            let look_at = now + LOOK_EVERY;
            let due = self.fetch.deadline().map_or(look_at, |due| due.min(look_at));
            tokio::select! {
                () = incoming.recv_batch(&mut batch) => {}
                () = tokio::time::sleep_until(due.into()) => {}
            }
        }
    }

    /// Nothing but states is of interest yet: to the others this node is one that is away.
    fn receive(&mut self, event: IncomingEvent) {
        match event {
            IncomingEvent::Connected { node, .. } => drop(self.up.entry(node).or_insert(0)),
            IncomingEvent::Disconnected(node) | IncomingEvent::PeerDied(node) => {
                self.up.remove(&node);
            }
            IncomingEvent::Message { from, message: PeerMessage::Snapshot(message) } => {
                let before = self.fetch.progress().received_bytes;
                self.fetch.receive(from, message, Instant::now());
                if self.fetch.progress().received_bytes > before {
                    self.heard_at = Instant::now();
                }
            }
            _ => {}
        }
    }

    fn ask_somebody(&mut self) {
        if self.asked.is_some() {
            return;
        }
        let best = self.up.iter().min_by_key(|(_, failures)| **failures);
        if let Some((peer, _)) = best {
            self.asked = Some(*peer);
            self.fetch.begin(*peer, self.above, Instant::now());
        }
    }
}
