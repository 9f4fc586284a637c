//! How a node whose state is lost gets the state of a peer, before it takes part in
//! anything.
//!
//! What an acceptor owes others is in its journal. A state is only the sum of the chosen
//! slots, and any peer's of a slot that the journal still begins behind will do: from there
//! on the journal's own chosen values are applied, as in every start. So the node asks its
//! peers for their state and for nothing else, answers nobody, and goes on as one that took
//! over a snapshot. A file says that this is to be done, and goes when it is; each step is
//! one that a crash may interrupt.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use synod_host::configurations_of;
use synod_journal::{Journal, OpenError, Opened};
use synod_kv::{KvOptions, StateMachine};
use synod_paxos::{Configuration, NodeId, Slot};
use synod_storage::snapshot::{StateFolders, Verified};
use synod_storage::{Store, StoreError, Told, told_by};
use synod_transport::{Incoming, IncomingEvent, Transport, TransportSettings};
use synod_wire::PeerMessage;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use crate::folder::{self, Folder};
use crate::identity::Identity;
use crate::marks::{DIFFERS, REBUILD, SUSPECT};
use crate::membership::Membership;
use crate::pins::Pins;
use crate::recovery::RecoveryError;
use crate::roster::Known;
use crate::settings::Settings;
use crate::snapshot::{Fetch, FetchOut};
use crate::start_error::StartError;
use crate::tuning;

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
    let is_state = match &error {
        StartError::Store(StoreError::Damaged { .. })
        | StartError::Recovery(RecoveryError::StateLost { .. }) => true,
        StartError::State(_) | StartError::Recovery(_) => {
            told_by(&error.to_string()) == Some(Told::Damage)
        }
        _ => false,
    };
    if !is_state || peers_of(folder, settings, identity).is_empty() {
        return error;
    }
    let reason = error.to_string();
    match folder.replace(REBUILD, format!("{reason}\n").as_bytes()) {
        Ok(()) => StartError::Rebuild { reason },
        Err(error) => error.into(),
    }
}

/// Reads all of a state that may be damaged, if an earlier life said so.
///
/// # Errors
/// When it is.
pub(crate) fn look_at_suspect(folder: &Folder) -> Result<(), StartError> {
    let current = folder.states().current()?;
    if !current.exists() || !folder.path().join(SUSPECT).exists() {
        return Ok(());
    }
    tracing::warn!("the last life doubted the state: reading all of it");
    let store = Store::open_to_verify(&current)?;
    store.verify(|| true).map_err(StartError::State)?;
    Ok(folder::remove(folder.path(), SUSPECT)?)
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

/// Does what an earlier life, or an operator, left a mark for: sets the state aside and puts
/// a peer's in its place.
///
/// # Errors
/// When nobody gives one, and when the disk refuses.
pub(crate) fn run(
    folder: &Folder,
    settings: &Settings,
    identity: &Identity,
    door: &TcpListener,
) -> Result<(), StartError> {
    let states = folder.states();
    let Some(reason) = folder.read(REBUILD)? else {
        return Ok(states.remove_aside()?);
    };
    let reason = String::from_utf8_lossy(&reason).trim().to_owned();
    let is_replaced = states.aside().exists() && states.current()?.exists();
    if !is_replaced {
        // Whatever it dropped to be whole again, no state that it needs is here any more.
        let journal = open_journal(folder, settings, identity, Slot(u64::MAX))?;
        tracing::warn!(reason, "the state is not used any more: another takes its place");
        let truncated = journal.recovered.truncated_upto;
        if truncated > Slot::ZERO {
            let peers = peers_of(folder, settings, identity);
            if peers.is_empty() {
                return Err(StartError::NoState { why: "this node has no peers".to_owned() });
            }
            let members = membership(folder, settings, identity)?;
            states.set_aside()?;
            states.remove_arriving()?;
            let held = (&journal.recovered, journal.incarnation);
            let transport = members.transport_settings(settings, identity, held);
            drop(journal);
            let above = Slot(truncated.0 - 1);
            let verified = fetch(transport, door, &states, settings, above)?;
            let installed = states.install(states.prepare(verified)?)?;
            tracing::info!(slot = installed.slot, "a peer's state took the place of the other one");
        } else {
            tracing::info!("the journal goes back to the beginning: no peer is needed");
            states.set_aside()?;
        }
    }
    for mark in [DIFFERS, SUSPECT, REBUILD] {
        folder::remove(folder.path(), mark)?;
    }
    Ok(states.remove_aside()?)
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

/// Brings the state of some peer that is above the slot.
fn fetch(
    transport: TransportSettings,
    door: &TcpListener,
    states: &StateFolders,
    settings: &Settings,
    above: Slot,
) -> Result<Verified, StartError> {
    let door = door.try_clone().map_err(StartError::Thread)?;
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(StartError::Thread)?;
    let now = Instant::now();
    let fetch = Fetch::new(states.clone(), settings.snapshot.clone(), now);
    let fetching = Fetching { fetch, above, up: BTreeMap::new(), asked: None, heard_at: now };
    LocalSet::new().block_on(&runtime, async move {
        let started = Transport::start(transport, door).map_err(StartError::Thread)?;
        let (transport, incoming) = started;
        let fetched = fetching.run(&transport, incoming).await;
        transport.close(CLOSE_TIMEOUT).await;
        fetched
    })
}

/// The question to one peer after the other.
struct Fetching {
    fetch: Fetch,
    above: Slot,
    /// The peers that are there, and how often each failed.
    up: BTreeMap<NodeId, u32>,
    asked: Option<NodeId>,
    /// When something came last.
    heard_at: Instant,
}

impl Fetching {
    async fn run(
        mut self,
        transport: &Transport,
        mut incoming: Incoming,
    ) -> Result<Verified, StartError> {
        let no_state = |why: &str| Err(StartError::NoState { why: why.to_owned() });
        let mut stop = signal(SignalKind::terminate()).map_err(StartError::Thread)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Thread)?;
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
            for out in self.fetch.take_out(|| true) {
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
                _ = stop.recv() => return no_state("it was told to stop"),
                _ = interrupt.recv() => return no_state("it was told to stop"),
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
