//! The lines of a body, as they arrive.

#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use crate::problem::{Kind, Problem};

/// One line.
#[derive(Debug)]
pub(crate) struct Line {
    /// Lines are counted from 1, those without a word too.
    pub(crate) number: u64,
    /// What stands in it, or why that is not known. After a body that ended early there is
    /// no further line.
    pub(crate) text: Result<Bytes, Problem>,
}

/// Cuts a body into lines.
#[derive(Debug)]
pub(crate) struct Lines<B> {
    /// None at its end.
    body: Option<B>,
    /// What arrived and is not cut yet: nearly always less than a line and a frame.
    rest: BytesMut,
    /// So much of it has no end of a line.
    searched: usize,
    /// The line is too long already; what comes up to its end is thrown away.
    is_too_long: bool,
    number: u64,
    bytes_max: usize,
    /// How long the client may be silent, and since when it is or may be.
    patience: Duration,
    since: Instant,
    /// Whether it may not be silent for longer.
    pub(crate) is_timed: bool,
    /// Bytes that came since then.
    came: usize,
}

/// Whoever sends less than this, or a line, within the patience is as good as silent.
const PROGRESS_BYTES: usize = 64 << 10;

impl<B> Lines<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    pub(crate) fn new(body: B, bytes_max: usize, patience: Duration) -> Self {
        Self {
            body: Some(body),
            rest: BytesMut::new(),
            searched: 0,
            is_too_long: false,
            number: 0,
            bytes_max,
            patience,
            since: Instant::now(),
            is_timed: true,
            came: 0,
        }
    }

    /// The client was not listened to for a while, which is not its fault.
    pub(crate) fn be_patient(&mut self) {
        self.since = Instant::now();
        self.came = 0;
    }

    /// The next line that is not empty; none at the end. Nothing is lost if the future is
    /// dropped before.
    pub(crate) async fn next(&mut self) -> Option<Line> {
        loop {
            if let Some(line) = self.cut() {
                self.be_patient();
                return Some(line);
            }
            self.body.as_ref()?;
            match self.receive().await {
                Ok(()) if self.body.is_some() => {}
                Ok(()) => return self.last(),
                Err(problem) => return Some(self.end(problem)),
            }
        }
    }

    /// Takes what comes next of the body, if anything does.
    ///
    /// # Errors
    /// When the body does not come to its end.
    pub(crate) async fn receive(&mut self) -> Result<(), Problem> {
        let Some(body) = &mut self.body else {
            return Ok(());
        };
        let frame = match self.is_timed {
            true => timeout_at(self.since + self.patience, body.frame()).await,
            false => Ok(body.frame().await),
        };
        match frame {
            Ok(Some(Ok(frame))) => {
                // Trailers say nothing to us.
                if let Ok(data) = frame.into_data() {
                    self.came += data.len();
                    if self.came >= PROGRESS_BYTES {
                        self.since = Instant::now();
                        self.came = 0;
                    }
                    self.rest.extend_from_slice(&data);
                }
                Ok(())
            }
            Ok(Some(Err(_))) => Err(cut_off()),
            Ok(None) => {
                self.body = None;
                Ok(())
            }
            Err(_elapsed) => Err(too_slow()),
        }
    }

    /// The next line that is here as a whole, or the beginning of one that is too long.
    fn cut(&mut self) -> Option<Line> {
        loop {
            let Some(at) = self.rest[self.searched..].iter().position(|byte| *byte == b'\n') else {
                self.searched = self.rest.len();
                if self.searched > self.bytes_max && !self.is_too_long {
                    self.is_too_long = true;
                }
                if self.is_too_long {
                    self.rest.clear();
                    self.searched = 0;
                }
                return None;
            };
            let end = self.searched + at;
            let text = self.rest.split_to(end).freeze();
            self.rest.advance(1);
            self.searched = 0;
            self.number += 1;
            if std::mem::take(&mut self.is_too_long) || text.len() > self.bytes_max {
                return Some(self.line(Err(self.too_long())));
            }
            if !text.trim_ascii().is_empty() {
                // A copy, so that a short line does not hold a long buffer.
                return Some(self.line(Ok(Bytes::copy_from_slice(&text))));
            }
        }
    }

    /// The last line, if the body does not end with the end of one.
    fn last(&mut self) -> Option<Line> {
        self.number += 1;
        if self.is_too_long {
            self.is_too_long = false;
            return Some(self.line(Err(self.too_long())));
        }
        let text = std::mem::take(&mut self.rest).freeze();
        self.searched = 0;
        (!text.trim_ascii().is_empty()).then(|| self.line(Ok(text)))
    }

    fn line(&self, text: Result<Bytes, Problem>) -> Line {
        Line { number: self.number, text }
    }

    /// Nothing more comes, and not because that was all.
    fn end(&mut self, problem: Problem) -> Line {
        self.body = None;
        self.rest.clear();
        self.searched = 0;
        self.number += 1;
        self.line(Err(problem))
    }

    fn too_long(&self) -> Problem {
        let (number, bytes_max) = (self.number, self.bytes_max);
        let detail = format!("Line {number}: it has more than the {bytes_max} bytes allowed.");
        Problem::new(Kind::BodyTooLarge, detail)
    }
}

fn cut_off() -> Problem {
    let detail = "The body was cut off or its chunks are malformed: this line and all behind it \
                  were not carried out.";
    Problem::new(Kind::BadRequest, detail)
}

fn too_slow() -> Problem {
    let detail = "No more of the body came in time: this line and all behind it were not carried \
                  out.";
    Problem::new(Kind::RequestTimeout, detail)
}
