//! What is evidence that a peer's process is gone, and what is not.

mod peers;

use peers::*;
use synod_paxos::NodeId;
use synod_transport::{IncomingEvent, Limits};
use synod_wire::Handshake;

/// So many failed dials are more than a burst, so evidence would have been told.
const ENOUGH_DIALS: u64 = 20;

/// How long a dial waits for an answer that does not come. Both ends are on one
/// thread, and answers that do come must not be late when the machine is busy.
const SILENCE_MS: u64 = 150;

fn is_death(event: &IncomingEvent) -> bool {
    *event == IncomingEvent::PeerDied(NodeId(2))
}

#[test]
fn a_process_that_ends_is_told_once_for_each_of_its_deaths() {
    run(async {
        let ((first, first_address), (second, second_address)) = (listener(), listener());
        let mut first = Node::start(settings(1, &[(2, &second_address)], limits()), first);
        let mut second = Some(second);
        for life in 1..=3 {
            let listener = second.take().unwrap_or_else(|| {
                std::net::TcpListener::bind(&second_address).expect("the port is free again")
            });
            let mut settings = settings(2, &[(1, &first_address)], limits());
            settings.own.incarnation = life;
            let node = Node::start(settings, listener);
            first.connected_to(2).await;
            drop(node);
            first.wait_for(is_death).await;
            let failed = first.peer_metrics().dials_failed;
            first.metrics_where(|metrics| metrics.dials_failed >= failed + ENOUGH_DIALS).await;
            assert_eq!(first.peer_metrics().deaths, life);
        }
    });
}

#[test]
fn a_connection_that_breaks_while_the_listener_lives_is_no_evidence() {
    run(async {
        let fake = FakePeer::new();
        let mut node = Node::start(settings(1, &[(2, &fake.address)], limits()), listener().0);
        for round in 0..6 {
            let (control, bulk) = fake.accept_both().await;
            node.connected_to(2).await;
            if round % 2 == 0 {
                reset(control);
                reset(bulk);
            } else {
                drop((control, bulk));
            }
            node.wait_for(|event| *event == IncomingEvent::Disconnected(NodeId(2))).await;
        }
        assert_eq!(node.peer_metrics().deaths, 0);
    });
}

#[test]
fn a_peer_that_was_never_there_did_not_die() {
    run(async {
        let (gone, address) = listener();
        drop(gone);
        let mut node = Node::start(settings(1, &[(2, &address)], limits()), listener().0);
        node.metrics_where(|metrics| metrics.dials_failed >= ENOUGH_DIALS).await;
        assert_eq!(node.leftover(), []);
    });
}

#[test]
fn silence_after_a_closed_connection_is_no_evidence() {
    run(async {
        let fake = FakePeer::new();
        let limits = Limits { handshake_timeout_ms: SILENCE_MS, ..limits() };
        let mut node = Node::start(settings(1, &[(2, &fake.address)], limits), listener().0);
        let lanes = fake.accept_both().await;
        node.connected_to(2).await;
        // The listener still takes connections, as that of a stopped process does,
        // but nobody answers.
        drop(lanes);
        node.metrics_where(|metrics| metrics.dials_failed >= ENOUGH_DIALS).await;
        assert_eq!(node.peer_metrics().deaths, 0);
    });
}

#[test]
fn a_silent_dial_among_the_refusals_spoils_the_evidence() {
    run(async {
        let fake = FakePeer::new();
        let limits = Limits { handshake_timeout_ms: SILENCE_MS, ..limits() };
        let mut node = Node::start(settings(1, &[(2, &fake.address)], limits), listener().0);
        let lanes = fake.accept_both().await;
        node.connected_to(2).await;
        drop(lanes);
        node.metrics_where(|metrics| metrics.dials_failed >= 4).await;
        // Each lane has dialled in silence at least once; from now on refusals.
        drop(fake);
        node.metrics_where(|metrics| metrics.dials_failed >= ENOUGH_DIALS).await;
        let (deaths, events) = (node.peer_metrics().deaths, node.leftover());
        assert_eq!(deaths, 0, "{events:?}");
    });
}

#[test]
fn an_orderly_end_before_the_handshake_is_no_evidence() {
    run(async {
        let fake = FakePeer::new();
        let mut node = Node::start(settings(1, &[(2, &fake.address)], limits()), listener().0);
        let lanes = fake.accept_both().await;
        node.connected_to(2).await;
        drop(lanes);
        // So does a proxy whose backend is away.
        while node.peer_metrics().dials_failed < ENOUGH_DIALS {
            drop(fake.accept().await);
        }
        assert_eq!(node.peer_metrics().deaths, 0);
    });
}

#[test]
fn resets_before_the_handshake_are_evidence() {
    run(async {
        let fake = FakePeer::new();
        let mut node = Node::start(settings(1, &[(2, &fake.address)], limits()), listener().0);
        let lanes = fake.accept_both().await;
        node.connected_to(2).await;
        drop(lanes);
        let resets = async {
            loop {
                reset(fake.accept().await.1);
            }
        };
        tokio::select! {
            _ = node.wait_for(is_death) => {}
            () = resets => {}
        }
    });
}

#[test]
fn a_refused_handshake_after_a_closed_connection_is_no_evidence() {
    run(async {
        let fake = FakePeer::new();
        let mut node = Node::start(settings(1, &[(2, &fake.address)], limits()), listener().0);
        let lanes = fake.accept_both().await;
        node.connected_to(2).await;
        drop(lanes);
        let reason = synod_wire::RefusalReason::Cluster;
        while node.peer_metrics().dials_failed < ENOUGH_DIALS {
            let (_, mut stream) = fake.accept().await;
            let refusal = synod_wire::Refusal { reason, text: "another cluster".into() };
            send_handshake(&mut stream, Handshake::Refusal(refusal)).await;
        }
        assert_eq!(node.peer_metrics().deaths, 0);
    });
}
