//! Whoever watches is told each change of its keys once, in order, and none is missing.
//!
//! The changes are those of [`super::story`], with their records and those that they replaced.
//! What a watch was told since the last id that it got must always be how the story goes on, and
//! with an id it must be all of that up to there. An end because what comes next is not kept
//! any more must be true. At the end every watch is led to the last revision.

use synod_kv::Revision;
use synod_kv::read::Change;

use crate::checkers::story::Story;
use crate::checkers::{Check, Checker, demand};

/// What one watch was told since the last id.
#[derive(Clone, Debug)]
pub struct Told {
    prefix: Vec<u8>,
    last: Revision,
    since: Vec<Change>,
}

impl Told {
    /// A watch of the keys that begin with this, from behind a revision on.
    #[must_use]
    pub fn behind(prefix: &[u8], last: Revision) -> Self {
        Told { prefix: prefix.to_vec(), last, since: Vec::new() }
    }

    /// The last id that it got.
    #[must_use]
    pub fn last(&self) -> Revision {
        self.last
    }

    /// Whether it was told something since.
    #[must_use]
    pub fn is_within(&self) -> bool {
        !self.since.is_empty()
    }

    /// It was cut off, and throws away what came since the last id.
    pub fn cut(&mut self) {
        self.since.clear();
    }

    /// It is told of a change.
    ///
    /// # Errors
    /// When that is not what happened next.
    pub fn event(&mut self, change: &Change, story: &Story) -> Check {
        let next = story.changes(&self.prefix, self.last, story.revision()).nth(self.since.len());
        demand(next == Some(change), Checker::Watches, || {
            format!(
                "a watch of {:?} was told {change:?} behind revision {} and {} changes: what \
                 happened next is {next:?}",
                self.prefix,
                self.last,
                self.since.len(),
            )
        })?;
        self.since.push(change.clone());
        Ok(())
    }

    /// It gets an id: everything up to there was told.
    ///
    /// # Errors
    /// When something is missing.
    pub fn id(&mut self, upto: Revision, story: &Story) -> Check {
        let missing = story.changes(&self.prefix, self.last, upto).nth(self.since.len());
        let is_there = self.last <= upto && upto <= story.revision();
        demand(missing.is_none() && is_there, Checker::Watches, || {
            format!(
                "a watch of {:?} got the id {upto} behind {} at revision {}, and was not told \
                 {missing:?}",
                self.prefix,
                self.last,
                story.revision(),
            )
        })?;
        self.last = upto;
        self.since.clear();
        Ok(())
    }

    /// It is told that what comes next is not kept any more. It begins anew where it is.
    ///
    /// # Errors
    /// When it is kept.
    pub fn compacted(&mut self, oldest: Revision, story: &Story) -> Check {
        let (last, compacted) = (self.last, story.compacted());
        demand(last.0 + 1 < oldest.0 && oldest.0 <= compacted.0 + 1, Checker::Watches, || {
            format!("a watch behind {last} ended as compacted before {oldest}; it is {compacted}")
        })?;
        self.last = Revision(oldest.0 - 1);
        self.since.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::story::tests as stories;

    /// Both keys put, one of them gone with its lease, and both put again.
    fn story() -> Story {
        let mut told = stories::Told::default();
        told.put(1, ["la", "lb"]);
        told.end(2, 1);
        told.put(3, ["la", "lb"]);
        told.story
    }

    fn changes(story: &Story) -> Vec<Change> {
        story.changes(b"", Revision(0), Revision(9)).cloned().collect()
    }

    #[test]
    fn all_of_it_in_order_is_right_with_any_cut_in_between() {
        let story = story();
        let all = changes(&story);
        let mut told = Told::behind(b"l", Revision(0));
        told.event(&all[0], &story).expect("the first");
        told.cut();
        for change in &all[..2] {
            told.event(change, &story).expect("in order");
        }
        told.id(Revision(1), &story).expect("all of it");
        told.event(&all[2], &story).expect("in order");
        told.id(Revision(2), &story).expect("all of it");
        assert_eq!(told.last(), Revision(2));
        let mut other = Told::behind(b"lb", Revision(1));
        other.id(Revision(2), &story).expect("nothing happened to it");
    }

    #[test]
    fn what_is_skipped_doubled_early_or_unknown_is_found() {
        let story = story();
        let all = changes(&story);
        let behind = |revision| Told::behind(b"l", Revision(revision));
        assert!(behind(0).event(&all[1], &story).is_err(), "skipped");
        assert!(behind(1).event(&all[1], &story).is_err(), "doubled");
        let mut told = behind(0);
        told.event(&all[0], &story).expect("the first");
        assert!(told.event(&all[0], &story).is_err(), "doubled");
        assert!(told.id(Revision(1), &story).is_err(), "within a revision");
        assert!(behind(2).id(Revision(3), &story).is_err(), "not told");
        assert!(behind(3).id(Revision(4), &story).is_err(), "that is not yet");
        assert!(behind(2).id(Revision(1), &story).is_err(), "back");
        let mut other = all[0].clone();
        other.record.as_mut().expect("a put").version += 1;
        assert!(behind(0).event(&other, &story).is_err(), "it says something else");
        assert!(behind(0).compacted(Revision(2), &story).is_err(), "it is kept");
    }
}
