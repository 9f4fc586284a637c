//! One who asks beside the load: some node, as long as it answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::load::Load;
use crate::synod::{Response, SynodConnection};

/// An answer takes no longer, or another node is asked.
pub(super) const PATIENCE: Duration = Duration::from_millis(700);

/// One thread of control and its connection.
pub(super) struct Caller {
    pub(super) load: Arc<Load>,
    pub(super) random: fastrand::Rng,
    connection: Option<(SocketAddr, SynodConnection)>,
}

impl Caller {
    /// One who draws from this number and the seed of the load.
    pub(super) fn new(load: &Arc<Load>, number: u64) -> Self {
        let random = fastrand::Rng::with_seed(load.seed() ^ number << 16);
        Caller { load: Arc::clone(load), random, connection: None }
    }

    /// Asks some node once; none without an answer in time.
    pub(super) async fn ask(
        &mut self,
        method: &str,
        target: &str,
        body: &[u8],
    ) -> Option<Response> {
        self.ask_with(method, target, "", body).await
    }

    /// The same with header lines.
    pub(super) async fn ask_with(
        &mut self,
        method: &str,
        target: &str,
        headers: &str,
        body: &[u8],
    ) -> Option<Response> {
        let begin = Instant::now();
        let answer = timeout(PATIENCE, self.exchange(method, target, headers, body)).await;
        let answer = answer.ok().flatten();
        if answer.as_ref().is_none_or(|answer| answer.status >= 500) {
            self.connection = None;
            sleep(PATIENCE.saturating_sub(begin.elapsed()) / 4).await;
        }
        answer
    }

    async fn exchange(
        &mut self,
        method: &str,
        target: &str,
        headers: &str,
        body: &[u8],
    ) -> Option<Response> {
        if self.connection.as_ref().is_none_or(|(_, connection)| !connection.is_open()) {
            let (_, address) = self.load.node(self.random.usize(..64));
            let stream = TcpStream::connect(address).await.ok()?;
            stream.set_nodelay(true).ok()?;
            self.connection = Some((address, SynodConnection::new(stream, address)));
        }
        // One that does not come back is not used again.
        let (address, mut connection) = self.connection.take()?;
        let answer = connection.call(method, target, headers, body).await.ok();
        self.connection = answer.is_some().then_some((address, connection));
        answer
    }
}
