//! The node's doors, and the file descriptors that whoever comes in needs.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::thread::JoinHandle;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use tokio::sync::watch;

use crate::settings::Settings;
use crate::start_error::StartError;

/// Connections that may wait to be accepted. With fewer a burst of clients, such as
/// comes after a failover, would wait for TCP to ask again, which takes seconds.
const BACKLOG: i32 = 4_096;
/// Files of the state that are kept open, at the most and at the least. With fewer than there are
/// a read may have to open its file first.
const TABLES_MAX: u64 = 512;
const TABLES_MIN: u64 = 64;
/// The journal, peers, the search for damage, snapshots, and room.
const OTHER_FILES: u64 = 256;
/// With room for fewer clients than this a node does not start.
const CONNECTIONS_MIN: u64 = 32;

/// The peers' door, open before anything else that may take long.
pub(crate) fn open_to_peers(settings: &Settings) -> Result<TcpListener, StartError> {
    listen("peer.listen", &settings.peer.listen)
}

/// The clients' door, open as soon as somebody can tell them how the node is.
pub(crate) fn open_to_clients(settings: &Settings) -> Result<TcpListener, StartError> {
    listen("client.listen", &settings.client.listen)
}

/// Where a door is.
pub(crate) fn local_addr(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(StartError::Thread)
}

/// The thread that serves clients.
#[derive(Debug)]
pub(crate) struct ClientDoor {
    pub(crate) thread: JoinHandle<()>,
    pub(crate) stop: watch::Sender<bool>,
}

impl ClientDoor {
    /// Lets requests under way end, then closes.
    pub(crate) fn close(self) {
        let _ = self.stop.send(true);
        let _ = self.thread.join();
    }
}

/// Listens on the first address behind the name that can be taken.
fn listen(field: &'static str, address: &str) -> Result<TcpListener, StartError> {
    let take = || -> io::Result<TcpListener> {
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in address.to_socket_addrs()? {
            match listen_on(address) {
                Ok(listener) => return Ok(listener),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    };
    let address = address.to_owned();
    take().map_err(|source| StartError::Listen { field, address, source })
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A node that comes back must not wait for the connections of its former life.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Sees to it that clients cannot take the file descriptors that the journal and the
/// state need: raises the limit of this process as far as it may, and answers how
/// many connections there may be.
///
/// # Errors
/// When hardly any client would have room.
pub(crate) fn provide_descriptors(connections_max: usize) -> Result<usize, StartError> {
    let wanted = (TABLES_MAX + OTHER_FILES).saturating_add(connections_max as u64);
    let limit = getrlimit(Resource::Nofile);
    let current = limit.current.unwrap_or(u64::MAX);
    let most = limit.maximum.unwrap_or(u64::MAX).min(wanted);
    if current < most {
        let raised = Rlimit { current: Some(most), maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "cannot raise the number of open files to {most}");
        }
    }
    let limit = files_max();
    let connections = connections_within(limit, connections_max).ok_or_else(|| {
        let least = least_files(connections_max);
        StartError::Descriptors { limit, least, wanted }
    })?;
    if connections < connections_max {
        let tables = tables_within(limit);
        tracing::warn!(
            "this process may open {limit} files, so it takes {connections} connections instead of \
             limits.connections_max = {connections_max}, and keeps {tables} files of its state \
             open: raise `ulimit -n` or LimitNOFILE to {wanted}"
        );
    }
    Ok(connections)
}

/// How many files of the state may be kept open.
pub(crate) fn table_files() -> u16 {
    u16::try_from(tables_within(files_max())).expect("bounded")
}

fn files_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many files the process must be allowed to open for a node that works.
fn least_files(connections_max: usize) -> u64 {
    OTHER_FILES + TABLES_MIN + CONNECTIONS_MIN.min(connections_max as u64)
}

/// Half of what is left when everybody has the least is the state's.
fn tables_within(files_max: u64) -> u64 {
    let spare = files_max.saturating_sub(OTHER_FILES + TABLES_MIN + CONNECTIONS_MIN);
    (TABLES_MIN + spare / 2).min(TABLES_MAX)
}

/// How many connections there may be when the process may open so many files.
fn connections_within(files_max: u64, connections_max: usize) -> Option<usize> {
    let room = files_max.saturating_sub(OTHER_FILES + tables_within(files_max));
    let connections = usize::try_from(room).unwrap_or(usize::MAX).min(connections_max);
    (files_max >= least_files(connections_max)).then_some(connections)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_the_node_itself_does_not_need() {
        assert_eq!(connections_within(u64::MAX, 10_000), Some(10_000));
        assert_eq!((connections_within(1_024, 10_000), tables_within(1_024)), (Some(368), 400));
        assert_eq!((connections_within(400, 10_000), tables_within(400)), (Some(56), 88));
        assert_eq!((connections_within(352, 10_000), tables_within(352)), (Some(32), TABLES_MIN));
        assert_eq!(connections_within(351, 10_000), None);
        assert_eq!((connections_within(330, 10), connections_within(329, 10)), (Some(10), None));
        assert_eq!([0, u64::MAX].map(tables_within), [TABLES_MIN, TABLES_MAX]);
        for limit in 352..5_000 {
            let connections = connections_within(limit, 10_000).expect("enough") as u64;
            assert!(connections >= CONNECTIONS_MIN);
            assert_eq!(connections + tables_within(limit) + OTHER_FILES, limit);
        }
    }

    #[test]
    fn the_limit_is_raised_to_what_is_wanted_or_to_what_may_be() {
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        let connections = provide_descriptors(100).expect("room for a few");
        assert_eq!(connections, 100);
        let current = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        assert!(current >= hard.min(TABLES_MAX + OTHER_FILES + 100));
    }

    #[test]
    fn a_burst_of_clients_waits_to_be_accepted() {
        let listener = listen("client.listen", "127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        // Nobody accepts; more than the 128 that would wait by default get through.
        let connect = |_| std::net::TcpStream::connect_timeout(&address, WAIT);
        let waiting: Vec<_> = (0..400).map(connect).collect();
        assert!(waiting.iter().all(Result::is_ok));
    }

    /// Less than TCP takes to ask a third time.
    const WAIT: std::time::Duration = std::time::Duration::from_millis(2_500);
}
