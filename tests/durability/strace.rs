//! The system calls of many processes, as one strace has seen them.
//!
//! One tracer stops every thread at the entry and at the exit of a call and writes
//! down each stop as it comes, so the order of the stops in its log is an order of
//! time for all threads of all processes, without any clock. A call truly begins after the stop at its
//! entry and has truly ended before the stop at its exit: when the exit of one
//! stands before the entry of another, then the first had ended before the second began.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// As many bytes of each call are recorded. The zeros of new segments are written in
/// larger steps, and nobody needs those.
const STRING_BYTES_MAX: u32 = 128 << 10;

/// Syncs, what is written and sent, and what gives a file or a folder its name. Not
/// every machine has all of the latter.
const TRACED: &str = "trace=fsync,fdatasync,pwrite64,write,writev,sendto,sendmsg,\
                      openat,?open,?mkdir,mkdirat";

/// Every third sync of each thread takes this much longer.
const SLOW_SYNC: &str = "inject=fdatasync:delay_enter=5000:when=1+3";

/// The tracer, to stand before a command. It records everything that comes of the
/// command into `log`, and ends with it. On a slow disk a node is often behind the others.
pub fn tracer(log: &Path, is_disk_slow: bool) -> Command {
    let mut command = Command::new("strace");
    // Behind the command's back (-D): signals and the exit code are the command's.
    command.args(["-D", "-f", "--seccomp-bpf", "-ttt", "-y", "-xx"]);
    command.args(["-s", &STRING_BYTES_MAX.to_string(), "-e", "signal=none"]);
    command.args(["-e", TRACED]);
    if is_disk_slow {
        command.args(["-e", SLOW_SYNC]);
    }
    command.arg("-o").arg(log);
    command
}

/// Whether processes can be traced here.
pub fn can_trace() -> bool {
    let mut command = Command::new("strace");
    command.args(["-f", "--seccomp-bpf", "-o", "/dev/null", "true"]);
    command.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// A stop at the entry or the exit of a call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Stop {
    /// Its line in the log: the order of all stops.
    pub line: usize,
    /// When, in microseconds. For people: clocks may jump.
    pub us: u64,
}

impl Stop {
    /// Of what had happened before the trace began.
    pub const BEFORE: Stop = Stop { line: 0, us: 0 };
    /// Of what has not happened.
    pub const NEVER: Stop = Stop { line: usize::MAX, us: u64::MAX };
}

/// A call on a file or socket.
#[derive(Debug)]
pub struct Call {
    pub name: String,
    /// A path, or a name such as `socket:[1234]`. Of a call that opens or makes something
    /// the path that it was given.
    pub file: String,
    /// It may make a new name in a folder.
    pub makes_name: bool,
    /// What was written, as far as it was recorded.
    pub bytes: Vec<u8>,
    /// Not all bytes were recorded.
    pub is_cut: bool,
    pub begin: Stop,
    /// None when the process died in it.
    pub end: Option<Stop>,
    /// None when the process died in it.
    pub result: Option<i64>,
}

/// Reads the calls that `wants` wants, in the order of their entries.
pub fn read(log: &Path, wants: impl Fn(&Call) -> bool) -> Vec<Call> {
    let mut reader = BufReader::new(File::open(log).expect("the log of strace"));
    let mut calls = Vec::new();
    let mut unfinished: HashMap<u32, Call> = HashMap::new();
    let mut text = Vec::new();
    for line in 0.. {
        text.clear();
        if reader.read_until(b'\n', &mut text).expect("the log of strace") == 0 {
            break;
        }
        let text = std::str::from_utf8(&text).expect("strace writes ASCII").trim_end();
        let (thread, rest) = text.split_once(' ').expect("a thread id");
        let (seconds, rest) = rest.trim_start().split_once(' ').expect("a time");
        let thread = thread.parse().expect("a thread id");
        let stop = Stop { line, us: microseconds(seconds) };
        let finished = if rest.starts_with("<... ") {
            let call = unfinished.remove(&thread).expect("a call that was begun");
            Call { end: Some(stop), result: result(rest), ..call }
        } else if rest.starts_with("+++") || rest.starts_with("---") {
            continue;
        } else if let Some(entry) = rest.strip_suffix("<unfinished ...>") {
            unfinished.insert(thread, call(entry, stop));
            continue;
        } else {
            Call { end: Some(stop), result: result(rest), ..call(rest, stop) }
        };
        if wants(&finished) {
            calls.push(finished);
        }
    }
    calls.extend(unfinished.into_values().filter(|call| wants(call)));
    calls.sort_by_key(|call| call.begin);
    calls
}

fn microseconds(seconds: &str) -> u64 {
    seconds.replace('.', "").parse().expect("seconds with six digits behind the point")
}

/// A call at its entry. Every string is in hexadecimal, so quotes and brackets are
/// strace's own.
fn call(text: &str, begin: Stop) -> Call {
    let (name, arguments) = text.split_once('(').expect("a call");
    let file = arguments.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    let file = file.map(|(name, _)| String::from_utf8_lossy(&unhex(name)).into_owned());
    let mut bytes = Vec::new();
    let mut is_cut = false;
    let mut pieces = arguments.split('"');
    pieces.next();
    while let (Some(inside), Some(behind)) = (pieces.next(), pieces.next()) {
        bytes.extend_from_slice(&unhex(inside));
        is_cut |= behind.starts_with("...");
    }
    let mut file = file.unwrap_or_default();
    let makes_folder = name.starts_with("mkdir");
    // No string can be mistaken for the flag, for all are in hexadecimal.
    let makes_name = makes_folder || (name.starts_with("open") && arguments.contains("O_CREAT"));
    if makes_folder || name.starts_with("open") {
        file = String::from_utf8_lossy(&std::mem::take(&mut bytes)).into_owned();
    }
    let name = name.to_owned();
    Call { name, file, makes_name, bytes, is_cut, begin, end: None, result: None }
}

/// What stands behind the last equals sign; nothing when the process died.
fn result(text: &str) -> Option<i64> {
    text.rsplit_once(" = ")?.1.split([' ', '<']).next()?.parse().ok()
}

/// `\x41\x42`.
fn unhex(text: &str) -> Vec<u8> {
    let byte = |digits: &[u8]| {
        let digits = std::str::from_utf8(&digits[2..]).expect("ASCII");
        u8::from_str_radix(digits, 16).expect("a byte as \\x41")
    };
    text.as_bytes().chunks(4).map(byte).collect()
}

#[test]
fn a_log_is_read_with_calls_of_several_threads_in_each_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log");
    let text = r#"11 10.000001 fdatasync(3<\x2f\x61> <unfinished ...>
12 10.000002 writev(4<\x73>, [{iov_base="\x41\x22", iov_len=2}, {iov_base="\x43"..., iov_len=9}], 2) = 3
11 10.000009 <... fdatasync resumed>)    = 0
12 10.000010 sendto(4<\x73>, "\x44", 1, MSG_NOSIGNAL, NULL, 0) = -1 EAGAIN (Resource temporarily unavailable)
12 10.000011 sendto(4<\x73>, "\x45", 1, MSG_NOSIGNAL, NULL, 0 <unfinished ...>
13 10.000012 +++ exited with 0 +++
13 10.000013 openat(AT_FDCWD<\x2f>, "\x2f\x62", O_RDWR|O_CREAT|O_CLOEXEC, 0600) = 7<\x2f\x62>
13 10.000014 openat(AT_FDCWD<\x2f>, "\x2f\x62", O_RDONLY|O_CLOEXEC) = 8<\x2f\x62>
13 10.000015 mkdir("\x2f\x63", 0700)      = 0
"#;
    std::fs::write(&log, text).expect("a file");
    let calls = read(&log, |_| true);
    let names: Vec<&str> = calls.iter().map(|call| call.name.as_str()).collect();
    let all = ["fdatasync", "writev", "sendto", "sendto", "openat", "openat", "mkdir"];
    assert_eq!(names, all);
    assert_eq!(calls[0].file, "/a");
    assert_eq!((calls[0].begin.line, calls[0].end.expect("ended").line), (0, 2));
    assert_eq!((&calls[1].bytes[..], calls[1].is_cut), (&b"A\"C"[..], true));
    let results: Vec<_> = calls.iter().map(|call| call.result).collect();
    assert_eq!(results, [Some(0), Some(3), Some(-1), None, Some(7), Some(8), Some(0)]);
    assert_eq!(calls[3].begin.us, 10_000_011);
    let names: Vec<_> =
        calls[4..].iter().map(|call| (call.file.as_str(), call.makes_name)).collect();
    assert_eq!(names, [("/b", true), ("/b", false), ("/c", true)]);
}
