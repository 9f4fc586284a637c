//! Making the data folder of a node that joins a running cluster.
//!
//! First the folder gets a store id, durably; then the cluster is told of the node; then
//! the folder becomes the node's, with what the cluster answered. So an attempt that was
//! interrupted anywhere is gone on with by the next one, as the same member.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use synod_api::{ChangeRefused, MemberChange, Wanted};
use synod_kv::http::{FirstBody, MemberRole, MembersBody};
use synod_paxos::{Configuration, ConfigurationError, NodeId};
use synod_wire::{About, AboutMember};

use crate::change::{self, Plan};
use crate::folder::Folder;
use crate::founding::Founding;
use crate::identity::{self, Identity, parse_id};
use crate::identity_error::{IdentityError, InitError};
use crate::roster::{Known, Roster};
use crate::settings::Settings;
use crate::unfinished::Unfinished;

/// Holds the store id until there is an identity.
pub(crate) const FILE: &str = "joining.json";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    cluster_id: String,
    node_id: u32,
    store_id: String,
}

/// A folder on its way to be a node's.
#[derive(Debug)]
pub struct Joining {
    /// None when it is the node's already, which may be running.
    folder: Option<Folder>,
    /// The id of the folder, which the cluster is told.
    pub store: u128,
    /// The number of the configuration in which the node joined, when the folder is the
    /// node's already: an earlier attempt came to its end.
    pub joined: Option<u64>,
}

impl Joining {
    /// Takes the folder, and draws a store id if an earlier attempt has not.
    ///
    /// # Errors
    /// When the folder holds anything else, or cannot be used.
    pub fn begin(settings: &Settings) -> Result<Joining, InitError> {
        // Before the folder is taken: a node that runs holds it.
        if let Some(identity) = Identity::find(&settings.data_dir)? {
            let (node, cluster) = (identity.node, identity.cluster);
            let is_mine = node == settings.node() && cluster == settings.cluster_id();
            let joined = identity.joined.as_ref().map(Configuration::number);
            if joined.is_some() && is_mine {
                return Ok(Joining { folder: None, store: identity.store, joined });
            }
            let path = settings.data_dir.clone();
            let command = "member";
            return Err(InitError::Exists { command, path, node: node.0, cluster });
        }
        let folder = Folder::create(&settings.data_dir)?;
        identity::check_free("member", &folder, Some(Unfinished::Joining))?;
        let found: Vec<String> =
            folder.strangers()?.into_iter().filter(|name| name != FILE).collect();
        if !found.is_empty() {
            return Err(identity::not_empty(&folder, &found));
        }
        // Before the cluster is told: later nothing may stand in the way any more.
        identity::check_journal(&folder)?;
        let store = match begun(&folder, settings)? {
            Some(store) => store,
            None => identity::random_id().map_err(InitError::Random)?,
        };
        let written = Written {
            cluster_id: format!("{:032x}", settings.cluster_id()),
            node_id: settings.node_id,
            store_id: format!("{store:032x}"),
        };
        let text = serde_json::to_vec_pretty(&written).expect("plain fields");
        folder.replace(FILE, &text)?;
        Ok(Joining { folder: Some(folder), store, joined: None })
    }

    /// That a cluster with these members takes this node when the member `old`, at whose addresses
    /// it will be, is removed for it.
    ///
    /// # Errors
    /// In a sentence, why one of the two changes would be refused.
    pub fn check_in_place(
        &self,
        settings: &Settings,
        members: &MembersBody,
        old: u32,
    ) -> Result<(), String> {
        let (mut now, _) = configuration_of(members)?;
        let own = settings.members.iter().find(|member| member.id == settings.node_id);
        let own = own.expect("the settings were checked");
        let add = Wanted::Add {
            id: own.id,
            store: self.store,
            peer: own.peer.clone(),
            client_url: own.client_url.trim_end_matches('/').to_owned(),
        };
        for wanted in [Wanted::Remove { id: old }, add] {
            let roster = Roster::new(&[Arc::new(now)], &Known::default());
            let change = MemberChange { wanted, configuration: None, force: false };
            now = match change::plan(&roster, &change) {
                Ok(Plan::Propose(next)) => next,
                Ok(Plan::Done) => Configuration::clone(&roster.newest),
                Err(ChangeRefused::Refused { detail, .. }) => return Err(detail),
                Err(ChangeRefused::Replica(refused)) => unreachable!("no replica: {refused:?}"),
            };
        }
        Ok(())
    }

    /// Makes the folder the node's, of whom the cluster says this.
    ///
    /// # Errors
    /// When the cluster's words do not fit, or the disk refuses.
    ///
    /// # Panics
    /// When it is the node's already.
    pub fn finish(self, settings: &Settings, members: &MembersBody) -> Result<Identity, InitError> {
        let folder = self.folder.expect("the folder is not the node's yet");
        let unfit = |reason: String| InitError::Unfit { reason };
        let cluster = parse_id(&members.cluster).map_err(unfit)?;
        if cluster != settings.cluster_id() {
            return Err(unfit(format!("it is cluster {cluster:032x}")));
        }
        let (configuration, about) = configuration_of(members).map_err(unfit)?;
        let me = settings.node();
        if about.member(me).is_none_or(|member| member.store != Some(self.store)) {
            return Err(unfit(format!("node {} with this folder is none of its members", me.0)));
        }
        // A vote needs a node that runs, and that has its identity.
        if configuration.is_voter(me) {
            return Err(unfit(format!(
                "node {me} votes already, and this folder is none that ever voted: it was emptied \
                 or is an old copy, or the node was promoted by force before it was made. What it \
                 promised may be lost, so it must not come back: put a node with another id and an \
                 empty data_dir in its place with `synod member replace {me}`",
                me = me.0
            )));
        }
        let restored = members.first.restored.as_ref();
        let founding = restored.map(Founding::read).transpose().map_err(unfit)?;
        let identity = Identity {
            cluster,
            founding: founding.unwrap_or_default(),
            node: me,
            store: self.store,
            configuration: first_of(&members.first).map_err(unfit)?,
            joined: Some(configuration),
        };
        identity::create(&folder, &identity)?;
        folder.remove(FILE)?;
        Ok(identity)
    }
}

/// The store id of an earlier attempt for the same member.
fn begun(folder: &Folder, settings: &Settings) -> Result<Option<u128>, IdentityError> {
    let Some(content) = folder.read(FILE)? else { return Ok(None) };
    let damaged = |reason| IdentityError::Joining { file: folder.path().join(FILE), reason };
    let written: Written =
        serde_json::from_slice(&content).map_err(|error| damaged(error.to_string()))?;
    let cluster = parse_id(&written.cluster_id).map_err(damaged)?;
    let is_same = cluster == settings.cluster_id() && written.node_id == settings.node_id;
    let store = parse_id(&written.store_id).map_err(damaged)?;
    Ok(Some(store).filter(|_| is_same))
}

/// The newest configuration, as a cluster told it.
pub(crate) fn configuration_of(members: &MembersBody) -> Result<(Configuration, About), String> {
    let with_role = |role| {
        let members = members.members.iter().filter(move |member| member.role == role);
        members.map(|member| NodeId(member.id)).collect::<Vec<_>>()
    };
    let mut about = About { ids_used_upto: members.ids_used_upto, members: Vec::new() };
    for member in &members.members {
        let said = AboutMember {
            node: NodeId(member.id),
            store: member.store.as_deref().map(parse_id).transpose()?,
            peer: member.peer.clone(),
            client_url: member.client_url.clone(),
        };
        if !said.is_encodable() {
            return Err(format!(
                "the addresses of node {} are too long or not plain ASCII",
                member.id
            ));
        }
        about.members.push(said);
    }
    about.members.sort_by_key(|member| member.node);
    let configuration = possible(
        with_role(MemberRole::Voter),
        members.promise_quorum,
        members.accept_quorum,
        members.alpha,
    );
    let configuration = configuration
        .and_then(|configuration| configuration.with_learners(with_role(MemberRole::Learner)))
        .map_err(|error| format!("{error:?}"))?;
    // Possible members are few and differ, so that what is said of them can be encoded.
    let configuration = configuration.with_about(about.encode());
    let configuration = configuration.map_err(|error| format!("{error:?}"))?;
    Ok((configuration.numbered(members.configuration), about))
}

fn first_of(first: &FirstBody) -> Result<Configuration, String> {
    let voters = first.voters.iter().copied().map(NodeId).collect();
    possible(voters, first.promise_quorum, first.accept_quorum, first.alpha)
        .map_err(|error| format!("{error:?}"))
}

fn possible(
    voters: Vec<NodeId>,
    promise_quorum: u32,
    accept_quorum: u32,
    alpha: u64,
) -> Result<Configuration, ConfigurationError> {
    Configuration::new(voters, promise_quorum as usize, accept_quorum as usize, alpha)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use synod_journal::{ClusterId, Journal, JournalOptions};
    use synod_kv::http::MemberBody;

    use super::*;

    const CLUSTER: &str = "0123456789abcdef0123456789abcdef";

    fn settings(dir: &Path, node: u32) -> Settings {
        let text = format!(
            "node_id = {node}\ndata_dir = \"data\"\n[cluster]\nid = {CLUSTER:?}\n\
             [client]\nlisten = \"127.0.0.1:0\"\n[peer]\nlisten = \"127.0.0.1:0\"\n\
             [[members]]\nid = {node}\npeer = \"h{node}:1\"\nclient_url = \"http://h{node}:2\"\n"
        );
        Settings::parse(&text, &dir.join("synod.toml")).expect("good settings")
    }

    fn members(store: u128) -> MembersBody {
        let member = |id, role, store: Option<u128>| MemberBody {
            id,
            role,
            store: store.map(|store| format!("{store:032x}")),
            peer: format!("h{id}:1"),
            client_url: format!("http://h{id}:2"),
        };
        MembersBody {
            cluster: CLUSTER.to_owned(),
            configuration: 5,
            pending: false,
            promise_quorum: 2,
            accept_quorum: 2,
            alpha: 64,
            ids_used_upto: 4,
            members: vec![
                member(1, MemberRole::Voter, None),
                member(3, MemberRole::Voter, Some(9)),
                member(4, MemberRole::Learner, Some(store)),
            ],
            first: FirstBody {
                voters: vec![1, 2],
                promise_quorum: 2,
                accept_quorum: 1,
                alpha: 64,
                restored: Some(synod_kv::http::RestoredBody {
                    slot: 7,
                    state_hash: "0b".to_owned(),
                }),
            },
        }
    }

    #[test]
    fn a_node_joins_in_steps_and_each_may_be_the_last_one_at_first() {
        let dir = tempfile::tempdir().expect("a folder");
        let settings = settings(dir.path(), 4);
        let store = Joining::begin(&settings).expect("begun").store;
        // No other command takes what is joining already, and each says how to go on.
        let found = crate::inspect(&settings.data_dir).expect("readable");
        assert_eq!(found.unfinished, Some(Unfinished::Joining));
        let made = crate::init(&settings).expect_err("not empty").to_string();
        let started = crate::Node::start(&settings).expect_err("no node yet").to_string();
        for text in [made, started] {
            assert!(text.contains("run `synod member add --config ...`"), "{text}");
        }
        let again = Joining::begin(&settings).expect("begun again");
        assert_eq!((again.store, again.joined), (store, None));
        let made = again.finish(&settings, &members(store)).expect("made");
        let joined = made.joined.as_ref().expect("it joined");
        assert_eq!((joined.number(), joined.voters()), (5, &[NodeId(1), NodeId(3)][..]));
        assert_eq!(made.configuration.voters(), [NodeId(1), NodeId(2)]);
        assert_eq!((made.founding.slot.0, made.founding.state_hash), (7, 11));
        let about = About::decode(joined.about()).expect("said");
        assert_eq!(about.member(NodeId(3)).and_then(|member| member.store), Some(9));
        let folder = Folder::open(&settings.data_dir).expect("free");
        assert_eq!(Identity::open(&folder, &settings).expect("found"), made);
        // Also while it runs.
        let done = Joining::begin(&settings).expect("done");
        assert_eq!((done.store, done.joined), (store, Some(5)));
    }

    #[test]
    fn another_cluster_or_another_folder_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let settings = settings(dir.path(), 4);
        let begin = || Joining::begin(&settings).expect("begun");
        let store = begin().store;
        let good = members(store);
        let mut other = good.clone();
        other.cluster = "f".repeat(32);
        let mut twice = good.clone();
        twice.members[0].id = 3;
        let mut quorums = good.clone();
        quorums.accept_quorum = 0;
        let mut long = good.clone();
        long.members[0].peer = "h".repeat(300);
        // The folder was put back to before it was the node's.
        let mut votes = good.clone();
        votes.members[2].role = MemberRole::Voter;
        for (members, word) in [
            (other, "ffff"),
            (members(store + 1), "none of its members"),
            (twice, "MemberIds"),
            (quorums, "Quorums"),
            (long, "too long"),
            (votes, "synod member replace 4"),
        ] {
            let refused = begin().finish(&settings, &members).expect_err("unfit").to_string();
            assert!(refused.contains(word), "{refused}");
        }
        // A foreign folder is left alone.
        std::fs::write(settings.data_dir.join("holiday.jpg"), b"sun").expect("written");
        assert!(Joining::begin(&settings).is_err());
    }

    #[test]
    fn a_journal_that_was_in_use_is_found_before_the_cluster_is_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let settings = settings(dir.path(), 4);
        let folder = Folder::create(&settings.data_dir).expect("made");
        let (journal, other) = (folder.journal(), ClusterId(7));
        drop(folder);
        // What was interrupted before anybody served from it is no hindrance, whosoever it was.
        Journal::create(&journal, other).expect("made");
        let begun = Joining::begin(&settings).expect("begun");
        let store = begun.store;
        begun.finish(&settings, &members(store)).expect("made");
        std::fs::remove_file(settings.data_dir.join(identity::FILE)).expect("lost");
        drop(Joining::begin(&settings).expect("its own unused journal"));
        for cluster in [settings.cluster_id(), 8] {
            std::fs::remove_dir_all(&journal).expect("removed");
            Journal::create(&journal, ClusterId(cluster)).expect("made");
            let options = JournalOptions::default();
            drop(Journal::open(&journal, ClusterId(cluster), &options).expect("served from"));
            let refused = Joining::begin(&settings).expect_err("in use").to_string();
            assert!(refused.contains("a journal that was in use"), "{refused}");
        }
    }
}
