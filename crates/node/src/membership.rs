//! The owner's part in changes of the members: whom the transport talks to, who waits
//! for a change, and who is told that it belongs no more.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use synod_api::{ChangeRefused, MemberChange, Refused};
use synod_host::RequestId;
use synod_paxos::{
    Ballot, ChangeRefusal, Configuration, Configurations, Message, NodeId, PeerStatus, Position,
    Reject, RejectReason, Role, Slot, Status,
};
use synod_transport::{Own, PeerAddress, Pin, Removed, Transport, TransportSettings};
use synod_wire::{PeerMessage, Versions};
use tokio::sync::oneshot;

use crate::change::{self, Plan};
use crate::founding::founded;
use crate::identity::Identity;
use crate::risk::{Risk, risk_of};
use crate::roster::{Known, Roster};
use crate::settings::Settings;
use crate::shared::Shared;
use crate::tuning;

/// How long a member that was removed is still talked to: it is to hear of it, and a
/// leader that removed itself goes on until another one leads.
const FAREWELL: Duration = Duration::from_secs(5);

/// Who waits for a change.
pub(crate) type ChangeReply = oneshot::Sender<Result<Arc<Roster>, ChangeRefused>>;

/// The members, as the owner knows them.
#[derive(Debug)]
pub(crate) struct Membership {
    me: NodeId,
    known: Known,
    roster: Arc<Roster>,
    /// Whom the core talks to; what the roster was made of.
    talked_to: Vec<Arc<Configuration>>,
    /// Members that were removed a moment ago, and since when.
    former: BTreeMap<NodeId, (PeerAddress, Instant)>,
    /// Changes that the core was asked for in this step.
    asked: HashMap<RequestId, (Configuration, ChangeReply)>,
    /// Changes that were proposed.
    waiting: Vec<(Configuration, ChangeReply)>,
    /// What strangers are told.
    told: Option<Removed>,
}

impl Membership {
    pub(crate) fn new(me: NodeId, known: Known, talked_to: Vec<Arc<Configuration>>) -> Self {
        let roster = Arc::new(Roster::new(&talked_to, &known));
        warn_of_other_stores(&roster, &known);
        Membership {
            me,
            known,
            roster,
            talked_to,
            former: BTreeMap::new(),
            asked: HashMap::new(),
            waiting: Vec::new(),
            told: None,
        }
    }

    pub(crate) fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    /// Where the peers are.
    pub(crate) fn peers(&self) -> Vec<PeerAddress> {
        let members = self.roster.everybody.iter().filter(|member| member.node != self.me);
        // After all members moved while they were stopped only the settings know where to.
        let address = |member: &synod_wire::AboutMember| PeerAddress {
            node: member.node,
            address: member.peer.clone(),
            spare: self.known.member(member.node).map(|said| said.peer),
        };
        let former = self.former.values().map(|(address, _)| address.clone());
        members.map(address).chain(former).collect()
    }

    /// The stores that were met and those that the configurations name. What was met counts
    /// for more: whoever comes with another folder may have forgotten votes.
    pub(crate) fn stores(&self) -> Vec<Pin> {
        let pin = |member: &synod_wire::AboutMember| {
            let store = self.known.store(member.node).or(member.store)?;
            Some(Pin { node: member.node, store })
        };
        self.roster.everybody.iter().filter_map(pin).collect()
    }

    /// What the transport begins with, beside a journal that holds this and was opened so
    /// often.
    pub(crate) fn transport_settings(
        &self,
        settings: &Settings,
        identity: &Identity,
        (promised, position, incarnation): (Ballot, Position, u64),
    ) -> TransportSettings {
        TransportSettings {
            own: Own {
                cluster: identity.lineage().0,
                node: identity.node,
                store: identity.store,
                incarnation,
                founded: founded(&identity.configuration),
            },
            versions: Versions::of_writer(settings.write_version),
            promised,
            position,
            peers: self.peers(),
            pins: self.stores(),
            limits: tuning::transport_limits(settings),
        }
    }

    /// A peer was met for the first time.
    pub(crate) fn met(&mut self, node: NodeId, store: u128, shared: &Shared) {
        self.known.stores.insert(node, store);
        self.renew(shared);
    }

    /// Other nodes are to be talked to.
    pub(crate) fn talk_to(
        &mut self,
        talked_to: Vec<Arc<Configuration>>,
        transport: &mut Transport,
        shared: &Shared,
    ) {
        let before = self.peers();
        self.talked_to = talked_to;
        self.renew(shared);
        warn_of_other_stores(&self.roster, &self.known);
        let stays = |node| self.roster.everybody.iter().any(|member| member.node == node);
        for peer in before {
            if !stays(peer.node) {
                self.former.entry(peer.node).or_insert_with(|| (peer, Instant::now()));
            }
        }
        self.former.retain(|node, _| {
            self.roster.everybody.binary_search_by_key(node, |member| member.node).is_err()
        });
        transport.set_peers(&self.peers(), &self.stores());
        let Roster { newest, is_settled, .. } = &*self.roster;
        let (number, voters) = (newest.number(), newest.voters());
        tracing::info!(number, ?voters, learners = ?newest.learners(), is_settled, "the members");
    }

    fn renew(&mut self, shared: &Shared) {
        self.roster = Arc::new(Roster::new(&self.talked_to, &self.known));
        shared.owner.set_roster(Arc::clone(&self.roster));
    }

    /// Somebody wants other members. What is to be asked of the core, if anything is.
    pub(crate) fn receive_change(
        &mut self,
        request: RequestId,
        change: &MemberChange,
        status: &Status,
        reply: ChangeReply,
    ) -> Option<Configuration> {
        let answer = match change::plan(&self.roster, change) {
            Ok(Plan::Propose(configuration)) => {
                match self.risk(&configuration, status).filter(|_| !change.force) {
                    Some(risk) => Err(change::explain_risk(&risk)),
                    None => {
                        self.asked.insert(request, (configuration.clone(), reply));
                        return Some(configuration);
                    }
                }
            }
            // A retry waits, as the first attempt did, until the change governs.
            Ok(Plan::Done) if !self.roster.is_settled => {
                self.waiting.push(((*self.roster.newest).clone(), reply));
                return None;
            }
            Ok(Plan::Done) => Ok(Arc::clone(&self.roster)),
            Err(refused) => Err(refused),
        };
        // Nobody waits any more when the client went away.
        let _ = reply.send(answer);
        None
    }

    /// What is risky about a change. Only a leader hears everybody, and the core of any
    /// other node refuses the change.
    fn risk(&self, next: &Configuration, status: &Status) -> Option<Risk> {
        let works = |node: NodeId| {
            let reached = |peer: &PeerStatus| peer.node == node && peer.reachable;
            node == self.me || status.peers.iter().any(reached)
        };
        let leads = status.role == Role::Leader;
        leads.then(|| risk_of(&self.roster.newest, next, works)).flatten()
    }

    /// The core proposed a change, or said why not.
    pub(crate) fn receive_answer(
        &mut self,
        request: RequestId,
        outcome: Result<(), ChangeRefusal>,
    ) {
        let Some((configuration, reply)) = self.asked.remove(&request) else { return };
        match outcome {
            Ok(()) => self.waiting.push((configuration, reply)),
            Err(refusal) => drop(reply.send(Err(change::explain(refusal)))),
        }
    }

    /// Answers those whose change governs, or never will. Called now and then.
    pub(crate) fn settle(&mut self, configurations: &Configurations) {
        if self.waiting.is_empty() {
            return;
        }
        let newest = &configurations.newest().configuration;
        let is_settled = self.roster.is_settled;
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        // Whoever went away waits for nothing, and asks again if need be.
        for (wanted, reply) in waiting.filter(|(_, reply)| !reply.is_closed()) {
            let number = wanted.number();
            if newest.number() < number {
                self.waiting.push((wanted, reply));
            } else if newest.number() > number {
                let found = configurations.reigns().iter().map(|reign| &reign.configuration);
                let answer = match found.into_iter().find(|found| found.number() == number) {
                    Some(found) if **found == wanted => Ok(Arc::clone(&self.roster)),
                    Some(_) => Err(change::superseded()),
                    None => Err(ChangeRefused::Replica(Refused::Lost)),
                };
                let _ = reply.send(answer);
            } else if **newest != wanted {
                let _ = reply.send(Err(change::superseded()));
            } else if is_settled {
                let _ = reply.send(Ok(Arc::clone(&self.roster)));
            } else {
                self.waiting.push((wanted, reply));
            }
        }
    }

    /// Takes leave of members that were removed, once it is sure for good that they are:
    /// from then on a handshake of theirs is refused with the number that says so. What the state
    /// has durably is sure also if it is doubted: should a peer's take its place, the journal goes
    /// on from there with the same.
    pub(crate) fn say_farewell(
        &mut self,
        status: &Status,
        durable: Slot,
        transport: &mut Transport,
    ) {
        let newest = &self.roster.newest;
        let is_durable =
            status.configuration == newest.number() && durable.next() >= status.configuration_from;
        let is_sure = self.roster.is_settled && is_durable;
        let witnesses = newest.voters().len() - newest.progress_quorum() + 1;
        let removed = Removed {
            number: newest.number(),
            witnesses: u32::try_from(witnesses).expect("a few voters"),
            ids_used_upto: NodeId(self.roster.about.ids_used_upto),
        };
        let may_tell = is_sure && newest.is_voter(self.me) && removed.number > 0;
        let told = Some(removed).filter(|_| may_tell);
        if told != self.told {
            self.told = told;
            transport.set_removed(told);
        }
        if is_sure {
            let before = self.former.len();
            self.former.retain(|_, (_, since)| since.elapsed() < FAREWELL);
            if self.former.len() < before {
                transport.set_peers(&self.peers(), &self.stores());
            }
        }
    }
}

fn warn_of_other_stores(roster: &Roster, known: &Known) {
    for member in &roster.everybody {
        let (Some(said), Some(met)) = (member.store, known.store(member.node)) else { continue };
        if said != met {
            tracing::error!(
                node = %member.node,
                "the configuration names store {said:032x}, but this node has met {met:032x}, and \
                 refuses every other one: a folder was lost or copied. Put a node with a new id in \
                 its place with `synod member replace`"
            );
        }
    }
}

/// A handshake that was refused because this node is a member no more, in the core's own
/// words, which would need a connection.
pub(crate) fn dismissal(number: u64, witnesses: u32) -> PeerMessage {
    let reason = RejectReason::NoMember { number, witnesses };
    PeerMessage::Paxos(Message::Reject(Reject { ballot: Ballot::ZERO, reason }))
}

#[cfg(test)]
mod tests {
    use synod_wire::{About, AboutMember};

    use super::*;

    #[test]
    fn a_store_that_was_met_counts_for_more_than_what_a_configuration_names() {
        let nodes = [1, 2, 3].map(NodeId);
        let said = |node: NodeId| AboutMember {
            node,
            store: Some(u128::from(node.0) + 10),
            peer: format!("h{}:1", node.0),
            client_url: format!("http://h{}:2", node.0),
        };
        let about = About { ids_used_upto: 3, members: nodes.map(said).to_vec() };
        let configuration = Configuration::majority(nodes.to_vec(), 8).expect("possible");
        let configuration = configuration.with_about(about.encode()).expect("short");
        let stores = [(NodeId(1), 11), (NodeId(2), 99)].into();
        let known = Known { stores, ..Known::default() };
        let talked_to = vec![Arc::new(configuration.numbered(1))];
        let membership = Membership::new(NodeId(1), known, talked_to);
        let stores: Vec<u128> = membership.stores().iter().map(|pin| pin.store).collect();
        assert_eq!(stores, [11, 99, 13]);
    }

    #[test]
    fn whoever_went_away_waits_no_more_for_a_change() {
        let one = Configuration::majority(vec![NodeId(1)], 8).expect("possible");
        let two = Configuration::majority(vec![NodeId(1), NodeId(2)], 8).expect("possible");
        let two = two.numbered(1);
        let talked_to = vec![Arc::new(one), Arc::new(two.clone())];
        let mut membership = Membership::new(NodeId(1), Known::default(), talked_to);
        let (gone, _) = oneshot::channel();
        let (stays, mut answer) = oneshot::channel();
        membership.waiting.extend([(two.clone(), gone), (two.clone(), stays)]);
        // It is chosen and does not govern yet.
        membership.settle(&Configurations::new(two));
        assert_eq!(membership.waiting.len(), 1);
        assert!(answer.try_recv().is_err());
    }
}
