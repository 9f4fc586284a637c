//! Who a data folder is: written once by `init`, compared with the settings at
//! each start, never changed.

use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use synod_journal::{ClusterId, Journal, OpenError};
use synod_kv::http::{MembersBody, RestoredBody};
use synod_paxos::{Configuration, NodeId};

use crate::bond;
use crate::folder::{self, Folder, FolderError};
use crate::founding::Founding;
use crate::identity_error::{IdentityError, InitError};
use crate::join;
use crate::roster::{Known, Roster};
use crate::settings::Settings;
use crate::unfinished::{Unfinished, is_unused};

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

/// Makes the data folder of a new node. Interrupted anywhere, it can be run again.
///
/// # Errors
/// When the folder holds anything already, or can't be used.
pub fn init(settings: &Settings) -> Result<Identity, InitError> {
    let folder = begin(settings)?;
    finish(&folder, settings, Founding::default())
}

/// Takes a folder for a new node, in which there is nothing yet.
fn begin(settings: &Settings) -> Result<Folder, InitError> {
    let folder = Folder::create(&settings.data_dir)?;
    check_free("init", &folder, None)?;
    check_strangers(folder)
}

/// The same for a node whose state comes from a backup. What a restore left that was
/// interrupted after its switch is put aside: no node ever used it.
pub(crate) fn begin_restore(settings: &Settings) -> Result<Folder, InitError> {
    let folder = Folder::create(&settings.data_dir)?;
    let left = check_free("restore", &folder, Some(Unfinished::Restore))?;
    let (states, current) = (folder.states(), folder.states().current()?);
    if left.is_some() && folder::exists(&current)? {
        states.put_aside(&current)?;
    }
    check_strangers(folder)
}

/// Takes the folder of a node. One that does not exist holds none.
pub(crate) fn take(path: &Path) -> Result<Folder, IdentityError> {
    match Folder::open(path) {
        Err(FolderError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            Err(IdentityError::Missing(path.to_owned()))
        }
        folder => Ok(folder?),
    }
}

/// That a journal can be made in the folder, which [`create`] does later.
pub(crate) fn check_journal(folder: &Folder) -> Result<(), InitError> {
    if is_unused(&folder.journal())? {
        return Ok(());
    }
    let found = "a journal that was in use".to_owned();
    Err(InitError::NotEmpty { path: folder.path().to_owned(), found })
}

/// That the folder holds no node, nor what another command than this one left of one. Says
/// whether this one left something.
pub(crate) fn check_free(
    command: &'static str,
    folder: &Folder,
    own: Option<Unfinished>,
) -> Result<Option<Unfinished>, InitError> {
    let path = folder.path().to_owned();
    if let Some(Identity { node, cluster, .. }) = Identity::read(folder)? {
        return Err(InitError::Exists { command, path, node: node.0, cluster });
    }
    match Unfinished::find(&path)? {
        Some(unfinished) if Some(unfinished) != own => {
            Err(InitError::Unfinished { path, unfinished })
        }
        found => Ok(found),
    }
}

fn check_strangers(folder: Folder) -> Result<Folder, InitError> {
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
    bond::make(&folder.journal(), identity)?;
    folder.step("journal made")?;
    folder.replace(FILE, &identity.encode())?;
    Ok(folder.step("identity written")?)
}

fn create_journal(folder: &Folder, identity: &Identity) -> Result<(), InitError> {
    let path = folder.journal();
    match Journal::create(&path, identity.lineage()) {
        // Left by an `init` that was interrupted, unless somebody served from it: then
        // it holds votes, and only its identity is missing.
        Err(OpenError::Exists(_)) => {
            check_journal(folder)?;
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
        let Some(identity) = Identity::read(folder)? else {
            let path = path.to_owned();
            return Err(match Unfinished::find(&path)? {
                Some(unfinished) => IdentityError::Unfinished { path, unfinished },
                None => IdentityError::Missing(path),
            });
        };
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
        let file = path.join(FILE);
        if let Some(format) = later_format(&content) {
            return Err(IdentityError::Later { file, format });
        }
        let identity = Identity::decode(&content);
        identity.map(Some).map_err(|reason| IdentityError::Damaged { file, reason })
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

/// The format of a file that a later release wrote; none of any other, damaged or not.
fn later_format(content: &[u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct Beginning {
        format: u32,
    }
    let beginning: Beginning = serde_json::from_slice(content).ok()?;
    Some(beginning.format).filter(|format| *format > FORMAT_JOINED)
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
        let identity = Identity::open(&take(&settings.data_dir)?, settings)?;
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
        let missing = open(&settings).expect_err("no folder").to_string();
        drop(Folder::create(&settings.data_dir).expect("made"));
        let message = open(&settings).expect_err("empty").to_string();
        assert_eq!(missing, message);
        for words in
            ["holds no node", "`synod init`", "`synod member replace`", "must not come back"]
        {
            assert!(message.contains(words), "{words:?} is missing in {message:?}");
        }
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
            let words = "`synod member replace OLD --config FILE`";
            assert!(error.to_string().contains(words), "{error}");
            assert!(init(&settings).is_err());
        }
        // What a later release wrote is not damaged.
        std::fs::write(&file, good.replace("\"format\": 1", "\"format\": 3")).expect("written");
        let error = open(&settings).expect_err("a later one");
        assert!(matches!(error, IdentityError::Later { format: 3, .. }), "{error}");
        assert!(!error.to_string().contains("member replace"), "{error}");
    }
}
