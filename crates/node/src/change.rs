//! From what an operator wants of the members to a configuration, or to a refusal that
//! says what to do instead.

use synod_api::{ChangeRefused, MemberChange, Refused, Wanted};
use synod_kv::http::ProblemKind;
use synod_paxos::{ChangeRefusal, Configuration, ConfigurationError, NodeId};
use synod_wire::{About, AboutMember};

use crate::risk::Risk;
use crate::roster::Roster;

/// A new id is at most this far above those that were in use: a slip of the hand must not
/// use up all of them.
const ID_STEP_MAX: u32 = 1_000_000;

/// How a risky change is made all the same.
const INSIST: &str = "To do it all the same add `--force` (\"force\": true in the body of a PUT, \
                      ?force=true of a DELETE).";

/// What is to be done about a change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Plan {
    /// What is wanted is so already.
    Done,
    /// This is to be proposed.
    Propose(Configuration),
}

/// The next configuration's parts.
struct Next {
    voters: Vec<NodeId>,
    learners: Vec<NodeId>,
    about: About,
    quorums: Option<(usize, usize)>,
}

/// What a change makes of the members as they are.
///
/// # Errors
/// When the change does not fit them.
pub(crate) fn plan(now: &Roster, change: &MemberChange) -> Result<Plan, ChangeRefused> {
    let mut next = Next {
        voters: now.newest.voters().to_vec(),
        learners: now.newest.learners().to_vec(),
        about: now.about.clone(),
        quorums: None,
    };
    if next.make(now, &change.wanted)?.is_none() {
        return Ok(Plan::Done);
    }
    let number = now.newest.number();
    if let Some(wanted) = change.configuration.filter(|wanted| *wanted != number) {
        let detail = format!(
            "The change is for configuration {wanted}, but the newest one is {number}: look at \
             /v1/cluster/members and decide again."
        );
        return Err(refused(ProblemKind::PreconditionFailed, detail));
    }
    if !now.is_settled {
        return Err(pending());
    }
    next.configuration(&now.newest).map(Plan::Propose)
}

impl Next {
    /// Makes the change; none when it is made already.
    fn make(&mut self, now: &Roster, wanted: &Wanted) -> Result<Option<()>, ChangeRefused> {
        match wanted {
            Wanted::Add { id, store, peer, client_url } => {
                let member = AboutMember {
                    node: NodeId(*id),
                    store: Some(*store),
                    peer: peer.clone(),
                    client_url: client_url.clone(),
                };
                self.add(member)
            }
            Wanted::Move { id, peer, client_url } => {
                self.relocate(NodeId(*id), peer.as_ref(), client_url.as_ref())
            }
            Wanted::Promote { id } => {
                let node = self.member(*id)?;
                if self.voters.contains(&node) {
                    return Ok(None);
                }
                self.promote(node);
                Ok(Some(()))
            }
            Wanted::Replace { id, old } => self.replace(now, NodeId(*id), NodeId(*old)),
            Wanted::Remove { id } => self.remove(now, NodeId(*id)),
            Wanted::Quorums { promise, accept } => {
                let wanted = (*promise as usize, *accept as usize);
                self.quorums = Some(wanted);
                let current = (now.newest.promise_quorum(), now.newest.accept_quorum());
                Ok((wanted != current).then_some(()))
            }
        }
    }

    fn add(&mut self, member: AboutMember) -> Result<Option<()>, ChangeRefused> {
        let node = member.node;
        if let Some(present) = self.about.member(node) {
            if *present == member {
                return Ok(None);
            }
            return Err(conflict(format!(
                "Node {} is a member already, with another store or other addresses. An id is used \
                 once: take {}.",
                node.0,
                self.about.ids_used_upto.saturating_add(1)
            )));
        }
        if node.0 <= self.about.ids_used_upto {
            return Err(conflict(format!(
                "The id {} may have been in use before. An id is used once: take {}.",
                node.0,
                self.about.ids_used_upto.saturating_add(1)
            )));
        }
        let is_far = node.0 - self.about.ids_used_upto > ID_STEP_MAX;
        if is_far || node.0 == u32::MAX {
            return Err(conflict(format!(
                "The id {} is too high: those in use go up to {}, and no id up to a new one is \
                 ever given again. Take {}.",
                node.0,
                self.about.ids_used_upto,
                self.about.ids_used_upto.saturating_add(1)
            )));
        }
        self.check_free(&member)?;
        self.about.ids_used_upto = node.0;
        self.about.members.push(member);
        self.learners.push(node);
        Ok(Some(()))
    }

    fn relocate(
        &mut self,
        node: NodeId,
        peer: Option<&String>,
        client_url: Option<&String>,
    ) -> Result<Option<()>, ChangeRefused> {
        self.member(node.0)?;
        let place = self.about.members.iter().position(|member| member.node == node);
        let Some(place) = place else { return Err(unknown(node.0)) };
        let mut member = self.about.members[place].clone();
        if let Some(peer) = peer {
            member.peer.clone_from(peer);
        }
        if let Some(client_url) = client_url {
            member.client_url.clone_from(client_url);
        }
        if self.about.members[place] == member {
            return Ok(None);
        }
        self.check_free(&member)?;
        self.about.members[place] = member;
        Ok(Some(()))
    }

    fn replace(
        &mut self,
        now: &Roster,
        node: NodeId,
        old: NodeId,
    ) -> Result<Option<()>, ChangeRefused> {
        self.member(node.0)?;
        let votes = self.voters.contains(&node);
        if votes && !self.is_member(old) {
            return gone(now, old);
        }
        if votes {
            return Err(conflict(format!(
                "Node {} votes already, so it takes nobody's place: to remove node {}, DELETE it.",
                node.0, old.0
            )));
        }
        self.member(old.0)?;
        if !self.voters.contains(&old) {
            return Err(conflict(format!(
                "Node {} does not vote, so there is no vote to take over: promote node {}, and \
                 DELETE node {}.",
                old.0, node.0, old.0
            )));
        }
        self.promote(node);
        self.drop_member(old);
        Ok(Some(()))
    }

    fn remove(&mut self, now: &Roster, node: NodeId) -> Result<Option<()>, ChangeRefused> {
        if !self.is_member(node) {
            return gone(now, node);
        }
        if self.voters == [node] {
            return Err(conflict(format!(
                "Node {} is the last voter: without it there is no cluster. Promote another member \
                 first, or stop the node.",
                node.0
            )));
        }
        self.drop_member(node);
        Ok(Some(()))
    }

    /// The node that comes or moves must not stand where another one does.
    fn check_free(&self, new: &AboutMember) -> Result<(), ChangeRefused> {
        for member in self.about.members.iter().filter(|member| member.node != new.node) {
            let id = member.node.0;
            if member.peer == new.peer {
                return Err(taken(id, &format!("peer address {}", new.peer)));
            }
            if member.client_url == new.client_url {
                return Err(taken(id, &format!("client URL {}", new.client_url)));
            }
            if member.store.is_some() && member.store == new.store {
                return Err(conflict(format!(
                    "Node {id} has this store already: a data folder is never copied. Let `synod \
                     member add` make a new one."
                )));
            }
        }
        Ok(())
    }

    fn is_member(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.learners.contains(&node)
    }

    fn member(&self, id: u32) -> Result<NodeId, ChangeRefused> {
        let node = NodeId(id);
        if self.is_member(node) { Ok(node) } else { Err(unknown(id)) }
    }

    fn promote(&mut self, node: NodeId) {
        self.learners.retain(|learner| *learner != node);
        self.voters.push(node);
    }

    fn drop_member(&mut self, node: NodeId) {
        self.voters.retain(|voter| *voter != node);
        self.learners.retain(|learner| *learner != node);
        self.about.members.retain(|member| member.node != node);
    }

    fn configuration(self, now: &Configuration) -> Result<Configuration, ChangeRefused> {
        // Such as one of a settings file of before these were checked.
        if let Some(member) = self.about.members.iter().find(|member| !member.is_encodable()) {
            return Err(conflict(format!(
                "The addresses of node {} are too long or not plain ASCII: tell its new ones with \
                 PUT /v1/cluster/members/{} first.",
                member.node.0, member.node.0
            )));
        }
        let count = self.voters.len();
        let majority = count / 2 + 1;
        let before = (now.promise_quorum(), now.accept_quorum());
        let had_majorities = before.0 == before.1 && before.0 == now.voters().len() / 2 + 1;
        // What was set by hand stays as long as it is possible with these voters.
        let fits = |(q1, q2): &(usize, usize)| *q1 <= count && *q2 <= count && q1 + q2 > count;
        let kept = Some(before).filter(|before| !had_majorities && fits(before));
        let (promise, accept) = self.quorums.or(kept).unwrap_or((majority, majority));
        let number = now.number() + 1;
        Configuration::new(self.voters, promise, accept, now.alpha())
            .and_then(|configuration| configuration.with_learners(self.learners))
            .and_then(|configuration| configuration.with_about(self.about.encode()))
            .map(|configuration| configuration.numbered(number))
            .map_err(|error| conflict(impossible(error, count)))
    }
}

/// What the core's refusal means to the operator.
pub(crate) fn explain(refusal: ChangeRefusal) -> ChangeRefused {
    match refusal {
        ChangeRefusal::NotLeading => ChangeRefused::Replica(Refused::NoLeader),
        ChangeRefusal::Busy => ChangeRefused::Replica(Refused::Overloaded),
        ChangeRefusal::Superseded { .. } | ChangeRefusal::Pending => pending(),
        ChangeRefusal::NoQuorum { alive, needed } => {
            let ids: Vec<String> = alive.iter().map(|node| node.0.to_string()).collect();
            let alive = match &ids[..] {
                [] => "none".to_owned(),
                [id] => format!("only node {id}"),
                _ => format!("only nodes {}", ids.join(", ")),
            };
            let detail = format!(
                "Of the voters that this would leave {needed} must work, and of these the leader \
                 hears {alive}: the cluster would stop. Start or replace nodes first."
            );
            refused(ProblemKind::ChangeUnsafe, detail)
        }
        ChangeRefusal::Lags { node, slots } => {
            let behind = match slots {
                Some(slots) => format!("is {slots} slots behind"),
                None => "has not been heard yet: is it started".to_owned(),
            };
            let end = if slots.is_none() { "?" } else { "." };
            let detail = format!(
                "Node {} {behind}{end} Until it has caught up its vote would only make the cluster \
                 weaker. Try again when it has. {INSIST}",
                node.0
            );
            refused(ProblemKind::ChangeUnsafe, detail)
        }
    }
}

/// Two members are never at one address.
fn taken(id: u32, address: &str) -> ChangeRefused {
    conflict(format!(
        "Node {id} has the {address} already. Take another one; or if node {id} is gone for good, \
         DELETE it first."
    ))
}

/// What a risk means to the operator.
pub(crate) fn explain_risk(risk: &Risk) -> ChangeRefused {
    let detail = match risk {
        Risk::WorkingOneGoes { goes, stays } => format!(
            "Node {} works and would go, while node {} does not work and would stay: replace or \
             remove that one first. {INSIST}",
            goes.0, stays.0
        ),
        Risk::NoneMayFail { working, needed } => format!(
            "Now the cluster survives the failure of a node. After this change it would not: of \
             its voters {needed} would have to work, and {working} do. To put a new node in the \
             place of another, use `synod member replace`. {INSIST}"
        ),
    };
    refused(ProblemKind::ChangeUnsafe, detail)
}

/// Another change came first.
pub(crate) fn superseded() -> ChangeRefused {
    let detail = "Another change of the members came first, so this one has no effect: look at \
                  /v1/cluster/members and decide again.";
    refused(ProblemKind::PreconditionFailed, detail.to_owned())
}

fn pending() -> ChangeRefused {
    let detail = "Another change of the members is on its way and does not govern yet: one at a \
                  time. Try again in a moment.";
    refused(ProblemKind::ChangePending, detail.to_owned())
}

fn impossible(error: ConfigurationError, voters: usize) -> String {
    match error {
        ConfigurationError::Quorums => format!(
            "With {voters} voters each quorum is 1 to {voters}, and both together are more than \
             {voters}, so that every leader meets what was accepted before it. A smaller accept \
             quorum makes writes need fewer nodes, and then a new leader needs more of them."
        ),
        ConfigurationError::MemberCount => {
            format!("A cluster has at most {} members.", Configuration::MEMBERS_MAX)
        }
        ConfigurationError::MemberIds | ConfigurationError::Alpha | ConfigurationError::About => {
            format!("These members are not possible: {error:?}.")
        }
    }
}

/// Nothing is to be done about a node that is a member no more. Which of the lower ids were
/// only skipped is not kept.
fn gone(now: &Roster, node: NodeId) -> Result<Option<()>, ChangeRefused> {
    let may_have_been = now.newest.number() > 0 && node.0 <= now.about.ids_used_upto;
    if may_have_been { Ok(None) } else { Err(unknown(node.0)) }
}

fn unknown(id: u32) -> ChangeRefused {
    let detail = format!("No member has the id {id}; /v1/cluster/members lists them.");
    refused(ProblemKind::NoSuchMember, detail)
}

fn conflict(detail: String) -> ChangeRefused {
    refused(ProblemKind::MemberConflict, detail)
}

fn refused(kind: ProblemKind, detail: String) -> ChangeRefused {
    ChangeRefused::Refused { kind, detail }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::roster::Known;

    fn said(id: u32) -> AboutMember {
        AboutMember {
            node: NodeId(id),
            store: Some(u128::from(id) + 100),
            peer: format!("h{id}:1"),
            client_url: format!("http://h{id}:2"),
        }
    }

    fn roster(voters: &[u32], learners: &[u32], number: u64) -> Roster {
        let nodes = |ids: &[u32]| ids.iter().copied().map(NodeId).collect::<Vec<_>>();
        let configuration = Configuration::majority(nodes(voters), 8).expect("possible");
        let configuration = configuration.with_learners(nodes(learners)).expect("possible");
        let settings = voters.iter().chain(learners).copied().map(said).collect();
        let known = Known { settings, ..Known::default() };
        Roster::new(&[Arc::new(configuration.numbered(number))], &known)
    }

    fn add(id: u32) -> Wanted {
        let AboutMember { peer, client_url, .. } = said(id);
        Wanted::Add { id, store: u128::from(id) + 100, peer, client_url }
    }

    fn change(wanted: Wanted) -> MemberChange {
        MemberChange { wanted, configuration: None, force: false }
    }

    /// The next members, seen as after the change.
    fn after(now: &Roster, wanted: Wanted) -> Roster {
        match plan(now, &change(wanted)).expect("it fits") {
            Plan::Propose(next) => {
                assert_eq!(next.number(), now.newest.number() + 1);
                Roster::new(&[Arc::new(next)], &Known::default())
            }
            Plan::Done => panic!("it was done already"),
        }
    }

    fn ids(nodes: &[NodeId]) -> Vec<u32> {
        nodes.iter().map(|node| node.0).collect()
    }

    fn problem(now: &Roster, wanted: Wanted) -> (ProblemKind, String) {
        match plan(now, &change(wanted)).expect_err("it does not fit") {
            ChangeRefused::Refused { kind, detail } => (kind, detail),
            ChangeRefused::Replica(refused) => panic!("{refused:?}"),
        }
    }

    #[test]
    fn a_cluster_grows_swaps_and_shrinks_and_says_where_everybody_is() {
        let one = roster(&[1], &[], 0);
        let added = after(&one, add(2));
        assert_eq!((ids(added.newest.voters()), ids(added.newest.learners())), (vec![1], vec![2]));
        assert_eq!(added.about.members, [said(1), said(2)]);
        assert_eq!(added.newest.accept_quorum(), 1);
        let two = after(&added, Wanted::Promote { id: 2 });
        assert_eq!((ids(two.newest.voters()), two.newest.promise_quorum()), (vec![1, 2], 2));
        let swapped = after(&after(&two, add(7)), Wanted::Replace { id: 7, old: 1 });
        assert_eq!(ids(swapped.newest.members()), [2, 7]);
        assert_eq!(swapped.about.ids_used_upto, 7);
        let shrunk = after(&swapped, Wanted::Remove { id: 7 });
        assert_eq!((ids(shrunk.newest.members()), shrunk.newest.accept_quorum()), (vec![2], 1));
        // It is remembered that 7 was in use.
        assert_eq!(shrunk.about.ids_used_upto, 7);
        let (peer, client_url) = ("h9:1".to_owned(), None);
        let moved = after(&shrunk, Wanted::Move { id: 2, peer: Some(peer), client_url });
        assert_eq!(moved.about.members[0].peer, "h9:1");
        assert_eq!(moved.about.members[0].client_url, "http://h2:2");
    }

    #[test]
    fn what_is_so_already_is_done_whatever_the_number() {
        let now = roster(&[1, 3], &[4], 5);
        let (peer, client_url) = (Some("h4:1".to_owned()), None);
        for wanted in [
            add(4),
            Wanted::Promote { id: 3 },
            Wanted::Replace { id: 3, old: 2 },
            Wanted::Remove { id: 2 },
            Wanted::Move { id: 4, peer, client_url },
            Wanted::Quorums { promise: 2, accept: 2 },
        ] {
            let again = MemberChange { configuration: Some(4), ..change(wanted) };
            assert_eq!(plan(&now, &again), Ok(Plan::Done), "{again:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_way_out() {
        use ProblemKind::{MemberConflict, NoSuchMember};
        let now = roster(&[1, 2, 3], &[5, 6], 3);
        let with = |id, from: u32, peer: bool, url: bool, store: bool| {
            let (own, other) = (said(id), said(from));
            Wanted::Add {
                id,
                store: if store { other.store } else { own.store }.expect("said"),
                peer: if peer { other.peer } else { own.peer },
                client_url: if url { other.client_url } else { own.client_url },
            }
        };
        let (peer, client_url) = (Some("h1:1".to_owned()), None);
        for (wanted, kind, word) in [
            (with(3, 9, true, false, false), MemberConflict, "take 7"),
            (add(4), MemberConflict, "take 7"),
            (add(1_000_007), MemberConflict, "Take 7"),
            (add(u32::MAX), MemberConflict, "Take 7"),
            (with(7, 2, true, false, false), MemberConflict, "Node 2 has the peer"),
            (with(7, 2, false, true, false), MemberConflict, "Node 2 has the client"),
            (with(7, 2, false, false, true), MemberConflict, "Node 2 has this store"),
            (Wanted::Promote { id: 9 }, NoSuchMember, "id 9"),
            (Wanted::Remove { id: 9 }, NoSuchMember, "id 9"),
            (Wanted::Replace { id: 9, old: 1 }, NoSuchMember, "id 9"),
            (Wanted::Replace { id: 5, old: 9 }, NoSuchMember, "id 9"),
            (Wanted::Replace { id: 2, old: 9 }, NoSuchMember, "id 9"),
            (Wanted::Replace { id: 5, old: 6 }, MemberConflict, "does not vote"),
            (Wanted::Replace { id: 5, old: 5 }, MemberConflict, "does not vote"),
            (Wanted::Replace { id: 1, old: 2 }, MemberConflict, "votes already"),
            (Wanted::Move { id: 2, peer, client_url }, MemberConflict, "Node 1"),
            (Wanted::Quorums { promise: 1, accept: 2 }, MemberConflict, "more than 3"),
            (Wanted::Quorums { promise: 4, accept: 2 }, MemberConflict, "1 to 3"),
        ] {
            let (found, detail) = problem(&now, wanted.clone());
            assert!(found == kind && detail.contains(word), "{wanted:?}: {found:?} {detail}");
        }
        // At first nobody was ever removed.
        let first = roster(&[1, 3], &[], 0);
        for wanted in [Wanted::Remove { id: 2 }, Wanted::Replace { id: 3, old: 2 }] {
            assert_eq!(problem(&first, wanted).0, NoSuchMember);
        }
        let (kind, detail) = problem(&roster(&[1], &[2], 0), Wanted::Remove { id: 1 });
        assert!(kind == MemberConflict && detail.contains("last voter"), "{detail}");
        let late = MemberChange { configuration: Some(2), ..change(Wanted::Promote { id: 5 }) };
        let late = plan(&now, &late).expect_err("another number");
        let kind = ProblemKind::PreconditionFailed;
        assert!(matches!(late, ChangeRefused::Refused { kind: k, .. } if k == kind), "{late:?}");
    }

    #[test]
    fn addresses_that_no_configuration_can_say_are_refused_until_they_are_told_anew() {
        for client_url in [format!("http://{}", "h".repeat(600)), "http://h\u{e9}".to_owned()] {
            let settings = vec![said(1), AboutMember { client_url, ..said(2) }];
            let known = Known { settings, ..Known::default() };
            let two = roster(&[1, 2], &[], 0).newest;
            let now = Roster::new(&[two], &known);
            let (kind, detail) = problem(&now, add(3));
            assert_eq!(kind, ProblemKind::MemberConflict);
            assert!(detail.contains("PUT /v1/cluster/members/2"), "{detail}");
            let moved = Wanted::Move { id: 2, peer: None, client_url: Some("http://h:9".into()) };
            assert_eq!(after(&now, moved).about.members[1].client_url, "http://h:9");
        }
        // As far above as may be.
        assert_eq!(after(&roster(&[1], &[], 0), add(1_000_001)).about.ids_used_upto, 1_000_001);
    }

    #[test]
    fn quorums_set_by_hand_stay_while_they_are_possible() {
        let now = roster(&[1, 2, 3], &[4], 0);
        let set = after(&now, Wanted::Quorums { promise: 3, accept: 1 });
        assert_eq!((set.newest.promise_quorum(), set.newest.accept_quorum()), (3, 1));
        let swapped = after(&set, Wanted::Replace { id: 4, old: 1 });
        assert_eq!((swapped.newest.promise_quorum(), swapped.newest.accept_quorum()), (3, 1));
        // With four voters they would not meet.
        let grown = after(&set, Wanted::Promote { id: 4 });
        assert_eq!((grown.newest.promise_quorum(), grown.newest.accept_quorum()), (3, 3));
    }

    #[test]
    fn nothing_is_changed_while_a_change_is_on_its_way() {
        let before = roster(&[1, 2], &[3], 4);
        let (older, newer) = (Arc::clone(&before.newest), after(&before, add(9)).newest);
        let now = Roster::new(&[older, newer], &Known::default());
        let (kind, _) = problem(&now, Wanted::Promote { id: 3 });
        assert_eq!(kind, ProblemKind::ChangePending);
    }
}
