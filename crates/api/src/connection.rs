//! One client's connection, from its first byte to its last.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::activity::{Activity, Answer, Counted, Waiting, Watch};
use crate::limits::Limits;
use crate::problem::{Kind, Problem};
use crate::replica::Replica;
use crate::router::Front;

/// What is read and thrown away behind the last answer, so that a client that
/// still sends gets to see it.
const LINGER_BYTES_MAX: usize = 4 * 1024 * 1024;
const LINGER_MAX: Duration = Duration::from_secs(1);

/// How far the server is on its way down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Not at all.
    Running,
    /// Each connection ends with its next answer, which says so. One on which no request comes
    /// ends after a while: a request may be on its way that the client believes will be answered.
    Draining,
    /// Connections are cut.
    Cutting,
}

/// The settings of HTTP/1.1 for every connection.
pub(crate) fn http(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // See `activity`: the headers are timed there.
        .header_read_timeout(None)
        .keep_alive(true)
        .half_close(false)
        .max_headers(limits.headers_max)
        .max_header_size(limits.head_bytes_max())
        .max_buf_size(limits.head_bytes_max().max(64 * 1024))
        .pipeline_flush(false);
    builder
}

/// Serves one connection until it ends.
pub(crate) async fn serve<R: Replica>(
    stream: TcpStream,
    http: http1::Builder,
    front: Front<R>,
    mut phase: watch::Receiver<Phase>,
) {
    // Answers are small and written whole, so waiting for more only delays them.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let activity = Arc::new(Activity::default());
    let mut watch = Watch::new(Arc::clone(&activity), front.limits());
    // Never marked as seen, so it has changed for ever once the server goes down.
    let shared = Arc::new((front.clone(), Arc::clone(&activity), phase.clone()));
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move {
            let (front, activity, phase) = &*shared;
            activity.request();
            let mut response = front.answer(request).await;
            activity.answer();
            if phase.has_changed().unwrap_or(true) {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, Infallible>(response.map(|body| Answer::new(body, Arc::clone(activity))))
        }
    });
    let io = TokioIo::new(Counted::new(stream, Arc::clone(&activity)));
    let mut connection = http.serve_connection(io, service);
    let grace = front.limits().drain_grace();
    let end = drive(&mut connection, &mut watch, &mut phase, grace).await;
    let stream = connection.into_parts().io.into_inner().into_inner();
    match end {
        End::Cut | End::Stuck(Waiting::Client | Waiting::Handler) => {}
        End::Stuck(Waiting::Request) => linger(stream, &[]).await,
        End::Closed(result) => {
            let refusal = refusal(&result, &activity, front.limits());
            let words = refusal.map(|problem| front.last_words(problem));
            linger(stream, words.as_deref().unwrap_or(&[])).await;
        }
        End::Stuck(Waiting::Headers) => {
            // hyper is not asked: the request never reached it.
            let detail = "The headers of the request did not come in time.";
            let problem = Problem::new(Kind::RequestTimeout, detail);
            linger(stream, &front.last_words(problem)).await;
        }
    }
}

/// What a request is answered that hyper could not read, or would not.
fn refusal(result: &hyper::Result<()>, activity: &Activity, limits: &Limits) -> Option<Problem> {
    let status = match (activity.withheld(), result) {
        (Some(status), _) => status,
        // hyper has no word for the preface of HTTP/2.
        (None, Err(error)) if error.is_parse() && activity.is_fresh() => 400,
        (None, _) => return None,
    };
    let key_bytes_max = limits.key_bytes_max;
    Some(match status {
        431 => Problem::new(
            Kind::HeadersTooLarge,
            format!(
                "The request line and the headers may have {} bytes in {} lines, and a key \
                 {key_bytes_max} bytes.",
                limits.head_bytes_max(),
                limits.headers_max
            ),
        ),
        414 => Problem::new(
            Kind::KeyTooLong,
            format!("The target of the request is too long; a key may have {key_bytes_max} bytes."),
        ),
        _ => Problem::new(
            Kind::BadRequest,
            "This is no well-formed request of HTTP/1.1, so nothing of it was carried out.",
        ),
    })
}

enum End {
    /// hyper has nothing more to send; the client may not have read all of it. An
    /// error is the client's doing: a reset, a malformed request, a body cut off.
    Closed(hyper::Result<()>),
    /// The server goes down.
    Cut,
    /// The client let a limit pass.
    Stuck(Waiting),
}

/// Polls the connection to its end, with one slow timer beside it. While an answer is being made, as
/// the stream of a watch is for hours, nothing has a limit, and ten thousand of them would wake for
/// nothing: then there is no timer.
async fn drive<C>(
    connection: &mut C,
    watch: &mut Watch,
    phase: &mut watch::Receiver<Phase>,
    grace: Duration,
) -> End
where
    C: Future<Output = hyper::Result<()>> + Graceful + Unpin,
{
    let period = watch.period();
    let mut look = pin!(sleep_until(Instant::now() + period));
    let mut looks = true;
    let mut ends_at =
        (*phase.borrow_and_update() != Phase::Running).then(|| Instant::now() + grace);
    loop {
        let quit = async move {
            match ends_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            result = until(connection, || !looks && watch.has_limit()) => match result {
                Some(result) => return End::Closed(result),
                None => {
                    look.as_mut().reset(Instant::now() + period);
                    looks = true;
                }
            },
            () = &mut look, if looks => {
                if let Some(waiting) = watch.look(Instant::now()) {
                    return End::Stuck(waiting);
                }
                looks = watch.has_limit();
                if looks {
                    look.as_mut().reset(Instant::now() + period);
                }
            }
            changed = phase.changed() => {
                if changed.is_err() || *phase.borrow_and_update() == Phase::Cutting {
                    return End::Cut;
                }
                ends_at = Some(Instant::now() + grace);
            }
            () = quit => {
                ends_at = None;
                connection.drain();
            }
        }
    }
}

/// How a connection ends; none when it has come so far that `is_far` holds.
fn until<C: Future + Unpin>(
    connection: &mut C,
    mut is_far: impl FnMut() -> bool,
) -> impl Future<Output = Option<C::Output>> {
    std::future::poll_fn(move |task| match pin!(&mut *connection).poll(task) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending if is_far() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
}

/// A connection that can be asked to finish.
trait Graceful {
    fn drain(&mut self);
}

impl<S> Graceful for http1::Connection<TokioIo<Counted>, S>
where
    S: hyper::service::HttpService<Incoming, ResBody = Answer>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn drain(&mut self) {
        std::pin::Pin::new(self).graceful_shutdown();
    }
}

/// Sends the last bytes, then waits a little for the client to read and hang up: a
/// socket that is closed with unread bytes in it resets the connection, which can
/// take the answer away from the client.
pub(crate) async fn linger(mut stream: TcpStream, last: &[u8]) {
    let wind_up = async {
        stream.write_all(last).await?;
        stream.shutdown().await?;
        let mut left = LINGER_BYTES_MAX;
        let mut bin = [0; 4096];
        while left > 0 {
            match stream.read(&mut bin).await? {
                0 => break,
                bytes => left = left.saturating_sub(bytes),
            }
        }
        Ok::<_, std::io::Error>(())
    };
    // Whatever goes wrong here, there is nobody left to tell.
    let _ = timeout(LINGER_MAX, wind_up).await;
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::{Context, Waker};

    use super::*;

    /// A connection on which nothing moves by itself.
    #[derive(Clone, Default)]
    struct Still {
        polls: Arc<AtomicUsize>,
        waker: Arc<Mutex<Option<Waker>>>,
    }

    impl Future for Still {
        type Output = hyper::Result<()>;

        fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
            self.polls.fetch_add(1, Relaxed);
            *self.waker.lock().unwrap() = Some(task.waker().clone());
            Poll::Pending
        }
    }

    impl Graceful for Still {
        fn drain(&mut self) {}
    }

    #[tokio::test]
    async fn a_stream_is_looked_at_only_when_its_client_does_not_take_it() {
        let limits =
            Limits { header_timeout_ms: 3_600_000, send_stall_ms: 20, ..Limits::default() };
        let (_phase, watched) = watch::channel(Phase::Running);
        let start = |activity: &Arc<Activity>| {
            let (still, activity) = (Still::default(), Arc::clone(activity));
            let (mut connection, mut phase) = (still.clone(), watched.clone());
            let mut watch = Watch::new(activity, &limits);
            let end = tokio::spawn(async move {
                drive(&mut connection, &mut watch, &mut phase, Duration::ZERO).await
            });
            (still, end)
        };
        let streams = Arc::new(Activity::default());
        streams.request();
        streams.answer();
        let (stream, end) = start(&streams);
        let (idle, _) = start(&Arc::default());
        while idle.polls.load(Relaxed) < 50 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(stream.polls.load(Relaxed) <= 3, "{:?}", stream.polls);
        assert!(!end.is_finished());
        streams.block();
        stream.waker.lock().unwrap().take().expect("it was polled").wake();
        assert!(matches!(end.await, Ok(End::Stuck(Waiting::Client))));
    }
}
