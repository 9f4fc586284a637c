//! The store ids that peers had at first contact and have to keep. A peer that
//! comes back with another one lost its votes, and must not vote under its id.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use synod_paxos::NodeId;
use synod_transport::Pin;

use crate::folder::{self, Folder, FolderError};
use crate::identity::parse_id;
use crate::identity_error::IdentityError;

const FILE: &str = "members.json";

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    members: Vec<WrittenPin>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPin {
    node_id: u32,
    store_id: String,
}

/// The pins of one node, and the file that keeps them.
#[derive(Debug)]
pub(crate) struct Pins {
    folder: PathBuf,
    stores: BTreeMap<NodeId, u128>,
}

impl Pins {
    pub(crate) fn open(folder: &Folder) -> Result<Pins, IdentityError> {
        Pins::read(folder.path())
    }

    /// [`Pins::open`] for whoever has only the path.
    pub(crate) fn read(path: &Path) -> Result<Pins, IdentityError> {
        let mut stores = BTreeMap::new();
        if let Some(content) = folder::read(path, FILE)? {
            let damaged = |reason| IdentityError::Pins { file: path.join(FILE), reason };
            let written: Written =
                serde_json::from_slice(&content).map_err(|error| damaged(error.to_string()))?;
            for pin in written.members {
                let store = parse_id(&pin.store_id).map_err(damaged)?;
                stores.insert(NodeId(pin.node_id), store);
            }
        }
        Ok(Pins { folder: path.to_owned(), stores })
    }

    pub(crate) fn list(&self) -> Vec<Pin> {
        self.stores.iter().map(|(node, store)| Pin { node: *node, store: *store }).collect()
    }

    /// Keeps the store id of a peer that was met for the first time, durably.
    pub(crate) fn keep(&mut self, node: NodeId, store: u128) -> Result<(), FolderError> {
        self.stores.insert(node, store);
        let pin = |(node, store): (&NodeId, &u128)| WrittenPin {
            node_id: node.0,
            store_id: format!("{store:032x}"),
        };
        let written = Written { members: self.stores.iter().map(pin).collect() };
        let mut text = serde_json::to_vec_pretty(&written).expect("plain fields");
        text.push(b'\n');
        folder::replace(&self.folder, FILE, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_survives() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = Folder::create(&dir.path().join("data")).expect("made");
        let mut pins = Pins::open(&folder).expect("none yet");
        assert_eq!(pins.list(), vec![]);
        pins.keep(NodeId(3), 77).expect("kept");
        pins.keep(NodeId(2), u128::MAX).expect("kept");
        let pin = |node, store| Pin { node: NodeId(node), store };
        let found = Pins::open(&folder).expect("there").list();
        assert_eq!(found, vec![pin(2, u128::MAX), pin(3, 77)]);
        folder.replace(FILE, b"{\"members\":[{\"node_id\":2}]}").expect("written");
        assert!(Pins::open(&folder).is_err());
    }
}
