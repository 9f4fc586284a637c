//! Who a data folder is: written once by `init`, compared with the settings at
//! each start, never changed.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use synod_journal::{ClusterId, Journal, OpenError};
use synod_kv::http::{MembersBody, RestoredBody};
use synod_paxos::{Configuration, NodeId, Position};
use synod_storage::snapshot::{SnapshotError, StateFolders};

use crate::folder::{self, Folder, FolderError};
use crate::founding::Founding;
use crate::join;
use crate::roster::{Known, Roster};
use crate::settings::Settings;

pub(crate) const FILE: &str = "identity.json";
const FORMAT: u32 = 1;
/// That of a node that joined a running cluster, which the first release cannot serve.
const FORMAT_JOINED: u32 = 2;

/// Who a data folder is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The cluster, as the operator names it.
    pub cluster: u128,
    /// What the cluster began with.
    pub founding: Founding,
    /// The node.
    pub node: NodeId,
    /// Drawn at random when the folder was made: tells it from any other folder
    /// that claims to be this node.
    pub store: u128,
    /// The members that the cluster began with, and their quorums.
    pub configuration: Configuration,
    /// The configuration in which the node joined, if it was not there from the beginning.
    pub joined: Option<Configuration>,
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    cluster_id: String,
    node_id: u32,
    store_id: String,
    members: Vec<u32>,
    promise_quorum: usize,
    accept_quorum: usize,
    alpha: u64,
    /// Only of a cluster that was restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    restored: Option<RestoredBody>,
    /// Only of a node that joined a running cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    joined: Option<MembersBody>,
}

/// Why `init` made nothing.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The folder can't be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A node lives here already.
    #[error(
        "{} already holds node {node} of cluster {cluster:032x}; `init` never overwrites a node. \
         To start it, use `serve`; for a new node, name another data_dir",
        path.display()
    )]
    Exists {
        /// The folder.
        path: PathBuf,
        /// Its node.
        node: u32,
        /// Its cluster.
        cluster: u128,
    },
    /// Something else is there.
    #[error("{} is not empty: it holds {found}", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
        /// Some of what is there.
        found: String,
    },
    /// The identity that is there can't be read.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The journal can't be made.
    #[error("cannot make the journal: {0}")]
    Journal(#[from] OpenError),
    /// What an interrupted restore left can't be put aside.
    #[error(transparent)]
    State(#[from] SnapshotError),
    /// The cluster that is to be joined is not the one, or does not know this node.
    #[error("the cluster that answered cannot be joined with these settings: {reason}")]
    Unfit {
        /// What does not fit.
        reason: String,
    },
    /// No random numbers.
    #[error("cannot draw a store id from /dev/urandom: {0}")]
    Random(std::io::Error),
}

/// Why a folder is not the one that the settings mean.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Nothing was ever made here.
    #[error(
        "{} holds no node. For a new cluster, run `synod init` on each of its nodes first; for a new \
         node of a running cluster, `synod member add`. If this node was a member and lost its disk, \
         do not run `init`: a node that forgot its votes must not come back. The others go on \
         without it; put a new node, with a new id, in its place with `synod member replace`",
        .0.display()
    )]
    Missing(PathBuf),
    /// The file is damaged.
    #[error("{}: the identity of the data folder cannot be read: {reason}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// It is another node's, or another cluster's, or was made with other members.
    #[error("{} belongs to {found}, but the settings say {expected}", path.display())]
    Mismatch {
        /// The folder.
        path: PathBuf,
        /// What the folder says.
        found: String,
        /// What the settings say.
        expected: String,
    },
    /// The file can't be read.
    #[error(transparent)]
    Folder(#[from] FolderError),
}

/// Makes the data folder of a new node. Interrupted anywhere, it can be run again.
///
/// # Errors
/// When the folder holds anything already, or can't be used.
pub fn init(settings: &Settings) -> Result<Identity, InitError> {
    let folder = begin(settings)?;
    finish(&folder, settings, Founding::default())
}

/// Takes a folder for a new node, in which there is nothing yet.
pub(crate) fn begin(settings: &Settings) -> Result<Folder, InitError> {
    claim(Folder::create(&settings.data_dir)?)
}

/// The same for a node whose state comes from a backup. What a restore left that was
/// interrupted after its switch is put aside: no node ever used it.
pub(crate) fn begin_restore(settings: &Settings) -> Result<Folder, InitError> {
    let folder = Folder::create(&settings.data_dir)?;
    if let Some(state) = unfinished_restore(folder.path())
        && is_journal_unused(&folder, &state, settings)
    {
        folder.states().put_aside(&state)?;
    }
    claim(folder)
}

/// The state of a restore that was interrupted between its switch and the identity: it
/// alone is there, perhaps with a journal, and bears its mark. None in any other folder.
pub(crate) fn unfinished_restore(path: &Path) -> Option<PathBuf> {
    // Also when the disk does not say.
    if path.join(FILE).try_exists().unwrap_or(true) {
        return None;
    }
    let state = StateFolders::new(path).current().ok()?;
    let strangers = folder::strangers(path).ok()?;
    let is_alone = strangers.len() == 1 && state.ends_with(&strangers[0]);
    let is_marked = || StateFolders::mark(&state).is_ok_and(|mark| mark.is_some());
    (is_alone && is_marked()).then_some(state)
}

/// Whether the journal beside this state is none that a node has ever voted with.
fn is_journal_unused(folder: &Folder, state: &Path, settings: &Settings) -> bool {
    let Ok(founding) = Founding::of(state) else { return false };
    is_unused(&folder.journal(), founding.lineage(settings.cluster_id())).unwrap_or(false)
}

/// Whether there is no journal, or one that nobody ever voted with, for whichever cluster it
/// was made.
fn is_unused(journal: &Path, cluster: ClusterId) -> Result<bool, OpenError> {
    let held = match Journal::inspect(journal, cluster) {
        Err(OpenError::WrongCluster { found, .. }) => Journal::inspect(journal, found),
        held => held,
    };
    match held {
        Ok(held) => Ok(held.incarnation == 0 && held.recovered.position == Position::ZERO),
        Err(OpenError::Missing(_)) => Ok(true),
        Err(error) => Err(error),
    }
}

/// That a journal can be made in the folder, which [`create`] does later.
pub(crate) fn check_journal(folder: &Folder, cluster: ClusterId) -> Result<(), InitError> {
    if is_unused(&folder.journal(), cluster)? {
        return Ok(());
    }
    let found = "a journal that was in use".to_owned();
    Err(InitError::NotEmpty { path: folder.path().to_owned(), found })
}

fn claim(folder: Folder) -> Result<Folder, InitError> {
    if let Some(identity) = Identity::read(&folder)? {
        return Err(InitError::Exists {
            path: folder.path().to_owned(),
            node: identity.node.0,
            cluster: identity.cluster,
        });
    }
    let found = folder.strangers()?;
    if !found.is_empty() {
        return Err(not_empty(&folder, &found));
    }
    Ok(folder)
}

/// Some of what was found where nothing should be.
pub(crate) fn not_empty(folder: &Folder, found: &[String]) -> InitError {
    let found = found.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    InitError::NotEmpty { path: folder.path().to_owned(), found }
}

/// Makes the journal, then the identity.
pub(crate) fn finish(
    folder: &Folder,
    settings: &Settings,
    founding: Founding,
) -> Result<Identity, InitError> {
    let identity = Identity {
        cluster: settings.cluster_id(),
        founding,
        node: settings.node(),
        store: random_id().map_err(InitError::Random)?,
        configuration: settings.configuration(),
        joined: None,
    };
    create(folder, &identity)?;
    Ok(identity)
}

/// Makes the journal, then the file: a folder with an identity has everything else.
pub(crate) fn create(folder: &Folder, identity: &Identity) -> Result<(), InitError> {
    create_journal(folder, identity)?;
    Ok(folder.replace(FILE, &identity.encode())?)
}

fn create_journal(folder: &Folder, identity: &Identity) -> Result<(), InitError> {
    let path = folder.journal();
    match Journal::create(&path, identity.lineage()) {
        // Left by an `init` that was interrupted, unless somebody served from it: then
        // it holds votes, and only its identity is missing.
        Err(OpenError::Exists(_)) => {
            check_journal(folder, identity.lineage())?;
            std::fs::remove_dir_all(&path).map_err(|source| FolderError::Io {
                what: "remove",
                path: path.clone(),
                source,
            })?;
            Ok(Journal::create(&path, identity.lineage())?)
        }
        result => Ok(result?),
    }
}

impl Identity {
    /// Reads the identity of a folder that settings name, and compares the two.
    pub(crate) fn open(folder: &Folder, settings: &Settings) -> Result<Identity, IdentityError> {
        let path = folder.path();
        let identity =
            Identity::read(folder)?.ok_or_else(|| IdentityError::Missing(path.to_owned()))?;
        identity.compare(path, settings)?;
        Ok(identity)
    }

    /// Reads the identity of a folder; none when it has none.
    pub(crate) fn read(folder: &Folder) -> Result<Option<Identity>, IdentityError> {
        Identity::find(folder.path())
    }

    /// Reads the identity that is in a folder, which may be in use, or not exist.
    pub(crate) fn find(path: &Path) -> Result<Option<Identity>, IdentityError> {
        let Some(content) = folder::read(path, FILE)? else { return Ok(None) };
        Identity::decode(&content)
            .map(Some)
            .map_err(|reason| IdentityError::Damaged { file: path.join(FILE), reason })
    }

    /// What the journal and the peers know the cluster by.
    pub(crate) fn lineage(&self) -> ClusterId {
        self.founding.lineage(self.cluster)
    }

    fn compare(&self, path: &Path, settings: &Settings) -> Result<(), IdentityError> {
        let mismatch = |found: String, expected: String| {
            Err(IdentityError::Mismatch { path: path.to_owned(), found, expected })
        };
        if self.cluster != settings.cluster_id() {
            let (found, expected) = (self.cluster, settings.cluster_id());
            return mismatch(format!("cluster {found:032x}"), format!("{expected:032x}"));
        }
        if self.node != settings.node() {
            return mismatch(format!("node {}", self.node.0), settings.node_id.to_string());
        }
        Ok(())
    }

    /// Compares what the settings say of the members with what the cluster began with. To
    /// be asked only while the members are those; later the log says who they are, and the
    /// settings only help to find them.
    pub(crate) fn check_members(
        &self,
        path: &Path,
        settings: &Settings,
    ) -> Result<(), IdentityError> {
        let mismatch = |found: String, expected: String| {
            Err(IdentityError::Mismatch { path: path.to_owned(), found, expected })
        };
        let wanted = settings.configuration();
        if self.configuration.members() != wanted.members() {
            return mismatch(
                format!("a cluster of the nodes {}", ids(&self.configuration)),
                ids(&wanted),
            );
        }
        let quorums = [
            ("promise", self.configuration.promise_quorum(), settings.cluster.promise_quorum),
            ("accept", self.configuration.accept_quorum(), settings.cluster.accept_quorum),
        ];
        for (name, found, wanted) in quorums {
            if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
                let found = format!("a cluster with {name} quorum {found}");
                return mismatch(found, wanted.to_string());
            }
        }
        let (found, wanted) = (self.configuration.alpha(), settings.cluster.alpha);
        if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
            return mismatch(format!("a cluster with alpha {found}"), wanted.to_string());
        }
        Ok(())
    }

    fn encode(&self) -> Vec<u8> {
        let joined = self.joined.clone().map(|joined| {
            let roster = Roster::new(&[Arc::new(joined)], &Known::default());
            roster.body(self.cluster, &self.configuration, self.founding)
        });
        let written = Written {
            format: if joined.is_some() { FORMAT_JOINED } else { FORMAT },
            cluster_id: format!("{:032x}", self.cluster),
            node_id: self.node.0,
            store_id: format!("{:032x}", self.store),
            members: self.configuration.members().iter().map(|member| member.0).collect(),
            promise_quorum: self.configuration.promise_quorum(),
            accept_quorum: self.configuration.accept_quorum(),
            alpha: self.configuration.alpha(),
            restored: self.founding.body(),
            joined,
        };
        let mut text = serde_json::to_vec_pretty(&written).expect("plain fields");
        text.push(b'\n');
        text
    }

    pub(crate) fn decode(content: &[u8]) -> Result<Identity, String> {
        let written: Written =
            serde_json::from_slice(content).map_err(|error| error.to_string())?;
        let format = if written.joined.is_some() { FORMAT_JOINED } else { FORMAT };
        if written.format != format {
            return Err(format!("its format is {}, this release knows {format}", written.format));
        }
        let joined = written.joined.as_ref().map(join::configuration_of).transpose()?;
        let joined = joined.map(|(configuration, _)| configuration);
        let members = written.members.iter().copied().map(NodeId).collect();
        let configuration = Configuration::new(
            members,
            written.promise_quorum,
            written.accept_quorum,
            written.alpha,
        )
        .map_err(|error| format!("its configuration is not possible: {error:?}"))?;
        let founding = written.restored.as_ref().map(Founding::read).transpose()?;
        let node = NodeId(written.node_id);
        if !joined.as_ref().unwrap_or(&configuration).contains(node) {
            return Err(format!("node {} is not among its own members", node.0));
        }
        Ok(Identity {
            cluster: parse_id(&written.cluster_id)?,
            founding: founding.unwrap_or_default(),
            node,
            store: parse_id(&written.store_id)?,
            configuration,
            joined,
        })
    }
}

/// An id as it stands in a file.
pub(crate) fn parse_id(text: &str) -> Result<u128, String> {
    let id = u128::from_str_radix(text, 16).map_err(|error| format!("{text:?}: {error}"))?;
    if id == 0 || text.len() != 32 {
        return Err(format!("{text:?} is not an id"));
    }
    Ok(id)
}

fn ids(configuration: &Configuration) -> String {
    let ids: Vec<String> = configuration.members().iter().map(|id| id.0.to_string()).collect();
    ids.join(", ")
}

pub(crate) fn random_id() -> std::io::Result<u128> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u128::from_le_bytes(bytes).max(1))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn settings(dir: &Path, cluster: &str, node: u32, members: &[u32], extra: &str) -> Settings {
        let mut text = format!(
            "node_id = {node}\ndata_dir = {:?}\n[cluster]\nid = {cluster:?}\n{extra}\n\
             [client]\nlisten = \"127.0.0.1:0\"\n[peer]\nlisten = \"127.0.0.1:0\"\n",
            dir.join("data")
        );
        for id in members {
            text += &format!(
                "[[members]]\nid = {id}\npeer = \"127.0.0.1:{}\"\n\
                 client_url = \"http://127.0.0.1:{}\"\n",
                7010 + id,
                7000 + id
            );
        }
        Settings::parse(&text, &dir.join("synod.toml")).expect("good settings")
    }

    const CLUSTER: &str = "0123456789abcdef0123456789abcdef";

    fn open(settings: &Settings) -> Result<Identity, IdentityError> {
        let identity = Identity::open(&Folder::open(&settings.data_dir)?, settings)?;
        identity.check_members(&settings.data_dir, settings)?;
        Ok(identity)
    }

    #[test]
    fn what_init_wrote_is_what_serve_finds() {
        let dir = tempfile::tempdir().expect("a folder");
        let settings = settings(dir.path(), CLUSTER, 2, &[1, 2, 3], "alpha = 64");
        let made = init(&settings).expect("made");
        assert_eq!(open(&settings).expect("found"), made);
        assert_eq!(made.configuration.alpha(), 64);
        let message = init(&settings).expect_err("not twice").to_string();
        assert!(message.contains("already holds node 2"), "{message}");
        assert_eq!(open(&settings).expect("still there"), made);
    }

    #[test]
    fn a_folder_of_somebody_else_is_refused_with_one_clear_message() {
        let dir = tempfile::tempdir().expect("a folder");
        let made = |node, members: &[u32], cluster, extra| {
            settings(dir.path(), cluster, node, members, extra)
        };
        init(&made(2, &[1, 2, 3], CLUSTER, "")).expect("made");
        let other = "ffffffffffffffff0123456789abcdef";
        let cases: [(Settings, &[&str]); 5] = [
            (made(2, &[1, 2, 3], other, ""), &["cluster 0123456789abcdef", other]),
            (made(3, &[1, 2, 3], CLUSTER, ""), &["node 2", "say 3"]),
            (made(2, &[2, 3, 4], CLUSTER, ""), &["nodes 1, 2, 3", "say 2, 3, 4"]),
            (made(2, &[1, 2, 3], CLUSTER, "accept_quorum = 3"), &["accept quorum 2", "say 3"]),
            (made(2, &[1, 2, 3], CLUSTER, "alpha = 9"), &["alpha 1024", "say 9"]),
        ];
        for (settings, words) in cases {
            let message = open(&settings).expect_err("a mismatch").to_string();
            for word in words {
                assert!(message.contains(word), "{word:?} is missing in {message:?}");
            }
        }
    }

    #[test]
    fn an_empty_or_foreign_folder_is_never_taken_for_a_node() {
        let dir = tempfile::tempdir().expect("a folder");
        let settings = settings(dir.path(), CLUSTER, 1, &[1], "");
        let message = open(&settings).expect_err("no folder").to_string();
        assert!(message.contains("No such file"), "{message}");
        drop(Folder::create(&settings.data_dir).expect("made"));
        let message = open(&settings).expect_err("empty").to_string();
        assert!(
            message.contains("synod init") && message.contains("must not come back"),
            "{message}"
        );
        std::fs::write(settings.data_dir.join("holiday.jpg"), b"sun").expect("written");
        let message = init(&settings).expect_err("not empty").to_string();
        assert!(message.contains("holiday.jpg"), "{message}");
    }

    #[test]
    fn an_interrupted_init_can_be_run_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let settings = settings(dir.path(), CLUSTER, 1, &[1], "");
        init(&settings).expect("made");
        std::fs::remove_file(settings.data_dir.join(FILE)).expect("removed");
        std::fs::write(settings.data_dir.join("identity.json.new"), b"{").expect("written");
        init(&settings).expect("made again");
        open(&settings).expect("found");
    }

    #[test]
    fn a_folder_that_others_may_enter_or_use_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let settings = settings(dir.path(), CLUSTER, 1, &[1], "");
        init(&settings).expect("made");
        let held = Folder::open(&settings.data_dir).expect("free");
        assert!(matches!(Folder::open(&settings.data_dir), Err(FolderError::InUse(_))));
        drop(held);
        let mode = std::fs::Permissions::from_mode(0o750);
        std::fs::set_permissions(&settings.data_dir, mode).expect("set");
        let message = open(&settings).expect_err("not private").to_string();
        assert!(message.contains("chmod 700"), "{message}");
    }

    #[test]
    fn a_damaged_identity_is_never_replaced_by_defaults() {
        let dir = tempfile::tempdir().expect("a folder");
        let settings = settings(dir.path(), CLUSTER, 1, &[1], "");
        init(&settings).expect("made");
        let file = settings.data_dir.join(FILE);
        let good = std::fs::read_to_string(&file).expect("there");
        let damages = [
            good.replace("\"format\": 1", "\"format\": 2"),
            good.replace("cluster_id", "cluster_ld"),
            good.replace("\"node_id\": 1", "\"node_id\": 7"),
            good.replace("\"promise_quorum\": 1", "\"promise_quorum\": 0"),
            good[..good.len() / 2].to_owned(),
            String::new(),
        ];
        for damage in damages {
            assert_ne!(damage, good);
            std::fs::write(&file, &damage).expect("written");
            let error = open(&settings).expect_err("damaged");
            assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
            assert!(init(&settings).is_err());
        }
    }
}
