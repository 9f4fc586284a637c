//! What a process on this machine has used, and the signals sent to it.

use std::path::Path;

use rustix::process::{Pid, Signal};

/// What a process has used so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ProcessUse {
    /// CPU time of all its threads, user and system, in seconds.
    pub(crate) cpu_s: f64,
    /// What it holds in memory.
    pub(crate) resident_bytes: u64,
}

impl ProcessUse {
    /// None when there is no such process, or none that may be looked at.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        Self::read(&format!("/proc/{pid}/stat"))
    }

    pub(crate) fn of_self() -> Option<Self> {
        Self::read("/proc/self/stat")
    }

    fn read(path: &str) -> Option<Self> {
        let ticks_per_s = rustix::param::clock_ticks_per_second();
        let page_bytes = rustix::param::page_size();
        parse_stat(&std::fs::read_to_string(path).ok()?, ticks_per_s, page_bytes as u64)
    }
}

/// The fields after the command's name, which may hold spaces and brackets.
fn parse_stat(stat: &str, ticks_per_s: u64, page_bytes: u64) -> Option<ProcessUse> {
    let (_, rest) = stat.rsplit_once(')')?;
    // The state is the third field of the line and the first here.
    let field = |number: usize| rest.split_ascii_whitespace().nth(number - 3);
    let user: u64 = field(14)?.parse().ok()?;
    let system: u64 = field(15)?.parse().ok()?;
    let resident_pages: u64 = field(24)?.parse().ok()?;
    Some(ProcessUse {
        cpu_s: user.checked_add(system)? as f64 / ticks_per_s as f64,
        resident_bytes: resident_pages.checked_mul(page_bytes)?,
    })
}

/// Whether every thread of a process stands still. One that is not there does.
pub(crate) fn is_paused(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return true;
    };
    let runs = |stat: String| parse_state(&stat).is_some_and(|state| !"TtZX".contains(state));
    !threads.flatten().any(|one| std::fs::read_to_string(one.path().join("stat")).is_ok_and(runs))
}

/// The letter after the command's name.
fn parse_state(stat: &str) -> Option<char> {
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Whether a process that runs has this path in its command line, as a node has
/// its folder: an id that was read from a file may be another's by now.
pub fn names_path(pid: u32, path: &Path) -> bool {
    let path = path.as_os_str().as_encoded_bytes();
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    !path.is_empty() && command.windows(path.len()).any(|part| part == path)
}

/// Sends a signal to one process.
pub(crate) fn send_signal(pid: u32, signal: Signal) -> std::io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| std::io::Error::other("not a process id"))?;
    Ok(rustix::process::kill_process(pid, signal)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_with_an_awkward_name_is_read() {
        let line = "7 (a (b) c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 5 1000 25 99";
        let read = parse_stat(line, 100, 4096).unwrap();
        assert_eq!(read, ProcessUse { cpu_s: 3.0, resident_bytes: 25 * 4096 });
        assert_eq!(parse_state(line), Some('S'));
        assert_eq!(parse_stat("7 (a) S 1", 100, 4096), None);
        assert_eq!(parse_stat("", 100, 4096), None);
    }

    #[test]
    fn a_process_is_paused_between_its_stop_and_its_continuation() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(!is_paused(child.id()));
        send_signal(child.id(), Signal::STOP).unwrap();
        while !is_paused(child.id()) {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_paused(child.id()), "nothing runs of a process that is gone");
    }

    #[test]
    fn a_process_is_known_by_a_path_in_its_command_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("read");
        std::fs::write(&file, "").unwrap();
        // It ends with its input, so also when this test fails.
        let mut cat = std::process::Command::new("cat")
            .arg("-")
            .arg(&file)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // The command line is there a moment after the process.
        while !names_path(cat.id(), folder.path()) {
            std::thread::yield_now();
        }
        assert!(!names_path(cat.id(), &folder.path().join("other")));
        assert!(!names_path(cat.id(), Path::new("")));
        cat.kill().unwrap();
        cat.wait().unwrap();
        assert!(!names_path(cat.id(), folder.path()));
    }

    #[test]
    fn our_own_use_can_be_read_and_no_process_has_an_absurd_id() {
        assert!(ProcessUse::of_self().unwrap().resident_bytes > 0);
        assert_eq!(ProcessUse::of(u32::MAX), None);
        assert!(send_signal(u32::MAX, Signal::CONT).is_err());
        assert!(send_signal(0, Signal::CONT).is_err());
    }
}
