//! What is known of damage on this node's disk: what was found, when, and whether it is mended.
//!
//! A small file keeps it for the next life. To know of it is worth no node: a file that can't be
//! written or read is only missed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use synod_kv::http::{DamageBody, DamagedPart};

use crate::folder;

/// What is known, as `/v1/status` tells it.
const FILE: &str = "damage.json";
/// So much damage is told apart. What comes after that counts as met before.
const APART_MAX: usize = 64;
/// Damage that is met again is told so often at the most.
const AGAIN_EVERY: Duration = Duration::from_secs(60);

/// The last damage of each part, and what this life met of it.
#[derive(Debug, Default)]
pub(crate) struct Damages {
    folder: Option<PathBuf>,
    known: Vec<DamageBody>,
    /// What was said of damage that this life met and that is not mended.
    met: BTreeSet<String>,
    /// How often such damage was met again, and nobody was told.
    again: u64,
    told_at: Option<Instant>,
    /// How often any was met.
    count: u64,
}

/// What is to be told of damage that was met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tell {
    /// It is new.
    First,
    /// Damage that was met before was met again so often since that was told last.
    Again(u64),
    /// That was told a moment ago.
    Nothing,
}

impl Damages {
    /// Of the node in this data folder. If the file can't be read nothing is known.
    pub(crate) fn open(folder: &Path) -> Damages {
        let content = folder::read(folder, FILE).ok().flatten();
        let known = content.and_then(|content| serde_json::from_slice(&content).ok());
        let known = known.unwrap_or_default();
        Damages { folder: Some(folder.to_owned()), known, ..Damages::default() }
    }

    /// For the status.
    pub(crate) fn known(&self) -> &[DamageBody] {
        &self.known
    }

    /// How often any was met in this life.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// A part is damaged, and so it was said.
    pub(crate) fn meet(&mut self, part: DamagedPart, what: &str, now: Instant) -> Tell {
        self.count += 1;
        let is_new = self.met.len() < APART_MAX && self.met.insert(what.to_owned());
        if is_new {
            self.told_at.get_or_insert(now);
            self.note(part, what);
            return Tell::First;
        }
        self.again += 1;
        if self.told_at.is_some_and(|at| now.duration_since(at) < AGAIN_EVERY) {
            return Tell::Nothing;
        }
        self.told_at = Some(now);
        Tell::Again(std::mem::take(&mut self.again))
    }

    /// Nothing is damaged there any more, or nothing was.
    pub(crate) fn mend(&mut self, part: DamagedPart) {
        // If it comes back it is new.
        self.met.clear();
        (self.again, self.told_at) = (0, None);
        let mut open = self.known.iter_mut().filter(|damage| damage.mended_at_s.is_none());
        if let Some(damage) = open.find(|damage| damage.part == part) {
            damage.mended_at_s = Some(now_s());
            self.keep();
        }
    }

    /// An earlier life left this mark of a damaged state.
    pub(crate) fn note_mark(&mut self, mark: &[u8]) {
        let is_open =
            |damage: &DamageBody| damage.part == DamagedPart::State && damage.mended_at_s.is_none();
        if !self.known.iter().any(is_open) {
            self.note(DamagedPart::State, String::from_utf8_lossy(mark).trim());
        }
    }

    fn note(&mut self, part: DamagedPart, what: &str) {
        let known = self.known.iter().find(|damage| damage.part == part);
        // An earlier life met it.
        if known.is_some_and(|damage| damage.what == what && damage.mended_at_s.is_none()) {
            return;
        }
        self.known.retain(|damage| damage.part != part);
        let (what, found_at_s) = (what.to_owned(), now_s());
        self.known.push(DamageBody { part, what, found_at_s, mended_at_s: None });
        self.keep();
    }

    fn keep(&self) {
        let Some(folder) = &self.folder else { return };
        let mut text = serde_json::to_vec_pretty(&self.known).expect("plain fields");
        text.push(b'\n');
        if let Err(error) = folder::replace(folder, FILE, &text) {
            tracing::warn!(%error, "the next start will not know what was damaged");
        }
    }
}

/// Seconds since 1970.
pub(crate) fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use DamagedPart::{Journal, State};

    use super::*;

    #[test]
    fn damage_is_told_at_once_and_again_once_a_minute() {
        let (mut damages, begun) = (Damages::default(), Instant::now());
        assert_eq!(damages.meet(State, "a block", begun), Tell::First);
        for _ in 0..1_000 {
            assert_eq!(damages.meet(State, "a block", begun), Tell::Nothing);
        }
        assert_eq!(damages.meet(State, "another", begun), Tell::First);
        let later = begun + AGAIN_EVERY;
        assert_eq!(damages.meet(State, "another", later), Tell::Again(1_001));
        assert_eq!(damages.meet(State, "a block", later), Tell::Nothing);
        assert_eq!(damages.count(), 1_004);
    }

    #[test]
    fn any_number_of_blocks_takes_bounded_room() {
        let (mut damages, now) = (Damages::default(), Instant::now());
        let mut first = 0;
        for block in 0..1_000 {
            first += usize::from(damages.meet(State, &block.to_string(), now) == Tell::First);
        }
        assert_eq!((first, damages.met.len(), damages.known.len()), (APART_MAX, APART_MAX, 1));
    }

    #[test]
    fn the_next_life_knows_what_was_found_and_what_is_mended() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut damages = Damages::open(folder.path());
        damages.meet(State, "a block", Instant::now());
        damages.meet(Journal, "a file", Instant::now());
        damages.mend(Journal);
        let mut next = Damages::open(folder.path());
        assert_eq!(next.known(), damages.known());
        let is_open = |damages: &Damages, part| {
            let damage = damages.known.iter().find(|damage| damage.part == part);
            damage.expect("known").mended_at_s.is_none()
        };
        assert!(is_open(&next, State) && !is_open(&next, Journal));
        // Met again it is the same, and it is told to whoever reads this life's log.
        let before = next.known().to_vec();
        assert_eq!(next.meet(State, "a block", Instant::now()), Tell::First);
        assert_eq!(next.known(), before);
        next.note_mark(b"the block");
        next.mend(State);
        assert!(!is_open(&next, State) && next.known()[0].what == before[0].what);
        // What nobody noted when it was found.
        next.note_mark(b"another block\n");
        next.mend(State);
        let last = next.known().iter().find(|damage| damage.part == State).expect("known");
        assert!(last.what == "another block" && last.mended_at_s.is_some());
        assert_eq!(Damages::open(folder.path()).known(), next.known());
        // Mended it is new when it comes back.
        assert_eq!(next.meet(State, "a block", Instant::now()), Tell::First);
        assert!(is_open(&next, State));
    }
}
