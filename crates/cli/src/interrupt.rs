//! What to do when a benchmark is interrupted.

use std::io;
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

/// What a shell says of a program that a signal ended: this and its number.
const EXIT_SIGNAL: i32 = 128;
const SIGNALS: [SignalKind; 3] =
    [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];

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
        clean_up();
        std::process::exit(EXIT_SIGNAL + came.as_raw_value());
    };
    thread::Builder::new().name("interrupt".to_owned()).spawn(wait)?;
    Ok(())
}
