//! `synod member`: who is a member of the cluster, and other members.

use std::time::{Duration, Instant};

use serde::Serialize;
use synod_client::{
    AddMemberBody, ChangeMemberBody, Client, ClientError, MemberBody, MemberRole, MembersBody,
    ProblemKind, QuorumsBody,
};
use synod_node::{Joining, MemberSettings, Settings};

use crate::arguments::{AddMember, ChangeMember, Member, Quorums, Reach, ReplaceMember};
use crate::endpoints;
use crate::failure::Failure;
use crate::output::{columns, print, print_json, warn};
use crate::serve::load;
use crate::talk;

/// How long a change is tried while the cluster has no leader, or another change is on
/// its way. All of them may be tried again.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(200);
/// How often the wait for a node that catches up asks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Runs the subcommand.
pub(crate) fn run(command: &Member) -> Result<(), Failure> {
    match command {
        Member::List(reach) => with_cluster(reach, async |cluster| Ok(cluster.members.clone()))
            .and_then(|members| tell(reach, &members)),
        Member::Add(arguments) => add(arguments),
        Member::Promote(arguments) => promote(arguments),
        Member::Remove(arguments) => remove(arguments),
        Member::Replace(arguments) => replace(arguments),
        Member::Quorums(arguments) => quorums(arguments),
    }
}

fn add(arguments: &AddMember) -> Result<(), Failure> {
    let settings = load(&arguments.settings.config)?;
    let members = with_cluster(&arguments.reach, async |cluster| cluster.join(&settings).await)?;
    if arguments.reach.json {
        return print_json(&members);
    }
    let (id, config) = (settings.node_id, arguments.settings.config.display());
    if role_of(&members, id) == Some(MemberRole::Voter) {
        return print(&format!(
            "node {id} is a member and votes; start it:\n  synod serve --config {config}"
        ));
    }
    let endpoints = some_endpoints(&members, id);
    print(&format!(
        "node {id} is a learner member of cluster {} (configuration {}). Start it:\n  \
         synod serve --config {config}\nand when it has caught up, let it vote:\n  \
         synod member promote {id} --endpoints {endpoints}",
        members.cluster, members.configuration
    ))
}

fn promote(arguments: &ChangeMember) -> Result<(), Failure> {
    let (id, force) = (arguments.id, arguments.force);
    let role = Some(MemberRole::Voter);
    let body = ChangeMemberBody { role, force, ..ChangeMemberBody::default() };
    change(&arguments.reach, Again::Harmless, async |client| client.change_member(id, &body).await)
}

fn remove(arguments: &ChangeMember) -> Result<(), Failure> {
    let (id, force) = (arguments.id, arguments.force);
    change(&arguments.reach, Again::Harmless, async |client| client.remove_member(id, force).await)
}

fn quorums(arguments: &Quorums) -> Result<(), Failure> {
    let (promise, accept, force) = (arguments.promise, arguments.accept, arguments.force);
    let body = QuorumsBody { promise, accept, configuration: None, force };
    let is_so = |members: &MembersBody| {
        (members.promise_quorum, members.accept_quorum) == (promise, accept) && !members.pending
    };
    change(&arguments.reach, Again::Not(&is_so), async |client| client.set_quorums(&body).await)
}

/// Asks for a change, and tells what came of it.
fn change(
    reach: &Reach,
    again: Again<'_>,
    ask: impl AsyncFn(&Client) -> Result<MembersBody, ClientError>,
) -> Result<(), Failure> {
    let mut before = None;
    let members = with_cluster(reach, async |cluster| {
        if cluster.ask_leader().await {
            before = Some(cluster.members.configuration);
        }
        cluster.persist(again, ask).await
    })?;
    if before == Some(members.configuration) {
        warn_unchanged();
    }
    tell(reach, &members)
}

/// A slip of the hand that fits the members must not look like a change that was made.
fn warn_unchanged() {
    warn("the members are so already: nothing was changed");
}

fn replace(arguments: &ReplaceMember) -> Result<(), Failure> {
    let settings = load(&arguments.settings.config)?;
    let (id, old, reach) = (settings.node_id, arguments.old, &arguments.reach);
    let (mut before, mut is_in_place, mut dropped) = (0, false, None);
    let joined = with_cluster(reach, async |cluster| {
        cluster.ask_leader().await;
        before = cluster.members.configuration;
        check_old(&cluster.members, id, old)?;
        if stands_where(&cluster.members, old, own_addresses(&settings)) {
            // What can be refused is refused before anybody is removed for it.
            let fits = cluster.begin(&settings)?.check_in_place(&settings, &cluster.members, old);
            fits.map_err(|why| Failure::refused(format!("{why} Nothing was changed")))?;
            let by_hand = quorums_by_hand(&cluster.members);
            (is_in_place, before) = (true, cluster.make_way(id, old).await?);
            dropped = by_hand.filter(|_| quorums_by_hand(&cluster.members) != by_hand);
            if let Some(dropped) = dropped {
                warn(&dropped.words(id));
            }
        }
        cluster.join(&settings).await
    })?;
    if role_of(&joined, id) == Some(MemberRole::Voter) && role_of(&joined, old).is_none() {
        if before == joined.configuration {
            warn_unchanged();
        }
        return tell_replaced(reach, &joined, dropped);
    }
    warn(&format!(
        "node {id} is a learner member. Start it now, if it does not run:\n  \
         synod serve --config {}\nWhen it has caught up it takes the place of node {old}; this \
         command can be stopped and run again.",
        arguments.settings.config.display()
    ));
    let deadline = Instant::now() + Duration::from_secs(arguments.wait_s);
    let force = arguments.force;
    let body = match is_in_place {
        false => ChangeMemberBody { replaces: Some(old), force, ..ChangeMemberBody::default() },
        true => {
            ChangeMemberBody { role: Some(MemberRole::Voter), force, ..ChangeMemberBody::default() }
        }
    };
    let members = with_cluster(reach, async |cluster| {
        let mut told = String::new();
        loop {
            let swapped = cluster
                .persist(Again::Harmless, async |client| client.change_member(id, &body).await)
                .await;
            let waits = |failure: &Failure| failure.is_unsafe() && Instant::now() < deadline;
            match swapped {
                Err(failure) if waits(&failure) => {
                    let progress = failure.to_string();
                    if progress != told {
                        warn(&progress);
                        told = progress;
                    }
                }
                other => return other,
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })?;
    tell_replaced(reach, &members, dropped)
}

/// Quorums that were set by hand, and that a replacement in place made majorities.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
struct ByHand {
    promise_quorum: u32,
    accept_quorum: u32,
}

impl ByHand {
    fn words(self, id: u32) -> String {
        let ByHand { promise_quorum, accept_quorum } = self;
        format!(
            "the quorums that were set by hand ({promise_quorum} promises, {accept_quorum} \
             acceptances) do not fit the voters that are left, and are majorities now; to set them again \
             when node {id} votes: synod member quorums --promise {promise_quorum} --accept {accept_quorum}"
        )
    }
}

/// The quorums, if they are no majorities.
fn quorums_by_hand(members: &MembersBody) -> Option<ByHand> {
    let voters = members.members.iter().filter(|member| member.role == MemberRole::Voter).count();
    let MembersBody { promise_quorum, accept_quorum, .. } = *members;
    let is_majority = |quorum: u32| quorum as usize == voters / 2 + 1;
    let by_hand = ByHand { promise_quorum, accept_quorum };
    (!is_majority(promise_quorum) || !is_majority(accept_quorum)).then_some(by_hand)
}

/// As [`tell`]; `dropped` are the quorums that are majorities since this command.
fn tell_replaced(
    reach: &Reach,
    members: &MembersBody,
    dropped: Option<ByHand>,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Replaced<'a> {
        #[serde(flatten)]
        members: &'a MembersBody,
        #[serde(skip_serializing_if = "Option::is_none")]
        dropped_quorums: Option<ByHand>,
    }
    if reach.json {
        return print_json(&Replaced { members, dropped_quorums: dropped });
    }
    tell(reach, members)
}

/// A replacement that cannot come to its end is not begun.
fn check_old(members: &MembersBody, id: u32, old: u32) -> Result<(), Failure> {
    // As the leader sees it: a member no more, or an id that was skipped.
    let may_have_been = members.configuration > 0 && old <= members.ids_used_upto;
    match (role_of(members, old), role_of(members, id)) {
        (Some(MemberRole::Voter), _) => Ok(()),
        (None, Some(MemberRole::Voter)) if may_have_been => Ok(()),
        (None, _) if may_have_been => Err(Failure::refused(format!(
            "node {old} is a member no more. If it is this command that removed it, go on with \
             `synod member add`, with the same --config, and then `synod member promote {id}`. \
             Nothing was changed"
        ))),
        (None, _) => Err(Failure::refused(format!(
            "no member has the id {old}; `synod member list` names them. Nothing was changed"
        ))),
        (Some(MemberRole::Learner), _) => Err(Failure::refused(format!(
            "node {old} does not vote, so nobody has to take its place: `synod member remove \
             {old}`, and `synod member add` for the new node. Nothing was changed"
        ))),
    }
}

/// Whether the new node has an address of the old one, as a new disk in the same machine.
fn stands_where(members: &MembersBody, old: u32, own: &MemberSettings) -> bool {
    let mut members = members.members.iter();
    members.find(|member| member.id == old).is_some_and(|old| shares_an_address(old, own))
}

fn shares_an_address(member: &MemberBody, own: &MemberSettings) -> bool {
    member.peer == own.peer || member.client_url == own.client_url
}

/// A cluster that was found.
struct Cluster {
    /// As of the newest configuration that anybody told.
    members: MembersBody,
    /// Knows all members, so that the leader is among them.
    client: Client,
    urls: Vec<String>,
    timeout_ms: u64,
}

/// Asks the nodes that are named who the members are, and talks to all of them.
fn with_cluster(
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
        conversation(&mut Cluster { members, client, urls, timeout_ms }).await
    })
}

impl Cluster {
    /// Takes the folder of a new node of this cluster.
    fn begin(&self, settings: &Settings) -> Result<Joining, Failure> {
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
    async fn join(&mut self, settings: &Settings) -> Result<MembersBody, Failure> {
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
    async fn make_way(&mut self, id: u32, old: u32) -> Result<u64, Failure> {
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

    /// Who answered first may lag behind: asks the leader, too, and from then on talks to
    /// the members that it names, and to itself. Without a leader everything stays. Says
    /// whether the members are now those that a leader told.
    async fn ask_leader(&mut self) -> bool {
        let Ok(status) = self.client.status().await else { return false };
        let Some(url) = status.leader.and_then(|leader| leader.url) else { return false };
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
        if urls != self.urls
            && let Ok(client) = talk::client(&urls, self.timeout_ms)
        {
            (self.client, self.urls) = (client, urls);
        }
        is_newest
    }

    /// Asks for a change again and again while that may help.
    async fn persist(
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
enum Again<'a> {
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
fn own_addresses(settings: &Settings) -> &MemberSettings {
    let mut members = settings.members.iter();
    members.find(|member| member.id == settings.node_id).expect("the settings were checked")
}

fn role_of(members: &MembersBody, id: u32) -> Option<MemberRole> {
    members.members.iter().find(|member| member.id == id).map(|member| member.role)
}

/// Where the others are asked.
fn some_endpoints(members: &MembersBody, but: u32) -> String {
    let others = members.members.iter().filter(|member| member.id != but);
    others.map(|member| &*member.client_url).collect::<Vec<_>>().join(",")
}

fn tell(reach: &Reach, members: &MembersBody) -> Result<(), Failure> {
    if reach.json {
        return print_json(members);
    }
    let headings = ["NODE", "ROLE", "PEER", "URL", "STORE"].map(str::to_owned).to_vec();
    let row = |member: &MemberBody| {
        vec![
            member.id.to_string(),
            member.role.as_str().to_owned(),
            member.peer.clone(),
            member.client_url.clone(),
            member.store.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    };
    let rows: Vec<_> = std::iter::once(headings).chain(members.members.iter().map(row)).collect();
    let MembersBody { configuration, promise_quorum, accept_quorum, .. } = members;
    let pending = if members.pending { ", a change is on its way" } else { "" };
    print(&format!(
        "configuration {configuration}: {promise_quorum} promises make a leader, {accept_quorum} \
         acceptances choose a value{pending}\n{}",
        columns(&rows)
    ))
}

#[cfg(test)]
mod tests {
    use synod_kv::http::FirstBody;

    use super::*;

    fn told(ids: &[u32], configuration: u64, pending: bool) -> MembersBody {
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

    #[test]
    fn quorums_that_are_no_majorities_were_set_by_hand() {
        let told = |voters: u32, promise_quorum, accept_quorum| MembersBody {
            promise_quorum,
            accept_quorum,
            ..told(&Vec::from_iter(1..=voters), 1, false)
        };
        for (voters, majority) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)] {
            assert_eq!(quorums_by_hand(&told(voters, majority, majority)), None);
        }
        for (voters, promise_quorum, accept_quorum) in [(3, 3, 1), (3, 1, 3), (4, 3, 2), (2, 2, 1)]
        {
            let by_hand = ByHand { promise_quorum, accept_quorum };
            assert_eq!(
                quorums_by_hand(&told(voters, promise_quorum, accept_quorum)),
                Some(by_hand)
            );
        }
    }
}
