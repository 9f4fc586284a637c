//! A cluster whose members are asked for and changed.

use std::time::{Duration, Instant};

use synod_client::{AddMemberBody, Client, ClientError, MemberRole, MembersBody, ProblemKind};
use synod_kv::http::RoleName;
use synod_node::{Joining, MemberSettings, Settings};

use crate::arguments::Reach;
use crate::endpoints;
use crate::failure::Failure;
use crate::output::warn;
use crate::talk;

/// How long a change is tried while the cluster has no leader, or another change is on
/// its way. All of them may be tried again.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(200);

/// A cluster that was found.
pub(super) struct Cluster {
    /// As of the newest configuration that anybody told.
    pub(super) members: MembersBody,
    /// Knows all members, so that the leader is among them.
    client: Client,
    urls: Vec<String>,
    /// Where nodes answer that the members say to be elsewhere.
    moved: Vec<String>,
    timeout_ms: u64,
}

/// Asks the nodes that are named who the members are, and talks to all of them.
pub(super) fn with_cluster(
    reach: &Reach,
    conversation: impl AsyncFnOnce(&mut Cluster) -> Result<MembersBody, Failure>,
) -> Result<MembersBody, Failure> {
    let named = endpoints::resolve(&reach.endpoints);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let failure = |error| talk::failure(&error, &named);
        let asked = talk::client(&named, reach.timeout_ms).map_err(failure)?;
        let members = asked.members().await.map_err(failure)?;
        // A node that was named and has gone would only be asked in vain.
        let urls = urls_of(&members);
        let client = talk::client(&urls, reach.timeout_ms).map_err(failure)?;
        let timeout_ms = reach.timeout_ms;
        let moved = Vec::new();
        conversation(&mut Cluster { members, client, urls, moved, timeout_ms }).await
    })
}

impl Cluster {
    /// Takes the folder of a new node of this cluster.
    pub(super) fn begin(&self, settings: &Settings) -> Result<Joining, Failure> {
        let cluster = format!("{:032x}", settings.cluster_id());
        if self.members.cluster != cluster {
            return Err(Failure::usage(format!(
                "{}: cluster.id is {cluster}, but the cluster that answers is {}: correct the \
                 settings, or --endpoints. Nothing was changed",
                settings.file.display(),
                self.members.cluster
            )));
        }
        let begun = Joining::begin(settings);
        begun.map_err(|error| Failure::failed(format!("{error}\nThe cluster was not told yet")))
    }

    /// Makes the new node a member, if it is not one, and the folder its own.
    pub(super) async fn join(&mut self, settings: &Settings) -> Result<MembersBody, Failure> {
        let (id, joining) = (settings.node_id, self.begin(settings)?);
        if let Some(joined) = joining.joined {
            return self.rejoin(id, joined).await;
        }
        let own = own_addresses(settings);
        let body = AddMemberBody {
            id,
            store: format!("{:032x}", joining.store),
            peer: own.peer.clone(),
            client_url: own.client_url.clone(),
            configuration: None,
        };
        let members =
            self.persist(Again::Harmless, async |client| client.add_member(&body).await).await?;
        joining.finish(settings, &members).map_err(|error| Failure::failed(error.to_string()))?;
        Ok(members)
    }

    /// Removes a dead member at whose addresses the new node will be, for no two members have the
    /// same. A dead voter counts for a quorum and helps to none, so no fewer nodes may fail than
    /// before. Answers the number of the configuration without it.
    pub(super) async fn make_way(&mut self, id: u32, old: u32) -> Result<u64, Failure> {
        let lives = |how: &str| {
            Failure::refused(format!(
                "node {id} has addresses of node {old}, which {how}: stop that node first, or give \
                 node {id} other addresses. Nothing was changed"
            ))
        };
        let mut members = self.members.members.iter();
        let url = members.find(|member| member.id == old).map(|member| member.client_url.clone());
        let asked = url.and_then(|url| talk::client(&[url], self.timeout_ms).ok());
        if let Some(client) = asked
            && client.status_of(0).await.is_ok_and(|status| status.node == old)
        {
            return Err(lives("answers there"));
        }
        let status = self.client.status().await.map_err(|error| refusal(&error, &self.urls))?;
        if status.peers.iter().any(|peer| peer.id == old && peer.reachable) {
            return Err(lives("its peers hear"));
        }
        warn(&format!(
            "node {id} takes the addresses of node {old}, so node {old} is removed before it comes"
        ));
        let remove = async |client: &Client| client.remove_member(old, false).await;
        self.members = self.persist(Again::Harmless, remove).await?;
        Ok(self.members.configuration)
    }

    /// The members, of which the node is one since the configuration of this number, if it
    /// still is. Only the leader knows: others may not have heard yet that it was removed.
    async fn rejoin(&mut self, id: u32, joined: u64) -> Result<MembersBody, Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let from_leader = self.ask_leader().await;
            match standing(&self.members, from_leader, id, joined) {
                Standing::Member => return Ok(self.members.clone()),
                Standing::Removed => {
                    return Err(Failure::refused(format!(
                        "node {id} was a member and is none any more: an id and its data folder \
                         are used once. Take an id above {} and an empty data_dir",
                        self.members.ids_used_upto
                    )));
                }
                Standing::Unknown if Instant::now() >= deadline => {
                    return Err(Failure::failed(format!(
                        "node {id} joined in configuration {joined}, and nobody who answers knows \
                         what came of it: is there a leader? The same command may be run again"
                    )));
                }
                Standing::Unknown => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// From now on talks also to the nodes of this cluster that were named and answer where
    /// the members don't say that a node is.
    pub(super) async fn find_moved(&mut self, reach: &Reach) {
        let named = talk::client(&endpoints::resolve(&reach.endpoints), self.timeout_ms);
        let Ok(named) = named else { return };
        for (place, url) in named.endpoints().iter().enumerate() {
            if self.urls.contains(url) {
                continue;
            }
            let status = named.status_of(place).await;
            if status.is_ok_and(|status| status.cluster == self.members.cluster) {
                self.moved.push(url.clone());
            }
        }
        // Where a member was, another cluster may be by now.
        let Ok(known) = talk::client(&urls_of(&self.members), self.timeout_ms) else { return };
        let mut others = Vec::new();
        for (place, url) in known.endpoints().iter().enumerate() {
            let status = known.status_of(place).await;
            if status.is_ok_and(|status| status.cluster != self.members.cluster) {
                continue;
            }
            others.push(url.clone());
        }
        self.talk_to(&others);
    }

    /// Talks to these nodes, and first of all to those that have moved.
    fn talk_to(&mut self, others: &[String]) {
        let mut urls = self.moved.clone();
        urls.extend(others.iter().filter(|url| !self.moved.contains(url)).cloned());
        if urls != self.urls
            && let Ok(client) = talk::client(&urls, self.timeout_ms)
        {
            (self.client, self.urls) = (client, urls);
        }
    }

    /// Where the leader answers: one that has moved knows of itself that it leads, but says as
    /// everybody that it is where it was.
    async fn leader_url(&self) -> Option<String> {
        for url in &self.moved {
            let asked = talk::client(std::slice::from_ref(url), self.timeout_ms).ok()?;
            let status = asked.status_of(0).await;
            if status.is_ok_and(|status| status.role == RoleName::Leader) {
                return Some(url.clone());
            }
        }
        self.client.status().await.ok()?.leader?.url
    }

    /// Who answered first may lag behind: asks the leader, too, and from then on talks to
    /// the members that it names, and to itself. Without a leader everything stays. Says
    /// whether the members are now those that a leader told.
    pub(super) async fn ask_leader(&mut self) -> bool {
        let Some(url) = self.leader_url().await else { return false };
        let mut told = Err(());
        if let Ok(leader) = talk::client(std::slice::from_ref(&url), self.timeout_ms) {
            told = leader.members().await.map_err(drop);
        }
        let is_same = |members: &MembersBody| members.cluster == self.members.cluster;
        let Some(members) = told.ok().filter(is_same) else { return false };
        // One that leads no more may lag behind as anybody may.
        let is_newest = members.configuration >= self.members.configuration;
        if is_newest {
            self.members = members;
        }
        let mut urls = urls_of(&self.members);
        if !urls.contains(&url) {
            urls.push(url);
        }
        self.talk_to(&urls);
        is_newest
    }

    /// Asks for a change again and again while that may help.
    pub(super) async fn persist(
        &mut self,
        again: Again<'_>,
        ask: impl AsyncFn(&Client) -> Result<MembersBody, ClientError>,
    ) -> Result<MembersBody, Failure> {
        let deadline = Instant::now() + PATIENCE;
        let mut is_told = false;
        let mut unsure = None;
        loop {
            let asked = match unsure.take() {
                Some(error) => Err(error),
                None => ask(&self.client).await,
            };
            let error = match asked {
                Ok(members) => return Ok(members),
                Err(error) => error,
            };
            if !passes(&error) || Instant::now() >= deadline {
                return Err(refusal(&error, &self.urls));
            }
            if !std::mem::replace(&mut is_told, true) {
                warn(&format!("trying again: {error}"));
            }
            tokio::time::sleep(PAUSE).await;
            // It may be one that came after the members were asked for.
            let is_newest = self.ask_leader().await;
            if let (Again::Not(is_so), true) = (&again, error.outcome_unknown()) {
                if is_newest && is_so(&self.members) {
                    return Ok(self.members.clone());
                }
                unsure = Some(error);
            }
        }
    }
}

/// What may be done about a change of which nobody knows whether it was made.
pub(super) enum Again<'a> {
    /// Ask for it again: an id is used once, so it can't undo what others did since.
    Harmless,
    /// Only look whether the members are so.
    Not(&'a dyn Fn(&MembersBody) -> bool),
}

/// What is known of a node that joined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    Member,
    Removed,
    /// The members are of before it joined, or are just being changed, or are not what a
    /// leader told.
    Unknown,
}

fn standing(members: &MembersBody, from_leader: bool, id: u32, joined: u64) -> Standing {
    if !from_leader {
        return Standing::Unknown;
    }
    if role_of(members, id).is_some() {
        return Standing::Member;
    }
    match members.configuration >= joined && !members.pending {
        true => Standing::Removed,
        false => Standing::Unknown,
    }
}

fn urls_of(members: &MembersBody) -> Vec<String> {
    members.members.iter().map(|member| member.client_url.clone()).collect()
}

/// Whether it may be different in a moment.
fn passes(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } | ClientError::Ambiguous { .. } => true,
        ClientError::Refused(problem) => {
            problem.status == 503 || problem.kind() == Some(ProblemKind::ChangePending)
        }
        _ => false,
    }
}

fn refusal(error: &ClientError, urls: &[String]) -> Failure {
    let ClientError::Refused(problem) = error else { return talk::failure(error, urls) };
    match problem.kind() {
        Some(ProblemKind::ChangeUnsafe) => Failure::not_safe(error.to_string()),
        _ if problem.status < 500 => Failure::refused(error.to_string()),
        _ => Failure::failed(format!("{error}\nThe same command may be run again")),
    }
}

/// What the new node's settings say of itself.
pub(super) fn own_addresses(settings: &Settings) -> &MemberSettings {
    let mut members = settings.members.iter();
    members.find(|member| member.id == settings.node_id).expect("the settings were checked")
}

pub(super) fn role_of(members: &MembersBody, id: u32) -> Option<MemberRole> {
    members.members.iter().find(|member| member.id == id).map(|member| member.role)
}

#[cfg(test)]
pub(super) mod tests {
    use synod_client::MemberBody;
    use synod_kv::http::FirstBody;

    use super::*;

    /// These voters, and no addresses.
    pub(in super::super) fn told(ids: &[u32], configuration: u64, pending: bool) -> MembersBody {
        MembersBody {
            cluster: String::new(),
            configuration,
            pending,
            promise_quorum: 1,
            accept_quorum: 1,
            alpha: 8,
            ids_used_upto: 4,
            members: Vec::from_iter(ids.iter().map(|id| MemberBody {
                id: *id,
                role: MemberRole::Voter,
                store: None,
                peer: String::new(),
                client_url: String::new(),
            })),
            first: FirstBody {
                voters: vec![1],
                promise_quorum: 1,
                accept_quorum: 1,
                alpha: 8,
                restored: None,
            },
        }
    }

    #[test]
    fn only_a_leaders_members_of_after_it_joined_tell_what_became_of_a_node() {
        let of = |ids: &[u32], configuration, pending| {
            standing(&told(ids, configuration, pending), true, 4, 3)
        };
        for ids in [&[1, 4][..], &[1]] {
            assert_eq!(standing(&told(ids, 4, false), false, 4, 3), Standing::Unknown);
        }
        assert_eq!(of(&[1, 4], 3, false), Standing::Member);
        assert_eq!(of(&[1], 2, false), Standing::Unknown);
        assert_eq!(of(&[1], 4, true), Standing::Unknown);
        assert_eq!(of(&[1], 4, false), Standing::Removed);
    }
}
