//! A start that cannot work fails with one clear message and a non-zero code.

mod support;

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Output;

use support::cluster::{TestCluster, folder, synod};

/// The one message on standard error of a run that failed.
fn refusal(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "it should fail: {text}");
    assert!(!text.trim().is_empty(), "a failure without a word");
    assert!(!text.contains("panicked"), "{text}");
    text
}

fn serve(settings: &Path) -> Output {
    synod(&["serve", "--config", &settings.display().to_string()])
}

/// A stopped cluster of one node with settings to spoil.
fn stopped_cluster() -> TestCluster {
    let mut cluster = TestCluster::start(1);
    cluster.stop();
    cluster
}

fn change_settings(cluster: &TestCluster, change: impl FnOnce(String) -> String) {
    let path = cluster.settings_path(1);
    let text = fs::read_to_string(&path).expect("the settings");
    fs::write(&path, change(text)).expect("the settings");
}

#[test]
fn a_taken_client_port_is_named() {
    let cluster = stopped_cluster();
    let _taken = TcpListener::bind(cluster.client_addr(1)).expect("the port is free");
    let text = refusal(&serve(&cluster.settings_path(1)));
    assert!(text.contains(&cluster.client_addr(1).port().to_string()), "{text}");
}

#[test]
fn a_cluster_names_a_taken_port_before_it_writes_anything() {
    let base = support::ports::free_base_port();
    let port = base + 2;
    let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a listener");
    let folder = folder();
    let data_dir = folder.path().join("cluster").display().to_string();
    let output = synod(&["cluster", "--base-port", &base.to_string(), "--data-dir", &data_dir]);
    let text = refusal(&output);
    assert!(text.contains(&port.to_string()), "{text}");
    assert!(!Path::new(&data_dir).join("node-1").exists());
}

#[test]
fn a_missing_settings_file_is_named() {
    let text = refusal(&serve(Path::new("/no/such/settings.toml")));
    assert!(text.contains("/no/such/settings.toml"), "{text}");
}

#[test]
fn wrong_settings_are_named_with_their_field() {
    let cluster = stopped_cluster();
    change_settings(&cluster, |text| format!("colour = \"red\"\n{text}"));
    let text = refusal(&serve(&cluster.settings_path(1)));
    assert!(text.contains("colour"), "{text}");
    assert!(text.contains("synod.toml"), "{text}");
}

#[test]
fn settings_that_are_not_toml_are_named() {
    let folder = folder();
    let path = folder.path().join("synod.toml");
    fs::write(&path, b"\xff\xfe = [").expect("a file");
    let text = refusal(&serve(&path));
    assert!(text.contains("synod.toml"), "{text}");
}

/// A folder in which nothing is says the same as one that does not exist.
#[test]
fn a_folder_without_a_node_is_not_served() {
    let cluster = stopped_cluster();
    let data = cluster.settings_path(1).with_file_name("data");
    fs::remove_dir_all(&data).expect("the data");
    let missing = refusal(&serve(&cluster.settings_path(1)));
    assert!(!data.exists(), "no node was made");
    for words in
        ["holds no node", "`synod init`", "`synod member replace`", &*data.to_string_lossy()]
    {
        assert!(missing.contains(words), "{words:?} is missing in {missing}");
    }
    make_private(&data);
    let empty = refusal(&serve(&cluster.settings_path(1)));
    assert_eq!(empty, missing);
    assert!(!data.join("identity.json").exists(), "no node was made");
}

fn make_private(folder: &Path) {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().mode(0o700).create(folder).expect("made");
}

/// What a restore leaves that is killed while it writes the state.
#[test]
fn an_unfinished_restore_is_gone_on_with_and_nothing_else_is_made_of_it() {
    let mut cluster = TestCluster::start(1);
    let put = cluster.request(1, "PUT", "/v1/kv/key", &[], b"value");
    assert_eq!(put.status, 201, "{}", put.text());
    let (dir, path) = (folder(), cluster.settings_path(1));
    let file = dir.path().join("all.synod").display().to_string();
    assert!(synod(&["backup", &file, "--endpoints", &cluster.endpoints()]).status.success());
    cluster.stop();
    change_settings(&cluster, |text| {
        let id = text.lines().find(|line| line.starts_with("id = \"")).expect("an id").to_owned();
        text.replacen(&id, "id = \"feedfacefeedfacefeedfacefeedface\"", 1)
    });
    let data = path.with_file_name("data");
    fs::remove_dir_all(&data).expect("the data");
    make_private(&data);
    make_private(&data.join("state.new"));
    fs::write(data.join("state.new/000012.sst"), b"the first half").expect("written");

    let config = path.display().to_string();
    let words = "an unfinished restore: run `synod restore FILE --config ...` again";
    let inspect = || synod(&["inspect", "--data", &data.display().to_string()]);
    let looked = inspect();
    assert!(String::from_utf8_lossy(&looked.stdout).contains(words), "{looked:?}");
    let served = serve(&path);
    assert_eq!(served.status.code(), Some(1));
    for refused in [served, synod(&["init", "--config", &config])] {
        assert!(refusal(&refused).contains(words), "{refused:?}");
    }
    let restored = synod(&["restore", &file, "--config", &config]);
    assert!(restored.status.success(), "{restored:?}");
    let looked = inspect();
    assert!(looked.status.success(), "{looked:?}");
    let text = String::from_utf8_lossy(&looked.stdout).into_owned();
    assert!(text.contains("it goes on from what is here"), "{text}");
    // Who restores into it once more is told of what was asked for.
    let again = refusal(&synod(&["restore", &file, "--config", &config]));
    assert!(
        again.contains("`synod restore` never overwrites") && !again.contains("init"),
        "{again}"
    );
}

#[test]
fn a_damaged_identity_names_the_way_out() {
    let cluster = stopped_cluster();
    let data = cluster.settings_path(1).with_file_name("data");
    fs::write(data.join("identity.json"), b"{\"format\": 1").expect("written");
    let served = serve(&cluster.settings_path(1));
    assert_eq!(served.status.code(), Some(1));
    let looked = synod(&["inspect", "--data", &data.display().to_string()]);
    assert_eq!(looked.status.code(), Some(1));
    for text in [refusal(&served), String::from_utf8_lossy(&looked.stdout).into_owned()] {
        for words in
            ["identity.json: ", "`synod member replace OLD --config FILE`", "keep the folder"]
        {
            assert!(text.contains(words), "{words:?} is missing in {text}");
        }
    }
}

#[test]
fn a_data_folder_open_to_others_is_refused() {
    use std::os::unix::fs::PermissionsExt;

    let cluster = stopped_cluster();
    let data = cluster.settings_path(1).with_file_name("data");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).expect("permissions");
    let text = refusal(&serve(&cluster.settings_path(1)));
    assert!(text.contains("chmod"), "{text}");
}

#[test]
fn a_data_folder_in_use_is_refused() {
    let cluster = TestCluster::start(1);
    let other = folder();
    // The same data under other ports, so that only the folder can be in the way.
    let port = support::ports::free_base_port();
    let mut text = fs::read_to_string(cluster.settings_path(1)).expect("the settings");
    let base = cluster.client_addr(1).port() - 1;
    text = text.replace(&(base + 1).to_string(), &(port + 1).to_string());
    let data = cluster.settings_path(1).with_file_name("data").display().to_string();
    text = text.replace("data_dir = \"data\"", &format!("data_dir = \"{data}\""));
    text = text.replace(&(base + 11).to_string(), &(port + 11).to_string());
    let path = other.path().join("synod.toml");
    fs::write(&path, text).expect("a file");
    let message = refusal(&serve(&path));
    assert!(message.contains("in use") || message.contains("process"), "{message}");
}

#[test]
fn a_data_folder_of_another_node_is_refused() {
    let mut cluster = TestCluster::start(3);
    cluster.stop();
    let mine = cluster.settings_path(1).with_file_name("data");
    let theirs = cluster.settings_path(2).with_file_name("data");
    fs::remove_dir_all(&mine).expect("the data");
    fs::rename(&theirs, &mine).expect("the folder");
    let text = refusal(&serve(&cluster.settings_path(1)));
    assert!(text.contains("belongs to node 2, but"), "{text}");
}

#[test]
fn a_data_folder_of_another_cluster_is_refused() {
    let one = stopped_cluster();
    let other = stopped_cluster();
    let mine = one.settings_path(1).with_file_name("data");
    fs::remove_dir_all(&mine).expect("the data");
    fs::rename(other.settings_path(1).with_file_name("data"), &mine).expect("the folder");
    let text = refusal(&serve(&one.settings_path(1)));
    assert!(text.contains("belongs to cluster "), "{text}");
}

#[test]
fn init_does_not_overwrite_a_node() {
    let cluster = stopped_cluster();
    let path = cluster.settings_path(1).display().to_string();
    refusal(&synod(&["init", "--config", &path]));
    assert!(cluster.settings_path(1).with_file_name("data").read_dir().expect("data").count() > 0);
}

/// The folder of a node that joined is gone, and its settings name it alone.
#[test]
fn init_founds_no_cluster_of_one_that_is_not_asked_for() {
    let cluster = stopped_cluster();
    let path = cluster.settings_path(1);
    let data = path.with_file_name("data");
    let (settings, config) = (path.display().to_string(), ["init", "--config"]);
    let init = |more: &[&str]| synod(&[&config[..], &[&settings], more].concat());
    fs::remove_dir_all(&data).expect("the data");
    change_settings(&cluster, |text| {
        let changed =
            text.replace("node_id = 1\n", "node_id = 4\n").replace("\nid = 1\n", "\nid = 4\n");
        assert_eq!(text.matches('1').count(), changed.matches('1').count() + 2, "{text}");
        changed
    });
    let text = refusal(&init(&[]));
    assert!(text.contains("member replace 4") && text.contains("--alone"), "{text}");
    assert!(!data.exists());
    assert!(init(&["--alone"]).status.success());
    // The first one is a cluster of its own as ever.
    fs::remove_dir_all(&data).expect("the data");
    change_settings(&cluster, |text| {
        text.replace("node_id = 4\n", "node_id = 1\n").replace("\nid = 4\n", "\nid = 1\n")
    });
    assert!(init(&[]).status.success());
}

#[test]
fn another_shape_of_the_local_cluster_is_refused() {
    let cluster = stopped_cluster();
    let data_dir = cluster.data_dir().display().to_string();
    let output = synod(&["cluster", "--nodes", "5", "--data-dir", &data_dir]);
    let text = refusal(&output);
    assert!(text.contains("--fresh"), "{text}");
    assert_eq!(output.status.code(), Some(2));
}
