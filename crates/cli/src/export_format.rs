//! The file that `synod export` writes and `synod import` reads.
//!
//! Lines of JSON: what it is, then a line per key as a listing gives it, and a last line with
//! their number and a CRC-32C of all bytes before it. So a file that was cut off, joined or
//! changed is noticed.

use serde::{Deserialize, Serialize};
use synod_client::{Entry, key_text, value_text};
use synod_kv::http::{ListEntry, RecordBody};

/// The first line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Head {
    /// The version of this format.
    synod_export: u32,
    /// The keys are as they were at this revision.
    pub(crate) revision: u64,
}

/// The last line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tail {
    /// How many keys there are.
    synod_export_end: u64,
    /// Of all bytes before this line, in hexadecimal digits.
    crc32c: String,
}

const VERSION: u32 = 1;
/// What no line of a key begins with.
const TAIL: &[u8] = b"{\"synod_export_end\"";

/// A key and its value for a line, each as text unless base64 is shorter: a value of control
/// characters would be six times as long, and too long for a line.
pub(crate) fn line_of(entry: &Entry) -> ListEntry {
    let record = RecordBody {
        value: entry.record.value.as_deref().map(value_text),
        create_revision: entry.record.create_revision.0,
        mod_revision: entry.record.mod_revision.0,
        version: entry.record.version,
        // Where it is imported there is no such lease, or another one with the same id.
        lease: None,
    };
    ListEntry { key: key_text(&entry.key), record }
}

/// Writes the lines.
#[derive(Debug, Default)]
pub(crate) struct ExportWriter {
    crc: u32,
    pub(crate) keys: u64,
    pub(crate) bytes: u64,
}

impl ExportWriter {
    pub(crate) fn head(&mut self, revision: u64) -> Vec<u8> {
        self.line(&Head { synod_export: VERSION, revision })
    }

    pub(crate) fn key(&mut self, entry: &ListEntry) -> Vec<u8> {
        self.keys += 1;
        self.line(entry)
    }

    pub(crate) fn tail(&mut self) -> Vec<u8> {
        let crc32c = format!("{:08x}", self.crc);
        self.line(&Tail { synod_export_end: self.keys, crc32c })
    }

    fn line(&mut self, document: &impl Serialize) -> Vec<u8> {
        let mut line = serde_json::to_vec(document).expect("plain fields");
        line.push(b'\n');
        self.crc = crc32c::crc32c_append(self.crc, &line);
        self.bytes += line.len() as u64;
        line
    }
}

/// Reads and checks the lines.
#[derive(Debug, Default)]
pub(crate) struct ExportReader {
    crc: u32,
    /// The keys so far.
    pub(crate) keys: u64,
    head: Option<Head>,
    is_over: bool,
}

/// A key and its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct KeyAndValue {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

impl ExportReader {
    /// Takes a line without its end: a key, unless it is the first or the last line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn take(&mut self, line: &[u8]) -> Result<Option<KeyAndValue>, String> {
        if self.is_over {
            return Err("something follows the last line of an export".to_owned());
        }
        if line.starts_with(TAIL) {
            return self.take_tail(line).map(|()| None);
        }
        self.crc = crc32c::crc32c_append(self.crc, line);
        self.crc = crc32c::crc32c_append(self.crc, b"\n");
        if self.head.is_none() {
            let not_ours = |_| "this is not what `synod export` writes".to_owned();
            let head: Head = serde_json::from_slice(line).map_err(not_ours)?;
            if head.synod_export != VERSION {
                let version = head.synod_export;
                return Err(format!("version {version} of the format is not known to this binary"));
            }
            self.head = Some(head);
            return Ok(None);
        }
        let garbled = || "this is not a key with its value".to_owned();
        let entry: ListEntry = serde_json::from_slice(line).map_err(|_| garbled())?;
        let key = entry.key.to_bytes().filter(|key| !key.is_empty()).ok_or_else(garbled)?;
        let value = entry.record.value.and_then(|value| value.to_bytes()).ok_or_else(garbled)?;
        self.keys += 1;
        Ok(Some(KeyAndValue { key, value }))
    }

    fn take_tail(&mut self, line: &[u8]) -> Result<(), String> {
        let garbled = |_| "the last line is garbled".to_owned();
        let tail: Tail = serde_json::from_slice(line).map_err(garbled)?;
        if self.head.is_none() || tail.synod_export_end != self.keys {
            let (should, is) = (tail.synod_export_end, self.keys);
            return Err(format!("there should be {should} keys, and there are {is}"));
        }
        if tail.crc32c != format!("{:08x}", self.crc) {
            return Err("the checksum is wrong: something was changed".to_owned());
        }
        self.is_over = true;
        Ok(())
    }

    /// The first line, at the end of a whole export.
    ///
    /// # Errors
    /// When it was cut off.
    pub(crate) fn end(&self) -> Result<Head, String> {
        let head = self.head.filter(|_| self.is_over);
        head.ok_or_else(|| {
            format!("it is cut off after {} keys: the last line is missing", self.keys)
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use synod_client::{LeaseId, Record, Revision};

    use super::*;

    fn export() -> (Vec<u8>, Vec<KeyAndValue>) {
        let mut writer = ExportWriter::default();
        let mut file = writer.head(7);
        let keys: Vec<KeyAndValue> = [(&b"a"[..], &b"1"[..]), (b"b\xff", b"\0\xfe"), (b"c", b"")]
            .map(|(key, value)| KeyAndValue { key: key.to_vec(), value: value.to_vec() })
            .to_vec();
        for KeyAndValue { key, value } in &keys {
            let record = Record {
                value: Some(value.clone().into()),
                create_revision: Revision(1),
                mod_revision: Revision(2),
                version: 3,
                lease: None,
            };
            let entry = Entry { key: key.clone().into(), record };
            file.extend(writer.key(&line_of(&entry)));
        }
        file.extend(writer.tail());
        assert_eq!((writer.keys, writer.bytes), (3, file.len() as u64));
        (file, keys)
    }

    fn read(file: &[u8]) -> Result<Vec<KeyAndValue>, String> {
        let mut reader = ExportReader::default();
        let mut keys = Vec::new();
        for line in file.split_inclusive(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            keys.extend(reader.take(line)?);
        }
        assert_eq!(reader.end()?.revision, 7);
        Ok(keys)
    }

    #[test]
    fn what_is_written_is_read() {
        let (file, keys) = export();
        assert_eq!(read(&file).unwrap(), keys);
        let text = String::from_utf8(file).unwrap();
        assert!(
            text.starts_with("{\"synod_export\":1,\"revision\":7}\n{\"key\":\"a\",\"value\":\"1\"")
        );
        assert!(text.contains("\"key_base64\":\"Yv8=\""));
    }

    #[test]
    fn a_lease_is_not_written_and_not_minded() {
        let entry: ListEntry = serde_json::from_str(
            r#"{"key":"a","value":"1","create_revision":1,"mod_revision":2,"version":3,"lease":9}"#,
        )
        .unwrap();
        assert_eq!(entry.record.lease, Some(9));
        let record = Record {
            value: Some(Bytes::from_static(b"1")),
            create_revision: Revision(1),
            mod_revision: Revision(2),
            version: 3,
            lease: Some(LeaseId(9)),
        };
        let line = line_of(&Entry { key: Bytes::from_static(b"a"), record });
        let without = String::from_utf8(ExportWriter::default().key(&line)).unwrap();
        assert!(without.contains("\"version\":3") && !without.contains("lease"), "{without}");
        let mut reader = ExportReader::default();
        reader.take(ExportWriter::default().head(7).trim_ascii_end()).unwrap();
        let read = reader.take(&serde_json::to_vec(&entry).unwrap()).unwrap().unwrap();
        assert_eq!((&read.key[..], &read.value[..]), (&b"a"[..], &b"1"[..]));
    }

    #[test]
    fn a_cut_anywhere_is_noticed() {
        let (file, _) = export();
        // Without the very last end of a line it is whole.
        for cut in 0..file.len() - 1 {
            assert!(read(&file[..cut]).is_err(), "after {cut} bytes");
        }
    }

    #[test]
    fn a_change_anywhere_is_noticed() {
        let (file, _) = export();
        for at in 0..file.len() - 1 {
            for change in [1, 2, 0x20, 0x80] {
                let mut changed = file.clone();
                changed[at] ^= change;
                assert!(read(&changed).is_err(), "byte {at} ^ {change}");
            }
        }
        assert!(read(&[&file[..], &file[..]].concat()).is_err());
        let lines: Vec<&[u8]> = file.split_inclusive(|byte| *byte == b'\n').collect();
        for missing in 0..lines.len() {
            let mut fewer = lines.clone();
            fewer.remove(missing);
            assert!(read(&fewer.concat()).is_err(), "without line {}", missing + 1);
        }
        let mut turned = lines;
        turned.swap(1, 2);
        assert!(read(&turned.concat()).is_err());
    }
}
