//! A process that is one node: from its start to a signal, or to a failure.

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::folder;
use crate::node::Node;
use crate::settings::Settings;
use crate::start_error::{NodeFailure, StartError};

/// How long a process that must end may take for its last words: its disk may hang,
/// and nobody may read what it prints.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// A process starts its node again to mend what is damaged, but not for ever: when damage
/// comes back the disk is not one to be trusted.
const RESTARTS_MAX: u32 = 4;
/// Damage after so long is another one.
const RESTARTS_FORGOTTEN_AFTER: Duration = Duration::from_secs(60 * 60);
/// How much longer than `timing.shutdown_timeout_ms` a stopping node may take, for
/// the hand-over and the last flush.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Why a node's process ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It met what it must not survive, or did not stop well.
    #[error(transparent)]
    Failed(#[from] NodeFailure),
    /// It is a member no more, and has stopped.
    #[error(
        "this node was removed from its cluster by configuration {0} and has stopped: nobody needs \
         it any more. An id and its data folder are used once: keep the folder or delete it; a new \
         node, with a new id and an empty folder, joins with `synod member add`"
    )]
    Removed(u64),
    /// Something on its disk is damaged, and it could not go on.
    #[error("{0}. Start this node again: it mends that from its own state, or from a peer's")]
    Damaged(String),
    /// Signals can't be waited for.
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
}

/// Runs a node until SIGINT or SIGTERM. A failure of its disk ends it, and so does
/// a panic of any of its threads: the process aborts, after it left a file that
/// keeps it from being started again unseen. A second signal ends it without waiting. When
/// something on its disk is found damaged that can be mended the node is started anew.
///
/// # Errors
/// See [`ServeError`]. The caller prints it and ends the process; threads may still
/// be running. If a failed process does not end soon, it is aborted.
pub fn serve(settings: Settings) -> Result<(), ServeError> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(ServeError::Signals)?;
    // Before the node starts, so that a signal during its recovery is not lost.
    let mut signals = {
        let _entered = runtime.enter();
        let listen = |kind| signal(kind).map_err(ServeError::Signals);
        Signals(listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?)
    };
    abort_on_panic(&settings.data_dir);
    let settings = Arc::new(settings);
    let mut restarts = Restarts::default();
    loop {
        let (started, is_asked) = start(&runtime, &settings, &mut signals);
        let node = match started {
            Err(StartError::Stopped | StartError::Rebuild { .. }) if is_asked => return Ok(()),
            Err(StartError::Rebuild { reason }) if restarts.is_one_more(Instant::now()) => {
                tracing::error!("{reason}");
                tracing::warn!("starting again, to take over the state of a peer");
                continue;
            }
            started => started?,
        };
        if is_asked {
            return stop(&runtime, node, &settings, &mut signals);
        }
        match runtime.block_on(end_of(&node, &mut signals)) {
            End::Failed(failure) => {
                abort_after(LAST_WORDS);
                // Its threads live, so the folder stays locked until the process is gone.
                std::mem::forget(node);
                return Err(failure.into());
            }
            End::Asked => return stop(&runtime, node, &settings, &mut signals),
            End::Removed(number) => {
                stop(&runtime, node, &settings, &mut signals)?;
                return leave_for_good(&settings, number);
            }
            End::Damaged(reason) => {
                // What failed because of the damage is no news.
                let stopped = stop(&runtime, node, &settings, &mut signals);
                if stopped.is_err() || !restarts.is_one_more(Instant::now()) {
                    return Err(ServeError::Damaged(reason));
                }
                tracing::warn!("starting again, to mend what is damaged");
            }
        }
    }
}

/// How often a process started its node again lately.
#[derive(Debug, Default)]
struct Restarts {
    count: u32,
    last: Option<Instant>,
}

impl Restarts {
    /// Whether the node may be started again, which is counted then.
    fn is_one_more(&mut self, now: Instant) -> bool {
        if self.last.is_some_and(|last| now.duration_since(last) >= RESTARTS_FORGOTTEN_AFTER) {
            self.count = 0;
        }
        let may = self.count < RESTARTS_MAX;
        if may {
            self.count += 1;
            self.last = Some(now);
        }
        may
    }
}

/// Starts a node on a thread of its own: it may have to read or fetch a whole state first, and
/// gives that up when somebody asks the process to end. Says whether somebody did. Who asks
/// again does not wait.
fn start(
    runtime: &Runtime,
    settings: &Arc<Settings>,
    signals: &mut Signals,
) -> (Result<Node, StartError>, bool) {
    let told_to_stop = Arc::new(AtomicBool::new(false));
    let (done, mut started) = oneshot::channel();
    let (to_start, told) = (Arc::clone(settings), Arc::clone(&told_to_stop));
    let starting = thread::Builder::new().name("synod-start".to_owned());
    let spawned = starting.spawn(move || {
        // Nobody waits any more when it took too long.
        let _ = done.send(Node::start_unless(&to_start, &told));
    });
    if let Err(error) = spawned {
        return (Err(StartError::Thread(error)), false);
    }
    let gone = || Err(StartError::Thread(io::Error::other("the one that starts the node ended")));
    runtime.block_on(async {
        tokio::select! {
            result = &mut started => return (result.unwrap_or_else(|_| gone()), false),
            () = signals.next() => told_to_stop.store(true, Relaxed),
        }
        tracing::info!("told to stop while starting");
        tokio::select! {
            result = started => (result.unwrap_or_else(|_| gone()), true),
            () = signals.next() => {
                abort_after(LAST_WORDS);
                (Err(StartError::Stopped), true)
            }
        }
    })
}

/// Why a node ends.
enum End {
    Asked,
    Failed(NodeFailure),
    Removed(u64),
    Damaged(String),
}

async fn end_of(node: &Node, signals: &mut Signals) -> End {
    tokio::select! {
        () = signals.next() => End::Asked,
        failure = node.failed() => End::Failed(failure),
        number = node.removed() => End::Removed(number),
        reason = node.damaged() => End::Damaged(reason),
    }
}

/// Stops a node in time. If it did not, the process is aborted a little later.
fn stop(
    runtime: &Runtime,
    node: Node,
    settings: &Settings,
    signals: &mut Signals,
) -> Result<(), ServeError> {
    tracing::info!("stopping");
    let patience = Duration::from_millis(settings.timing.shutdown_timeout_ms) + STOP_GRACE;
    let stopped = runtime.block_on(in_time(move || node.stop(), patience, signals.next()));
    if stopped.is_err() {
        abort_after(LAST_WORDS);
    }
    Ok(stopped?)
}

/// Has no process start this node again.
fn leave_for_good(settings: &Settings, number: u64) -> Result<(), ServeError> {
    let error = ServeError::Removed(number);
    let text = format!("{error}\n");
    let marked = folder::replace(&settings.data_dir, folder::REMOVED_FILE, text.as_bytes());
    marked.map_err(StartError::Folder)?;
    Err(error)
}

/// What asks the process to end.
struct Signals(Signal, Signal);

impl Signals {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

/// Stops a node on a thread of its own, and gives up when time is over or somebody
/// asks again: a disk that hangs must not keep the process alive.
async fn in_time(
    stop: impl FnOnce() -> Result<(), NodeFailure> + Send + 'static,
    patience: Duration,
    asked_again: impl Future<Output = ()>,
) -> Result<(), NodeFailure> {
    let (done, stopped) = oneshot::channel();
    let stopping = thread::Builder::new().name("synod-stop".to_owned());
    let spawned = stopping.spawn(move || {
        // Nobody waits any more when it took too long.
        let _ = done.send(stop());
    });
    let late = || {
        let text = "it did not stop in time; what it acknowledged is in its journal";
        Err(NodeFailure(text.to_owned()))
    };
    if let Err(error) = spawned {
        return Err(NodeFailure(format!("cannot start a thread: {error}")));
    }
    tokio::select! {
        result = stopped => result.unwrap_or_else(|_| late()),
        () = asked_again => late(),
        () = tokio::time::sleep(patience) => late(),
    }
}

/// Aborts the process if it still lives then.
fn abort_after(time: Duration) {
    // Without a thread for it there is no watchdog, and nothing better to do.
    let _ = thread::Builder::new().name("synod-watchdog".to_owned()).spawn(move || {
        thread::sleep(time);
        std::process::abort();
    });
}

/// A panic is a bug, most likely in an invariant. The thread it happened on is
/// gone, and the others must not go on without it, nor must the node come back as
/// if nothing had happened.
fn abort_on_panic(data_dir: &Path) {
    let data_dir = data_dir.to_owned();
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // The others must not go on while this thread waits for a disk or a reader.
        abort_after(LAST_WORDS);
        let thread = thread::current();
        let name = thread.name().unwrap_or("a thread").to_owned();
        let text = format!("{name} panicked: {info}\n");
        if let Err(error) = folder::replace(&data_dir, folder::MARKER_FILE, text.as_bytes()) {
            eprintln!("{error}");
        }
        print(info);
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    use super::*;

    /// Set for a process that shall panic, and names its data folder.
    const PANIC_IN: &str = "SYNOD_TEST_PANIC_IN";
    const SIGABRT: i32 = 6;

    /// Runs [`panics_when_it_is_asked_to`] in a process of its own. Nobody reads what
    /// it prints.
    fn panicking_process(data_dir: &Path) -> std::process::ExitStatus {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "serve::tests::panics_when_it_is_asked_to", "--nocapture"])
            .env(PANIC_IN, data_dir)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        child.wait().expect("it ends")
    }

    #[test]
    fn panics_when_it_is_asked_to() {
        let Some(data_dir) = std::env::var_os(PANIC_IN) else { return };
        abort_on_panic(Path::new(&data_dir));
        // Fills the pipe, and then holds standard error for ever.
        thread::spawn(|| {
            loop {
                let _ = io::stderr().lock().write_all(&[b'x'; 1 << 20]);
            }
        });
        let broken = thread::Builder::new().name("synod-owner".to_owned());
        let _ = broken.spawn(|| panic!("two values in slot 7")).expect("a thread").join();
    }

    #[test]
    fn a_panic_ends_the_process_and_keeps_the_node_from_coming_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("synod.toml");
        let text = "node_id = 1\ndata_dir = \"data\"\n[cluster]\n\
                    id = \"00112233445566778899aabbccddeeff\"\n\
                    [peer]\nlisten = \"127.0.0.1:1\"\n[client]\nlisten = \"127.0.0.1:2\"\n\
                    [[members]]\nid = 1\npeer = \"127.0.0.1:1\"\n\
                    client_url = \"http://127.0.0.1:2\"\n";
        let settings = Settings::parse(text, &file).expect("good settings");
        crate::init(&settings).expect("a fresh folder");
        let status = panicking_process(&settings.data_dir);
        assert_eq!(status.signal(), Some(SIGABRT), "{status:?}");
        let marker = settings.data_dir.join(folder::MARKER_FILE);
        let words = std::fs::read_to_string(&marker).expect("the marker");
        assert!(words.contains("synod-owner panicked"), "{words}");
        assert!(words.contains("two values in slot 7"), "{words}");
        let refused = Node::start(&settings).expect_err("it must not come back");
        let text = refused.to_string();
        assert!(matches!(refused, StartError::Violation { path, .. } if path == marker));
        assert!(text.contains("two values in slot 7") && text.contains("member replace"), "{text}");
    }

    #[test]
    fn a_node_is_started_again_a_few_times_an_hour() {
        let (mut restarts, begun) = (Restarts::default(), Instant::now());
        for _ in 0..RESTARTS_MAX {
            assert!(restarts.is_one_more(begun));
        }
        let hour = RESTARTS_FORGOTTEN_AFTER;
        assert!(!restarts.is_one_more(begun + hour / 2));
        assert!(restarts.is_one_more(begun + hour) && restarts.is_one_more(begun + hour));
    }

    #[test]
    fn a_stop_that_hangs_ends_in_time_or_when_it_is_asked_for_again() {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let hang = || loop {
            thread::park();
        };
        let never = std::future::pending();
        let late = runtime.block_on(in_time(hang, Duration::from_millis(10), never));
        assert!(late.expect_err("late").to_string().contains("did not stop in time"));
        let hour = Duration::from_secs(3_600);
        let asked = runtime.block_on(in_time(hang, hour, async {}));
        assert!(asked.is_err());
        let never = std::future::pending();
        let failed = || Err(NodeFailure("no space".to_owned()));
        let failed = runtime.block_on(in_time(failed, hour, never));
        assert_eq!(failed.expect_err("failed").0, "no space");
        let never = std::future::pending();
        assert!(runtime.block_on(in_time(|| Ok(()), hour, never)).is_ok());
    }
}
