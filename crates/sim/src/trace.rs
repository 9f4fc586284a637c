//! What happened, as one number and, if asked, as one line per event.

/// Takes the lines of a run.
pub type Sink<'a> = Box<dyn FnMut(&str) + 'a>;

/// A running hash over every event. Two runs with the same hash did the same.
pub(crate) struct Trace<'a> {
    hash: u64,
    events: u64,
    sink: Option<Sink<'a>>,
}

impl std::fmt::Debug for Trace<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trace").field("hash", &self.hash).field("events", &self.events).finish()
    }
}

impl<'a> Trace<'a> {
    /// A trace that only hashes, or also writes lines.
    #[must_use]
    pub(crate) fn new(sink: Option<Sink<'a>>) -> Self {
        Trace { hash: 0x9e37_79b9_7f4a_7c15, events: 0, sink }
    }

    /// One event: its time, numbers that tell it from others, and the line that is
    /// made only when somebody reads it.
    pub(crate) fn note(&mut self, now_us: u64, words: [u64; 4], line: impl FnOnce() -> String) {
        self.events += 1;
        self.mix(now_us);
        words.into_iter().for_each(|word| self.mix(word));
        if let Some(sink) = &mut self.sink {
            let (seconds, rest) = (now_us / 1_000_000, now_us % 1_000_000);
            sink(&format!("{seconds:4}.{rest:06}  {}", line()));
        }
    }

    /// The hash so far.
    #[must_use]
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// How many events it covers.
    #[must_use]
    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    fn mix(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29);
    }
}
