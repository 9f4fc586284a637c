//! Nodes of two releases in one cluster: an operator upgrades them one by one under load, takes
//! them back, and raises what they may write; mostly in the order that docs/upgrade.md asks for.
//!
//! The next release is the one that tests/upgrade.rs plays: one version more, and one field more
//! in heartbeats, in batches and in the journal's records. In the seeds that mix them every
//! message is encoded in the version that the two agreed on and decoded as the release of the
//! receiver does, and so are the records of a journal between its writer and its next start.

use bytes::{Bytes, BytesMut};
use fastrand::Rng;
use synod_paxos::{NodeId, Value};
use synod_wire::batch::{self, Batch};
use synod_wire::{DecodeError, PeerMessage, Versions, frame, version};

use crate::checkers::versions::Versions as Readable;
use crate::checkers::{Check, Violation};
use crate::coverage::Rare;
use crate::disk::Form;
use crate::fault::Fault;
use crate::happening::Happening;
use crate::mistakes::Mistake;
use crate::node::{Fate, Node, Process};
use crate::plan::Plan;
use crate::words;
use crate::world::World;

/// The version that the newer of the two releases brings.
pub(crate) const NEXT: u32 = version::OF_NEXT_RELEASE;

/// What is installed on a machine: a release, and what its operator lets it write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Release {
    /// The newest version that the release knows.
    pub(crate) newest: u32,
    /// See `write_version` in the settings.
    pub(crate) written: u32,
}

impl Release {
    pub(crate) const OLDER: Release = Release { newest: NEXT - 1, written: NEXT - 1 };
    const NEWER: Release = Release { newest: NEXT, written: NEXT - 1 };
    const RAISED: Release = Release { newest: NEXT, written: NEXT };

    /// What it speaks.
    pub(crate) fn versions(self) -> Versions {
        Versions::of_release(self.newest, self.written)
    }

    fn is_older(self) -> bool {
        self.newest < NEXT
    }

    fn form(self, mistake: Option<Mistake>) -> Form {
        let is_hasty = mistake == Some(Mistake::JournalInNewestForm);
        let written = if is_hasty { self.newest } else { self.written };
        let is_silent = mistake == Some(Mistake::FormNotNamed);
        Form { written, named: if is_silent { NEXT - 1 } else { written } }
    }
}

/// What is installed in the beginning: mostly the older release everywhere.
pub(crate) fn in_the_beginning(plan: &Plan) -> impl FnMut() -> Release + use<> {
    let mut rng = plan.rng(0x3e1e);
    let is_mixed = plan.mixes_releases() && rng.u8(..3) == 0;
    move || if is_mixed && rng.bool() { Release::NEWER } else { Release::OLDER }
}

/// What a release makes of a batch of the log.
pub(crate) fn read_batch(
    bytes: &Bytes,
    newest: u32,
    mistake: Option<Mistake>,
) -> Result<Batch, DecodeError> {
    if mistake == Some(Mistake::OlderFormMisread) && newest == NEXT {
        let mut misread = BytesMut::from(&bytes[..]);
        misread[0] = u8::try_from(NEXT).expect("a small number");
        return batch::decode_as_of(newest, misread.freeze());
    }
    batch::decode_as_of(newest, bytes.clone())
}

/// Whether the value is a batch of the newer form.
pub(crate) fn has_newer_form(value: &Value) -> bool {
    match value {
        Value::Batch(bytes) => bytes.first().is_some_and(|form| u32::from(*form) == NEXT),
        Value::Noop | Value::Configuration(_) => false,
    }
}

/// A message on its way.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "in most seeds all are of the large one")]
pub(crate) enum Parcel {
    /// As the host spoke it: where all are of one release the encoding is looked at before.
    Spoken(PeerMessage),
    /// As one frame.
    Frame(Bytes),
}

impl Parcel {
    fn open(self, newest: u32, mistake: Option<Mistake>) -> Result<PeerMessage, DecodeError> {
        let mut bytes = match self {
            Parcel::Spoken(message) => return Ok(message),
            Parcel::Frame(bytes) => bytes,
        };
        let header = frame::Header::decode(&bytes)?;
        let message = frame::decode_as_of(newest, header, bytes.split_off(frame::HEADER_BYTES))?;
        let is_longer = || frame::body_bytes_for(newest, &message) < header.body_bytes();
        if mistake == Some(Mistake::UnknownFieldRefused) && is_longer() {
            return Err(DecodeError::LeftOver("a block"));
        }
        Ok(message)
    }
}

impl Process {
    /// Values are cut in what may be written and all read to whom it talks.
    pub(crate) fn settle_log_version(&mut self, mistake: Option<Mistake>) {
        let Release { newest, written } = self.release;
        let unmet = (mistake == Some(Mistake::UnmetReadNewest)).then_some(newest);
        let named = self.talks_to.iter().map(|id| {
            let heard = &self.heard[id.0 as usize - 1];
            heard.spoken.map(|(_, newest)| newest).or(unmet)
        });
        let known = match mistake {
            Some(Mistake::NewFormTooEarly) => newest,
            _ => version::known_to_all(newest, named),
        };
        self.host.set_log_version(written.min(known));
    }
}

impl World<'_> {
    /// Makes a message ready for its way.
    pub(crate) fn pack(&mut self, from: NodeId, to: NodeId, message: PeerMessage) -> Parcel {
        if !self.plan.mixes_releases() {
            let recodes = self.plan.encodes_messages;
            return Parcel::Spoken(if recodes { words::recoded(&message) } else { message });
        }
        let process = self.node(from).process.as_ref().expect("it steps");
        let spoken = process.heard[to.0 as usize - 1].spoken;
        let version = spoken.map_or(version::OLDEST, |(version, _)| version);
        let mut bytes = BytesMut::new();
        frame::encode_for(version, &message, &mut bytes);
        Parcel::Frame(bytes.freeze())
    }

    /// What a node reads of what has arrived.
    pub(crate) fn open(&mut self, by: NodeId, parcel: Parcel) -> Result<PeerMessage, Violation> {
        let node = self.node(by);
        let newest = node.process.as_ref().map_or(node.release, |process| process.release);
        let opened = parcel.open(newest.newest, node.mistake);
        opened.map_err(|error| Readable::misread(by, "a message", &error))
    }

    /// The operator has the node run another release, or write another form, or starts it
    /// anew as it is.
    pub(crate) fn change_release(&mut self, victim: NodeId) -> Check {
        let fault = Fault::Upgrade;
        let is_there = |node: &&Node| !matches!(node.fate, Fate::Lost | Fate::Left);
        let all_newer = self.nodes.iter().filter(is_there).all(|node| !node.release.is_older());
        let is_raised = self.checks.versions.is_raised();
        let node = &self.nodes[victim.0 as usize - 1];
        if !is_there(&node) || !node.is_member() {
            return Ok(());
        }
        let now = node.release;
        let next = draw_next(self.nemesis.rng(fault), now, all_newer, is_raised);
        self.coverage.fault(fault);
        self.node(victim).release_before = now;
        self.set_release(victim, next);
        if next.written == NEXT && !is_raised {
            self.checks.versions.raise();
            // Who joins from now on gets what the members have.
            for id in (1..=self.plan.members).map(NodeId) {
                if self.node(id).fate == Fate::Waits {
                    self.set_release(id, Release::NEWER);
                }
            }
        }
        self.strike_down(fault, victim)
    }

    fn set_release(&mut self, id: NodeId, release: Release) {
        let Release { newest, written } = release;
        let words = [words::INSTALLS, u64::from(id.0), newest.into(), written.into()];
        self.trace.note(self.now_us, words, || format!("{id} gets {release:?}"));
        let before = std::mem::replace(&mut self.node(id).release, release);
        self.checks.versions.installed(id, release.is_older());
        if release.is_older() && !before.is_older() && !self.checks.versions.is_raised() {
            self.coverage.rare(Rare::TakenBack);
        }
    }

    /// Reads the records of a journal back as the release does that is to start. Says whether
    /// it may.
    pub(crate) fn read_records(&mut self, id: NodeId) -> Result<bool, Violation> {
        if !self.plan.mixes_releases() {
            return Ok(true);
        }
        let node = self.node(id);
        let (release, mistake) = (node.release, node.mistake);
        if node.disk.newest_form() > release.newest {
            Readable::refused_start(id, node.disk.was_raised)?;
            let before = node.release_before;
            self.coverage.rare(Rare::TakenBackRefused);
            self.set_release(id, before);
            let again_us = self.nemesis.rng(Fault::Upgrade).u64(1_000..1_000_000);
            self.at(again_us, Happening::Start { node: id });
            return Ok(false);
        }
        let forms = node.disk.read_back(release.newest);
        node.disk.was_raised |= release.written == NEXT;
        node.disk.form = Some(release.form(mistake));
        match forms {
            Ok(forms) if !release.is_older() => {
                let of = |form: u32| if form == NEXT { Rare::NewerRead } else { Rare::OlderRead };
                forms.into_iter().for_each(|form| self.coverage.rare(of(form)));
            }
            Ok(_) => {}
            Err(error) => return Err(Readable::misread(id, "its own journal", &error)),
        }
        Ok(true)
    }

    /// A value is in the log that the release does not know: the node ends, and gets a newer one.
    pub(crate) fn stop_unreadable(&mut self, id: NodeId) -> Check {
        // Nobody waits with the newer form for one that was removed and has not heard of it.
        let newest = &self.checks.agreement.configurations().newest().configuration;
        if newest.contains(id) {
            self.checks.versions.cannot_read(id, "a batch of the log")?;
        }
        self.trace.note(self.now_us, [words::STOPS, u64::from(id.0), 3, 0], || {
            format!("{id} stops: it does not know the form of a batch")
        });
        self.set_release(id, Release::NEWER);
        self.strike_down(Fault::Upgrade, id)?;
        let again_us = self.nemesis.rng(Fault::Upgrade).u64(1_000..1_000_000);
        self.at(again_us, Happening::Start { node: id });
        Ok(())
    }

    /// At the healing an upgrade that cannot be taken back is brought to its end.
    pub(crate) fn finish_upgrade(&mut self) {
        for id in (1..=self.plan.members).map(NodeId) {
            if self.checks.versions.is_raised() && self.node(id).release.is_older() {
                self.set_release(id, Release::NEWER);
            }
        }
    }
}

/// What comes next on a node. In order, all get the newer release before one is raised, and
/// nobody is taken back after that; but some operators hurry, and some are late.
fn draw_next(rng: &mut Rng, now: Release, all_newer: bool, is_raised: bool) -> Release {
    let (hurries, is_late, choice) = (rng.u8(..8) == 0, rng.bool(), rng.u8(..3));
    match (now, choice) {
        (Release::OLDER, _) => Release::NEWER,
        (Release::NEWER, 0) if !is_raised || is_late => Release::OLDER,
        (Release::NEWER, 1..) if all_newer || hurries => Release::RAISED,
        (Release::RAISED, 0) => Release::OLDER,
        (Release::RAISED, 1) => Release::NEWER,
        _ => now,
    }
}
