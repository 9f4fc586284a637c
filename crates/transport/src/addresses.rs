//! Where a peer is dialled.

/// The address of a peer and, until it has answered there, the one before it and a spare
/// one. People make mistakes: an address that nobody answers at must not cost the one that
/// works.
#[derive(Debug)]
pub(crate) struct Addresses {
    newest: String,
    earlier: Option<String>,
    spare: Option<String>,
}

impl Addresses {
    pub(crate) fn new(newest: String, spare: Option<String>) -> Self {
        Addresses { newest, earlier: None, spare }
    }

    pub(crate) fn newest(&self) -> &str {
        &self.newest
    }

    /// The address for the dial of this number: all of them in turn, the newest one first.
    pub(crate) fn of_dial(&self, dial: u32) -> &str {
        let others = [&self.earlier, &self.spare];
        let others = others.into_iter().filter_map(Option::as_deref);
        let others = others.filter(|other| *other != self.newest);
        let count = 1 + others.clone().count();
        let turn = dial as usize % count;
        std::iter::once(self.newest()).chain(others).nth(turn).expect("within the count")
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
            (self.earlier, self.spare) = (None, None);
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
        let mut addresses = Addresses::new("a".into(), None);
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

    #[test]
    fn the_spare_address_is_dialled_until_the_newest_has_answered() {
        let mut addresses = Addresses::new("a".into(), Some("s".into()));
        assert_eq!(dialled(&addresses), ["a", "s", "a"]);
        addresses.answered("s");
        assert_eq!(dialled(&addresses), ["a", "s", "a"]);
        assert!(addresses.set("b"));
        assert_eq!(dialled(&addresses), ["b", "a", "s"]);
        // It is told that the peer is where the spare one says.
        assert!(addresses.set("s"));
        assert_eq!(dialled(&addresses), ["s", "a", "s"]);
        addresses.answered("s");
        assert!(addresses.set("c"));
        assert_eq!(dialled(&addresses), ["c", "s", "c"]);
        addresses.answered("c");
        assert_eq!(dialled(&addresses), ["c"; 3]);
        let same = Addresses::new("a".into(), Some("a".into()));
        assert_eq!(dialled(&same), ["a"; 3]);
    }
}
