//! Talks to a cluster: finds the leader, retries safely, typed errors.
