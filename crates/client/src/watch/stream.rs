//! One connection that tells what happens.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use synod_kv::Revision;
use synod_kv::http::{EventBody, EventKind};
use tokio::time::Instant;

use crate::answer::Record;
use crate::error::ClientError;
use crate::event_stream::{EventStream, RawEvent};
use crate::silence::Silence;
use crate::watch::WatchEvent;

/// A stream that lasted for so long is no sign of trouble when it ends.
const GOOD_STREAM: Duration = Duration::from_secs(5);
/// What an event takes beside its key and values, in bytes.
const EVENT_BYTES: usize = 128;

/// Why a stream is not read any further.
#[derive(Debug)]
pub(super) enum Cut {
    /// Somebody else may go on.
    Broken(String),
    /// It said what no node says.
    Garbled(String),
    /// Nobody can go on.
    Final(ClientError),
}

/// The connection, and what came on it that is not handed out yet.
#[derive(Debug)]
pub(super) struct Stream {
    body: Incoming,
    events: EventStream,
    silence: Silence,
    opened: Instant,
    /// It said where it is.
    pub(super) is_heard: bool,
    /// The revision that is being told, and how many of its changes came.
    telling: Option<(Revision, usize)>,
    /// Those of them that were not handed out.
    part: Vec<WatchEvent>,
    part_bytes: usize,
}

impl Stream {
    pub(super) fn new(body: Incoming, event_bytes_max: usize) -> Self {
        Self {
            body,
            events: EventStream::new(event_bytes_max),
            silence: Silence::default(),
            opened: Instant::now(),
            is_heard: false,
            telling: None,
            part: Vec::new(),
            part_bytes: 0,
        }
    }

    /// The next event. Nothing is lost when this is dropped before it is ready, and the silence
    /// of the node goes on.
    pub(super) async fn read(&mut self, silence_max: Duration) -> Result<RawEvent, Cut> {
        loop {
            if let Some(event) = self.events.next().map_err(Cut::Garbled)? {
                return Ok(event);
            }
            let frame = self.silence.wait(silence_max, self.body.frame()).await.map_err(|_| {
                Cut::Broken(format!("the node said nothing for {} ms", silence_max.as_millis()))
            })?;
            let frame = frame.ok_or_else(|| Cut::Broken("the node ended the watch".to_owned()))?;
            let frame = frame.map_err(|error| Cut::Broken(format!("it was cut off: {error}")))?;
            // Trailers say nothing about a watch.
            if let Ok(bytes) = frame.into_data() {
                self.events.push(&bytes);
            }
        }
    }

    /// Takes a change, unless it is one of the first `told` of its revision. Answers how many
    /// of that came.
    pub(super) fn add(
        &mut self,
        revision: Revision,
        event: WatchEvent,
        told: usize,
    ) -> Result<usize, Cut> {
        let (telling, before) = self.telling.unwrap_or((revision, 0));
        if telling != revision {
            return Err(Cut::Garbled(format!("revision {telling} was not told to its end")));
        }
        self.is_heard = true;
        self.telling = Some((revision, before + 1));
        if before >= told {
            self.part_bytes += event.bytes();
            self.part.push(event);
        }
        Ok(before + 1)
    }

    pub(super) fn part_bytes(&self) -> usize {
        self.part_bytes
    }

    /// What can be handed out now.
    pub(super) fn take_part(&mut self, is_last: bool) -> Vec<WatchEvent> {
        if is_last {
            self.telling = None;
        }
        self.part_bytes = 0;
        std::mem::take(&mut self.part)
    }

    /// No revision is being told.
    pub(super) fn is_between(&self) -> bool {
        self.telling.is_none()
    }

    pub(super) fn was_good(&self) -> bool {
        self.is_heard && self.opened.elapsed() > GOOD_STREAM
    }
}

impl WatchEvent {
    fn bytes(&self) -> usize {
        let value = |record: &Option<Record>| {
            record.as_ref().and_then(|record| record.value.as_ref()).map_or(0, Bytes::len)
        };
        EVENT_BYTES + self.key.len() + value(&self.record) + value(&self.previous)
    }
}

/// What an event carries.
pub(super) fn parse<T: DeserializeOwned>(data: &[u8]) -> Result<T, Cut> {
    serde_json::from_slice(data).map_err(|error| Cut::Garbled(format!("no such event: {error}")))
}

/// A change and its revision.
pub(super) fn parse_change(data: &[u8]) -> Result<(Revision, WatchEvent), Cut> {
    let body: EventBody = parse(data)?;
    let record = |body: &Option<_>| body.as_ref().map(Record::from_body);
    let parsed = (|| {
        let key = Bytes::from(body.key.to_bytes()?);
        let record_now = record(&body.record).map_or(Some(None), |record| record.map(Some))?;
        let previous = record(&body.previous).map_or(Some(None), |record| record.map(Some))?;
        let is_put = body.kind == EventKind::Put;
        let has_value = record_now.as_ref().is_some_and(|record| record.value.is_some());
        let event = WatchEvent { kind: body.kind, key, record: record_now, previous };
        (is_put == has_value).then_some(event)
    })();
    let event = parsed.ok_or_else(|| Cut::Garbled("no such change".to_owned()))?;
    Ok((Revision(body.revision), event))
}
