//! Clients that write all the time, and remember what was acknowledged to them.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use super::cluster::TestCluster;
use super::http;
use super::wait::wait_for;

/// Clients that write all the time, each key once, and what was acknowledged to them.
#[derive(Default)]
pub struct Writers {
    next: AtomicU64,
    acknowledged: Mutex<BTreeMap<u64, Vec<u8>>>,
    is_over: AtomicBool,
}

/// Bytes that do not compress, so that the files are long.
pub fn value(key: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(key);
    std::iter::repeat_with(|| random.u8(..)).take(3_000).collect()
}

impl Writers {
    pub fn write_one(&self, cluster: &TestCluster, node: u32) {
        let key = self.next.fetch_add(1, Relaxed);
        let target = format!("/v1/kv/{key:08}");
        let value = value(key);
        let put = cluster.try_request(node, "PUT", &target, &[], &value);
        if put.is_ok_and(|put| put.status == 201) {
            self.acknowledged.lock().expect("no writer panics").insert(key, value);
        }
    }

    pub fn count(&self) -> usize {
        self.acknowledged.lock().expect("no writer panics").len()
    }

    /// Writes at these nodes while `meanwhile` runs.
    pub fn during<T>(
        &self,
        cluster: &mut TestCluster,
        nodes: &[u32],
        meanwhile: impl FnOnce(&mut TestCluster) -> T,
    ) -> T {
        self.is_over.store(false, Relaxed);
        let addresses: Vec<_> = nodes.iter().map(|id| cluster.client_addr(*id)).collect();
        thread::scope(|threads| {
            for address in addresses {
                threads.spawn(move || {
                    while !self.is_over.load(Relaxed) {
                        let key = self.next.fetch_add(1, Relaxed);
                        let (target, value) = (format!("/v1/kv/{key:08}"), value(key));
                        let put = http::request(address, "PUT", &target, &[], &value);
                        if put.is_ok_and(|put| put.status == 201) {
                            let mut all = self.acknowledged.lock().expect("no writer panics");
                            all.insert(key, value);
                        }
                    }
                });
            }
            let result =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| meanwhile(cluster)));
            self.is_over.store(true, Relaxed);
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Every acknowledged write is told by this node as it was written.
    pub fn check(&self, cluster: &TestCluster, node: u32) {
        for (key, value) in self.acknowledged.lock().expect("no writer panics").iter() {
            let target = format!("/v1/kv/{key:08}");
            let found = wait_for("a read", || {
                let found = cluster.try_request(node, "GET", &target, &[], b"").ok()?;
                // Whoever reads what is damaged gets none of it, and the node mends it.
                (![500, 503].contains(&found.status)).then_some(found)
            });
            assert!(found.status == 200 && found.body == *value, "key {key}: {}", found.status);
        }
    }
}
