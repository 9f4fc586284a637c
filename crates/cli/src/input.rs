//! What a file or standard input holds.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::thread;

use anyhow::Context;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::failure::Failure;

/// The longest line: more than any value takes, in base64.
const LINE_BYTES_MAX: u64 = 32 << 20;
/// Lines that are handed over together, in bytes.
const PIECE_BYTES: usize = 64 << 10;

/// A line without its end, and its number from 1 on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Line {
    pub(crate) number: u64,
    pub(crate) text: Vec<u8>,
}

/// Whether this is the name of standard input, or output.
pub(crate) fn is_standard(path: &Path) -> bool {
    path == Path::new("-")
}

/// How to call it in a message.
pub(crate) fn name(path: &Path) -> String {
    if is_standard(path) { "standard input".to_owned() } else { path.display().to_string() }
}

/// All of it, for what must be held anyway.
pub(crate) fn read_whole(path: &Path, bytes_max: u64) -> Result<Bytes, Failure> {
    let mut bytes = Vec::new();
    let source: Box<dyn Read> = match is_standard(path) {
        true => Box::new(io::stdin().lock()),
        false => Box::new(File::open(path).with_context(|| cannot_read(path))?),
    };
    source.take(bytes_max + 1).read_to_end(&mut bytes).with_context(|| cannot_read(path))?;
    if bytes.len() as u64 > bytes_max {
        return Err(Failure::usage(format!("{} has more than {bytes_max} bytes", name(path))));
    }
    Ok(Bytes::from(bytes))
}

/// Its lines, one after the other.
pub(crate) struct Lines {
    source: BufReader<Box<dyn Read + Send>>,
    number: u64,
}

impl Lines {
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let source: Box<dyn Read + Send> = match is_standard(path) {
            true => Box::new(io::stdin()),
            false => Box::new(File::open(path).with_context(|| cannot_read(path))?),
        };
        Ok(Self { source: BufReader::with_capacity(PIECE_BYTES, source), number: 0 })
    }

    /// The next line; none at the end.
    ///
    /// # Errors
    /// When it can't be read or is too long.
    pub(crate) fn next(&mut self) -> io::Result<Option<Line>> {
        let mut text = Vec::new();
        let read = (&mut self.source).take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut text)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        if text.last() == Some(&b'\n') {
            text.pop();
        } else if read as u64 > LINE_BYTES_MAX {
            let what = format!("line {} has more than {LINE_BYTES_MAX} bytes", self.number);
            return Err(io::Error::other(what));
        }
        Ok(Some(Line { number: self.number, text }))
    }
}

/// The lines as a thread reads them, a few of them ahead: whoever waits for a slow input waits
/// for nothing else.
pub(crate) fn read_ahead(mut lines: Lines) -> mpsc::Receiver<io::Result<Vec<Line>>> {
    let (sender, receiver) = mpsc::channel(2);
    thread::spawn(move || {
        loop {
            let mut piece = Vec::new();
            let mut bytes = 0;
            let end = loop {
                match lines.next() {
                    Ok(Some(line)) => {
                        bytes += line.text.len();
                        piece.push(line);
                        // What is there is not kept back for what may come later.
                        if bytes >= PIECE_BYTES || lines.source.buffer().is_empty() {
                            break None;
                        }
                    }
                    Ok(None) => break Some(Ok(())),
                    Err(error) => break Some(Err(error)),
                }
            };
            let is_taken = piece.is_empty() || sender.blocking_send(Ok(piece)).is_ok();
            match end {
                None if is_taken => {}
                Some(Err(error)) if is_taken => {
                    let _ = sender.blocking_send(Err(error));
                    return;
                }
                _ => return,
            }
        }
    });
    receiver
}

fn cannot_read(path: &Path) -> String {
    format!("cannot read {}", name(path))
}
