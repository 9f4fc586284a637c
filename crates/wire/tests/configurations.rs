//! Configurations come back as they went, and nothing impossible comes in.

mod samples;

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use samples::{about, any_configuration};
use synod_paxos::{Configuration, Configurations, NodeId, Reign, Slot};
use synod_wire::About;
use synod_wire::configuration::{
    CONFIGURATION_BYTES_MAX, decode, decode_reigns, encode, encode_reigns,
};

proptest! {
    #[test]
    fn a_configuration_comes_back(configuration in any_configuration()) {
        let encoded = encode(&configuration);
        prop_assert!(encoded.len() <= CONFIGURATION_BYTES_MAX);
        prop_assert_eq!(decode(encoded.clone()), Ok(configuration));
        for end in 0..encoded.len() {
            prop_assert!(decode(encoded.slice(..end)).is_err(), "cut at {}", end);
        }
    }

    /// Whatever the bytes are, what comes in could also have been made here.
    #[test]
    fn a_changed_byte_makes_an_error_or_another_possible_configuration(
        configuration in any_configuration(), at in any::<usize>(), change in 1..=255_u8,
    ) {
        let mut bytes = encode(&configuration).to_vec();
        let at = at % bytes.len();
        bytes[at] ^= change;
        if let Ok(other) = decode(Bytes::from(bytes)) {
            prop_assert_ne!(&other, &configuration);
            let (q1, q2) = (other.promise_quorum(), other.accept_quorum());
            prop_assert!(q1 + q2 > other.voters().len());
            prop_assert!(other.members().len() <= Configuration::MEMBERS_MAX);
        }
    }
}

fn reign(from: u64, number: u64) -> Reign {
    let configuration = Configuration::majority(vec![NodeId(1), NodeId(2)], 8).unwrap();
    Reign { from: Slot(from), configuration: Arc::new(configuration.numbered(number)) }
}

#[test]
fn the_configurations_of_a_state_come_back_and_must_follow_each_other() {
    for reigns in [vec![reign(1, 0)], vec![reign(7, 3), reign(15, 4)]] {
        let encoded = encode_reigns(&reigns);
        let restored = decode_reigns(encoded.clone()).unwrap();
        assert_eq!(restored.reigns(), reigns);
        for end in 0..encoded.len() {
            assert!(decode_reigns(encoded.slice(..end)).is_err(), "cut at {end}");
        }
    }
    let wrong = [
        vec![],
        vec![reign(7, 3), reign(15, 5)],
        vec![reign(15, 3), reign(7, 4)],
        vec![reign(7, 3), reign(7, 4)],
        vec![reign(1, 0), reign(2, 1), reign(3, 2)],
    ];
    for reigns in wrong {
        let encoded = encode_reigns(&reigns);
        assert!(decode_reigns(encoded).is_err(), "{reigns:?}");
    }
    assert!(Configurations::restore(Vec::new()).is_err());
}

#[test]
fn what_is_said_about_members_comes_back() {
    assert_eq!(About::decode(&Bytes::new()), Ok(About::default()));
    let encoded = about().encode();
    assert_eq!(About::decode(&encoded), Ok(about()));
    for end in 1..encoded.len() {
        assert!(About::decode(&encoded.slice(..end)).is_err(), "cut at {end}");
    }
    let longer = Bytes::from([&encoded[..], &[0]].concat());
    assert!(About::decode(&longer).is_err());
    // No address that could not be printed, or stand in a header.
    let at = encoded.windows(4).position(|bytes| bytes == b"http").expect("a URL");
    let mut damaged = encoded.to_vec();
    damaged[at] = b'\n';
    assert!(About::decode(&Bytes::from(damaged)).is_err());
    // Nobody twice.
    let mut twice = about();
    twice.members[1].node = NodeId(twice.members[0].node.0 + 1);
    let mut bytes = twice.encode().to_vec();
    bytes[9..13].copy_from_slice(&twice.members[1].node.0.to_le_bytes());
    assert!(About::decode(&Bytes::from(bytes)).is_err());
}
