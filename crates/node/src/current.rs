//! Which store is the state now. A snapshot puts another one in its place while
//! readers still look into the one before.

use std::io;
use std::sync::{Mutex, PoisonError, RwLock};

use synod_storage::Store;

/// The state's store, and those that were.
#[derive(Debug)]
pub(crate) struct CurrentStore {
    current: RwLock<Store>,
    /// Until their last reader is gone.
    retired: Mutex<Vec<Store>>,
}

impl CurrentStore {
    pub(crate) fn new(store: Store) -> Self {
        CurrentStore { current: RwLock::new(store), retired: Mutex::default() }
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
