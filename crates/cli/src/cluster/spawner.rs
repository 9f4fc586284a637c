//! A thread that starts the nodes and lives as long as their cluster.

use std::io;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

/// Starts processes, all from one thread. The kernel ties a node's life to the
/// thread that started it, and the caller's thread may end earlier than the
/// cluster.
#[derive(Clone, Debug)]
pub(crate) struct Spawner {
    orders: Sender<Order>,
}

struct Order {
    command: Command,
    answer: Sender<io::Result<Child>>,
}

impl Spawner {
    /// Starts the thread. It ends when the last clone of its spawner is dropped.
    ///
    /// # Errors
    /// When there are no more threads.
    pub(crate) fn new() -> io::Result<Self> {
        let (orders, receiver) = channel();
        thread::Builder::new().name("spawner".to_owned()).spawn(|| serve(receiver))?;
        Ok(Self { orders })
    }

    /// Starts a process.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub(crate) fn spawn(&self, command: Command) -> io::Result<Child> {
        let gone = |_| io::Error::other("the thread that starts nodes has ended");
        let (answer, started) = channel();
        self.orders.send(Order { command, answer }).map_err(|_| gone(()))?;
        started.recv().map_err(|_| gone(()))?
    }
}

fn serve(orders: Receiver<Order>) {
    for Order { mut command, answer } in orders {
        // Whoever asked waits for the answer, so it is there to take it.
        let _ = answer.send(command.spawn());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_started_and_failures_come_back() {
        let spawner = Spawner::new().expect("a thread");
        let mut child = spawner.spawn(Command::new("true")).expect("a process");
        assert!(child.wait().expect("its end").success());
        assert!(spawner.spawn(Command::new("/no/such/program")).is_err());
    }
}
