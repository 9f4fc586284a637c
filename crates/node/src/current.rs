//! Which store is the state now. A snapshot puts another one in its place while
//! readers still look into the one before.

use std::io;
use std::sync::{Mutex, PoisonError, RwLock};
use std::thread::{self, JoinHandle};

use synod_storage::Store;

/// The state's store, and those that were.
#[derive(Debug)]
pub(crate) struct CurrentStore {
    current: RwLock<Store>,
    /// Until their last reader is gone.
    retired: Mutex<Vec<Store>>,
    /// What compacts a whole state.
    compaction: Mutex<Option<JoinHandle<()>>>,
}

impl CurrentStore {
    pub(crate) fn new(store: Store) -> Self {
        let current = RwLock::new(store);
        CurrentStore { current, retired: Mutex::default(), compaction: Mutex::default() }
    }

    /// The store of now. Whoever holds it sees one state, and keeps its files.
    pub(crate) fn get(&self) -> Store {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on `store` is the state.
    pub(crate) fn replace(&self, store: Store) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *current, store);
        drop(current);
        before.stop_work();
        self.retired.lock().unwrap_or_else(PoisonError::into_inner).push(before);
    }

    /// Compacts the whole state, on a thread of its own, since it takes long and blocks.
    /// One is enough at a time. Says whether this one began.
    pub(crate) fn compact(&self) -> bool {
        let mut compaction = self.compaction.lock().unwrap_or_else(PoisonError::into_inner);
        if compaction.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return false;
        }
        let store = self.get();
        let thread = thread::Builder::new().name("synod-compact".to_owned());
        // Without a thread for it there is none now; it is due again in a second.
        *compaction = thread.spawn(move || store.compact()).ok();
        compaction.is_some()
    }

    /// Whether that is under way.
    pub(crate) fn is_compacting(&self) -> bool {
        let compaction = self.compaction.lock().unwrap_or_else(PoisonError::into_inner);
        compaction.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Ends what is at work in the state. Nothing holds its folder because of that any more:
    /// the next life of this node may be one of the same process.
    pub(crate) fn end(&self) {
        self.get().stop_work();
        let compaction = self.compaction.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = compaction {
            // If it panicked that was reported.
            let _ = thread.join();
        }
    }

    /// Removes the stores that nobody reads any more, with their files.
    ///
    /// # Errors
    /// When files can't be removed; the next start tries again.
    pub(crate) fn remove_retired(&self) -> io::Result<()> {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        for store in std::mem::take(&mut *retired) {
            retired.extend(store.remove_if_unused()?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use synod_storage::StoreOptions;

    use super::*;

    #[test]
    fn when_it_ended_nothing_holds_the_state_any_more() {
        let folder = tempfile::tempdir().expect("a folder");
        for round in 0..20 {
            let path = folder.path().join(format!("state-{round}"));
            let store = Store::open(&path, &StoreOptions::default()).expect("opens");
            let current = CurrentStore::new(store.clone());
            current.compact();
            current.end();
            drop(current);
            assert!(store.remove_if_unused().expect("removed").is_none(), "it is held still");
        }
    }
}
