//! Who changes two keys in one transaction, beside the load, and reads both in one.
//!
//! Each change names what the first key must be like, puts its own number into it, and puts it
//! into the second one as well or removes that. It is told what both were before, or how both
//! are if the first is not as it must be. The watches tell at which revision what happened,
//! so all of it can be held against one order: see `transactions`.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::caller::Caller;
use super::load::Load;
use super::retries::{Attempts, draw_header, note_status};
use crate::BenchError;
use crate::request_error::Effect;
use crate::synod::Response;

/// Who does so at a time, on how many pairs of keys.
const CALLERS: u64 = 4;
const PAIRS: usize = 2;
/// A pause between two transactions: what is looked for are wrong answers, not many.
const THINK_MAX: Duration = Duration::from_millis(60);
/// What these keys begin with.
const PREFIX: &str = "chaos-pair/";

/// One of the two keys of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PairKey {
    pub(super) pair: u64,
    pub(super) is_second: bool,
}

/// What is in a key: the number that was put, and at which revision.
pub(super) type InKey = Option<(u64, u64)>;
/// What is in both keys.
pub(super) type InBoth = [InKey; 2];

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// To see both keys.
    Look,
    /// To change both.
    Change { must: Must, removes: bool },
}

/// What the first key must be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Must {
    BeAnything,
    NotBe,
    /// Last changed at this revision.
    BeOf(u64),
}

/// What was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// It was changed at this revision, and this is what was there before.
    Changed(u64, InBoth),
    /// At this revision it was so.
    Seen(u64, InBoth),
    /// It had no effect.
    Refused,
    /// It may have had effect, or have it yet.
    Unknown,
}

/// A transaction, from its call to its return.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transaction {
    /// What it puts. No two are alike.
    pub(super) number: u64,
    pub(super) pair: u64,
    pub(super) wish: Wish,
    pub(super) called_us: u64,
    pub(super) returned_us: u64,
    pub(super) told: Told,
}

impl PairKey {
    fn name(self, load: &Load) -> String {
        let PairKey { pair, is_second } = self;
        format!("{PREFIX}{:016x}/{pair}/{}", load.run(), if is_second { "b" } else { "a" })
    }

    /// The key of this name, if it is one of this run's.
    pub(super) fn of(load: &Load, name: &str) -> Option<Self> {
        let pair = name.rsplit('/').nth(1)?.parse().ok()?;
        let key = PairKey { pair, is_second: name.ends_with('b') };
        (key.name(load) == name).then_some(key)
    }
}

impl Must {
    pub(super) fn holds(self, first: InKey) -> bool {
        match self {
            Must::BeAnything => true,
            Must::NotBe => first.is_none(),
            Must::BeOf(revision) => first.is_some_and(|(_, of)| of == revision),
        }
    }
}

/// Makes transactions until the load is stopped.
pub(super) fn transact(load: &Arc<Load>) -> Result<Vec<Transaction>, BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(async {
        let mut callers = JoinSet::new();
        for number in 0..CALLERS {
            callers.spawn(run(Caller::new(load, 100 + number)));
        }
        callers.join_all().await.into_iter().flatten().collect()
    }))
}

async fn run(mut caller: Caller) -> Vec<Transaction> {
    let mut all = Vec::new();
    let mut known = [None; PAIRS];
    while !caller.load.is_stopped() {
        let pair = caller.random.usize(..PAIRS);
        let first = &mut known[pair];
        let wish = draw(&mut caller.random, *first);
        let (number, _) = caller.load.next_numbers();
        let pair = pair as u64;
        let body = body(&caller.load, pair, number, wish).to_string();
        let header = match wish {
            Wish::Look => None,
            Wish::Change { .. } => draw_header(&caller.load, number, &mut caller.random),
        };
        let called_us = caller.load.now_us();
        let told = match header {
            Some(header) => persist(&mut caller, wish, &header, &body).await,
            None => attempt(&mut caller, wish, "", &body).await,
        };
        let returned_us = caller.load.now_us();
        if let Told::Changed(revision, _) | Told::Seen(revision, _) = told {
            caller.load.learn(revision);
        }
        match told {
            Told::Changed(revision, _) => *first = Some(revision),
            Told::Seen(_, [seen, _]) => *first = seen.map(|(_, revision)| revision),
            Told::Refused | Told::Unknown => {}
        }
        all.push(Transaction { number, pair, wish, called_us, returned_us, told });
        sleep(THINK_MAX.mul_f64(caller.random.f64())).await;
    }
    all
}

/// Sends it until somebody says what became of it, or it is too late for that.
async fn persist(caller: &mut Caller, wish: Wish, header: &str, body: &str) -> Told {
    let mut told = attempt(caller, wish, header, body).await;
    let mut attempts = Attempts::new(&caller.load);
    while told == Told::Unknown && attempts.again(&mut caller.random).await {
        told = match attempt(caller, wish, header, body).await {
            // This attempt had no effect. Of those before it that says nothing.
            Told::Refused => Told::Unknown,
            told => told,
        };
    }
    match told {
        Told::Unknown => {}
        Told::Changed(revision, _) => attempts.settle(Some(revision)),
        Told::Seen(..) | Told::Refused => attempts.settle(None),
    }
    told
}

async fn attempt(caller: &mut Caller, wish: Wish, header: &str, body: &str) -> Told {
    let answer = caller.ask_with("POST", "/v1/txn", header, body.as_bytes()).await;
    let Some(answer) = answer else { return Told::Unknown };
    note_status(&caller.load, answer.status);
    told(wish, &answer)
}

fn draw(random: &mut fastrand::Rng, known: Option<u64>) -> Wish {
    let must = match (random.u32(..10), known) {
        (0..3, _) => return Wish::Look,
        (3..6, _) => Must::BeAnything,
        (6, _) | (_, None) => Must::NotBe,
        (_, Some(revision)) => Must::BeOf(revision),
    };
    Wish::Change { must, removes: random.u32(..4) == 0 }
}

fn body(load: &Load, pair: u64, number: u64, wish: Wish) -> Value {
    let [first, second] = [false, true].map(|is_second| PairKey { pair, is_second }.name(load));
    let look = json!([{"op": "get", "key": first}, {"op": "get", "key": second}]);
    let Wish::Change { must, removes } = wish else { return json!({"success": look}) };
    let compare = |target: &str, operand: u64| json!([{"key": first, "target": target, "op": "=", "operand": operand}]);
    let compare = match must {
        Must::BeAnything => json!([]),
        Must::NotBe => compare("version", 0),
        Must::BeOf(revision) => compare("mod", revision),
    };
    let put =
        |key: &String| json!({"op": "put", "key": key, "value": number.to_string(), "prev": true});
    let other = match removes {
        true => json!({"op": "delete", "key": second, "prev": true}),
        false => put(&second),
    };
    json!({"compare": compare, "success": [put(&first), other], "failure": look})
}

#[derive(Deserialize)]
struct Answer {
    revision: u64,
    succeeded: bool,
    results: Vec<Part>,
}

/// A result of either kind: what was there before, or what is there.
#[derive(Deserialize)]
struct Part {
    previous: Option<Record>,
    record: Option<Record>,
}

#[derive(Deserialize)]
struct Record {
    value: String,
    mod_revision: u64,
}

impl Record {
    /// Nobody puts anything but numbers, and the check will say so.
    fn of(record: Option<Self>) -> InKey {
        record.map(|record| (record.value.parse().unwrap_or(u64::MAX), record.mod_revision))
    }
}

/// What an answer says. One that makes no sense counts as not understood.
fn told(wish: Wish, response: &Response) -> Told {
    if response.status != 200 {
        return match response.refusal().effect {
            Effect::NotApplied => Told::Refused,
            Effect::Unknown => Told::Unknown,
        };
    }
    let Ok(Answer { revision, succeeded, results }) = serde_json::from_slice(&response.body) else {
        return Told::Unknown;
    };
    let Ok([first, second]) = <[Part; 2]>::try_from(results) else { return Told::Unknown };
    match (wish, succeeded) {
        (Wish::Change { .. }, true) => {
            Told::Changed(revision, [first.previous, second.previous].map(Record::of))
        }
        _ => Told::Seen(revision, [first.record, second.record].map(Record::of)),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn load() -> Load {
        let node = (crate::NodeId(1), ([127, 0, 0, 1], 1).into());
        Load::new(vec![node], 1, 7)
    }

    #[test]
    fn a_key_is_known_by_its_name() {
        let load = load();
        for (pair, is_second) in [(0, false), (12, true)] {
            let key = PairKey { pair, is_second };
            assert_eq!(PairKey::of(&load, &key.name(&load)), Some(key));
        }
        for name in ["", "a", "chaos-pair/0/1/a", "chaos/0/1"] {
            assert_eq!(PairKey::of(&load, name), None, "{name}");
        }
    }

    #[test]
    fn answers_are_understood_by_what_was_asked() {
        let of = |wish, status, body: &'static str| {
            told(
                wish,
                &Response { status, revision: None, body: Bytes::from_static(body.as_bytes()) },
            )
        };
        let change = Wish::Change { must: Must::BeAnything, removes: true };
        let changed = r#"{"revision":9,"succeeded":true,"results":[{"op":"put","create_revision":9,"version":1},
            {"op":"delete","deleted":1,"previous":{"value":"5","create_revision":1,"mod_revision":4,"version":2}}]}"#;
        assert_eq!(of(change, 200, changed), Told::Changed(9, [None, Some((5, 4))]));
        let seen = r#"{"revision":9,"succeeded":true,"results":[{"op":"get","record":null},
            {"op":"get","record":{"value":"5","create_revision":1,"mod_revision":4,"version":2}}]}"#;
        assert_eq!(of(Wish::Look, 200, seen), Told::Seen(9, [None, Some((5, 4))]));
        assert_eq!(of(change, 503, r#"{"outcome":"unknown"}"#), Told::Unknown);
        assert_eq!(of(change, 503, r#"{"outcome":"not_applied"}"#), Told::Refused);
        assert_eq!(of(change, 200, "{}"), Told::Unknown);
    }
}
