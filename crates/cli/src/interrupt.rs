//! What to do when a benchmark is interrupted.

use std::io;
use std::sync::Mutex;
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

/// What a shell says of a program that a signal ended: this and its number.
const EXIT_SIGNAL: i32 = 128;
const SIGNALS: [SignalKind; 3] =
    [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];

/// Held from a signal to the end of the process.
static ENDING: Mutex<()> = Mutex::new(());

/// Does not come back once a signal is ending this process.
pub(crate) fn stay_for_the_end() {
    drop(ENDING.lock());
}

/// From now on SIGINT, SIGTERM and SIGHUP end this process only after `clean_up`.
pub(crate) fn before_the_end(clean_up: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let [mut interrupt, mut terminate, mut hang_up] = {
        let _context = runtime.enter();
        [signal(SIGNALS[0])?, signal(SIGNALS[1])?, signal(SIGNALS[2])?]
    };
    let wait = move || {
        let came = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => SIGNALS[0],
                _ = terminate.recv() => SIGNALS[1],
                _ = hang_up.recv() => SIGNALS[2],
            }
        });
        // Whatever the main thread says of a cluster that is being taken from
        // it, and how it would end, is of no use to anybody.
        let _held = ENDING.lock();
        clean_up();
        std::process::exit(EXIT_SIGNAL + came.as_raw_value());
    };
    thread::Builder::new().name("interrupt".to_owned()).spawn(wait)?;
    Ok(())
}
