//! What a put costs from the state machine down to the files: run with
//! `cargo bench -p synod-storage --bench apply [PUTS]`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use synod_kv::{Command, Condition, KvOptions, Operation, ServerId, StateMachine};
use synod_storage::{Store, StoreOptions};

const BATCH: u64 = 32;
const VALUE_BYTES: usize = 256;

fn main() {
    let puts = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(400_000);
    println!("{puts} puts, {BATCH} a commit; microseconds a put: wall time, CPU of all threads");
    for memtable_bytes in [8 << 20, 16 << 20, 32 << 20] {
        println!("memtable {} MiB", memtable_bytes >> 20);
        let folder = tempfile::tempdir().expect("a folder");
        let options = StoreOptions { memtable_bytes, ..StoreOptions::default() };
        let store = Store::open(folder.path(), &options).expect("opens");
        let mut machine = StateMachine::open(store, KvOptions::default()).expect("opens");
        run(&mut machine, puts, "  new keys", |number| number);
        run(&mut machine, puts, "  any of them", |_| fastrand::u64(..puts));
        run(&mut machine, puts, "  any of 10,000", |_| fastrand::u64(..10_000));
    }
}

fn run(machine: &mut StateMachine<Store>, puts: u64, name: &str, key: impl Fn(u64) -> u64) {
    let mut wall = Duration::ZERO;
    let cpu = cpu_time();
    for _ in 0..puts / BATCH {
        let slot = machine.applied_slot() + 1;
        let first = (slot - 1) * BATCH;
        let commands: Vec<(ServerId, Command)> =
            (first..first + BATCH).map(|number| put(number, key(number))).collect();
        let start = Instant::now();
        machine.apply(slot, slot, &commands).expect("applies");
        machine.commit().expect("commits");
        wall += start.elapsed();
    }
    let cpu = cpu_time().saturating_sub(cpu);
    #[allow(clippy::cast_precision_loss)]
    let [wall, cpu] = [wall, cpu].map(|time| time.as_secs_f64() * 1e6 / puts as f64);
    println!("{name:20} {wall:>8.2} {cpu:>6.2}");
}

fn put(number: u64, key: u64) -> (ServerId, Command) {
    // An odd factor scatters the keys and maps no two to one.
    let key = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
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
