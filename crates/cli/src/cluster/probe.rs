//! Asks every node of the local cluster how it does.

use std::time::Duration;

use synod_client::{Client, ClientError, ClientOptions, StatusBody};
use tokio::task::JoinSet;

use super::view::Health;
use crate::failure::Failure;

/// A paused node does not answer at all; the table must not wait for it long.
const TIMEOUT: Duration = Duration::from_millis(400);

/// What the nodes said last.
#[derive(Debug)]
pub(crate) struct Probes {
    client: Client,
    health: Vec<Option<Health>>,
}

impl Probes {
    /// For the nodes at these URLs, asked in parallel.
    pub(crate) fn new(urls: &[String]) -> Result<Self, Failure> {
        let options = ClientOptions {
            call_timeout: TIMEOUT,
            attempt_timeout: TIMEOUT,
            connect_timeout: TIMEOUT,
            retries_saved_max: 0,
            ..ClientOptions::default()
        };
        let client =
            Client::new(urls, options).map_err(|error| Failure::failed(error.to_string()))?;
        Ok(Self { client, health: vec![None; urls.len()] })
    }

    /// What the node at this place said last; none if it did not answer.
    pub(crate) fn health(&self, index: usize) -> Option<&Health> {
        self.health[index].as_ref()
    }

    /// Forgets what a node said that has ended since.
    pub(crate) fn forget(&mut self, index: usize) {
        self.health[index] = None;
    }

    /// Asks all nodes at once and waits for those that answer.
    pub(crate) async fn refresh(&mut self) {
        let statuses = statuses(&self.client).await;
        self.health = statuses.into_iter().map(|status| status.ok().map(health)).collect();
    }
}

/// What every node of a client's cluster says, in the order of its endpoints.
pub(crate) async fn statuses(client: &Client) -> Vec<Result<StatusBody, ClientError>> {
    let mut questions = JoinSet::new();
    for index in 0..client.endpoints().len() {
        let client = client.clone();
        questions.spawn(async move { (index, client.status_of(index).await) });
    }
    let mut answers = questions.join_all().await;
    answers.sort_by_key(|(index, _)| *index);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

fn health(status: StatusBody) -> Health {
    Health {
        role: status.role.as_str().to_owned(),
        chosen_upto: status.chosen_slot,
        applied_upto: status.applied_slot,
        failures_survived: Some(status.failures_survivable),
    }
}
