//! The settings files of a local cluster's nodes.

use std::fmt::Write as _;

use super::layout::Place;

/// The settings of the node at `place`, one of `places`. What a node does by
/// itself stays unsaid, so a local cluster runs with the defaults.
pub(crate) fn text(cluster_id: &str, place: &Place, places: &[Place]) -> String {
    let mut text = format!(
        "# Written by `synod cluster`. What may be added is explained in\n\
         # config/production.toml of the source tree.\n\
         node_id = {}\n\
         data_dir = \"data\"\n\
         \n\
         [cluster]\n\
         id = \"{cluster_id}\"\n\
         name = \"local\"\n\
         \n\
         [client]\n\
         listen = \"{}\"\n\
         \n\
         [peer]\n\
         listen = \"{}\"\n",
        place.id, place.client_addr, place.peer_addr
    );
    for member in places {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n[[members]]\nid = {}\npeer = \"{}\"\nclient_url = \"{}\"\n",
            member.id,
            member.peer_addr,
            member.client_url()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use synod_node::Settings;

    use super::*;

    #[test]
    fn a_node_can_load_what_is_written() {
        let place = |id: u32| Place {
            id,
            client_addr: format!("127.0.0.1:700{id}").parse().expect("an address"),
            peer_addr: format!("127.0.0.1:701{id}").parse().expect("an address"),
            folder: PathBuf::from(format!("/srv/node-{id}")),
        };
        let places = [place(1), place(2), place(3)];
        let written = text(&"0f".repeat(16), &places[1], &places);
        let file = places[1].settings_path();
        let settings = Settings::parse(&written, &file).expect("valid settings");
        assert_eq!(settings.node_id, 2);
        assert_eq!(settings.data_dir, Path::new("/srv/node-2/data"));
        assert_eq!(settings.members.len(), 3);
        assert_eq!(settings.members[2].client_url, "http://127.0.0.1:7003");
    }
}
