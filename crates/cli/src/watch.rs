//! `synod watch`: what happens to keys, a line for each change.

use synod_client::{Record, Revision, WatchEvent, WatchOptions};
use synod_kv::http::{Encoding, EventBody, KeyText};

use crate::arguments::{KeyRange, Watch};
use crate::failure::Failure;
use crate::keys::{bytes_of, record_body, shown};
use crate::output::print_on;
use crate::talk::with_client;

/// Prints changes until there were enough, or nobody reads.
pub(crate) fn run(arguments: &Watch) -> Result<(), Failure> {
    let KeyRange { prefix, start, end } = &arguments.range;
    let (start, end) = (start.as_ref().map(bytes_of), end.as_ref().map(bytes_of));
    let mut options = match &arguments.key {
        Some(key) => WatchOptions::key(bytes_of(key)),
        None => WatchOptions::prefix_range(bytes_of(prefix), start, end),
    };
    options.from = arguments.from.map(Revision);
    options.want_previous = arguments.previous;
    let (is_json, mut left) = (arguments.reach.json, arguments.count);
    with_client(&arguments.reach, |client| async move {
        let mut watch = client.watch(options).await?;
        loop {
            let changes = watch.next().await?;
            for event in &changes.events {
                let line = match is_json {
                    true => json(changes.revision, event),
                    false => line(changes.revision, event),
                };
                match print_on(&line) {
                    Ok(true) => {}
                    end => return Ok(end.map(|_| ())),
                }
                left = left.map(|left| left - 1);
                if left == Some(0) {
                    return Ok(Ok(()));
                }
            }
        }
    })?
}

fn line(revision: Revision, event: &WatchEvent) -> String {
    let kind = event.kind.as_str();
    let mut line = format!("{:>8}  {kind:<6}  {}", revision.0, shown(&event.key));
    let value = |record: &Record| shown(record.value.as_deref().unwrap_or_default());
    if let Some(record) = &event.record {
        line.push_str(&format!("  {}", value(record)));
    }
    if let Some(previous) = &event.previous {
        line.push_str(&format!("  (was {})", value(previous)));
    }
    line
}

fn json(revision: Revision, event: &WatchEvent) -> String {
    let body = EventBody {
        kind: event.kind,
        revision: revision.0,
        key: KeyText::new(&event.key, Encoding::Text),
        record: event.record.as_ref().map(record_body),
        previous: event.previous.as_ref().map(record_body),
    };
    serde_json::to_string(&body).expect("plain fields")
}

#[cfg(test)]
mod tests {
    use synod_client::{EventKind, LeaseId};

    use super::*;

    #[test]
    fn a_change_is_one_line() {
        let record = |value: &'static [u8]| Record {
            value: Some(value.into()),
            create_revision: Revision(3),
            mod_revision: Revision(7),
            version: 2,
            lease: Some(LeaseId(9)),
        };
        let mut event = WatchEvent {
            kind: EventKind::Put,
            key: "a\n".into(),
            record: Some(record(b"new\nvalue")),
            previous: None,
        };
        assert_eq!(line(Revision(7), &event), "       7  put     a\\n  new\\nvalue");
        event.previous = Some(record(b"\xff"));
        let text = json(Revision(7), &event);
        assert!(!text.contains('\n') && text.contains("\"previous\":{\"value_base64\""), "{text}");
        assert_eq!(text.matches("\"lease\":9").count(), 2, "{text}");
        (event.kind, event.record) = (EventKind::Delete, None);
        assert_eq!(line(Revision(8), &event), "       8  delete  a\\n  (was \u{fffd})");
    }
}
