//! One node's settings file.
//!
//! Every key is known, every number has bounds, and a wrong one is told by file,
//! field and reason before anything is opened. What the members agreed on when the
//! cluster was made (its id, the members' ids, quorums, alpha) is written into the
//! data folder by `init`; here it is repeated so that a file that belongs to
//! another node is noticed.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use synod_paxos::{Configuration, ConfigurationError, NodeId};
use synod_wire::version;

use crate::history_settings::HistorySettings;
use crate::limit_settings::LimitSettings;
use crate::scrub_settings::ScrubSettings;
use crate::snapshot_settings::SnapshotSettings;

/// The longest settings file. Its parser takes up to 160 times as much memory.
const FILE_BYTES_MAX: u64 = 256 << 10;

/// What one node is told by its operator.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where this was read from.
    #[serde(skip)]
    pub file: PathBuf,
    /// This node's id: one of the members', never 0, never used again after its
    /// disk was lost.
    pub node_id: u32,
    /// Where the node keeps everything. Relative to the settings file's folder.
    pub data_dir: PathBuf,
    /// The cluster.
    pub cluster: ClusterSettings,
    /// The clients' door.
    pub client: ListenSettings,
    /// The peers' door.
    pub peer: ListenSettings,
    /// All members, this node included.
    pub members: Vec<MemberSettings>,
    /// A leader hands over to a member that is as fit and has a higher priority.
    #[serde(default)]
    pub leader_priority: u8,
    /// The newest version of what this node writes into its journal and into the log;
    /// docs/upgrade.md. Whatever is newer, the release before could not read.
    #[serde(default = "default_write_version")]
    pub write_version: u32,
    /// Times.
    #[serde(default)]
    pub timing: TimingSettings,
    /// Bounds.
    #[serde(default)]
    pub limits: LimitSettings,
    /// How much journal is kept, and how states move between nodes.
    #[serde(default)]
    pub snapshot: SnapshotSettings,
    /// How long old revisions are kept.
    #[serde(default)]
    pub history: HistorySettings,
    /// The search for damage on the disk.
    #[serde(default)]
    pub scrub: ScrubSettings,
    /// What the node prints.
    #[serde(default)]
    pub log: LogSettings,
    /// Where the node writes what its messages rest on, for the proof that none of
    /// them leaves early. Not a setting of a file: it costs a system call a message.
    #[serde(skip)]
    pub trace_durability: Option<PathBuf>,
}

/// What all members of a cluster have in common.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSettings {
    /// 32 hexadecimal digits, made once at random. Dashes are ignored.
    pub id: String,
    /// For people: a node says it when it starts.
    #[serde(default = "default_cluster_name")]
    pub name: String,
    /// Promises that make a leader; a majority by default. Read by `init` only.
    pub promise_quorum: Option<usize>,
    /// Acceptances that choose a value; a majority by default. Read by `init` only.
    pub accept_quorum: Option<usize>,
    /// How far ahead of the chosen slots a leader may propose. Read by `init` only.
    pub alpha: Option<u64>,
}

/// A listener.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenSettings {
    /// Address and port to bind. How others reach the node stands among the members.
    pub listen: String,
}

/// One member.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberSettings {
    /// Its node id.
    pub id: u32,
    /// Host and port at which its peers reach it.
    pub peer: String,
    /// The base URL at which its clients reach it.
    pub client_url: String,
}

/// Times of the protocol. They decide how fast a cluster notices a failure, never
/// whether it is safe.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimingSettings {
    /// A leader that is silent for this long is replaced.
    pub election_timeout_ms: u64,
    /// Between two heartbeats.
    pub heartbeat_ms: u64,
    /// A value is cut at the latest this long after the last one.
    pub value_pace_us: u64,
    /// A disk that has not synced for this long keeps its node from leading; one
    /// election timeout by default.
    pub disk_stall_ms: Option<u64>,
    /// How long a stopping node works on handing over and on requests under way.
    pub shutdown_timeout_ms: u64,
    /// Between two flushes of the state to disk, after which the journal before
    /// it may go.
    pub flush_interval_ms: u64,
}

/// What the node prints.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// `error`, `warn`, `info` or `debug`, or a filter like
    /// `info,synod_transport=debug`.
    pub level: String,
    /// One JSON object a line instead of text.
    pub json: bool,
}

impl Default for TimingSettings {
    fn default() -> Self {
        TimingSettings {
            election_timeout_ms: 300,
            heartbeat_ms: 50,
            value_pace_us: 1_000,
            disk_stall_ms: None,
            shutdown_timeout_ms: 5_000,
            flush_interval_ms: 10_000,
        }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        LogSettings { level: "info".to_owned(), json: false }
    }
}

fn default_write_version() -> u32 {
    version::WRITTEN_BY_DEFAULT
}

fn default_cluster_name() -> String {
    "synod".to_owned()
}

/// Why the settings can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file can't be read.
    #[error("cannot read the settings file {}: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML, or has a key that is unknown, missing or of another
    /// type. The reason has the line and the key.
    #[error("{}: {reason}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// A value can't be used.
    #[error("{}: {field}: {reason}", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// The key, with its table.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A field and what is wrong with it.
pub(crate) type Wrong = (String, String);

impl Settings {
    /// Reads and checks a settings file.
    ///
    /// # Errors
    /// See [`SettingsError`]; each names the file and, where there is one, the
    /// field.
    pub fn load(file: &Path) -> Result<Settings, SettingsError> {
        let text = read_bounded(file)
            .map_err(|source| SettingsError::Unreadable { file: file.to_owned(), source })?;
        Self::parse(&text, file)
    }

    /// Checks the text of a settings file that was read from `file`.
    ///
    /// # Errors
    /// See [`SettingsError`].
    pub fn parse(text: &str, file: &Path) -> Result<Settings, SettingsError> {
        let mut settings: Settings = toml::from_str(text).map_err(|error| {
            let reason = error.to_string().trim_end().to_owned();
            SettingsError::Malformed { file: file.to_owned(), reason }
        })?;
        settings.file = file.to_owned();
        if settings.data_dir.is_relative() {
            let folder = file.parent().unwrap_or(Path::new("."));
            settings.data_dir = folder.join(&settings.data_dir);
        }
        settings.check().map_err(|(field, reason)| SettingsError::Invalid {
            file: file.to_owned(),
            field,
            reason,
        })?;
        Ok(settings)
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        NodeId(self.node_id)
    }

    /// The cluster's id.
    ///
    /// # Panics
    /// When these settings were not checked.
    #[must_use]
    pub fn cluster_id(&self) -> u128 {
        parse_cluster_id(&self.cluster.id).expect("the settings were checked")
    }

    /// The configuration that `init` writes.
    ///
    /// # Panics
    /// When these settings were not checked.
    #[must_use]
    pub fn configuration(&self) -> Configuration {
        self.try_configuration().expect("the settings were checked")
    }

    /// The members in the order of their ids.
    #[must_use]
    pub fn members_by_id(&self) -> Vec<MemberSettings> {
        let mut members = self.members.clone();
        members.sort_by_key(|member| member.id);
        members
    }

    /// The time that makes a disk too slow to lead.
    #[must_use]
    pub fn disk_stall_ms(&self) -> u64 {
        self.timing.disk_stall_ms.unwrap_or(self.timing.election_timeout_ms)
    }

    fn check(&self) -> Result<(), Wrong> {
        if parse_cluster_id(&self.cluster.id).is_none() {
            return wrong("cluster.id", "must be 32 hexadecimal digits and not only zeros");
        }
        if self.cluster.name.is_empty() || self.cluster.name.len() > 64 {
            return wrong("cluster.name", "must have 1 to 64 bytes");
        }
        if self.data_dir.as_os_str().is_empty() {
            return wrong("data_dir", "must name a folder");
        }
        if !(version::OLDEST..=version::NEWEST).contains(&self.write_version) {
            let (oldest, newest) = (version::OLDEST, version::NEWEST);
            let reason =
                format!("must be {oldest} to {newest}, which is all that this release knows");
            return wrong("write_version", &reason);
        }
        self.check_addresses()?;
        self.check_members()?;
        self.timing.check()?;
        self.limits.check()?;
        self.snapshot.check()?;
        self.history.check()?;
        self.scrub.check()?;
        if self.log.level.is_empty() {
            return wrong("log.level", "must be error, warn, info, debug or a filter");
        }
        Ok(())
    }

    fn check_addresses(&self) -> Result<(), Wrong> {
        check_address("client.listen", &self.client.listen)?;
        check_address("peer.listen", &self.peer.listen)?;
        if self.client.listen == self.peer.listen && !self.client.listen.ends_with(":0") {
            return wrong("peer.listen", "is the same address as client.listen");
        }
        Ok(())
    }

    fn check_members(&self) -> Result<(), Wrong> {
        for (index, member) in self.members.iter().enumerate() {
            check_member(index, member)?;
        }
        let peers: BTreeSet<&str> = self.members.iter().map(|member| &*member.peer).collect();
        if peers.len() < self.members.len() {
            return wrong("members", "two members have the same peer address");
        }
        if !self.members.iter().any(|member| member.id == self.node_id) {
            let reason = format!("{} is not among the members", self.node_id);
            return wrong("node_id", &reason);
        }
        self.try_configuration().map(drop).map_err(|error| {
            let (field, reason) = match error {
                ConfigurationError::MemberCount => (
                    "members",
                    format!("there must be 1 to {} of them", Configuration::MEMBERS_MAX),
                ),
                ConfigurationError::MemberIds => {
                    ("members", "ids must differ and must not be 0".to_owned())
                }
                ConfigurationError::Quorums => (
                    "cluster.promise_quorum",
                    "each quorum must be 1 to all members, and both together more than all"
                        .to_owned(),
                ),
                ConfigurationError::Alpha => {
                    ("cluster.alpha", format!("must be 1 to {}", Configuration::ALPHA_MAX))
                }
                ConfigurationError::About => unreachable!("settings say nothing about members"),
            };
            (field.to_owned(), reason)
        })
    }

    fn try_configuration(&self) -> Result<Configuration, ConfigurationError> {
        let members: Vec<NodeId> = self.members.iter().map(|member| NodeId(member.id)).collect();
        let majority = members.len() / 2 + 1;
        Configuration::new(
            members,
            self.cluster.promise_quorum.unwrap_or(majority),
            self.cluster.accept_quorum.unwrap_or(majority),
            self.cluster.alpha.unwrap_or(Configuration::ALPHA_DEFAULT),
        )
    }
}

impl TimingSettings {
    fn check(&self) -> Result<(), Wrong> {
        within("timing.election_timeout_ms", self.election_timeout_ms, 50, 60_000)?;
        within("timing.heartbeat_ms", self.heartbeat_ms, 5, 20_000)?;
        if self.heartbeat_ms.saturating_mul(3) > self.election_timeout_ms {
            let reason = "must be at most a third of timing.election_timeout_ms, \
                          or one lost heartbeat unseats a leader";
            return wrong("timing.heartbeat_ms", reason);
        }
        within("timing.value_pace_us", self.value_pace_us, 0, 100_000)?;
        if let Some(stall) = self.disk_stall_ms {
            within("timing.disk_stall_ms", stall, 10, 600_000)?;
        }
        within("timing.shutdown_timeout_ms", self.shutdown_timeout_ms, 100, 600_000)?;
        within("timing.flush_interval_ms", self.flush_interval_ms, 100, 3_600_000)
    }
}

/// Refuses a number outside of its bounds.
pub(crate) fn within(field: &str, value: u64, min: u64, max: u64) -> Result<(), Wrong> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    wrong(field, &format!("{value} is not within {min} to {max}"))
}

pub(crate) fn wrong<T>(field: &str, reason: &str) -> Result<T, Wrong> {
    Err((field.to_owned(), reason.to_owned()))
}

/// The text of a file of at most [`FILE_BYTES_MAX`]. Of a longer one no more is read:
/// what is named by mistake may be a disk.
fn read_bounded(file: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    fs::File::open(file)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        let reason = format!("it is longer than {} KiB", FILE_BYTES_MAX >> 10);
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, reason));
    }
    Ok(text)
}

fn parse_cluster_id(text: &str) -> Option<u128> {
    let digits: String = text.chars().filter(|digit| *digit != '-').collect();
    let is_hex = digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if !is_hex {
        return None;
    }
    u128::from_str_radix(&digits, 16).ok().filter(|id| *id != 0)
}

/// Host and port; names are looked up when they are used.
fn check_address(field: &str, address: &str) -> Result<(), Wrong> {
    let parts = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    let is_valid = parts.is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if is_valid {
        return Ok(());
    }
    wrong(field, &format!("{address:?} is not an address and a port, such as 127.0.0.1:7001"))
}

/// What the calls about members take, too: a configuration has room for no more.
fn check_member(index: usize, member: &MemberSettings) -> Result<(), Wrong> {
    let (peer, url) = (&member.peer, &member.client_url);
    if !synod_api::is_peer_address(peer) {
        let reason = format!(
            "{peer:?} is not a host and a port, such as 10.0.0.4:7011, of 261 bytes at the most"
        );
        return wrong(&format!("members[{index}].peer"), &reason);
    }
    if !synod_api::is_client_url(url) {
        let reason = format!(
            "{url:?} is not a base URL, such as http://127.0.0.1:7001, of 512 bytes at the most"
        );
        return wrong(&format!("members[{index}].client_url"), &reason);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
node_id = 2
data_dir = "data"

[cluster]
id = "0123456789abcdef-0123456789abcdef"

[client]
listen = "127.0.0.1:7002"

[peer]
listen = "127.0.0.1:7012"

[[members]]
id = 1
peer = "127.0.0.1:7011"
client_url = "http://127.0.0.1:7001"

[[members]]
id = 2
peer = "127.0.0.1:7012"
client_url = "http://127.0.0.1:7002"

[[members]]
id = 3
peer = "three.example:7013"
client_url = "http://127.0.0.1:7003"
"#;

    fn parse(text: &str) -> Result<Settings, SettingsError> {
        Settings::parse(text, Path::new("/etc/synod/two.toml"))
    }

    #[test]
    fn a_file_that_is_no_settings_file_is_not_read_to_its_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("synod.toml");
        let limit = usize::try_from(FILE_BYTES_MAX).expect("small");
        let comment = |bytes: usize| format!("{GOOD}#{}", "c".repeat(bytes - GOOD.len() - 1));
        fs::write(&file, comment(limit)).expect("written");
        Settings::load(&file).expect("good");
        fs::write(&file, comment(limit + 1)).expect("written");
        let message = Settings::load(&file).expect_err("too long").to_string();
        assert!(message.contains("longer than 256 KiB"), "{message}");
        let message = Settings::load(Path::new("/dev/zero")).expect_err("endless").to_string();
        assert!(message.contains("/dev/zero"), "{message}");
    }

    #[test]
    fn a_short_file_is_enough() {
        let settings = parse(GOOD).expect("good");
        assert_eq!(settings.data_dir, Path::new("/etc/synod/data"));
        assert_eq!(settings.cluster_id(), 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        assert_eq!(settings.configuration().accept_quorum(), 2);
        assert_eq!(settings.disk_stall_ms(), 300);
        assert_eq!(settings.log.level, "info");
    }

    /// What is replaced by what, and the words that the message must have.
    const WRONG: &[(&str, &str, &[&str])] = &[
        ("node_id = 2", "node_id = 4", &["node_id", "4 is not among the members"]),
        ("node_id = 2", "node_id = -1", &["line 2", "node_id"]),
        ("node_id = 2", "", &["node_id"]),
        ("node_id = 2", "node_id = 2\nwrite_version = 0", &["write_version", "must be 1 to"]),
        ("node_id = 2", "node_id = 2\nwrite_version = 99", &["write_version", "must be 1 to"]),
        ("node_id = 2", "node_id = 2\nnoed = 1", &["noed", "line 3"]),
        ("id = 1\n", "id = 3\n", &["members", "differ"]),
        ("id = 1\n", "id = 0\n", &["members", "not be 0"]),
        ("0123456789abcdef-", "", &["cluster.id", "32 hexadecimal"]),
        ("id = \"0123456789abcdef-0123456789abcdef\"", "", &["cluster", "id"]),
        ("listen = \"127.0.0.1:7002\"", "listen = \"7002\"", &["client.listen", "7002"]),
        ("listen = \"127.0.0.1:7002\"", "listen = \"127.0.0.1:7012\"", &["peer.listen", "same"]),
        ("listen = \"127.0.0.1:7012\"", "listen = \"a:70000\"", &["peer.listen"]),
        ("three.example:7013", "127.0.0.1:7011", &["members", "same peer address"]),
        ("three.example:7013", "three", &["members[2].peer", "three"]),
        ("three.example:7013", "three:0", &["members[2].peer", "three:0"]),
        ("three.example:7013", "thr\u{e9}:7013", &["members[2].peer"]),
        ("http://127.0.0.1:7003", "127.0.0.1:7003", &["members[2].client_url"]),
        ("http://127.0.0.1:7003", "http://a/b", &["members[2].client_url"]),
        ("[client]", "[timing]\nheartbeat_ms = 200\n[client]", &["timing.heartbeat_ms", "third"]),
        (
            "[client]",
            "[timing]\nelection_timeout_ms = 5\n[client]",
            &["timing.election_timeout_ms", "50 to 60000"],
        ),
        ("[client]", "[timing]\nheartbeat = 5\n[client]", &["heartbeat", "unknown field"]),
        ("[client]", "[log]\nlevel = \"\"\n[client]", &["log.level"]),
        ("[client]", "[limits]\nkey_bytes_max = 0\n[client]", &["limits.key_bytes_max"]),
        ("[client]", "[limits]\ntxn_operations_max = 0\n[client]", &["limits.txn_operations_max"]),
        (
            "[client]",
            "[limits]\ntxn_operations_max = 1025\n[client]",
            &["limits.txn_operations_max", "is not within 1 to 1024"],
        ),
        (
            "[client]",
            "[limits]\nvalue_bytes_max = 99999999\n[client]",
            &["limits.value_bytes_max", "is not within"],
        ),
        ("[client]\n", "promise_quorum = 1\n[client]\n", &["cluster.promise_quorum", "both"]),
        ("[client]\n", "alpha = 0\n[client]\n", &["cluster.alpha"]),
        ("[client]", "[client]\nadvertise = \"http://a:1\"", &["advertise", "unknown field"]),
        ("[client]", "[client", &["line"]),
    ];

    #[test]
    fn addresses_are_as_long_as_a_configuration_has_room_for() {
        let with = |peer: usize, url: usize| {
            let peer = format!("{}:7013", "h".repeat(peer - ":7013".len()));
            let url = format!("http://{}", "h".repeat(url - "http://".len()));
            let text = GOOD.replace("three.example:7013", &peer);
            parse(&text.replace("http://127.0.0.1:7003", &url)).map(drop)
        };
        with(261, 512).expect("as long as may be");
        let field = |result: Result<(), SettingsError>| result.expect_err("too long").to_string();
        assert!(field(with(262, 512)).contains("members[2].peer"));
        assert!(field(with(261, 513)).contains("members[2].client_url"));
    }

    #[test]
    fn wrong_settings_are_told_by_file_field_and_reason() {
        for (what, by, words) in WRONG {
            assert!(GOOD.contains(what), "the table is wrong about {what}");
            let message = match parse(&GOOD.replacen(what, by, 1)) {
                Ok(_) => panic!("{by:?} was taken"),
                Err(error) => error.to_string(),
            };
            assert!(message.starts_with("/etc/synod/two.toml: "), "{message}");
            for word in *words {
                assert!(message.contains(word), "{word:?} is missing in {message:?}");
            }
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_told() {
        let error = Settings::load(Path::new("/no/such/file")).expect_err("not there");
        let message = error.to_string();
        assert!(message.contains("/no/such/file") && message.contains("No such file"), "{message}");
    }
}
