//! Who holds leases beside the load: each has a key under its lease and keeps it alive for a
//! while, by whatever node answers. Then it lets the lease go, or just goes away.
//!
//! A renewal that was acknowledged promises that the lease lives for its full time from when it
//! was asked for, whatever becomes of the leader. The watches tell when the key went, or
//! rather that it was gone by then: so before that time nobody may have been told so. In the
//! end all keys must be gone.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::caller::{Caller, PATIENCE};
use super::load::Load;
use super::watches::Seen;
use crate::BenchError;
use crate::latency::micros;

/// Held at a time.
const HOLDERS: u64 = 3;
const TTL: Duration = Duration::from_secs(3);
/// Renewals of one lease at the most.
const RENEWALS_MAX: u32 = 20;
/// More than this many say nothing new.
const FINDINGS_MAX: usize = 5;
/// What leased keys begin with.
const PREFIX: &str = "chaos-lease/";

/// Whether it is a key under a lease.
pub(super) fn is_leased(key: &str) -> bool {
    key.starts_with(PREFIX)
}

/// A lease of this run and what was promised to its holder, by the run's clock.
#[derive(Debug, Clone, Default)]
pub(super) struct Held {
    key: String,
    /// The put of the key was acknowledged.
    is_put: bool,
    /// It lives until then at the least.
    promised_us: u64,
    renewals: u64,
    /// When its holder was told that it is no more.
    told_gone_us: Option<u64>,
    /// When its end was asked for.
    revoked_us: Option<u64>,
}

/// The leases of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Leases {
    /// How many were granted.
    pub granted: u64,
    /// Renewals that were acknowledged.
    pub kept: u64,
    /// Those that ended since nobody kept them.
    pub over: u64,
}

/// Holds leases until the load is stopped.
pub(super) fn hold(load: &Arc<Load>) -> Result<Vec<Held>, BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(async {
        let mut holders = JoinSet::new();
        for number in 0..HOLDERS {
            let holder = Holder { number, caller: Caller::new(load, number + 1) };
            holders.spawn(holder.run());
        }
        holders.join_all().await.into_iter().flatten().collect()
    }))
}

struct Holder {
    number: u64,
    caller: Caller,
}

#[derive(Deserialize)]
struct Granted {
    id: u64,
}

impl Holder {
    async fn run(mut self) -> Vec<Held> {
        let mut all = Vec::new();
        for turn in 0_u64.. {
            if self.caller.load.is_stopped() {
                break;
            }
            let key = format!("{PREFIX}{}/{turn}", self.number);
            match self.hold(key).await {
                Some(held) => all.push(held),
                None => sleep(PATIENCE / 4).await,
            }
        }
        all
    }

    /// One lease from its grant until its holder goes; none if nobody knows of one.
    async fn hold(&mut self, key: String) -> Option<Held> {
        let ttl = format!("{{\"ttl\":\"{}ms\"}}", TTL.as_millis());
        let asked_us = self.caller.load.now_us();
        let granted = self.caller.ask("POST", "/v1/lease", ttl.as_bytes()).await?;
        let Granted { id } = serde_json::from_slice(&granted.body).ok()?;
        let mut held = Held { promised_us: asked_us + micros(TTL), ..Held::default() };
        let target = format!("/v1/kv/{key}?lease={id}");
        held.key = key;
        let put = self.caller.ask("PUT", &target, b"1").await;
        held.is_put = put.is_some_and(|put| matches!(put.status, 200 | 201));
        for _ in 0..self.caller.random.u32(0..RENEWALS_MAX) {
            if self.caller.load.is_stopped() {
                return Some(held);
            }
            sleep(TTL.mul_f64(0.05 + 0.3 * self.caller.random.f64())).await;
            let asked_us = self.caller.load.now_us();
            let target = format!("/v1/lease/{id}/keepalive");
            match self.caller.ask("POST", &target, b"").await.map(|answer| answer.status) {
                Some(200) => {
                    held.promised_us = asked_us + micros(TTL);
                    held.renewals += 1;
                }
                Some(404) => {
                    held.told_gone_us = Some(self.caller.load.now_us());
                    return Some(held);
                }
                _ => {}
            }
        }
        if self.caller.random.u32(..3) == 0 {
            held.revoked_us = Some(self.caller.load.now_us());
            // Whether that came to anything nobody asks: then its time ends it.
            let _ = self.caller.ask("DELETE", &format!("/v1/lease/{id}"), b"").await;
        }
        Some(held)
    }
}

/// What became of leases that must not, as the watches saw it.
pub(super) fn check(held: &[Held], seen: &[Seen]) -> (Leases, Vec<String>) {
    let mut found = Vec::new();
    let mut leases = Leases { granted: held.len() as u64, ..Leases::default() };
    for one in held {
        leases.kept += one.renewals;
        let gone_us = seen.iter().filter_map(|seen| seen.gone_us.get(&one.key)).min().copied();
        let is_revoked = |at_us: u64| one.revoked_us.is_some_and(|revoked_us| revoked_us <= at_us);
        leases.over += u64::from(gone_us.is_some_and(|at_us| !is_revoked(at_us)));
        for at_us in gone_us.into_iter().chain(one.told_gone_us) {
            if at_us < one.promised_us && !is_revoked(at_us) {
                let early_ms = (one.promised_us - at_us) / 1_000;
                found.push(format!("a lease was over {early_ms} ms before its time: {one:?}"));
            }
        }
        if one.is_put && gone_us.is_none() {
            found.push(format!("a key is there though nobody keeps its lease: {one:?}"));
        }
    }
    found.truncate(FINDINGS_MAX);
    (leases, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(gone_us: u64) -> Seen {
        Seen { gone_us: [("k".to_owned(), gone_us)].into(), ..Seen::default() }
    }

    fn held() -> Held {
        Held { key: "k".to_owned(), is_put: true, promised_us: 5_000, ..Held::default() }
    }

    fn findings(held: Held, seen: &[Seen]) -> usize {
        check(&[held], seen).1.len()
    }

    #[test]
    fn a_key_stays_for_the_time_that_was_promised_and_no_longer() {
        assert_eq!(findings(held(), &[seen(5_001), seen(6_000)]), 0);
        assert_eq!(findings(held(), &[seen(6_000), seen(4_999)]), 1, "one of them saw it");
        assert_eq!(findings(held(), &[]), 1, "it is there still");
        assert_eq!(findings(Held { is_put: false, ..held() }, &[]), 0, "it may never have been");
        let told = Held { told_gone_us: Some(4_000), ..held() };
        assert_eq!(findings(told, &[seen(5_001)]), 1, "it was said to be over");
        let revoked = Held { revoked_us: Some(1_000), ..held() };
        assert_eq!(findings(revoked.clone(), &[seen(1_001)]), 0);
        assert_eq!(findings(revoked, &[seen(999)]), 1, "before it was revoked");
    }
}
