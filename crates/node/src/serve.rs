//! A process that is one node: from its start to a signal, or to a failure.

use std::io;
use std::path::Path;

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::folder;
use crate::node::{Node, NodeFailure, StartError};
use crate::settings::Settings;

/// Why a node's process ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It met what it must not survive, or did not stop well.
    #[error(transparent)]
    Failed(#[from] NodeFailure),
    /// Signals can't be waited for.
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
}

/// Runs a node until SIGINT or SIGTERM. A failure of its disk ends it, and so does
/// a panic of any of its threads: the process aborts, after it left a file that
/// keeps it from being started again unseen.
///
/// # Errors
/// See [`ServeError`]. The caller prints it and ends the process; threads may still
/// be running, and say nothing more to anybody.
pub fn serve(settings: Settings) -> Result<(), ServeError> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(ServeError::Signals)?;
    // Before the node starts, so that a signal during its recovery is not lost.
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        let listen = |kind| signal(kind).map_err(ServeError::Signals);
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?)
    };
    abort_on_panic(&settings.data_dir);
    let node = Node::start(&settings)?;
    runtime.block_on(async {
        tokio::select! {
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
            failure = node.failed() => Err(failure),
        }
    })?;
    tracing::info!("stopping");
    Ok(node.stop()?)
}

/// A panic is a bug, most likely in an invariant. The thread it happened on is
/// gone, and the others must not go on without it, nor must the node come back as
/// if nothing had happened.
fn abort_on_panic(data_dir: &Path) {
    let data_dir = data_dir.to_owned();
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("a thread").to_owned();
        let text = format!("{name} panicked: {info}\n");
        if let Err(error) = folder::replace(&data_dir, folder::MARKER_FILE, text.as_bytes()) {
            eprintln!("{error}");
        }
        print(info);
        std::process::abort();
    }));
}
