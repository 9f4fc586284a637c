//! Where a peer is dialled.

/// The address of a peer and, until it has answered there, the one before it. People make
/// mistakes: an address that nobody answers at must not cost the one that works.
#[derive(Debug)]
pub(crate) struct Addresses {
    newest: String,
    earlier: Option<String>,
}

impl Addresses {
    pub(crate) fn new(address: String) -> Self {
        Addresses { newest: address, earlier: None }
    }

    pub(crate) fn newest(&self) -> &str {
        &self.newest
    }

    /// The address for the dial of this number: the newest one and the earlier one in turn.
    pub(crate) fn of_dial(&self, dial: u32) -> &str {
        let earlier = self.earlier.as_deref().filter(|_| dial % 2 == 1);
        earlier.unwrap_or(&self.newest)
    }

    /// The peer has moved. Says whether that is another address.
    pub(crate) fn set(&mut self, address: &str) -> bool {
        if self.newest == address {
            return false;
        }
        let before = std::mem::replace(&mut self.newest, address.to_owned());
        // Of several moves in a row the one address counts that the peer answered at.
        let earlier = self.earlier.take().unwrap_or(before);
        self.earlier = Some(earlier).filter(|earlier| earlier != address);
        true
    }

    /// The peer has shaken hands at this address.
    pub(crate) fn answered(&mut self, address: &str) {
        if self.newest == address {
            self.earlier = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialled(addresses: &Addresses) -> [&str; 3] {
        [0, 1, 2].map(|dial| addresses.of_dial(dial))
    }

    #[test]
    fn the_earlier_address_is_dialled_until_the_newest_has_answered() {
        let mut addresses = Addresses::new("a".into());
        assert_eq!(dialled(&addresses), ["a"; 3]);
        assert!(!addresses.set("a") && addresses.set("b"));
        assert_eq!(dialled(&addresses), ["b", "a", "b"]);
        addresses.answered("a");
        assert!(addresses.set("c"));
        assert_eq!(dialled(&addresses), ["c", "a", "c"]);
        addresses.answered("c");
        assert_eq!(dialled(&addresses), ["c"; 3]);
        assert!(addresses.set("d") && addresses.set("c"));
        assert_eq!(dialled(&addresses), ["c"; 3]);
    }
}
