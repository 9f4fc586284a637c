//! How long a client may take.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::Frame;
use tokio::time::{Interval, interval, timeout};

use super::*;

const MUCH_LATER: Duration = Duration::from_secs(20);

/// A body that comes bit by bit and never ends.
struct Trickle {
    pauses: Interval,
    bit: &'static [u8],
}

impl Body for Trickle {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        ready!(self.pauses.poll_tick(task));
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(self.bit)))))
    }
}

/// The first line of a body that brings this bit after each pause.
async fn first(bit: &'static [u8], pause_ms: u64, is_timed: bool) -> Option<Line> {
    let mut pauses = interval(Duration::from_millis(pause_ms));
    // It comes at once, and only once.
    pauses.tick().await;
    let mut lines = Lines::new(Trickle { pauses, bit }, 1 << 20, Duration::from_millis(50));
    lines.is_timed = is_timed;
    timeout(MUCH_LATER, lines.next()).await.expect("it ends")
}

#[tokio::test]
async fn who_sends_a_byte_now_and_then_is_as_good_as_silent() {
    let line = first(b"x", 1, true).await.expect("a line");
    assert_eq!(line.text.expect_err("it is too slow").kind(), Kind::RequestTimeout);
}

#[tokio::test]
async fn who_waits_for_a_result_may_be_silent() {
    let late = first(b"line\n", 200, true).await.expect("a line");
    assert_eq!(late.text.expect_err("it is too slow").kind(), Kind::RequestTimeout);
    let line = first(b"line\n", 200, false).await.expect("a line");
    assert_eq!(line.text.expect("in time"), "line");
}
