//! The claims of the locks and elections that were asked for lately.
//!
//! What claims there are is in the state, but so is every claim that was: a listing passes by all
//! of them until their revisions are compacted, and an office that changes hands often would
//! get slower and slower. So a node remembers the living claims of an office as of a revision, and
//! looks only at what changed since.

use std::collections::HashMap;
use std::sync::Mutex;

use bytes::Bytes;
use synod_kv::read::{self, ChangeQuery, ListQuery, ReadError};
use synod_kv::{Entry, KeyRecord, Revision};

use crate::replica::Replica;

/// Claims and changes that one look at the state passes by. Few, for what a listing costs is told by
/// its looks.
const VISITS_MAX: usize = 250;
/// What is remembered at the most: so many offices, and of each claims of so many bytes.
const OFFICES_MAX: usize = 256;
const OFFICE_BYTES_MAX: usize = 256 << 10;

/// The offices that were asked for lately.
#[derive(Default, Debug)]
pub(crate) struct Lines {
    remembered: Mutex<Remembered>,
}

#[derive(Default, Debug)]
struct Remembered {
    offices: HashMap<Bytes, Remains>,
    /// How often something was remembered.
    count: u64,
}

/// The claims of an office as they were at a revision, or later.
#[derive(Clone, Debug)]
struct Remains {
    claims: HashMap<Bytes, KeyRecord>,
    at: Revision,
    /// How many looks it takes to list them.
    looks: usize,
    /// When it was remembered, counted by [`Remembered::count`].
    number: u64,
}

impl Lines {
    /// The claims below a prefix. They may be of several moments, but of each claim that is older
    /// than one of them it is seen if it still was there when this began.
    ///
    /// # Errors
    /// When the state can't be read.
    pub(crate) async fn claims<R: Replica>(
        &self,
        replica: &R,
        prefix: &Bytes,
        limit: usize,
    ) -> Result<Vec<Entry>, ReadError> {
        let mut known = self.get(prefix);
        if let Some(remains) = &mut known
            && !catch_up(replica, prefix, remains).await?
        {
            known = None;
        }
        let remains = match known {
            Some(remains) => remains,
            None => list(replica, prefix, limit).await?,
        };
        let entry = |(key, record): (&Bytes, &KeyRecord)| Entry {
            key: key.clone(),
            record: record.clone(),
        };
        let claims = remains.claims.iter().map(entry).collect();
        self.put(prefix, remains);
        Ok(claims)
    }

    fn get(&self, prefix: &Bytes) -> Option<Remains> {
        self.lock().offices.get(prefix).cloned()
    }

    fn put(&self, prefix: &Bytes, mut remains: Remains) {
        let mut remembered = self.lock();
        if remains.bytes() > OFFICE_BYTES_MAX {
            remembered.offices.remove(prefix);
            return;
        }
        remembered.count += 1;
        remains.number = remembered.count;
        if remembered.offices.len() >= OFFICES_MAX && !remembered.offices.contains_key(prefix) {
            let oldest = remembered.offices.iter().min_by_key(|(_, remains)| remains.number);
            if let Some(oldest) = oldest.map(|(prefix, _)| prefix.clone()) {
                remembered.offices.remove(&oldest);
            }
        }
        remembered.offices.insert(prefix.clone(), remains);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Remembered> {
        self.remembered.lock().expect("nothing panics while it is locked")
    }
}

impl Remains {
    /// About the memory that the claims take.
    fn bytes(&self) -> usize {
        let claim = |(key, record): (&Bytes, &KeyRecord)| {
            2 * size_of::<Entry>() + key.len() + record.value.len()
        };
        self.claims.iter().map(claim).sum()
    }
}

/// All claims below a prefix, passing by those that were. They are as they were in the first look
/// but for what changed while it went on, which the next catching up takes in once more.
async fn list<R: Replica>(replica: &R, prefix: &Bytes, limit: usize) -> Result<Remains, ReadError> {
    let mut query = ListQuery { visits_max: VISITS_MAX, limit, ..ListQuery::prefix(prefix) };
    let (mut claims, mut at, mut looks) = (HashMap::new(), None, 0);
    loop {
        let page = replica.read(|map| read::list_at(map, &query, None))?;
        at = at.or(Some(page.revision));
        looks += 1;
        claims.extend(page.entries.into_iter().map(|entry| (entry.key, entry.record)));
        let Some(next) = page.next else {
            let at = at.unwrap_or_default();
            return Ok(Remains { claims, at, looks, number: 0 });
        };
        query.start = next;
        tokio::task::yield_now().await;
    }
}

/// Takes in what changed since. False when a listing costs less, or when what changed is not known
/// any more: then only some of it may have been taken in.
async fn catch_up<R: Replica>(
    replica: &R,
    prefix: &Bytes,
    remains: &mut Remains,
) -> Result<bool, ReadError> {
    let ListQuery { start, end, .. } = ListQuery::prefix(prefix);
    let since = ChangeQuery::since(Revision(remains.at.0 + 1)).of_keys(start, end);
    let mut query = ChangeQuery { visits_max: VISITS_MAX, ..since };
    // Each revision changed something.
    let least = replica.revision().0.saturating_sub(remains.at.0);
    if least > (VISITS_MAX * remains.looks) as u64 {
        return Ok(false);
    }
    for _ in 0..remains.looks {
        let page = match replica.read(|map| read::changes(map, &query)) {
            Ok(page) => page,
            Err(ReadError::Compacted { .. } | ReadError::Future { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        for change in page.changes {
            match change.record {
                Some(record) => remains.claims.insert(change.key, record),
                None => remains.claims.remove(&change.key),
            };
        }
        if page.next.revision > page.revision {
            remains.at = page.revision;
            return Ok(true);
        }
        query.from = page.next;
        tokio::task::yield_now().await;
    }
    Ok(false)
}
