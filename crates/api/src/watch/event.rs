//! A change as watches tell it, written once for all that tell it alike.

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use serde::Serialize;
use synod_kv::Revision;
use synod_kv::http::{Encoding, EventBody, ProgressBody, WatchEndBody};
use synod_kv::read::{Change, ChangePage};

use crate::response;

/// What the line with the number of an event takes at the most.
const ID_BYTES_MAX: usize = 32;
/// Room for the text of a small event.
const TEXT_BYTES_MIN: usize = 512;

/// How a watch wants to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Format {
    pub(crate) encoding: Encoding,
    /// With what was before.
    pub(crate) previous: bool,
}

impl Format {
    fn index(self) -> usize {
        usize::from(self.encoding == Encoding::Base64) << 1 | usize::from(self.previous)
    }
}

/// A change that lies in the queues of watches.
#[derive(Debug)]
pub(crate) struct Event {
    change: Change,
    /// What it is for each format that somebody wanted.
    texts: [OnceLock<Box<[u8]>>; 4],
    bytes: usize,
    /// What all of them take.
    held: Arc<AtomicUsize>,
}

impl Event {
    pub(crate) fn new(change: Change, held: Arc<AtomicUsize>) -> Self {
        let value = |record: &Option<synod_kv::KeyRecord>| {
            record.as_ref().map_or(0, |record| record.value.len())
        };
        let data = change.key.len() + value(&change.record) + value(&change.previous);
        // Itself and about two texts of it.
        let bytes = 512 + 3 * data;
        held.fetch_add(bytes, Relaxed);
        Self { change, texts: Default::default(), bytes, held }
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.change.key
    }

    /// About what it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes it, as the last event of its revision or not.
    pub(crate) fn write(&self, out: &mut Vec<u8>, format: Format, is_last: bool) {
        let text = self.text(format);
        out.reserve(text.len() + ID_BYTES_MAX);
        if is_last {
            write_id(out, self.change.revision);
        }
        out.extend_from_slice(text);
    }

    fn text(&self, format: Format) -> &[u8] {
        self.texts[format.index()].get_or_init(|| {
            let mut text = Vec::with_capacity(TEXT_BYTES_MIN);
            write_change(&mut text, &self.change, format);
            text.into()
        })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes, Relaxed);
    }
}

/// Writes the changes of a page. The last one of each revision is told as such, unless the
/// revision goes on behind the page.
pub(crate) fn write_page(out: &mut Vec<u8>, page: &ChangePage, format: Format) {
    for (at, change) in page.changes.iter().enumerate() {
        let next = page.changes.get(at + 1).map_or(page.next.revision, |change| change.revision);
        if next != change.revision {
            write_id(out, change.revision);
        }
        write_change(out, change, format);
    }
}

/// Writes that everything up to a revision was told.
pub(crate) fn write_progress(out: &mut Vec<u8>, revision: Revision) {
    write_id(out, revision);
    write(out, "progress", &ProgressBody { revision: revision.0 });
}

/// Writes that nothing more comes, and why.
pub(crate) fn write_end(out: &mut Vec<u8>, name: &str, body: &WatchEndBody) {
    write(out, name, body);
}

fn write_change(out: &mut Vec<u8>, change: &Change, format: Format) {
    let body = EventBody::new(change, format.previous, format.encoding);
    write(out, body.kind.as_str(), &body);
}

fn write_id(out: &mut Vec<u8>, revision: Revision) {
    writeln!(out, "id: {revision}").expect("memory takes all");
}

/// Writes the rest of an event. JSON as we write it has no ends of lines.
fn write(out: &mut Vec<u8>, name: &str, body: &impl Serialize) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    response::write_json(out, body);
    out.extend_from_slice(b"\n\n");
}
