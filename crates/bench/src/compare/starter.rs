//! What the comparison needs of a store.

use crate::NodeAddress;
use crate::failover::ControlError;

/// Starts and stops a cluster for one round.
pub trait ClusterStarter {
    /// The store and its version, for the table.
    fn name(&self) -> String;

    /// Starts all nodes with empty data. They need not be ready.
    ///
    /// # Errors
    /// When a node does not start.
    fn start_fresh(&mut self) -> Result<Vec<NodeAddress>, ControlError>;

    /// Stops all nodes and removes their data.
    ///
    /// # Errors
    /// When a node cannot be stopped.
    fn stop_all(&mut self) -> Result<(), ControlError>;
}
