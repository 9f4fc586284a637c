//! Which watches are interested in a key, found without asking each of them.
//!
//! Watches of one key are found by a hash; those of ranges in an interval tree: an array
//! sorted by the lowest key, in which each half knows its highest bound. It is not changed but
//! made anew, and not for each change: what is new is kept beside it, and asked one by one,
//! until that is a good part of the whole.

use std::collections::HashMap;

use bytes::Bytes;

/// So many ranges may be asked one by one in any case.
const FRESH_MIN: usize = 32;

/// The name of a watch within this node.
pub(crate) type WatchId = u64;

/// The keys that a watch is interested in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Range {
    /// The lowest key.
    pub(crate) start: Bytes,
    /// The first key beyond; none for "to the end".
    pub(crate) end: Option<Bytes>,
}

impl Range {
    fn has(&self, key: &[u8]) -> bool {
        *key >= self.start[..] && self.end.as_ref().is_none_or(|end| *key < end[..])
    }

    /// Whether no other key than the lowest is in it.
    fn is_one_key(&self) -> bool {
        let Some(end) = &self.end else { return false };
        end.len() == self.start.len() + 1 && end.ends_with(&[0]) && end.starts_with(&self.start)
    }
}

/// All watches by their keys.
#[derive(Default, Debug)]
pub(crate) struct Index {
    keys: HashMap<Bytes, Vec<WatchId>>,
    /// Sorted by their lowest key.
    tree: Vec<Node>,
    /// Not in the tree yet.
    fresh: Vec<(WatchId, Range)>,
    /// Of the tree, those that are gone.
    gone: usize,
}

#[derive(Clone, Debug)]
struct Node {
    range: Range,
    /// None when it is gone.
    id: Option<WatchId>,
    /// The highest bound of the half that has this node in its middle.
    end: Option<Bytes>,
}

impl Index {
    /// Adds a watch.
    pub(crate) fn insert(&mut self, id: WatchId, range: Range) {
        if range.is_one_key() {
            self.keys.entry(range.start).or_default().push(id);
            return;
        }
        self.fresh.push((id, range));
        if self.fresh.len() > FRESH_MIN + self.tree.len() / 8 {
            self.rebuild();
        }
    }

    /// Takes a watch of this range out.
    pub(crate) fn remove(&mut self, id: WatchId, range: &Range) {
        if range.is_one_key() {
            if let Some(ids) = self.keys.get_mut(&range.start) {
                ids.retain(|known| *known != id);
                if ids.is_empty() {
                    self.keys.remove(&range.start);
                }
            }
            return;
        }
        if let Some(at) = self.fresh.iter().position(|(known, _)| *known == id) {
            self.fresh.swap_remove(at);
            return;
        }
        let first = self.tree.partition_point(|node| node.range.start < range.start);
        if let Some(node) = self.tree[first..].iter_mut().find(|node| node.id == Some(id)) {
            node.id = None;
            self.gone += 1;
        }
        if self.gone > FRESH_MIN + self.tree.len() / 2 {
            self.rebuild();
        }
    }

    /// Whether anybody is interested in a key.
    pub(crate) fn has(&self, key: &[u8]) -> bool {
        self.visit(key, &mut |_| false).is_none()
    }

    /// Visits everybody who is interested in a key.
    pub(crate) fn each(&self, key: &[u8], mut visit: impl FnMut(WatchId)) {
        self.visit(key, &mut |id| {
            visit(id);
            true
        });
    }

    /// None if the visitor did not want to go on.
    fn visit(&self, key: &[u8], visit: &mut dyn FnMut(WatchId) -> bool) -> Option<()> {
        let of_key = self.keys.get(key).into_iter().flatten().copied();
        let fresh = self.fresh.iter().filter(|(_, range)| range.has(key)).map(|(id, _)| *id);
        for id in of_key.chain(fresh) {
            visit(id).then_some(())?;
        }
        stab(&self.tree, key, visit)
    }

    fn rebuild(&mut self) {
        self.tree.retain(|node| node.id.is_some());
        self.gone = 0;
        let fresh = self.fresh.drain(..);
        self.tree.extend(fresh.map(|(id, range)| Node { range, id: Some(id), end: None }));
        self.tree.sort_by(|one, two| one.range.start.cmp(&two.range.start));
        bound(&mut self.tree);
    }
}

/// Tells each half its highest bound, and the caller that of all of it.
fn bound(tree: &mut [Node]) -> Option<Option<Bytes>> {
    let middle = tree.len() / 2;
    let (left, rest) = tree.split_at_mut(middle);
    let (node, right) = rest.split_first_mut()?;
    let mut end = node.range.end.clone();
    for half in [bound(left), bound(right)].into_iter().flatten() {
        end = end.zip(half).map(|(one, two)| one.max(two));
    }
    node.end.clone_from(&end);
    Some(end)
}

/// Visits those of the half that have the key.
fn stab(tree: &[Node], key: &[u8], visit: &mut dyn FnMut(WatchId) -> bool) -> Option<()> {
    let middle = tree.len() / 2;
    let Some(node) = tree.get(middle) else { return Some(()) };
    if node.end.as_ref().is_some_and(|end| end[..] <= *key) {
        return Some(());
    }
    stab(&tree[..middle], key, visit)?;
    if node.range.start[..] > *key {
        return Some(());
    }
    if let Some(id) = node.id.filter(|_| node.range.has(key)) {
        visit(id).then_some(())?;
    }
    stab(&tree[middle + 1..], key, visit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range() -> impl Strategy<Value = Range> {
        let key = || prop::collection::vec(0_u8..3, 0..4).prop_map(Bytes::from);
        let any = (key(), prop::option::of(key())).prop_map(|(start, end)| Range { start, end });
        let one = key().prop_map(|start| {
            let end = Some([&start[..], &[0]].concat().into());
            Range { start, end }
        });
        prop_oneof![any, one]
    }

    proptest! {
        #[test]
        fn it_finds_what_asking_each_would(
            steps in prop::collection::vec((range(), any::<bool>(), any::<prop::sample::Index>()), 0..200),
            keys in prop::collection::vec(prop::collection::vec(0_u8..3, 0..5), 20),
        ) {
            let (mut index, mut all) = (Index::default(), Vec::new());
            for (id, (range, removes, which)) in (1..).zip(steps) {
                index.insert(id, range.clone());
                all.push((id, range));
                if removes {
                    let (id, range) = all.swap_remove(which.index(all.len()));
                    index.remove(id, &range);
                }
            }
            for key in keys {
                let mut found = Vec::new();
                index.each(&key, |id| found.push(id));
                found.sort_unstable();
                let asked = all.iter().filter(|(_, range)| range.has(&key)).map(|(id, _)| *id);
                let mut asked: Vec<_> = asked.collect();
                asked.sort_unstable();
                prop_assert_eq!(index.has(&key), !asked.is_empty());
                prop_assert_eq!(found, asked);
            }
            for (id, range) in all {
                index.remove(id, &range);
            }
            prop_assert!(!index.has(b""));
            prop_assert!(index.keys.is_empty());
        }
    }
}
