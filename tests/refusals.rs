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

#[test]
fn an_empty_data_folder_is_not_served() {
    let cluster = stopped_cluster();
    let data = cluster.settings_path(1).with_file_name("data");
    for entry in fs::read_dir(&data).expect("the data") {
        let path = entry.expect("an entry").path();
        let removed =
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.expect("the data");
    }
    let text = refusal(&serve(&cluster.settings_path(1)));
    assert!(text.contains("init"), "{text}");
    assert!(!data.join("identity.json").exists(), "no node was made");
}

#[test]
fn a_missing_data_folder_is_named() {
    let cluster = stopped_cluster();
    let data = cluster.settings_path(1).with_file_name("data");
    fs::remove_dir_all(&data).expect("the data");
    let text = refusal(&serve(&cluster.settings_path(1)));
    assert!(text.contains(&data.display().to_string()), "{text}");
    assert!(!data.exists(), "no node was made");
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
