//! The calls about the members of the cluster.

use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Method, StatusCode};
use serde::Serialize;
use synod_kv::http::{
    AddMemberBody, ChangeMemberBody, LeaderHint, MembersBody, Problem, QuorumsBody, RoleName,
};
use tokio::time::{Instant, sleep};

use crate::answer_body::{document, garbled};
use crate::attempt::{Answer, Message};
use crate::client::{Client, garbled_write, unfit};
use crate::error::ClientError;
use crate::retry::Repeat;
use crate::target::Target;

const MEMBERS: &str = "/v1/cluster/members";
/// Between two rounds of looking for the leader.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// What is asked of the leader has no name, and is sent once.
const UNNAMED: Repeat = Repeat::Never(None);

/// Changes of the members are asked of the leader, which must be among
/// [`Client::endpoints`], and once: to ask again for a change that is in force does no
/// harm.
impl Client {
    /// The members as a node knows them; whichever answers first.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn members(&self) -> Result<MembersBody, ClientError> {
        let answer = self.read(&Target::new(MEMBERS)).await?;
        document(&answer).ok_or_else(garbled)
    }

    /// Adds a member, which learns and does not vote.
    ///
    /// # Errors
    /// See [`ClientError`]; `Ambiguous` when the change may have been made, or may still be.
    pub async fn add_member(&self, body: &AddMemberBody) -> Result<MembersBody, ClientError> {
        self.change(Method::POST, MEMBERS.to_owned(), Some(body)).await
    }

    /// Promotes a member, puts it in the place of another, or tells its new addresses.
    ///
    /// # Errors
    /// As [`Client::add_member`].
    pub async fn change_member(
        &self,
        id: u32,
        body: &ChangeMemberBody,
    ) -> Result<MembersBody, ClientError> {
        self.change(Method::PUT, format!("{MEMBERS}/{id}"), Some(body)).await
    }

    /// Removes a member.
    ///
    /// # Errors
    /// As [`Client::add_member`].
    pub async fn remove_member(&self, id: u32, force: bool) -> Result<MembersBody, ClientError> {
        let target = format!("{MEMBERS}/{id}{}", if force { "?force=true" } else { "" });
        self.change(Method::DELETE, target, None::<&()>).await
    }

    /// Sets other quorums of the same voters.
    ///
    /// # Errors
    /// As [`Client::add_member`].
    pub async fn set_quorums(&self, body: &QuorumsBody) -> Result<MembersBody, ClientError> {
        self.change(Method::PUT, "/v1/cluster/quorums".to_owned(), Some(body)).await
    }

    /// Asks the leader to give its office to `to`, or to whoever is fit. The leader must
    /// be among [`Client::endpoints`]. It is asked once.
    ///
    /// # Errors
    /// See [`ClientError`]; `Ambiguous` when another node may lead, or may still come to lead.
    pub async fn transfer(&self, to: Option<u32>) -> Result<LeaderHint, ClientError> {
        let body = to.map_or_else(Bytes::new, |to| format!("{{\"to\": {to}}}").into());
        let target = "/v1/cluster/transfer".to_owned();
        let answer = self.ask_leader(Method::POST, target, body).await?;
        document(&answer).ok_or_else(garbled_change)
    }

    async fn change(
        &self,
        method: Method,
        target: String,
        body: Option<&impl Serialize>,
    ) -> Result<MembersBody, ClientError> {
        let encode = |body| serde_json::to_vec(body).expect("plain fields");
        let body = body.map(encode).unwrap_or_default();
        let answer = self.ask_leader(method, target, body.into()).await?;
        document(&answer).ok_or_else(garbled_change)
    }

    /// The leader's answer, if it is a success.
    async fn ask_leader(
        &self,
        method: Method,
        target: String,
        body: Bytes,
    ) -> Result<Answer, ClientError> {
        let place = self.find_leader().await?;
        let message = Message { method, target, headers: HeaderMap::new(), body };
        let answer = self.retrier().call_node(place, &message, &UNNAMED).await?;
        match answer.status {
            StatusCode::OK => Ok(answer),
            // About the number of the configuration, not about a key.
            StatusCode::PRECONDITION_FAILED => {
                let problem = document::<Problem>(&answer).ok_or_else(garbled)?;
                Err(ClientError::Refused(Box::new(problem)))
            }
            _ => Err(unfit(&answer, 1, &UNNAMED)),
        }
    }

    /// The place of the leader among the endpoints. Some may know of none, or still of the
    /// one before, or be down: all are asked until one says that it leads.
    async fn find_leader(&self) -> Result<usize, ClientError> {
        let deadline = Instant::now() + self.retrier().options.call_timeout;
        let mut attempts = 0;
        loop {
            let mut left: Vec<usize> = (0..self.endpoints().len()).rev().collect();
            let mut elsewhere = None;
            let mut last = "no node knows a leader".to_owned();
            while let Some(place) = left.pop() {
                attempts += 1;
                let status = match self.status_of(place).await {
                    Ok(status) if status.role == RoleName::Leader => return Ok(place),
                    Ok(status) => status,
                    Err(error) => {
                        last = error.to_string();
                        continue;
                    }
                };
                let Some(url) = status.leader.and_then(|leader| leader.url) else { continue };
                match self.place_of(&url) {
                    // Whoever was named is asked next.
                    Some(named) => left.sort_by_key(|place| *place == named),
                    None => elsewhere = Some(url),
                }
            }
            if let Some(url) = elsewhere {
                return Err(ClientError::invalid(format!(
                    "only the leader does this, and it is {url}, which is not among the \
                     endpoints: add it to them"
                )));
            }
            if Instant::now() + LOOK_AGAIN >= deadline {
                return Err(ClientError::Unreachable { attempts, last });
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    fn place_of(&self, url: &str) -> Option<usize> {
        self.endpoints().iter().position(|base| base.trim_end_matches('/') == url)
    }
}

/// A success that can't be read: what was asked for may be done.
fn garbled_change() -> ClientError {
    garbled_write(1, &UNNAMED)
}
