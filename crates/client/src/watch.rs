//! What happens to keys, as it happens.
//!
//! A [`Watch`] is where its reader is: the last revision that was handed out as a whole, and how
//! much of the next one was. Everything else can be lost at any moment and is asked for again,
//! at whichever node. So nothing is missed and nothing comes twice.

mod stream;
mod trouble;

use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use synod_kv::Revision;
use synod_kv::http::{EventKind, ProblemKind, ProgressBody, WatchEnd, WatchEndBody};
use tokio::time::{sleep, timeout};

use crate::answer::Record;
use crate::client::{Client, read_message};
use crate::error::ClientError;
use crate::event_stream::RawEvent;
use crate::retry::{Repeat, Setback, give_up};
use crate::target::Target;
use crate::underway::Underway;
use crate::watch::stream::{Cut, Stream, parse, parse_change};
use crate::watch::trouble::Trouble;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// What to watch, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchOptions {
    range: Range,
    /// The first revision that is told; none: what happens from now on.
    pub from: Option<Revision>,
    /// Tell what was before.
    pub want_previous: bool,
    /// A connection that says nothing for so long is given up. Nodes say how far they are when
    /// nothing else happened for 15 s (their setting `limits.watch_progress_ms`): let this be
    /// three times that.
    pub silence_max: Duration,
    /// For how long [`Watch::next`] goes on when no node can be watched at; none: for ever. An
    /// error that it returns then is no end: the next call goes on trying.
    pub outage_max: Option<Duration>,
    /// The keys and values of one revision that are held before they are handed out, in bytes.
    /// A revision of more comes in parts, see [`Changes::is_last`].
    pub part_bytes_max: usize,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Range {
    Key(Bytes),
    Keys { prefix: Bytes, start: Option<Bytes>, end: Option<Bytes> },
}

impl WatchOptions {
    /// One key.
    #[must_use]
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self::of(Range::Key(key.into()))
    }

    /// Every key that begins with this; all keys, if it is empty.
    #[must_use]
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        Self::of(Range::Keys { prefix: prefix.into(), start: None, end: None })
    }

    /// Every key from `start` on and before `end`.
    #[must_use]
    pub fn range(start: impl Into<Bytes>, end: Option<Bytes>) -> Self {
        Self::of(Range::Keys { prefix: Bytes::new(), start: Some(start.into()), end })
    }

    /// Every key that begins with `prefix`, but none before `start` and none from `end` on.
    #[must_use]
    pub fn prefix_range(
        prefix: impl Into<Bytes>,
        start: Option<Bytes>,
        end: Option<Bytes>,
    ) -> Self {
        Self::of(Range::Keys { prefix: prefix.into(), start, end })
    }

    /// What happens from this revision on. After a listing: from behind the revision of that.
    #[must_use]
    pub fn from(self, revision: Revision) -> Self {
        Self { from: Some(revision), ..self }
    }

    fn of(range: Range) -> Self {
        Self {
            range,
            from: None,
            want_previous: false,
            silence_max: Duration::from_secs(45),
            outage_max: None,
            part_bytes_max: 8 << 20,
        }
    }

    fn target(&self) -> Result<Target, ClientError> {
        let mut target = Target::new("/v1/watch");
        match &self.range {
            Range::Key(key) if key.is_empty() => {
                return Err(ClientError::invalid("a key has at least one byte"));
            }
            Range::Key(key) => target = target.with("key", key),
            Range::Keys { prefix, start, end } => {
                if !prefix.is_empty() {
                    target = target.with("prefix", prefix);
                }
                for (name, bound) in [("start", start), ("end", end)] {
                    if let Some(bound) = bound {
                        target = target.with(name, bound);
                    }
                }
            }
        }
        Ok(target.with_flag("prev", self.want_previous))
    }
}

/// What one revision did to the watched keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changes {
    /// The revision.
    pub revision: Revision,
    /// Its changes in their order; at least one.
    pub events: Vec<WatchEvent>,
    /// No more of this revision follows. Always so unless the revision has more than
    /// [`WatchOptions::part_bytes_max`].
    pub is_last: bool,
}

/// A change of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchEvent {
    /// What happened.
    pub kind: EventKind,
    /// The key.
    pub key: Bytes,
    /// Its record from then on; none if it was removed.
    pub record: Option<Record>,
    /// Its record before, if that was asked for and there was one.
    pub previous: Option<Record>,
}

/// What a watch comes to next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WatchStep {
    /// Something happened.
    Changes(Changes),
    /// Nothing happened to the watched keys up to this revision that was not handed out.
    Progress(Revision),
}

/// A watch of some keys. It goes on at another node by itself when its connection breaks or falls
/// silent, when its node stops, has too much to do or knows no leader, and when the reader was so
/// slow that the node cut it off. It asks for nothing while nobody reads, but for the one
/// connection that it may be making, and holds one event and one part of a revision at the most.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    options: WatchOptions,
    target: Target,
    /// Everything up to here was handed out; none before the first word of a watch from now on.
    position: Option<Revision>,
    /// What of the revision behind that was handed out already.
    told: Option<(Revision, usize)>,
    stream: Option<Stream>,
    /// A connection that is being made.
    connecting: Option<Underway<Result<Stream, Setback>>>,
    /// A step that was taken before somebody asked for it.
    early: Option<WatchStep>,
    trouble: Trouble,
}

impl Client {
    /// Watches keys. What happens after this returned is told, and what happens from
    /// [`WatchOptions::from`] on, if that is given.
    ///
    /// # Errors
    /// [`ClientError::Compacted`] when what is to be told first is not kept any more,
    /// [`ClientError::Refused`] when the nodes that answer do not have the revision before it yet,
    /// or that no node could be watched at in the time of a call.
    pub async fn watch(&self, options: WatchOptions) -> Result<Watch, ClientError> {
        let target = options.target()?;
        let position = match options.from {
            None => None,
            Some(Revision(0)) => return Err(ClientError::invalid("revisions begin at 1")),
            Some(Revision(from)) => Some(Revision(from - 1)),
        };
        // Not the leader in particular: watches are spread over the nodes.
        let trouble = Trouble::new(self.endpoints().len());
        let client = self.clone();
        let mut watch = Watch {
            client,
            options,
            target,
            position,
            told: None,
            stream: None,
            connecting: None,
            early: None,
            trouble,
        };
        let call_timeout = self.retrier().options.call_timeout;
        let begun = timeout(call_timeout, watch.begin()).await;
        begun.unwrap_or_else(|_| Err(watch.trouble.late()))?;
        Ok(watch)
    }
}

impl Watch {
    /// Waits for the next revision that changes something. Nothing is lost when this is dropped
    /// before it is ready: what came of a revision stays, a connection is made on, and the time for
    /// which a node is silent is counted on. So it may stand in a `select!` in a loop.
    ///
    /// # Errors
    /// - [`ClientError::Compacted`]: the reader was so slow, or no node could be watched at for so
    ///   long, that what comes next is not kept any more. List the keys anew, and watch from
    ///   behind the revision of the list.
    /// - [`ClientError::Unreachable`] after [`WatchOptions::outage_max`], or when somebody
    ///   answers who is no node of ours.
    /// - [`ClientError::Refused`]: the nodes don't do this, or are those of another cluster.
    pub async fn next(&mut self) -> Result<Changes, ClientError> {
        loop {
            if let WatchStep::Changes(changes) = self.step().await? {
                return Ok(changes);
            }
        }
    }

    /// As [`Watch::next`], but tells too when the position moves without a change. Nothing is lost
    /// when this is dropped.
    ///
    /// # Errors
    /// As [`Watch::next`].
    pub async fn step(&mut self) -> Result<WatchStep, ClientError> {
        if let Some(step) = self.early.take() {
            return Ok(step);
        }
        loop {
            let limit = self.options.outage_max;
            if let Some(step) = self.pull(limit).await? {
                return Ok(step);
            }
        }
    }

    /// Everything up to this revision was handed out. Another watch can go on from behind it,
    /// also in another life of the program.
    #[must_use]
    pub fn position(&self) -> Revision {
        self.position.unwrap_or_default()
    }

    /// Waits until a node has said where the watch begins.
    async fn begin(&mut self) -> Result<(), ClientError> {
        while !self.stream.as_ref().is_some_and(|stream| stream.is_heard) {
            self.early = self.pull(None).await?;
        }
        Ok(())
    }

    /// Takes the next event, of another node if need be; that may be nothing to hand out.
    async fn pull(&mut self, limit: Option<Duration>) -> Result<Option<WatchStep>, ClientError> {
        let silence = self.silence();
        let cut = match &mut self.stream {
            None => match self.connected().await {
                Ok(stream) => {
                    self.stream = Some(stream);
                    return Ok(None);
                }
                Err(setback) => self.judge(setback),
            },
            Some(stream) => {
                let event = stream.read(silence).await;
                match event.and_then(|event| self.take(event)) {
                    Ok(step) => return Ok(step),
                    Err(cut) => cut,
                }
            }
        };
        if self.stream.take().is_some_and(|stream| stream.was_good()) {
            self.trouble.forget_setbacks();
        }
        match cut {
            Cut::Final(error) => Err(error),
            Cut::Broken(text) => self.trouble.add(text, false, limit).map(|()| None),
            Cut::Garbled(text) => self.trouble.add(text, true, limit).map(|()| None),
        }
    }

    /// For how long the stream may be silent: the first word comes at once.
    fn silence(&self) -> Duration {
        let is_heard = self.stream.as_ref().is_some_and(|stream| stream.is_heard);
        let first = self.client.retrier().options.attempt_timeout;
        if is_heard { self.options.silence_max } else { first.min(self.options.silence_max) }
    }

    /// Waits for a connection. Dropped it goes on with the same one the next time.
    async fn connected(&mut self) -> Result<Stream, Setback> {
        let connecting = match &mut self.connecting {
            Some(connecting) => connecting,
            none => {
                none.insert(connect(&self.client, &self.trouble, (&self.target, self.position)))
            }
        };
        let connected = connecting.end().await;
        self.connecting = None;
        connected.unwrap_or_else(|| {
            Err(Setback::passing("the runtime of the watch has ended".to_owned()))
        })
    }

    /// What becomes of the watch when a node does not tell.
    fn judge(&mut self, setback: Setback) -> Cut {
        let is_future = Some(ProblemKind::FutureRevision);
        let refusal = setback.problem.clone().filter(|problem| problem.kind() == is_future);
        // A node that is behind; but if all of them are, there is no such revision.
        let may_come =
            refusal.is_some_and(|refusal| self.trouble.is_behind(ClientError::of_problem(refusal)));
        if setback.is_final && !may_come {
            return Cut::Final(give_up(setback, &Repeat::Freely, false, 1));
        }
        self.trouble.leave_alone(setback.pause);
        Cut::Broken(setback.text)
    }

    /// Takes an event of the stream.
    fn take(&mut self, event: RawEvent) -> Result<Option<WatchStep>, Cut> {
        let RawEvent { name, id, data } = event;
        let id = id.map(Revision);
        match name.as_str() {
            "put" | "delete" => self.take_change(id, &data),
            "progress" => self.take_progress(id, parse(&data)?),
            "compacted" | "dropped" => {
                let end: WatchEndBody = parse(&data)?;
                Err(match (end.reason, end.oldest_revision) {
                    (WatchEnd::Compacted, Some(oldest)) => {
                        Cut::Final(ClientError::Compacted { oldest: Revision(oldest) })
                    }
                    _ => Cut::Broken(end.detail),
                })
            }
            // What a later release may say.
            _ => Ok(None),
        }
    }

    fn take_change(&mut self, id: Option<Revision>, data: &[u8]) -> Result<Option<WatchStep>, Cut> {
        let (revision, event) = parse_change(data)?;
        let Some(stream) = &mut self.stream else { return Ok(None) };
        let is_new = self.position.is_none_or(|position| revision > position);
        let is_whole = self.told.is_none_or(|(told, _)| told == revision);
        if !is_new || !is_whole || id.is_some_and(|id| id != revision) {
            return Err(Cut::Garbled(format!("a change of revision {revision} out of its turn")));
        }
        let told = self.told.map_or(0, |(_, count)| count);
        let count = stream.add(revision, event, told)?;
        let is_last = id.is_some();
        if !is_last && stream.part_bytes() <= self.options.part_bytes_max {
            return Ok(None);
        }
        let events = stream.take_part(is_last);
        if is_last {
            self.reach(revision);
        } else {
            self.told = Some((revision, count));
        }
        Ok(Some(WatchStep::Changes(Changes { revision, events, is_last })))
    }

    fn take_progress(
        &mut self,
        id: Option<Revision>,
        ProgressBody { revision }: ProgressBody,
    ) -> Result<Option<WatchStep>, Cut> {
        let revision = Revision(revision);
        let Some(stream) = &mut self.stream else { return Ok(None) };
        let is_forward = self.position.is_none_or(|position| revision >= position);
        let skips = self.told.is_some_and(|(told, _)| told <= revision);
        if id != Some(revision) || !is_forward || skips || !stream.is_between() {
            return Err(Cut::Garbled(format!("progress to revision {revision} out of its turn")));
        }
        stream.is_heard = true;
        let is_news = self.position.is_some_and(|position| revision > position);
        self.reach(revision);
        Ok(is_news.then_some(WatchStep::Progress(revision)))
    }

    fn reach(&mut self, revision: Revision) {
        let is_forward = self.position != Some(revision);
        if is_forward {
            (self.position, self.told) = (Some(revision), None);
        }
        self.trouble.reached(is_forward);
    }
}

/// Begins to ask the next node for what is behind the position, after a pause.
fn connect(
    client: &Client,
    trouble: &Trouble,
    (target, position): (&Target, Option<Revision>),
) -> Underway<Result<Stream, Setback>> {
    let (client, node) = (client.clone(), trouble.node());
    let pause = trouble.pause(&client.retrier().options);
    let mut message = read_message(target);
    if let Some(position) = position {
        message.headers.insert(LAST_EVENT_ID, HeaderValue::from(position.0));
    }
    Underway::begin(async move {
        let retrier = client.retrier();
        if !pause.is_zero() {
            sleep(pause).await;
        }
        let time = retrier.options.attempt_timeout;
        let body = retrier.open(node, &message, time).await?;
        Ok(Stream::new(body, retrier.options.answer_bytes_max))
    })
}
