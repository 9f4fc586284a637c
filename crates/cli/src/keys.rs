//! `synod put`, `get`, `delete` and `list`.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Read};
use std::os::unix::ffi::OsStringExt;

use anyhow::Context;
use bytes::Bytes;
use serde::Serialize;
use synod_client::{
    Attach, Condition, Consistency, DeleteOptions, Entry, LeaseId, ListOptions, PutOptions,
    ReadOptions, Record, Revision, percent_encode,
};
use synod_kv::http::{
    DeleteBody, Encoding, KeyText, ListEntry, ListPage, PutBody, RecordBody, ValueText,
};

use crate::arguments::{Delete, Get, List, Put};
use crate::failure::Failure;
use crate::output::{columns, print, print_bytes, print_json, warn};
use crate::talk::with_client;

/// More than any cluster takes as a value; a longer input is refused here.
const VALUE_BYTES_MAX: u64 = 16 << 20;
/// How much of a value a table shows.
const SHOWN_CHARS_MAX: usize = 60;

pub(crate) fn put(arguments: &Put) -> Result<(), Failure> {
    let condition = match (arguments.if_revision, arguments.if_absent) {
        (Some(revision), _) => Condition::At(Revision(revision)),
        (None, true) => Condition::Absent,
        (None, false) => Condition::Always,
    };
    let value = match &arguments.value {
        Some(value) if value != "-" => bytes_of(value),
        _ => read_value()?,
    };
    let attach = match (arguments.lease, arguments.ttl) {
        (Some(id), _) => Attach::To(LeaseId(id)),
        (None, Some(ttl)) => Attach::Own { ttl },
        (None, None) => Attach::Nothing,
    };
    let options = PutOptions { attach, ..PutOptions::only_if(condition) };
    let key = bytes_of(&arguments.key);
    let stored =
        with_client(
            &arguments.reach,
            |client| async move { client.put(&key, value, &options).await },
        )?;
    if arguments.reach.json {
        let body = PutBody {
            key: None,
            revision: stored.revision.0,
            create_revision: stored.create_revision.0,
            version: stored.version,
            previous: None,
        };
        return print_json(&PutJson { body, lease: stored.lease.map(|lease| lease.0) });
    }
    let verb = if stored.version == 1 { "created" } else { "replaced" };
    print(&format!("{verb} at revision {}", stored.revision))
}

/// What a put came to, and what the key lives under.
#[derive(Serialize)]
struct PutJson {
    #[serde(flatten)]
    body: PutBody,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<u64>,
}

pub(crate) fn get(arguments: &Get) -> Result<(), Failure> {
    let consistency = if arguments.stale { Consistency::Stale } else { Consistency::Linearizable };
    let revision = arguments.revision.map(Revision);
    let options = ReadOptions { consistency, revision, ..ReadOptions::default() };
    let key = bytes_of(&arguments.key);
    let name = key.clone();
    let found =
        with_client(&arguments.reach, |client| async move { client.get(&name, &options).await })?;
    let Some(found) = found else {
        return Err(no_such_key(&arguments.key));
    };
    if !arguments.reach.json {
        print_bytes(&found.value)?;
        // The prompt of a shell would stand on the value's line.
        let ends_open = found.value.last().is_some_and(|last| *last != b'\n');
        return if ends_open && io::stdout().is_terminal() { print("") } else { Ok(()) };
    }
    print_json(&ListEntry {
        key: KeyText::new(&key, Encoding::Text),
        record: RecordBody {
            value: Some(ValueText::new(&found.value, Encoding::Text)),
            create_revision: found.create_revision.0,
            mod_revision: found.mod_revision.0,
            version: found.version,
        },
    })
}

pub(crate) fn delete(arguments: &Delete) -> Result<(), Failure> {
    let condition = match arguments.if_revision {
        Some(revision) => Condition::At(Revision(revision)),
        None => Condition::Always,
    };
    let key = bytes_of(&arguments.key);
    let deleted = with_client(&arguments.reach, |client| async move {
        client.delete(&key, &DeleteOptions::only_if(condition)).await
    })?;
    let Some(deleted) = deleted else {
        return Err(no_such_key(&arguments.key));
    };
    if arguments.reach.json {
        return print_json(&DeleteBody {
            revision: deleted.revision.0,
            deleted: 1,
            more: false,
            previous: None,
        });
    }
    print(&format!("deleted at revision {}", deleted.revision))
}

pub(crate) fn list(arguments: &List) -> Result<(), Failure> {
    let limit = usize::try_from(arguments.limit).unwrap_or(usize::MAX);
    let prefix = bytes_of(&arguments.prefix);
    let at = arguments.revision.map(Revision);
    let (entries, revision, next) = with_client(&arguments.reach, |client| async move {
        let mut query = ListOptions::prefix(prefix);
        query.read.revision = at;
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let left = u32::try_from(limit - entries.len()).unwrap_or(u32::MAX);
            query.limit = Some(left.min(PAGE_KEYS));
            let mut page = client.list(&query).await?;
            entries.append(&mut page.entries);
            match query.after(&page) {
                Some(following) if entries.len() < limit => query = following,
                _ => return Ok((entries, page.revision, page.next)),
            }
        }
    })?;
    if next.is_some() {
        warn("there are more keys: raise --limit, or give a longer prefix");
    }
    if arguments.reach.json {
        return print_json(&ListPage {
            revision: revision.0,
            count: entries.len() as u64,
            entries: entries.iter().map(list_entry).collect(),
            next: next.as_deref().map(percent_encode),
        });
    }
    print_table(&entries)
}

/// Keys asked for at once; the servers' own bound on a page.
const PAGE_KEYS: u32 = 1_000;

fn print_table(entries: &[Entry]) -> Result<(), Failure> {
    if entries.is_empty() {
        return Ok(());
    }
    let mut rows = vec![["KEY", "REVISION", "VALUE"].map(str::to_owned).to_vec()];
    rows.extend(entries.iter().map(|entry| {
        let value = entry.record.value.as_deref().unwrap_or_default();
        vec![shown(&entry.key), entry.record.mod_revision.to_string(), shown(value)]
    }));
    print_bytes(columns(&rows).as_bytes())
}

/// Bytes as one short line.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let escaped: String = text.chars().flat_map(escape_control).collect();
    if escaped.chars().count() <= SHOWN_CHARS_MAX {
        return escaped;
    }
    let cut: String = escaped.chars().take(SHOWN_CHARS_MAX - 1).collect();
    format!("{cut}…")
}

/// A control character could do anything to a terminal.
fn escape_control(c: char) -> Vec<char> {
    if c.is_control() { c.escape_default().collect() } else { vec![c] }
}

fn list_entry(entry: &Entry) -> ListEntry {
    let Record { value, create_revision, mod_revision, version, .. } = &entry.record;
    ListEntry {
        key: KeyText::new(&entry.key, Encoding::Text),
        record: RecordBody {
            value: value.as_ref().map(|value| ValueText::new(value, Encoding::Text)),
            create_revision: create_revision.0,
            mod_revision: mod_revision.0,
            version: *version,
        },
    }
}

fn no_such_key(key: &OsString) -> Failure {
    Failure::refused(format!("there is no key {:?}", key.to_string_lossy()))
}

pub(crate) fn bytes_of(argument: &OsString) -> Bytes {
    Bytes::from(argument.clone().into_vec())
}

fn read_value() -> Result<Bytes, Failure> {
    let mut value = Vec::new();
    io::stdin()
        .lock()
        .take(VALUE_BYTES_MAX + 1)
        .read_to_end(&mut value)
        .context("cannot read the value from standard input")?;
    if value.len() as u64 > VALUE_BYTES_MAX {
        return Err(Failure::usage(format!("the value has more than {VALUE_BYTES_MAX} bytes")));
    }
    Ok(Bytes::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shows_no_control_characters_and_no_long_values() {
        assert_eq!(shown(b"plain"), "plain");
        assert_eq!(shown(b"a\x1b[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(shown(&[b'x'; 100]).chars().count(), SHOWN_CHARS_MAX);
    }

    #[test]
    fn arguments_may_be_any_bytes() {
        let argument = OsString::from_vec(vec![0xff, b'a']);
        assert_eq!(&bytes_of(&argument)[..], b"\xffa");
    }
}
