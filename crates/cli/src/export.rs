//! `synod export`: keys and values into a file.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use anyhow::Context;
use serde::Serialize;
use synod_client::{Client, ClientError, ListOptions, Revision};

use crate::arguments::{Export, KeyRange};
use crate::export_format::{ExportWriter, line_of};
use crate::failure::Failure;
use crate::input::is_standard;
use crate::keys::bytes_of;
use crate::output::{print, print_json, warn};
use crate::partial::Partial;
use crate::progress::Progress;
use crate::talk::with_patient_client;

/// Locks and elections stand below it. They belong to leases, which are not exported.
const RESERVED: &[u8] = b"_synod/";

/// What was exported.
#[derive(Debug, Serialize)]
struct Report {
    revision: u64,
    keys: u64,
    bytes: u64,
    /// Keys of locks and elections.
    left_out: u64,
}

pub(crate) fn run(arguments: &Export) -> Result<(), Failure> {
    let file = &arguments.file;
    if is_standard(file) {
        let report =
            receive(arguments, BufWriter::with_capacity(64 << 10, io::stdout()), |out| out.flush());
        let report = report?;
        warn(&describe("standard output", &report));
        return Ok(());
    }
    let (partial, out) = Partial::create(file, arguments.force)?;
    let report = receive(arguments, BufWriter::with_capacity(64 << 10, out), |out| {
        out.flush()?;
        File::sync_all(out.get_ref())
    })?;
    partial.publish()?;
    match arguments.reach.json {
        true => print_json(&report),
        false => print(&describe(&file.display().to_string(), &report)),
    }
}

fn describe(name: &str, report: &Report) -> String {
    let Report { revision, keys, bytes, left_out } = report;
    let without = match left_out {
        0 => String::new(),
        _ => format!(" (without {left_out} of locks and elections)"),
    };
    format!("{name}: {keys} keys{without} as of revision {revision}, {bytes} bytes")
}

fn receive<W: Write>(
    arguments: &Export,
    mut out: W,
    end: impl FnOnce(&mut W) -> io::Result<()>,
) -> Result<Report, Failure> {
    let mut query = query(&arguments.range);
    query.read.revision = arguments.revision.map(Revision);
    let written = with_patient_client(&arguments.reach, |client| async move {
        match copy(client, query, &mut out).await? {
            Ok(report) => Ok(end(&mut out).map(|()| report)),
            failed => Ok(failed),
        }
    })?;
    Ok(written.with_context(|| format!("cannot write {}", arguments.file.display()))?)
}

pub(crate) fn query(range: &KeyRange) -> ListOptions {
    ListOptions {
        start: range.start.as_ref().map(bytes_of),
        end: range.end.as_ref().map(bytes_of),
        ..ListOptions::prefix(bytes_of(&range.prefix))
    }
}

/// Fails by the cluster or by the file.
async fn copy(
    client: Client,
    query: ListOptions,
    out: &mut impl Write,
) -> Result<io::Result<Report>, ClientError> {
    let mut scan = client.scan(query)?;
    let revision = scan.revision().await?.0;
    let mut writer = ExportWriter::default();
    let mut progress = Progress::of_keys("exported");
    let mut left_out = 0;
    let head = writer.head(revision);
    if let Err(error) = out.write_all(&head) {
        return Ok(Err(error));
    }
    while let Some(entry) = scan.next().await? {
        if entry.key.starts_with(RESERVED) {
            left_out += 1;
            continue;
        }
        let line = writer.key(&line_of(&entry));
        if let Err(error) = out.write_all(&line) {
            return Ok(Err(error));
        }
        progress.set(writer.keys);
    }
    progress.end();
    let tail = writer.tail();
    let ExportWriter { keys, bytes, .. } = writer;
    Ok(out.write_all(&tail).map(|()| Report { revision, keys, bytes, left_out }))
}
