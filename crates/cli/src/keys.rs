//! `synod put`, `get` and `delete`.

use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use anyhow::Context;
use bytes::Bytes;
use serde::Serialize;
use synod_client::{
    Attach, Client, Condition, Consistency, DeleteOptions, Entry, LeaseId, PutOptions, ReadOptions,
    Record, Revision,
};
use synod_kv::http::{DeleteBody, Encoding, KeyText, ListEntry, PutBody, RecordBody, ValueText};

use crate::arguments::{Delete, Fresh, Get, Put};
use crate::failure::Failure;
use crate::input::read_whole;
use crate::output::{print, print_bytes, print_json};
use crate::talk::{with_client, write_with_client};

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
    let value = value_of(arguments.value.as_ref(), arguments.file.as_deref())?;
    let attach = match (arguments.lease, arguments.ttl) {
        (Some(id), _) => Attach::To(LeaseId(id)),
        (None, Some(ttl)) => Attach::Own { ttl },
        (None, None) => Attach::Nothing,
    };
    let want_previous = arguments.previous;
    let named = PutOptions::from(&arguments.named.options());
    let options = PutOptions { attach, want_previous, condition, ..named };
    let key = bytes_of(&arguments.key);
    let asked = |client: Client| async move { client.put(&key, value, &options).await };
    let stored = write_with_client(&arguments.reach, asked)?;
    if arguments.reach.json {
        let body = PutBody {
            key: None,
            revision: stored.revision.0,
            create_revision: stored.create_revision.0,
            version: stored.version,
            previous: stored.previous.as_ref().map(record_body),
        };
        return print_json(&PutJson { body, lease: stored.lease.map(|lease| lease.0) });
    }
    let verb = if stored.version == 1 { "created" } else { "replaced" };
    print(&format!("{verb} at revision {}{}", stored.revision, before(stored.previous.as_ref())))
}

/// A value that is given, or what a file or standard input holds.
pub(crate) fn value_of(given: Option<&OsString>, file: Option<&Path>) -> Result<Bytes, Failure> {
    match (file, given) {
        (Some(file), _) => read_whole(file, VALUE_BYTES_MAX),
        (None, Some(value)) if value != "-" => Ok(bytes_of(value)),
        (None, _) => read_whole(Path::new("-"), VALUE_BYTES_MAX),
    }
}

/// What was there before, as a line below another one.
fn before(previous: Option<&Record>) -> String {
    let Some(record) = previous else { return String::new() };
    let value = shown(record.value.as_deref().unwrap_or_default());
    format!("\nbefore, of revision {}: {value}", record.mod_revision)
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
    let options = read_options(arguments.fresh, arguments.revision);
    let key = bytes_of(&arguments.key);
    let name = key.clone();
    let found =
        with_client(&arguments.reach, |client| async move { client.get(&name, &options).await })?;
    let Some(found) = found else {
        return Err(no_such_key(&arguments.key));
    };
    if let Some(file) = &arguments.file {
        let written = fs::write(file, &found.value);
        return Ok(written.with_context(|| format!("cannot write {}", file.display()))?);
    }
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
            lease: found.lease.map(|lease| lease.0),
        },
    })
}

/// What a read asks for.
pub(crate) fn read_options(fresh: Fresh, revision: Option<u64>) -> ReadOptions {
    let Fresh { stale, min_revision } = fresh;
    ReadOptions {
        consistency: if stale { Consistency::Stale } else { Consistency::Linearizable },
        min_revision: min_revision.map(Revision),
        revision: revision.map(Revision),
    }
}

pub(crate) fn delete(arguments: &Delete) -> Result<(), Failure> {
    let Some(key) = &arguments.key else {
        return delete_range(arguments);
    };
    let condition = match arguments.if_revision {
        Some(revision) => Condition::At(Revision(revision)),
        None => Condition::Always,
    };
    let name = bytes_of(key);
    let want_previous = arguments.previous;
    let named = DeleteOptions::from(&arguments.named.options());
    let options = DeleteOptions { want_previous, condition, ..named };
    let asked = |client: Client| async move { client.delete(&name, &options).await };
    let deleted = write_with_client(&arguments.reach, asked)?;
    let Some(deleted) = deleted else {
        return Err(no_such_key(key));
    };
    if arguments.reach.json {
        return print_deleted(deleted.revision, 1, deleted.previous.as_ref());
    }
    print(&format!("deleted at revision {}{}", deleted.revision, before(deleted.previous.as_ref())))
}

fn delete_range(arguments: &Delete) -> Result<(), Failure> {
    let prefix = arguments.prefix.as_ref().map(bytes_of);
    let options = arguments.named.options();
    let removed = write_with_client(&arguments.reach, |client| async move {
        match prefix {
            Some(prefix) => client.delete_prefix(&prefix, &options).await,
            None => client.delete_all(&options).await,
        }
    })?;
    if arguments.reach.json {
        return print_deleted(removed.revision, removed.deleted, None);
    }
    print(&format!("{} keys deleted, revision {}", removed.deleted, removed.revision))
}

fn print_deleted(
    revision: Revision,
    deleted: u64,
    previous: Option<&Record>,
) -> Result<(), Failure> {
    let previous = previous.map(record_body);
    print_json(&DeleteBody { revision: revision.0, deleted, more: false, previous })
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

pub(crate) fn list_entry(entry: &Entry) -> ListEntry {
    let key = KeyText::new(&entry.key, Encoding::Text);
    ListEntry { key, record: record_body(&entry.record) }
}

pub(crate) fn record_body(record: &Record) -> RecordBody {
    RecordBody {
        value: record.value.as_ref().map(|value| ValueText::new(value, Encoding::Text)),
        create_revision: record.create_revision.0,
        mod_revision: record.mod_revision.0,
        version: record.version,
        lease: record.lease.map(|lease| lease.0),
    }
}

fn no_such_key(key: &OsString) -> Failure {
    Failure::refused(format!("there is no key {:?}", key.to_string_lossy()))
}

pub(crate) fn bytes_of(argument: &OsString) -> Bytes {
    Bytes::from(argument.clone().into_vec())
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
