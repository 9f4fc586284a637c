//! The accept loop.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;
use std::{io, sync::Arc};

use hyper::server::conn::http1;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::connection::{self, Phase};
use crate::limits::Limits;
use crate::problem::{Kind, Problem};
use crate::replica::Replica;
use crate::router::{Front, Route};

/// How long to wait before the next accept when the process has no file
/// descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Serves clients until `shutdown` is ready; then no connection is taken any more, each gets
/// one more answer, which says that it closes, requests under way get
/// [`Limits::shutdown_timeout_ms`] to end, and what is left is cut.
///
/// Connections are tasks of the runtime that this is called on, which may have one
/// thread.
pub async fn serve<R: Replica>(
    listener: TcpListener,
    replica: R,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    serve_by(Route::Direct, listener, replica, limits, shutdown).await;
}

/// [`serve`], with the choice of the road that requests for one key take. For the
/// bench that compares them.
#[doc(hidden)]
pub async fn serve_by<R: Replica>(
    route: Route,
    listener: TcpListener,
    replica: R,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    let http = connection::http(&limits);
    let shutdown_timeout = Duration::from_millis(limits.shutdown_timeout_ms);
    let front = Front::new(route, replica, Arc::new(limits));
    let (phase, watched) = watch::channel(Phase::Running);
    let watches = tokio::spawn({
        let front = front.clone();
        async move { front.run_watches().await }
    });
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => take(stream, &http, &front, &watched),
                Err(error) => recover(&error).await,
            },
        }
    }
    // Those that stand in line believe that they are connected, and are told to go elsewhere.
    let _ = phase.send(Phase::Draining);
    let mut silent = 0;
    while silent < 2 {
        match now_or_never(listener.accept()).await {
            Some(Ok((stream, _))) => take(stream, &http, &front, &watched),
            Some(Err(_)) => {}
            // There may be none, or this task had its share.
            None => {
                silent += 1;
                tokio::task::yield_now().await;
            }
        }
    }
    drop(listener);
    watches.abort();
    front.stop_watches();
    if timeout(shutdown_timeout, front.admission().all_connections_closed()).await.is_err() {
        tracing::warn!(
            connections = front.admission().connections_open(),
            "cutting client connections that did not end in time"
        );
        // A send fails when nobody listens, and then nobody needs to know.
        let _ = phase.send(Phase::Cutting);
        front.admission().all_connections_closed().await;
    }
}

/// What a future gives at once, if it does.
async fn now_or_never<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        ready = future => Some(ready),
        () = std::future::ready(()) => None,
    }
}

fn take<R: Replica>(
    stream: TcpStream,
    http: &http1::Builder,
    front: &Front<R>,
    watched: &watch::Receiver<Phase>,
) {
    let Some(place) = front.admission().connection() else {
        return turn_away(stream, front);
    };
    let (http, front, watched) = (http.clone(), front.clone(), watched.clone());
    tokio::spawn(async move {
        connection::serve(stream, http, front, watched).await;
        drop(place);
    });
}

/// Says why before it hangs up. A few of those who are turned away get the time to
/// read it; the others as far as one write without waiting goes.
fn turn_away<R: Replica>(stream: TcpStream, front: &Front<R>) {
    let problem = Problem::new(Kind::Overloaded, "This node has too many connections already.");
    let words = front.last_words(problem);
    match front.admission().farewell() {
        Some(place) => drop(tokio::spawn(async move {
            connection::linger(stream, &words).await;
            drop(place);
        })),
        None => drop(stream.try_write(&words)),
    }
}

/// An accept fails for the connection that was to be taken, which is the client's
/// affair, or because the process has too many files open, which passes.
async fn recover(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        tracing::warn!(%error, "no connection can be accepted for now");
        sleep(ACCEPT_PAUSE).await;
    }
}
