//! Server-Sent Events as they come over a connection: an answer in chunks, read as far as it is here.

use bytes::{Buf, BytesMut};

/// A line that is longer is none of ours.
const LINE_BYTES_MAX: usize = 1 << 20;

/// What comes over a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    Status(u16),
    Event { name: String, id: Option<u64>, data: String },
    End,
}

/// An answer in chunks, as far as it has come.
#[derive(Default)]
pub(super) struct Body {
    pub(super) raw: BytesMut,
    is_begun: bool,
    /// Bytes of the chunk that are not here yet, with the line end behind it.
    chunk_left: usize,
    text: BytesMut,
    name: String,
    id: Option<u64>,
    data: String,
}

impl Body {
    /// The next part that is complete.
    pub(super) fn next(&mut self) -> Result<Option<Told>, String> {
        if !self.is_begun {
            return self.take_head();
        }
        loop {
            while let Some(line) = take_line(&mut self.text)? {
                if let Some(name) = line.strip_prefix("event: ") {
                    self.name = name.to_owned();
                } else if let Some(id) = line.strip_prefix("id: ") {
                    self.id = id.parse().ok();
                } else if let Some(data) = line.strip_prefix("data: ") {
                    self.data = data.to_owned();
                } else if line.is_empty() && !self.name.is_empty() {
                    let (name, data) =
                        (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
                    return Ok(Some(Told::Event { name, id: self.id.take(), data }));
                }
            }
            if self.chunk_left == 0 {
                let Some(size) = take_line(&mut self.raw)? else { return Ok(None) };
                let size = usize::from_str_radix(&size, 16)
                    .map_err(|_| format!("{size:?} is no length of a chunk"))?;
                if size == 0 {
                    return Ok(Some(Told::End));
                }
                self.chunk_left = size + 2;
            }
            if self.raw.is_empty() {
                return Ok(None);
            }
            // The line end behind a chunk is none of its text.
            let length = self.raw.len().min(self.chunk_left);
            let text = length.min(self.chunk_left.saturating_sub(2));
            self.text.extend_from_slice(&self.raw[..text]);
            self.raw.advance(length);
            self.chunk_left -= length;
        }
    }

    fn take_head(&mut self) -> Result<Option<Told>, String> {
        let end = self.raw.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let Some(end) = end else { return Ok(None) };
        let head = self.raw.split_to(end + 4);
        let status = head.get(9..12).and_then(|status| std::str::from_utf8(status).ok());
        let status = status.and_then(|status| status.parse().ok());
        self.is_begun = true;
        status.map(Told::Status).map(Some).ok_or_else(|| "an answer without status".to_owned())
    }
}

fn take_line(text: &mut BytesMut) -> Result<Option<String>, String> {
    let Some(end) = text.iter().position(|byte| *byte == b'\n') else {
        let is_endless = text.len() > LINE_BYTES_MAX;
        return if is_endless { Err("a line without end".to_owned()) } else { Ok(None) };
    };
    let line = text.split_to(end + 1);
    Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
        2c\r\nid: 1\nevent: progress\ndata: {\"revision\":1}\n\n\r\n\
        10\r\nevent: put\ndata:\r\ne\r\n {\"a\":1}\n\nid: \r\n\
        1f\r\n3\nevent: delete\ndata: {\"b\":2}\n\n\r\n0\r\n\r\n";

    fn told(parts: impl Iterator<Item = &'static [u8]>) -> Vec<Told> {
        let mut body = Body::default();
        let mut all = Vec::new();
        for part in parts {
            body.raw.extend_from_slice(part);
            while let Some(told) = body.next().expect("it can be read") {
                let is_end = told == Told::End;
                all.push(told);
                if is_end {
                    return all;
                }
            }
        }
        all
    }

    #[test]
    fn a_stream_is_read_however_it_is_cut() {
        let event = |name: &str, id, data: &str| Told::Event {
            name: name.to_owned(),
            id,
            data: data.to_owned(),
        };
        let expected = [
            Told::Status(200),
            event("progress", Some(1), "{\"revision\":1}"),
            event("put", None, "{\"a\":1}"),
            event("delete", Some(3), "{\"b\":2}"),
            Told::End,
        ];
        for length in 1..=STREAM.len() {
            assert_eq!(told(STREAM.chunks(length)), expected, "parts of {length} bytes");
        }
    }
}
