//! What a put costs from the state machine down to the files: run with
//! `cargo bench -p synod-storage --bench apply [PUTS]`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use synod_kv::{Command, Condition, KvOptions, Operation, ServerId, StateMachine};
use synod_storage::{Store, StoreOptions};

const BATCH: u64 = 32;
const VALUE_BYTES: usize = 256;

fn main() {
    let puts = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(600_000);
    println!("{puts} puts, {BATCH} a commit; microseconds a put: wall time, CPU of all threads");
    for memtable_bytes in [8 << 20, 16 << 20, 32 << 20] {
        for keys in [10_000, puts] {
            let [wall, cpu] = run(memtable_bytes, keys, puts);
            let memtable_mib = memtable_bytes >> 20;
            println!("memtable {memtable_mib:>2} MiB, {keys:>7} keys: {wall:>6.2} {cpu:>6.2}");
        }
    }
}

fn run(memtable_bytes: usize, keys: u64, puts: u64) -> [f64; 2] {
    let folder = tempfile::tempdir().expect("a folder");
    let options = StoreOptions { memtable_bytes, ..StoreOptions::default() };
    let store = Store::open(folder.path(), &options).expect("opens");
    let mut machine = StateMachine::open(store, KvOptions::default()).expect("opens");
    let mut wall = Duration::ZERO;
    let cpu = cpu_time();
    for slot in 1..=puts / BATCH {
        let commands: Vec<(ServerId, Command)> =
            ((slot - 1) * BATCH..slot * BATCH).map(|number| put(number, keys)).collect();
        let start = Instant::now();
        machine.apply(slot, slot, &commands).expect("applies");
        machine.commit().expect("commits");
        wall += start.elapsed();
    }
    let cpu = cpu_time().saturating_sub(cpu);
    #[allow(clippy::cast_precision_loss)]
    [wall, cpu].map(|time| time.as_secs_f64() * 1e6 / puts as f64)
}

fn put(number: u64, keys: u64) -> (ServerId, Command) {
    let key = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % keys;
    let mut value = vec![0; VALUE_BYTES];
    fastrand::Rng::with_seed(number).fill(&mut value[..VALUE_BYTES / 2]);
    let operation = Operation::Put {
        key: Bytes::from(format!("{key:032}")),
        value: Bytes::from(value),
        condition: Condition::Always,
        want_previous: false,
    };
    let id = ServerId { origin: 1, incarnation: 1, sequence: number + 1 };
    (id, Command { idempotency: None, operation })
}

/// What this process has used so far, in steps of a hundredth of a second.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("reads");
    let after_name = stat.rsplit(')').next().expect("has a name");
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(2).flat_map(str::parse::<u64>).sum();
    Duration::from_millis(ticks * 10)
}
