//! Which nodes a subcommand talks to.

use std::path::Path;

use crate::arguments::{BASE_PORT_DEFAULT, DATA_DIR_DEFAULT};
use crate::cluster::{Description, FILE_NAME};
use crate::output::warn;

/// Those given, else those of the local cluster in the default data folder,
/// else the first node of a local cluster with the default ports.
pub(crate) fn resolve(given: &[String]) -> Vec<String> {
    let named: Vec<String> =
        given.iter().map(|url| url.trim().to_owned()).filter(|url| !url.is_empty()).collect();
    if !named.is_empty() {
        return named;
    }
    local(Path::new(DATA_DIR_DEFAULT))
        .unwrap_or_else(|| vec![format!("http://127.0.0.1:{}", BASE_PORT_DEFAULT + 1)])
}

fn local(data_dir: &Path) -> Option<Vec<String>> {
    let path = data_dir.join(FILE_NAME);
    if !path.exists() {
        return None;
    }
    let described = Description::read(&path);
    let description = described.map_err(|failure| warn(&format!("synod: {failure}"))).ok()?;
    let urls: Vec<String> = description.nodes.into_iter().map(|node| node.client_url).collect();
    (!urls.is_empty()).then_some(urls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_counts() {
        let given = [" http://a:1 ".to_owned(), String::new(), "http://b:2".to_owned()];
        assert_eq!(resolve(&given), ["http://a:1", "http://b:2"]);
    }

    #[test]
    fn the_local_cluster_is_found_by_its_description() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(local(folder.path()), None);
        let text = r#"{"nodes": [{"id": 1, "pid": null, "client_url": "http://127.0.0.1:9001",
            "peer_addr": "127.0.0.1:9011", "data_dir": "/d"}]}"#;
        std::fs::write(folder.path().join(FILE_NAME), text).expect("a file");
        assert_eq!(local(folder.path()), Some(vec!["http://127.0.0.1:9001".to_owned()]));
    }
}
