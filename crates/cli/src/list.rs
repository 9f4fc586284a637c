//! `synod list`.

use std::io::{self, BufWriter, Write};

use anyhow::Context;
use synod_client::{Client, ClientError, Entry, ListOptions, Revision, percent_encode};
use synod_kv::http::ListPage;

use crate::arguments::List;
use crate::failure::Failure;
use crate::keys::{bytes_of, list_entry, read_options, shown};
use crate::output::{columns, print, print_bytes, print_json, warn};
use crate::talk::{with_client, with_patient_client};

/// Keys asked for at once; the servers' own bound on a page.
const PAGE_KEYS: u32 = 1_000;
/// Keys of a table unless it is said how many: it is held as a whole.
const LIMIT: u32 = 1_000;

pub(crate) fn run(arguments: &List) -> Result<(), Failure> {
    let prefix = arguments.prefix.as_ref().or(arguments.prefix_named.as_ref());
    let mut query = ListOptions {
        start: arguments.start.as_ref().map(bytes_of),
        end: arguments.end.as_ref().map(bytes_of),
        reverse: arguments.reverse,
        keys_only: arguments.keys_only,
        read: read_options(arguments.fresh, arguments.revision),
        ..ListOptions::prefix(prefix.map(bytes_of).unwrap_or_default())
    };
    if arguments.count {
        return count(arguments, query);
    }
    if arguments.ndjson {
        query.limit = arguments.limit;
        return stream(arguments, query);
    }
    table(arguments, query)
}

fn table(arguments: &List, query: ListOptions) -> Result<(), Failure> {
    let limit = usize::try_from(arguments.limit.unwrap_or(LIMIT)).unwrap_or(usize::MAX);
    let (entries, revision, next) =
        with_client(&arguments.reach, |client| pages(client, query, limit))?;
    if next.is_some() {
        warn("there are more keys: raise --limit, or give a longer prefix");
    }
    if arguments.reach.json {
        return print_json(&ListPage {
            revision: revision.0,
            count: entries.len() as u64,
            entries: entries.iter().map(list_entry).collect(),
            next: next.as_deref().map(percent_encode),
            next_page: None,
        });
    }
    print_table(&entries, arguments.keys_only)
}

async fn pages(
    client: Client,
    mut query: ListOptions,
    limit: usize,
) -> Result<(Vec<Entry>, Revision, Option<bytes::Bytes>), ClientError> {
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
}

fn print_table(entries: &[Entry], keys_only: bool) -> Result<(), Failure> {
    if entries.is_empty() {
        return Ok(());
    }
    let shown_columns = if keys_only { 2 } else { 3 };
    let row = |mut cells: Vec<String>| {
        cells.truncate(shown_columns);
        cells
    };
    let mut rows = vec![row(["KEY", "REVISION", "VALUE"].map(str::to_owned).to_vec())];
    rows.extend(entries.iter().map(|entry| {
        let value = entry.record.value.as_deref().unwrap_or_default();
        row(vec![shown(&entry.key), entry.record.mod_revision.to_string(), shown(value)])
    }));
    print_bytes(columns(&rows).as_bytes())
}

fn count(arguments: &List, mut query: ListOptions) -> Result<(), Failure> {
    query.count_only = true;
    let (revision, count) = with_client(&arguments.reach, |client| async move {
        let mut count = 0;
        loop {
            let page = client.list(&query).await?;
            count += page.count;
            match query.after(&page) {
                Some(following) => query = following,
                None => return Ok((page.revision, count)),
            }
        }
    })?;
    if arguments.reach.json {
        let (revision, entries) = (revision.0, Vec::new());
        return print_json(&ListPage { revision, count, entries, next: None, next_page: None });
    }
    print(&count.to_string())
}

/// Prints a line per key as they come.
fn stream(arguments: &List, query: ListOptions) -> Result<(), Failure> {
    let mut out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    let written = with_patient_client(&arguments.reach, |client| async move {
        let mut scan = client.scan(query)?;
        while let Some(entry) = scan.next().await? {
            let line = serde_json::to_vec(&list_entry(&entry)).expect("plain fields");
            if let Err(error) = out.write_all(&line).and_then(|()| out.write_all(b"\n")) {
                return Ok(Err(error));
            }
        }
        Ok(out.flush())
    })?;
    match written {
        // `synod list --ndjson | head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other.context("cannot write to standard output")?),
    }
}
