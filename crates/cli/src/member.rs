//! `synod member`: who is a member of the cluster, and other members.

mod cluster;

use std::time::{Duration, Instant};

use serde::Serialize;
use synod_client::{
    ChangeMemberBody, Client, ClientError, MemberBody, MemberRole, MembersBody, QuorumsBody,
};
use synod_node::MemberSettings;

use crate::arguments::{
    AddMember, ChangeMember, Member, MoveMember, Quorums, Reach, ReplaceMember,
};
use crate::failure::Failure;
use crate::member::cluster::{Again, own_addresses, role_of, with_cluster};
use crate::output::{columns, print, print_json, warn};
use crate::serve::load;

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
        Member::Move(arguments) => move_member(arguments),
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

fn move_member(arguments: &MoveMember) -> Result<(), Failure> {
    let (id, reach) = (arguments.id, &arguments.reach);
    // As the cluster writes it.
    let client_url = arguments.client_url.as_ref().map(|url| url.trim_end_matches('/').to_owned());
    let body = ChangeMemberBody { peer: arguments.peer.clone(), client_url, ..Default::default() };
    let is_so = |members: &MembersBody| is_at(members, id, &body) && !members.pending;
    let mut before = None;
    let members = with_cluster(reach, async |cluster| {
        cluster.find_moved(reach).await;
        match cluster.ask_leader().await {
            true => before = Some(cluster.members.configuration),
            false => warn(
                "no leader answers where the members are said to be; if nodes have moved, name \
                 with --endpoints where all of them are now",
            ),
        }
        let ask = async |client: &Client| client.change_member(id, &body).await;
        cluster.persist(Again::Not(&is_so), ask).await
    })?;
    if before == Some(members.configuration) {
        warn_unchanged();
    }
    tell(reach, &members)
}

/// Whether a member is where it is said to be from now on.
fn is_at(members: &MembersBody, id: u32, wanted: &ChangeMemberBody) -> bool {
    let is =
        |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
    members.members.iter().any(|member| {
        member.id == id
            && is(&wanted.peer, &member.peer)
            && is(&wanted.client_url, &member.client_url)
    })
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
    use super::cluster::tests::told;
    use super::*;

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
