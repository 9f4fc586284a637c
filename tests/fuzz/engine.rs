//! The loop: replays the corpus, then changes what it has until the time is over. It
//! keeps each input that got an answer which none got before, and changes that one
//! further; a failing input is made small and saved.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Once;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::memory;
use crate::mutation::{invented, mutated};

/// Seconds for each decoder when `FUZZ_SECONDS` is not set.
const SECONDS_DEFAULT: u64 = 2;
/// The most inputs that are kept for new answers.
const KEPT_MAX: usize = 2_000;
/// The most attempts to make a failing input smaller.
const MINIMIZE_MAX: usize = 4_000;
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// A decoder under test.
pub(crate) struct Fuzz {
    /// Its name, and that of its folder in the corpus.
    pub(crate) name: &'static str,
    /// What it must accept.
    pub(crate) valid: Vec<Vec<u8>>,
    /// Bytes that its format likes to read.
    pub(crate) words: &'static [&'static [u8]],
    /// The longest input.
    pub(crate) bytes_max: usize,
}

/// What became of an input that was not found faulty: in words, of which each new
/// one tells that the input went where none went before. Numbers and quotations in it
/// don't count.
pub(crate) struct Answer {
    pub(crate) accepted: bool,
    pub(crate) words: String,
}

impl Answer {
    pub(crate) fn of<T, E: ToString>(result: &Result<T, E>, accepted: impl ToString) -> Answer {
        match result {
            Ok(_) => Answer { accepted: true, words: accepted.to_string() },
            Err(error) => Answer { accepted: false, words: error.to_string() },
        }
    }
}

thread_local! {
    static LISTENS: Cell<bool> = const { Cell::new(false) };
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What a panic on this thread said, also one that a runtime caught.
fn listen_for_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !LISTENS.get() {
                return print(info);
            }
            PANIC.with_borrow_mut(|first| {
                first.get_or_insert_with(|| info.to_string());
            });
        }));
    });
}

struct Running<F> {
    fuzz: Fuzz,
    check: F,
    rng: Rng,
    pool: Vec<Vec<u8>>,
    /// How many of the pool are the corpus and the valid ones.
    first: usize,
    answers: HashSet<String>,
    inputs: u64,
    accepted: u64,
}

impl Fuzz {
    /// Gives `check` one input after the other. It decodes it and panics when
    /// something is wrong.
    ///
    /// # Panics
    /// With the smallest input found that `check` does not like.
    pub(crate) fn run(self, check: impl FnMut(&[u8]) -> Answer) {
        listen_for_panics();
        let seed = number("FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
        let seconds = number("FUZZ_SECONDS");
        let mut running = Running {
            pool: Vec::new(),
            first: 0,
            answers: HashSet::new(),
            rng: Rng::with_seed(seed),
            inputs: 0,
            accepted: 0,
            fuzz: self,
            check,
        };
        running.replay();
        running.start();
        let time = Duration::from_secs(seconds.unwrap_or(SECONDS_DEFAULT));
        running.search(time, seconds.is_some());
        running.say(&format!("seed {seed}, done"));
    }
}

impl<F: FnMut(&[u8]) -> Answer> Running<F> {
    /// What was once found must not come back.
    fn replay(&mut self) {
        let mut files: Vec<PathBuf> = fs::read_dir(self.corpus())
            .map(|files| files.map(|file| file.expect("a readable folder").path()).collect())
            .unwrap_or_default();
        files.sort();
        for file in files {
            let input = fs::read(&file).expect("a readable corpus");
            if let Err(why) = self.attempt(&input) {
                panic!("{} fails: {why}", file.display());
            }
            self.pool.push(input);
        }
    }

    fn start(&mut self) {
        for (number, input) in std::mem::take(&mut self.fuzz.valid).into_iter().enumerate() {
            match self.attempt(&input) {
                Ok(answer) if answer.accepted => {}
                Ok(answer) => panic!("valid input {number} is refused: {}", answer.words),
                Err(why) => self.fail(input, &why),
            }
            self.pool.push(input);
        }
        self.first = self.pool.len();
    }

    fn search(&mut self, time: Duration, says_progress: bool) {
        let start = Instant::now();
        let mut said = start;
        while start.elapsed() < time {
            if says_progress && said.elapsed() >= PROGRESS_EVERY {
                said = Instant::now();
                self.say(&format!("{} s left", (time - start.elapsed()).as_secs()));
            }
            let input = self.next();
            match self.attempt(&input) {
                Ok(answer) => self.learn(input, &answer),
                Err(why) => self.fail(input, &why),
            }
        }
    }

    fn next(&mut self) -> Vec<u8> {
        let rng = &mut self.rng;
        if rng.u8(0..32) == 0 {
            return invented(rng);
        }
        // Half of them from the first ones, or the many that were refused crowd them out.
        let kept = if rng.bool() { self.first } else { self.pool.len() };
        let (first, other) = (rng.usize(0..kept), rng.usize(0..self.pool.len()));
        let (first, other) = (&self.pool[first], &self.pool[other]);
        mutated(rng, first, other, self.fuzz.words, self.fuzz.bytes_max)
    }

    fn learn(&mut self, input: Vec<u8>, answer: &Answer) {
        if self.answers.len() >= KEPT_MAX {
            return;
        }
        if self.answers.insert(form(&answer.words)) {
            self.pool.push(input);
        }
    }

    /// Why the input is faulty, if it is.
    fn attempt(&mut self, input: &[u8]) -> Result<Answer, String> {
        self.inputs += 1;
        LISTENS.set(true);
        let answer = catch_unwind(AssertUnwindSafe(|| (self.check)(input)));
        LISTENS.set(false);
        if let Some(why) = PANIC.take() {
            return Err(why);
        }
        let answer = answer.map_err(|_| "a panic without a word".to_owned())?;
        self.accepted += u64::from(answer.accepted);
        Ok(answer)
    }

    fn fail(&mut self, input: Vec<u8>, why: &str) -> ! {
        let first = why.to_owned();
        let input = self.minimize(input);
        let why = self.attempt(&input).err().unwrap_or_else(|| format!("only once: {first}"));
        let hash = crc32c::crc32c(&input);
        let file = self.corpus().join(format!("{hash:08x}"));
        let saved = fs::create_dir_all(self.corpus()).and_then(|()| fs::write(&file, &input));
        let saved = match saved {
            Ok(()) => format!("saved as {}; commit it with the repair", file.display()),
            Err(error) => format!("not saved: {error}"),
        };
        panic!("{}: {why}\ninput {input:02x?}\n{saved}", self.fuzz.name);
    }

    /// Leaves out what may be left out, and then makes zero what may be zero.
    fn minimize(&mut self, mut input: Vec<u8>) -> Vec<u8> {
        let mut attempts = 0;
        let mut length = input.len().div_ceil(2);
        while length > 0 && attempts < MINIMIZE_MAX {
            let mut at = 0;
            while at < input.len() && attempts < MINIMIZE_MAX {
                let mut shorter = input.clone();
                shorter.drain(at..(at + length).min(input.len()));
                attempts += 1;
                if self.attempt(&shorter).is_err() {
                    input = shorter;
                } else {
                    at += length;
                }
            }
            length = if length == 1 { 0 } else { length.div_ceil(2) };
        }
        for at in 0..input.len().min(MINIMIZE_MAX) {
            let here = std::mem::replace(&mut input[at], 0);
            if here != 0 && self.attempt(&input).is_ok() {
                input[at] = here;
            }
        }
        input
    }

    fn corpus(&self) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(self.fuzz.name)
    }

    fn say(&self, what: &str) {
        println!(
            "fuzz {:10} {:>11} inputs, {:>10} accepted, {:>4} answers, memory {:>2} % of the \
             limit; {what}",
            self.fuzz.name,
            self.inputs,
            self.accepted,
            self.answers.len(),
            memory::most_percent(),
        );
    }
}

/// The words without what they quote and without numbers.
fn form(words: &str) -> String {
    let parts = words.split(['`', '"', '\'']).step_by(2).flat_map(str::chars);
    parts.filter(|char| !char.is_ascii_digit()).take(100).collect()
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

#[test]
fn a_planted_fault_is_found_and_made_small() {
    let fuzz = Fuzz {
        name: "none",
        valid: vec![b"a long and valid input, 4 of 9".to_vec()],
        words: &[],
        bytes_max: 100,
    };
    let check = |input: &[u8]| {
        // A count that is believed.
        assert!(!input.windows(2).any(|pair| pair == [b'o', 0xff]), "planted");
        Answer { accepted: true, words: String::new() }
    };
    listen_for_panics();
    let mut running = Running {
        pool: fuzz.valid.clone(),
        first: 1,
        fuzz,
        check,
        rng: Rng::with_seed(1),
        answers: HashSet::new(),
        inputs: 0,
        accepted: 0,
    };
    let failing = (0..1_000_000).find_map(|_| {
        let input = running.next();
        running.attempt(&input).err().map(|why| (input, why))
    });
    let (input, why) = failing.expect("the fault is found");
    assert!(why.contains("planted"), "{why}");
    assert_eq!(running.minimize(input), [b'o', 0xff]);
}
