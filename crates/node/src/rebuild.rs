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
//! wants another state, one that can be read to its end is kept. When nobody gives another one, a
//! state with a damaged block is better than none: the node goes on with what can be read of it,
//! and the file stays for the next time.

mod asking;
#[cfg(test)]
mod asking_tests;
mod dismissal;
#[cfg(test)]
mod filled_tests;
#[cfg(test)]
mod mark_tests;
mod opening;
mod showing;
mod slots;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use asking::{Asking, Fetched, patience};
use dismissal::Dismissals;
pub(crate) use opening::{open_journal, refuse_gone, tell_journal};
use slots::{Filling, Slots};
use synod_host::configurations_of;
use synod_journal::{Behind, Journal};
use synod_kv::http::DamagedPart;
use synod_kv::{KvOptions, StateMachine};
use synod_paxos::{Configuration, NodeId, Slot};
use synod_storage::snapshot::{StateFolders, Verified};
use synod_storage::{Store, StoreError, Told, told_by};
use synod_transport::{PeerAddress, Transport, TransportSettings};
use tokio::runtime::Builder;
use tokio::task::LocalSet;

use crate::apply_thread::Applier;
use crate::damage::Damages;
use crate::filled::{Filled, Held};
use crate::folder::{self, Folder, REMOVED_FILE};
use crate::identity::Identity;
use crate::marks::{self, DIFFERS, FILLED, REBUILD, SUSPECT, UNREPLACED, WENT_BACK, WHOLE};
use crate::membership::Membership;
use crate::pins::Pins;
use crate::recovery::RecoveryError;
use crate::roster::Known;
use crate::serve::ServeError;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::snapshot::Fetch;
use crate::start_error::StartError;
use crate::tuning;
use crate::upkeep::durable_slot;

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
    if told_by(&error.to_string()) == Some(Told::Suspicion) {
        // The next start reads all of it, and knows.
        let marked = folder.replace(SUSPECT, format!("{error}\n").as_bytes());
        if let Err(error) = marked {
            tracing::error!(%error, "the next start does not know that the state is doubted");
        }
        return error;
    }
    if !is_of_state(&error) {
        return error;
    }
    let reason = error.to_string();
    Damages::open(folder.path()).meet(DamagedPart::State, &reason, Instant::now());
    if peers_of(folder, settings, identity).is_empty() {
        return StartError::Alone { reason };
    }
    match folder.replace(REBUILD, &marks::doubt_text(&reason)) {
        Ok(()) => StartError::Rebuild { reason },
        Err(error) => error.into(),
    }
}

/// Whether it is the state that a start failed of, in place of which any peer's will do.
pub(crate) fn is_of_state(error: &StartError) -> bool {
    let is_behind = matches!(error, StartError::Recovery(RecoveryError::StateLost { .. }));
    is_behind || tells_damage(error)
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
pub(crate) fn look_at_suspect(
    folder: &Folder,
    settings: &Settings,
    identity: &Identity,
    stop: &AtomicBool,
) -> Result<(), StartError> {
    let current = folder.states().current()?;
    if !folder::exists(&current)? || !folder.has(SUSPECT)? {
        return Ok(());
    }
    tracing::warn!("the last life doubted the state: reading all of it");
    let opened = Store::open_to_verify(&current).map_err(StartError::from);
    let mut damages = Damages::open(folder.path());
    match opened.and_then(|store| read_all(&store, stop)) {
        Err(error) if tells_damage(&error) && peers_of(folder, settings, identity).is_empty() => {
            tracing::error!("{error}; nobody else has a state: going on with what can be read");
            let reason = error.to_string();
            damages.meet(DamagedPart::State, &reason, Instant::now());
            // Without a mark the state counts as sound, and the journal that holds what is damaged
            // there would be cut.
            folder.replace(REBUILD, &marks::doubt_text(&reason))?;
        }
        read => {
            read?;
            damages.mend(DamagedPart::State);
        }
    }
    Ok(folder::remove(folder.path(), SUSPECT)?)
}

fn read_all(store: &Store, stop: &AtomicBool) -> Result<(), StartError> {
    let read = store.verify(|| !stop.load(Relaxed));
    read.map(drop).map_err(|error| match stop.load(Relaxed) {
        true => StartError::Stopped,
        false => StartError::State(error),
    })
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
            states.aside()?.is_some() && StateFolders::mark(&states.current()?)?.is_some();
        if !is_replaced && !self.replace(&mark, door)? {
            return Ok(());
        }
        let mut damages = Damages::open(self.folder.path());
        if marks::is_doubt(&mark) {
            damages.note_mark(&mark);
        }
        damages.mend(DamagedPart::State);
        self.folder.step("state replaced")?;
        self.remove_marks(&[DIFFERS, SUSPECT, WHOLE, UNREPLACED, REBUILD])?;
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
        let switched = StateFolders::mark(&states.current()?)?;
        let filled = Filled::read(self.folder.path())?;
        filled.map_or(Ok(()), |filled| filled.check(&Held::before(&journal)))?;
        if switched.is_none() {
            // Peers gave it these, and not the journal.
            self.refuse_lost(filled.map_or(journal.held, |filled| filled.upto.max(journal.held)))?;
        }
        journal.upto = journal.upto.max(switched.map_or(Slot::ZERO, Slot));
        let is_doubt = marks::is_doubt(mark);
        let unreplaced = if is_doubt { marks::unreplaced(self.folder.path())? } else { 0 };
        // Nor when it was read before nobody gave another one.
        let was_read = self.folder.has(WHOLE)? || unreplaced > 0;
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
        let Some(verified) = self.fetch_or_fill(journal, is_doubt, unreplaced, door)? else {
            return Ok(false);
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

    /// Brings a state, unless the own one stays: because the slots came that it lacked, or since nobody
    /// gives another one.
    fn fetch_or_fill(
        &self,
        journal: Behind,
        is_doubt: bool,
        unreplaced: u32,
        door: &TcpListener,
    ) -> Result<Option<Verified>, StartError> {
        let patience = self.patience(journal.upto, unreplaced)?;
        // A state that an operator gave up is not made to last.
        let filling = if is_doubt { self.filling(journal) } else { None };
        self.folder.step("filling begun")?;
        let mut fetched = self.fetch(journal, filling, patience, door);
        if let Ok(Fetched::Slots) = fetched {
            self.folder.step("slots fetched")?;
            if self.is_whole(journal.upto)? {
                return self.keep().map(|()| None);
            }
            // Those that were met know the life that asked, and would take another that says it has the
            // same one for a second process on a copy.
            let (dir, lineage) = (self.folder.journal(), self.identity.lineage());
            let next = Journal::look_behind_damage(&dir, lineage)?;
            let next = Behind { upto: next.upto.max(journal.upto), ..next };
            fetched = self.fetch(next, None, patience, door);
        }
        match fetched {
            Err(StartError::NoState { why }) if is_doubt => {
                self.do_without(why, journal.upto, unreplaced).map(|()| None)
            }
            Ok(Fetched::State(verified)) => Ok(Some(verified)),
            Ok(Fetched::Slots | Fetched::Dismissed(_)) => unreachable!("nothing was being filled"),
            Err(error) => Err(error),
        }
    }

    /// How long it asks, when nobody gave anything so many times.
    fn patience(&self, upto: Slot, unreplaced: u32) -> Result<Duration, StartError> {
        // One that can't go on with what it has has nothing better to do than to ask.
        let can_go_on = self.durable_slot()?.is_some_and(|applied| applied >= upto);
        Ok(patience(if can_go_on { unreplaced } else { 0 }))
    }

    /// The own state, if it can be used and all that it lacks are slots that the journal lost.
    fn filling(&self, journal: Behind) -> Option<Filling> {
        let applied = self.durable_slot().ok().flatten()?;
        if applied >= journal.upto {
            return None;
        }
        let opened = || -> Result<Filling, StartError> {
            let path = self.folder.states().current()?;
            let store = Store::open(path, &tuning::store_options(self.settings))?;
            let machine = StateMachine::open(store.clone(), KvOptions::default());
            let machine = machine.map_err(StartError::State)?;
            // Before anything is applied that the journal may not hold.
            self.folder.replace(FILLED, &Filled::of(&journal).encode())?;
            let shared = Arc::new(Shared::default());
            let applier = Applier::new(machine, self.identity, journal.incarnation, shared);
            Ok(Filling::new(applier, store, journal.upto, Instant::now()))
        };
        let opened = opened();
        opened.inspect_err(|error| tracing::warn!(%error, "the own state cannot be used")).ok()
    }

    /// A journal that lost its end at the same time as the state was damaged may have lost a
    /// promise. The old state tells it, if it can be opened: what it has the journal had before.
    fn refuse_lost(&self, held: Slot) -> Result<(), StartError> {
        let applied = self.durable_slot()?;
        match applied.filter(|applied| *applied > held) {
            Some(applied) => Err(RecoveryError::JournalLost { applied, journal: held }.into()),
            None => Ok(()),
        }
    }

    /// Where the state ends; none when it does not tell.
    fn durable_slot(&self) -> Result<Option<Slot>, StartError> {
        let current = self.folder.states().current()?;
        if !folder::exists(&current)? {
            return Ok(None);
        }
        let opened = Store::open_read_only(&current).ok();
        Ok(opened.and_then(|store| durable_slot(&store).ok()))
    }

    /// Nobody gives a state. Those that have one may have given it up for no good reason, or
    /// each of several may lack another block and wait for the others: then this node is needed
    /// as it is. What it owes is in its journal, and of what is damaged it tells nothing.
    fn do_without(&self, why: String, upto: Slot, unreplaced: u32) -> Result<(), StartError> {
        let was_kept = self.folder.has(WHOLE)?;
        if was_kept && unreplaced == 0 && self.is_whole(upto)? {
            return self.keep();
        }
        if self.durable_slot()?.is_none_or(|applied| applied < upto) {
            return Err(StartError::NoState { why });
        }
        tracing::error!(
            why,
            "nobody gives a state: the node goes on with what can be read of its own, and asks \
             again later"
        );
        marks::set_unreplaced(self.folder.path(), unreplaced.saturating_add(1))?;
        // The mark that stays says as much.
        Ok(folder::remove(self.folder.path(), SUSPECT)?)
    }

    /// Whether all of the state can be read, and it ends not before this slot.
    fn is_whole(&self, upto: Slot) -> Result<bool, StartError> {
        let current = self.folder.states().current()?;
        if !folder::exists(&current)? {
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
        Damages::open(self.folder.path()).mend(DamagedPart::State);
        // While both are there a start takes the state for one that was doubted again.
        self.remove_marks(&[SUSPECT, UNREPLACED, REBUILD])?;
        self.folder.replace(WHOLE, b"the state was doubted, and all of it was read\n")?;
        Ok(self.folder.step("state kept")?)
    }

    fn remove_marks(&self, marks: &[&str]) -> Result<(), StartError> {
        for mark in marks {
            folder::remove(self.folder.path(), mark)?;
            self.folder.step(&format!("{mark} gone"))?;
        }
        Ok(())
    }

    /// Brings the state of some peer behind which this node's journal goes on, or the slots that
    /// `filling` lacks.
    fn fetch(
        &self,
        journal: Behind,
        filling: Option<Filling>,
        patience: Duration,
        door: &TcpListener,
    ) -> Result<Fetched, StartError> {
        let Rebuild { folder, settings, identity, stop } = *self;
        if peers_of(folder, settings, identity).is_empty() {
            return Err(StartError::NoState { why: "this node has no peers".to_owned() });
        }
        let Behind { upto, promised, position, incarnation, .. } = journal;
        let members = membership(folder, settings, identity)?;
        let mut to =
            members.transport_settings(settings, identity, (promised, position, incarnation));
        add_known(&mut to, settings, folder)?;
        let door = door.try_clone().map_err(StartError::Thread)?;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(StartError::Thread)?;
        let fetch = Fetch::new(folder.states(), settings.snapshot.clone(), Instant::now());
        let peers = to.peers.iter().map(|peer| peer.node);
        let slots = Slots::new(&folder.journal(), identity.lineage(), filling);
        let newest = &members.roster().newest;
        let dismissals = Dismissals::new(identity.node, newest);
        let asking =
            Asking::new((fetch, slots, dismissals), Slot(upto.0 - 1), peers, patience, stop);
        let fetched = LocalSet::new().block_on(&runtime, async move {
            let (transport, incoming) = Transport::start(to, door).map_err(StartError::Thread)?;
            let fetched = asking.run(&transport, incoming).await;
            transport.close(CLOSE_TIMEOUT).await;
            fetched
        });
        match fetched {
            Err(StartError::Barred { words, for_good: true }) => {
                folder.replace(WENT_BACK, format!("{words}\n").as_bytes())?;
                Err(StartError::WentBack { path: folder.path().join(WENT_BACK), words })
            }
            Ok(Fetched::Dismissed(number)) => {
                let words = format!("{}\n", ServeError::Removed(number));
                folder.replace(REMOVED_FILE, words.as_bytes())?;
                Err(StartError::Removed(folder.path().join(REMOVED_FILE)))
            }
            fetched => fetched,
        }
    }
}

/// Dials, beside the members as the state names them, those that the settings name: what can be
/// read of the state may be older than they, or nothing.
fn add_known(
    to: &mut TransportSettings,
    settings: &Settings,
    folder: &Folder,
) -> Result<(), StartError> {
    let me = to.own.node;
    for member in settings.members_by_id() {
        let node = NodeId(member.id);
        if node != me && to.peers.iter().all(|peer| peer.node != node) {
            to.peers.push(PeerAddress { node, address: member.peer, spare: None });
        }
    }
    for pin in Pins::open(folder)?.list() {
        let is_peer = to.peers.iter().any(|peer| peer.node == pin.node);
        if is_peer && to.pins.iter().all(|known| known.node != pin.node) {
            to.pins.push(pin);
        }
    }
    Ok(())
}

/// Everybody that may have a state.
fn peers_of(folder: &Folder, settings: &Settings, identity: &Identity) -> BTreeSet<NodeId> {
    let mut peers = known_peers(folder.path(), identity);
    peers.extend(settings.members.iter().map(|member| NodeId(member.id)));
    peers.remove(&identity.node);
    peers
}

/// Those of them that the data folder names.
pub(crate) fn known_peers(folder: &Path, identity: &Identity) -> BTreeSet<NodeId> {
    let pins = Pins::read(folder).map(|pins| pins.list()).unwrap_or_default();
    let first = identity.configuration.members().iter().copied();
    let mut peers: BTreeSet<NodeId> = first.chain(pins.into_iter().map(|pin| pin.node)).collect();
    peers.remove(&identity.node);
    peers
}

/// The members as the state names them, if that much can be read of it.
fn membership(
    folder: &Folder,
    settings: &Settings,
    identity: &Identity,
) -> Result<Membership, StartError> {
    let states = folder.states();
    let found = [states.aside()?, Some(states.current()?)].iter().flatten().find_map(|path| {
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

#[cfg(test)]
mod tests {
    use synod_paxos::{Ballot, Position};
    use synod_transport::{Own, Pin};
    use synod_wire::Versions;

    use super::*;

    /// Hosts 1 to 3 became 4 to 6 since: only the settings of node 4 know 5 and 6.
    #[test]
    fn those_that_only_the_settings_name_are_dialled_too() {
        let member = |id: u32| {
            format!(
                "[[members]]\nid = {id}\npeer = \"127.0.0.1:{id}\"\n\
                 client_url = \"http://127.0.0.1:10{id}\"\n"
            )
        };
        let members: String = (4..=6).map(member).collect();
        let text = format!(
            "node_id = 4\ndata_dir = \"data\"\n[cluster]\n\
             id = \"00112233445566778899aabbccddeeff\"\n[peer]\nlisten = \"127.0.0.1:4\"\n\
             [client]\nlisten = \"127.0.0.1:104\"\n{members}"
        );
        let dir = tempfile::tempdir().expect("a folder");
        let settings = Settings::parse(&text, &dir.path().join("synod.toml")).expect("settings");
        let folder = Folder::create(&settings.data_dir).expect("made");
        let mut pins = Pins::open(&folder).expect("none yet");
        for node in [5, 9] {
            pins.keep(NodeId(node), u128::from(node)).expect("kept");
        }
        let peer = |node, address: &str| PeerAddress {
            node: NodeId(node),
            address: address.to_owned(),
            spare: None,
        };
        let mut to = TransportSettings {
            own: Own { cluster: 1, node: NodeId(4), store: 1, incarnation: 1, founded: 1 },
            versions: Versions::of_writer(1),
            promised: Ballot::ZERO,
            position: Position::ZERO,
            peers: vec![peer(1, "a:1"), peer(6, "moved:6")],
            pins: Vec::new(),
            limits: synod_transport::Limits::default(),
        };
        add_known(&mut to, &settings, &folder).expect("readable");
        let expected = [peer(1, "a:1"), peer(6, "moved:6"), peer(5, "127.0.0.1:5")];
        assert_eq!(to.peers, expected);
        assert_eq!(to.pins, [Pin { node: NodeId(5), store: 5 }]);
    }
}
