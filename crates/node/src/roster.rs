//! The members as a node knows them: from the configurations of the log and, where
//! those say nothing about a member, from this node's settings.

use std::collections::BTreeMap;
use std::sync::Arc;

use synod_api::Leader;
use synod_kv::http::{FirstBody, MemberBody, MemberRole, MembersBody};
use synod_paxos::{Configuration, NodeId};
use synod_wire::{About, AboutMember};

use crate::founding::Founding;
use crate::identity::Identity;
use crate::pins::Pins;
use crate::settings::{MemberSettings, Settings};

/// What a node knows of the others without the log.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Known {
    /// What the settings say of the members.
    pub(crate) settings: Vec<AboutMember>,
    /// The stores that were met, and this node's own.
    pub(crate) stores: BTreeMap<NodeId, u128>,
}

/// The members at one moment.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Roster {
    /// The newest configuration.
    pub(crate) newest: Arc<Configuration>,
    /// What is known of its members, in order of their ids.
    pub(crate) about: About,
    /// It governs, and no other one is in force.
    pub(crate) is_settled: bool,
    /// Everybody to be talked to, members of the newest configuration or of the one that
    /// it replaces, in order of their ids.
    pub(crate) everybody: Vec<AboutMember>,
    /// Their clients' doors, in the same order.
    doors: Vec<Leader>,
}

impl Known {
    pub(crate) fn new(settings: &Settings, pins: &Pins, identity: &Identity) -> Known {
        let member = |member: MemberSettings| AboutMember {
            node: NodeId(member.id),
            store: None,
            peer: member.peer,
            client_url: member.client_url,
        };
        let settings = settings.members_by_id().into_iter().map(member).collect();
        let pins = pins.list().into_iter().map(|pin| (pin.node, pin.store));
        let own = (identity.node, identity.store);
        Known { settings, stores: pins.chain([own]).collect() }
    }

    /// What the settings say of a member.
    pub(crate) fn member(&self, node: NodeId) -> Option<AboutMember> {
        self.settings.iter().find(|member| member.node == node).cloned()
    }

    pub(crate) fn store(&self, node: NodeId) -> Option<u128> {
        self.stores.get(&node).copied()
    }
}

impl Roster {
    /// The members of these configurations, of which there is at least one.
    pub(crate) fn new(talked_to: &[Arc<Configuration>], known: &Known) -> Roster {
        let newest = talked_to.iter().max_by_key(|configuration| configuration.number());
        let newest = Arc::clone(newest.expect("there is always a configuration"));
        let mut everybody = BTreeMap::new();
        // The newest one last, for what it says of a member counts.
        let older = talked_to.iter().filter(|older| older.number() < newest.number());
        for configuration in older.chain([&newest]) {
            let about = about_of(configuration);
            for node in configuration.members() {
                let said = about.member(*node).cloned().or_else(|| known.member(*node));
                if let Some(mut member) = said {
                    member.store = member.store.or_else(|| known.store(*node));
                    everybody.insert(*node, member);
                }
            }
        }
        let everybody: Vec<AboutMember> = everybody.into_values().collect();
        let doors = everybody.iter().map(|member| Leader::new(member.node.0, &member.client_url));
        let highest = newest.members().iter().map(|node| node.0).max().unwrap_or(0);
        let about = About {
            ids_used_upto: about_of(&newest).ids_used_upto.max(highest),
            members: everybody.iter().filter(|m| newest.contains(m.node)).cloned().collect(),
        };
        let (doors, is_settled) = (doors.collect(), talked_to.len() == 1);
        Roster { newest, about, is_settled, everybody, doors }
    }

    /// The clients' door of a node.
    pub(crate) fn door(&self, node: NodeId) -> Option<&Leader> {
        let place = self.everybody.binary_search_by_key(&node, |member| member.node).ok()?;
        self.doors.get(place)
    }

    /// What the calls about the members answer.
    pub(crate) fn body(
        &self,
        cluster: u128,
        first: &Configuration,
        founding: Founding,
    ) -> MembersBody {
        let member = |member: &AboutMember| MemberBody {
            id: member.node.0,
            role: match self.newest.is_voter(member.node) {
                true => MemberRole::Voter,
                false => MemberRole::Learner,
            },
            store: member.store.map(|store| format!("{store:032x}")),
            peer: member.peer.clone(),
            client_url: member.client_url.clone(),
        };
        MembersBody {
            cluster: format!("{cluster:032x}"),
            configuration: self.newest.number(),
            pending: !self.is_settled,
            promise_quorum: few(self.newest.promise_quorum()),
            accept_quorum: few(self.newest.accept_quorum()),
            alpha: self.newest.alpha(),
            ids_used_upto: self.about.ids_used_upto,
            members: self.about.members.iter().map(member).collect(),
            first: FirstBody {
                voters: first.voters().iter().map(|node| node.0).collect(),
                promise_quorum: few(first.promise_quorum()),
                accept_quorum: few(first.accept_quorum()),
                alpha: first.alpha(),
                restored: founding.body(),
            },
        }
    }
}

/// What a configuration says of its members. One that cannot be read says nothing: it is
/// the core's, and where somebody is reached is no reason to stop.
fn about_of(configuration: &Configuration) -> About {
    About::decode(configuration.about()).unwrap_or_else(|error| {
        let number = configuration.number();
        tracing::error!(number, %error, "cannot read what the configuration says of its members");
        About::default()
    })
}

fn few(count: usize) -> u32 {
    u32::try_from(count).expect("a few members")
}
