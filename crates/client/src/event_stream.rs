//! Server-Sent Events, read from bytes as they come.

/// An event.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct RawEvent {
    pub(crate) name: String,
    pub(crate) id: Option<u64>,
    pub(crate) data: Vec<u8>,
}

/// Reads a stream. It holds what came of one event, at most, and what came with it.
#[derive(Debug)]
pub(crate) struct EventStream {
    /// What was not read yet, from `start` on.
    bytes: Vec<u8>,
    start: usize,
    /// No line ends before this.
    searched: usize,
    event: RawEvent,
    has_fields: bool,
    event_bytes_max: usize,
}

impl EventStream {
    /// Refuses events of more bytes than this.
    pub(crate) fn new(event_bytes_max: usize) -> Self {
        Self {
            bytes: Vec::new(),
            start: 0,
            searched: 0,
            event: RawEvent::default(),
            has_fields: false,
            event_bytes_max,
        }
    }

    /// Takes what came. To be called when [`EventStream::next`] has nothing more, so that no
    /// more than that is held.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole event.
    ///
    /// # Errors
    /// What no node sends.
    pub(crate) fn next(&mut self) -> Result<Option<RawEvent>, String> {
        loop {
            let end = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n');
            let Some(end) = end.map(|end| self.searched + end) else {
                self.searched = self.bytes.len();
                return self.check_room().map(|()| None);
            };
            let line = &self.bytes[self.start..end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let is_end = line.is_empty();
            if !is_end {
                self.has_fields = true;
                self.event.take_line(line)?;
            }
            (self.start, self.searched) = (end + 1, end + 1);
            self.check_room()?;
            if is_end && std::mem::take(&mut self.has_fields) {
                return Ok(Some(std::mem::take(&mut self.event)));
            }
        }
    }

    fn check_room(&self) -> Result<(), String> {
        let line = self.searched - self.start;
        if line.saturating_add(self.event.data.len()) > self.event_bytes_max {
            return Err(format!("an event of more than {} bytes", self.event_bytes_max));
        }
        Ok(())
    }
}

impl RawEvent {
    fn take_line(&mut self, line: &[u8]) -> Result<(), String> {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (field, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                if !self.data.is_empty() {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
            }
            b"id" => {
                let id = std::str::from_utf8(value).ok().and_then(|id| id.parse().ok());
                self.id = Some(id.ok_or("an id that is no revision")?);
            }
            b"event" => self.name = String::from_utf8_lossy(value).into_owned(),
            // Comments, `retry`, and what a later release may say.
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "id: 41\nevent: progress\ndata: {}\n\n: a comment\r\nid:42\r\n\
                        event: put\r\ndata: a\r\ndata:b\r\n\r\n\n\nevent: delete\ndata: c\n\n";

    fn read(stream: &mut EventStream, events: &mut Vec<RawEvent>) {
        while let Some(event) = stream.next().unwrap() {
            events.push(event);
        }
    }

    #[test]
    fn events_are_the_same_wherever_the_bytes_are_cut() {
        let event = |name: &str, id, data: &str| RawEvent {
            name: name.to_owned(),
            id,
            data: data.as_bytes().to_vec(),
        };
        let expected = [
            event("progress", Some(41), "{}"),
            event("put", Some(42), "a\nb"),
            event("delete", None, "c"),
        ];
        for cut in 0..=TEXT.len() {
            let mut stream = EventStream::new(64);
            let mut events = Vec::new();
            for part in [&TEXT[..cut], &TEXT[cut..]] {
                stream.push(part.as_bytes());
                read(&mut stream, &mut events);
            }
            assert_eq!(events, expected, "cut at {cut}");
        }
        let (mut stream, mut events) = (EventStream::new(64), Vec::new());
        for byte in TEXT.as_bytes() {
            stream.push(&[*byte]);
            read(&mut stream, &mut events);
        }
        assert_eq!(events, expected);
    }

    #[test]
    fn what_has_no_end_is_refused() {
        for text in ["data: 0123456789", "data: 0123\ndata: 4567\ndata: 89\n", "x", ": x"] {
            let mut stream = EventStream::new(16);
            let refused = (0..20).any(|_| {
                stream.push(text.as_bytes());
                stream.next().is_err()
            });
            assert!(refused, "{text}");
            assert!(stream.bytes.len() <= 64);
        }
        let mut stream = EventStream::new(64);
        stream.push(b"id: -1\n\n");
        assert!(stream.next().is_err());
    }
}
