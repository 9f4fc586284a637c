//! What clients asked for and what they were told, and its open form: JSON lines.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use crate::NodeId;

/// What a client asks for. A value is the number of the operation that writes it,
/// so no two are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    Get,
    Put,
    Delete,
    /// A put that holds only where there is no such key.
    Create,
    /// A put that holds only where the key was last changed at this revision.
    Swap(u64),
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The value and its revision, or no such key.
    Found(Option<(u64, u64)>),
    /// At this revision.
    Stored(u64),
    /// At this revision.
    Deleted(u64),
    /// There was nothing to delete.
    Absent,
    /// The condition did not hold; the revision that is there instead.
    Mismatch(Option<u64>),
    /// It had no effect and never will.
    Failed,
    /// It may have had effect, or may have it yet.
    Unknown,
}

/// One operation of a client, from its call to its return.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operation {
    /// Unique in the run; the value, where it writes one.
    pub(super) number: u64,
    /// The thread of control. One that does not know how its operation ended never
    /// does another.
    pub(super) process: u64,
    /// The node that was asked.
    pub(super) node: NodeId,
    pub(super) key: u64,
    pub(super) request: Request,
    pub(super) called_us: u64,
    pub(super) returned_us: u64,
    pub(super) end: End,
}

impl Operation {
    pub(super) fn writes_value(&self) -> bool {
        matches!(self.request, Request::Put | Request::Create | Request::Swap(_))
    }

    /// A write that has taken effect and whose client knows it.
    pub(super) fn acknowledged_at(&self) -> Option<u64> {
        match self.end {
            End::Stored(revision) | End::Deleted(revision) => Some(revision),
            _ => None,
        }
    }

    /// The revision of the change that was made or seen.
    pub(super) fn revision(&self) -> Option<u64> {
        match self.end {
            End::Found(found) => found.map(|(_, revision)| revision),
            _ => self.acknowledged_at(),
        }
    }
}

/// A line of the file.
#[derive(Debug, Serialize)]
struct Line<'a> {
    process: u64,
    r#type: &'static str,
    f: &'static str,
    key: String,
    value: serde_json::Value,
    /// Since the run began, in nanoseconds.
    time: u64,
    node: NodeId,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// Writes an invocation and a completion for each operation, in the order of time.
pub(super) fn write(operations: &[Operation], target: &mut impl Write) -> io::Result<()> {
    let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(operations.len() * 2);
    for (index, operation) in operations.iter().enumerate() {
        events.push((operation.called_us, false, index));
        events.push((operation.returned_us, true, index));
    }
    // At the same moment calls come before returns: then the two overlap.
    events.sort_unstable();
    let mut open: BTreeMap<u64, usize> = BTreeMap::new();
    for (_, is_return, index) in events {
        let operation = &operations[index];
        if !is_return {
            // A process may return and call again within a microsecond.
            if let Some(before) = open.insert(operation.process, index) {
                write_line(&returned(&operations[before]), target)?;
            }
            write_line(&called(operation), target)?;
        } else if open.get(&operation.process) == Some(&index) {
            open.remove(&operation.process);
            write_line(&returned(operation), target)?;
        }
    }
    Ok(())
}

fn write_line(line: &Line<'_>, target: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut *target, line)?;
    target.write_all(b"\n")
}

fn called(operation: &Operation) -> Line<'static> {
    let Operation { number, process, node, key, request, called_us, .. } = *operation;
    let (f, value) = match request {
        Request::Get => ("read", serde_json::Value::Null),
        Request::Put => ("write", number.into()),
        Request::Delete => ("delete", serde_json::Value::Null),
        Request::Create => ("cas", serde_json::json!([null, number])),
        Request::Swap(expected) => ("cas", serde_json::json!([expected, number])),
    };
    Line {
        process,
        r#type: "invoke",
        f,
        key: key.to_string(),
        value,
        time: called_us * 1000,
        node,
        revision: None,
        error: None,
    }
}

fn returned(operation: &Operation) -> Line<'static> {
    let mut line = called(operation);
    line.time = operation.returned_us * 1000;
    line.r#type = "ok";
    match operation.end {
        End::Found(found) => {
            line.value = found.map(|(value, _)| value).into();
            line.revision = found.map(|(_, revision)| revision);
        }
        End::Stored(revision) | End::Deleted(revision) => line.revision = Some(revision),
        End::Absent => line.error = Some("absent"),
        End::Mismatch(current) => {
            (line.r#type, line.revision) = ("fail", current);
            line.error = Some("precondition");
        }
        End::Failed => (line.r#type, line.error) = ("fail", Some("no effect")),
        End::Unknown => (line.r#type, line.error) = ("info", Some("unknown")),
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_returns_before_it_calls_again() {
        let first = Operation {
            number: 1,
            process: 0,
            node: NodeId(1),
            key: 7,
            request: Request::Get,
            called_us: 0,
            returned_us: 5,
            end: End::Found(None),
        };
        let second = Operation { number: 2, called_us: 5, returned_us: 5, ..first };
        let mut text = Vec::new();
        write(&[first, second], &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let invokes: Vec<_> = text.lines().map(|line| line.contains("invoke")).collect();
        assert_eq!(invokes, [true, false, true, false]);
    }

    #[test]
    fn each_operation_has_its_call_and_its_return_in_the_order_of_time() {
        let first = Operation {
            number: 1,
            process: 0,
            node: NodeId(1),
            key: 7,
            request: Request::Put,
            called_us: 0,
            returned_us: 9,
            end: End::Stored(4),
        };
        let swap = Request::Swap(4);
        let second = Operation { number: 2, process: 1, request: swap, called_us: 3, ..first };
        let second = Operation { returned_us: 5, end: End::Unknown, ..second };
        let mut text = Vec::new();
        write(&[first, second], &mut text).unwrap();
        let lines: Vec<_> = std::str::from_utf8(&text).unwrap().lines().collect();
        assert_eq!(
            lines,
            [
                r#"{"process":0,"type":"invoke","f":"write","key":"7","value":1,"time":0,"node":1}"#,
                r#"{"process":1,"type":"invoke","f":"cas","key":"7","value":[4,2],"time":3000,"node":1}"#,
                r#"{"process":1,"type":"info","f":"cas","key":"7","value":[4,2],"time":5000,"node":1,"error":"unknown"}"#,
                r#"{"process":0,"type":"ok","f":"write","key":"7","value":1,"time":9000,"node":1,"revision":4}"#,
            ]
        );
    }
}
