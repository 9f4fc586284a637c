//! Results as a page to look at: one self-contained `index.html` with plots
//! in SVG, and `results.json` with the numbers behind it. No scripts, nothing
//! fetched; colours follow the reader's light or dark preference.

mod chart;
mod escape;
mod failover_page;
mod page;
mod throughput_page;

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::BenchError;
use crate::failover::FailoverResult;
use crate::throughput::ThroughputResult;

/// Writes a failover run's page into a folder, which is created if missing,
/// and gives the page's path.
///
/// # Errors
/// When a file cannot be written.
pub fn write_failover(dir: &Path, result: &FailoverResult) -> Result<PathBuf, BenchError> {
    write(dir, failover_page::render(result), result)
}

/// Writes a throughput run's page, as [`write_failover`] does.
///
/// # Errors
/// When a file cannot be written.
pub fn write_throughput(dir: &Path, result: &ThroughputResult) -> Result<PathBuf, BenchError> {
    write(dir, throughput_page::render(result), result)
}

fn write(dir: &Path, page: String, result: &impl Serialize) -> Result<PathBuf, BenchError> {
    let written = |path: PathBuf, content: String| match fs::write(&path, content) {
        Ok(()) => Ok(path),
        Err(source) => Err(BenchError::File { path, source }),
    };
    fs::create_dir_all(dir).map_err(|source| BenchError::File { path: dir.to_owned(), source })?;
    let json = serde_json::to_string_pretty(result).expect("results are plain data");
    written(dir.join("results.json"), json)?;
    written(dir.join("index.html"), page)
}
