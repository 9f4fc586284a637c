//! `synod member`: who is a member of the cluster, and other members.

use std::future::Future;
use std::time::{Duration, Instant};

use synod_client::{
    AddMemberBody, ChangeMemberBody, Client, ClientError, MemberBody, MemberRole, MembersBody,
    ProblemKind, QuorumsBody,
};
use synod_node::{Joining, MemberSettings, Settings};

use crate::arguments::Reach;
use crate::endpoints;
use crate::failure::Failure;
use crate::member_arguments::{AddMember, ChangeMember, Member, Quorums, ReplaceMember};
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
        Member::List(reach) => with_cluster(reach, async |cluster| Ok(cluster.members))
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
    let members = with_cluster(&arguments.reach, async |cluster| {
        cluster.persist(|| cluster.client.change_member(id, &body)).await
    })?;
    tell(&arguments.reach, &members)
}

fn remove(arguments: &ChangeMember) -> Result<(), Failure> {
    let (id, force) = (arguments.id, arguments.force);
    let members = with_cluster(&arguments.reach, async |cluster| {
        cluster.persist(|| cluster.client.remove_member(id, force)).await
    })?;
    tell(&arguments.reach, &members)
}

fn quorums(arguments: &Quorums) -> Result<(), Failure> {
    let (promise, accept) = (arguments.promise, arguments.accept);
    let body = QuorumsBody { promise, accept, configuration: None };
    let members = with_cluster(&arguments.reach, async |cluster| {
        cluster.persist(|| cluster.client.set_quorums(&body)).await
    })?;
    tell(&arguments.reach, &members)
}

fn replace(arguments: &ReplaceMember) -> Result<(), Failure> {
    let settings = load(&arguments.settings.config)?;
    let (id, old, reach) = (settings.node_id, arguments.old, &arguments.reach);
    let joined = with_cluster(reach, async |cluster| {
        check_old(&cluster.members, id, old)?;
        cluster.join(&settings).await
    })?;
    if role_of(&joined, id) == Some(MemberRole::Voter) && role_of(&joined, old).is_none() {
        return tell(reach, &joined);
    }
    warn(&format!(
        "node {id} is a learner member. Start it now, if it does not run:\n  \
         synod serve --config {}\nWhen it has caught up it takes the place of node {old}; this \
         command can be stopped and run again.",
        arguments.settings.config.display()
    ));
    let deadline = Instant::now() + Duration::from_secs(arguments.wait_s);
    let body = ChangeMemberBody { replaces: Some(old), ..ChangeMemberBody::default() };
    let members = with_cluster(reach, async |cluster| {
        let mut told = String::new();
        loop {
            let swapped = cluster.persist(|| cluster.client.change_member(id, &body)).await;
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
    tell(reach, &members)
}

/// A replacement that cannot come to its end is not begun.
fn check_old(members: &MembersBody, id: u32, old: u32) -> Result<(), Failure> {
    match (role_of(members, old), role_of(members, id)) {
        (Some(MemberRole::Voter), _) | (None, Some(MemberRole::Voter)) => Ok(()),
        (None, _) => Err(Failure::refused(format!(
            "no member has the id {old}; `synod member list` names them. Nothing was changed"
        ))),
        (Some(MemberRole::Learner), _) => Err(Failure::refused(format!(
            "node {old} does not vote, so nobody has to take its place: `synod member remove \
             {old}`, and `synod member add` for the new node. Nothing was changed"
        ))),
    }
}

/// A cluster that was found.
struct Cluster {
    members: MembersBody,
    /// Knows all members, so that the leader is among them.
    client: Client,
    urls: Vec<String>,
}

/// Asks the nodes that are named who the members are, and talks to all of them.
fn with_cluster(
    reach: &Reach,
    conversation: impl AsyncFnOnce(Cluster) -> Result<MembersBody, Failure>,
) -> Result<MembersBody, Failure> {
    let mut urls = endpoints::resolve(&reach.endpoints);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = |urls: &[String]| {
            talk::client(urls, reach.timeout_ms).map_err(|error| talk::failure(&error, urls))
        };
        let asked = client(&urls)?;
        let members = asked.members().await.map_err(|error| talk::failure(&error, &urls))?;
        // A node that was named and has gone would only be asked in vain.
        urls = members.members.iter().map(|member| member.client_url.clone()).collect();
        let client = client(&urls)?;
        conversation(Cluster { members, client, urls }).await
    })
}

impl Cluster {
    /// Makes the new node a member, if it is not one, and the folder its own.
    async fn join(&self, settings: &Settings) -> Result<MembersBody, Failure> {
        let (id, cluster) = (settings.node_id, format!("{:032x}", settings.cluster_id()));
        if self.members.cluster != cluster {
            return Err(Failure::usage(format!(
                "{}: cluster.id is {cluster}, but the cluster that answers is {}: correct the \
                 settings, or --endpoints. Nothing was changed",
                settings.file.display(),
                self.members.cluster
            )));
        }
        let joining =
            Joining::begin(settings).map_err(|error| Failure::failed(error.to_string()))?;
        if joining.is_done {
            return match role_of(&self.members, id) {
                Some(_) => Ok(self.members.clone()),
                None => Err(Failure::refused(format!(
                    "node {id} was a member and is none any more: an id and its data folder are \
                     used once. Take an id above {} and an empty data_dir",
                    self.members.ids_used_upto
                ))),
            };
        }
        let own = own_addresses(settings);
        let body = AddMemberBody {
            id,
            store: format!("{:032x}", joining.store),
            peer: own.peer.clone(),
            client_url: own.client_url.clone(),
            configuration: None,
        };
        let members = self.persist(|| self.client.add_member(&body)).await?;
        joining.finish(settings, &members).map_err(|error| Failure::failed(error.to_string()))?;
        Ok(members)
    }

    /// Asks for a change again and again while that may help: each may be asked for twice.
    async fn persist<F>(&self, ask: impl Fn() -> F) -> Result<MembersBody, Failure>
    where
        F: Future<Output = Result<MembersBody, ClientError>>,
    {
        let deadline = Instant::now() + PATIENCE;
        let mut is_told = false;
        loop {
            let error = match ask().await {
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
        }
    }
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
