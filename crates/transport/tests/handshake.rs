//! Who is let in, and what happens to everybody else.

mod peers;

use peers::*;
use synod_paxos::{Ballot, Message, NodeId, Position, Promise, Slot};
use synod_transport::{IncomingEvent, Limits, PeerAddress, Pin, Removed};
use synod_wire::{
    Facts, Handshake, Hello, Lane, PeerMessage, Refusal, RefusalReason, Versions, Welcome, frame,
    version,
};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Node 1, whose only peer is a node 2 that cannot be reached.
fn lonely(limits: Limits) -> (Node, String) {
    let (own, address) = listener();
    let (gone, gone_address) = listener();
    drop(gone);
    (Node::start(settings(1, &[(2, &gone_address)], limits), own), address)
}

fn reason(answer: Option<Handshake>) -> RefusalReason {
    match answer {
        Some(Handshake::Refusal(Refusal { reason, text })) => {
            assert!(text.len() > 40, "a reason that helps: {text}");
            reason
        }
        other => panic!("no refusal: {other:?}"),
    }
}

fn with(change: impl FnOnce(&mut Hello)) -> Hello {
    let mut hello = hello(2, 1);
    change(&mut hello);
    hello
}

/// What a release speaks that knows nothing of this one.
fn newer() -> Versions {
    Versions { oldest: version::NEWEST + 1, newest: version::NEWEST + 2 }
}

fn promise(round: u64) -> PeerMessage {
    PeerMessage::Paxos(Message::Promise(Promise {
        ballot: ballot(round),
        from: Slot(1),
        chosen_upto: Slot::ZERO,
        answer: 1,
        page: 0,
        pages: 1,
        accepted: Vec::new(),
    }))
}

fn ballot(round: u64) -> Ballot {
    Ballot { round, node: NodeId(3) }
}

#[test]
fn each_wrong_hello_is_refused_with_its_reason() {
    run(async {
        let (node, address) = lonely(limits());
        let strangers = [
            (RefusalReason::Protocol, with(|h| h.versions = newer())),
            (RefusalReason::Cluster, with(|h| h.facts.cluster = 9)),
            (
                RefusalReason::Cluster,
                with(|h| {
                    h.facts.cluster = 9;
                    h.versions = newer();
                }),
            ),
            (RefusalReason::Cluster, with(|h| h.facts.founded = Some(FOUNDED + 1))),
            (RefusalReason::Addressee, with(|h| h.to = NodeId(3))),
            (RefusalReason::Member, with(|h| h.facts.node = NodeId(9))),
            (RefusalReason::Member, with(|h| h.facts.node = NodeId(1))),
        ];
        for (expected, hello) in strangers {
            let (answer, mut stream) = dial_as(&address, hello).await;
            assert_eq!(reason(answer), expected);
            closed(&mut stream).await;
        }
        let metrics = node.transport.metrics();
        assert_eq!((metrics.accepted, metrics.handshakes_refused), (7, 7));
    });
}

#[test]
fn a_member_is_pinned_once_and_welcomed() {
    run(async {
        let (mut node, address) = lonely(limits());
        // A release from before says nothing of what its cluster began with.
        for (lane, founded) in
            [(Lane::Control, None), (Lane::Bulk, Some(FOUNDED)), (Lane::Control, Some(FOUNDED))]
        {
            let hello = with(|h| (h.lane, h.facts.founded) = (lane, founded));
            let (answer, _) = dial_as(&address, hello).await;
            let Some(Handshake::Welcome(Welcome { versions, facts })) = answer else {
                panic!("not welcome: {answer:?}");
            };
            let own = (facts.cluster, facts.node, facts.store, facts.incarnation);
            assert_eq!((versions, own), (Versions::default(), (CLUSTER, NodeId(1), store(1), 1)));
            assert_eq!(facts.founded, Some(FOUNDED));
        }
        let pinned = IncomingEvent::Pinned { node: NodeId(2), store: store(2) };
        assert_eq!(node.leftover(), [pinned]);
        // It lost its folder, and was founded anew from other settings: the first is the thing to say.
        let (answer, _) = dial_as(
            &address,
            with(|h| (h.facts.store, h.facts.founded) = (store(7), Some(FOUNDED + 1))),
        )
        .await;
        assert_eq!(reason(answer), RefusalReason::Store);
    });
}

#[test]
fn a_member_with_another_store_than_its_pin_is_refused() {
    run(async {
        let (own, address) = listener();
        let mut pinned = settings(1, &[(2, "127.0.0.1:1")], limits());
        pinned.pins = vec![Pin { node: NodeId(2), store: store(2) }];
        let mut node = Node::start(pinned, own);
        let (answer, _) = dial_as(&address, with(|h| h.facts.store = 99)).await;
        assert_eq!(reason(answer), RefusalReason::Store);
        let (answer, _) = dial_as(&address, hello(2, 1)).await;
        assert!(matches!(answer, Some(Handshake::Welcome(_))));
        assert_eq!(node.leftover(), [], "a known pin is not told again");
    });
}

#[test]
fn a_folder_that_went_back_in_time_is_refused() {
    run(async {
        let (_node, address) = lonely(limits());
        let life = |incarnation, round, position| {
            with(|h| {
                h.facts = Facts {
                    incarnation,
                    process: incarnation,
                    promised: ballot(round),
                    position: Position(position),
                    ..h.facts
                };
            })
        };
        assert!(matches!(dial_as(&address, life(5, 7, 70)).await.0, Some(Handshake::Welcome(_))));
        let refused = [
            (RefusalReason::WentBack, life(6, 6, 70)),
            (RefusalReason::WentBack, life(6, 7, 69)),
            (RefusalReason::Incarnation, life(4, 7, 70)),
            (
                RefusalReason::Incarnation,
                with(|h| h.facts = Facts { process: 1, ..life(5, 7, 70).facts }),
            ),
        ];
        for (expected, hello) in refused {
            assert_eq!(reason(dial_as(&address, hello).await.0), expected);
        }
        assert!(matches!(dial_as(&address, life(6, 7, 70)).await.0, Some(Handshake::Welcome(_))));
    });
}

#[test]
fn a_promise_that_was_sent_is_remembered_by_its_receiver() {
    run(async {
        let (mut node, address) = lonely(limits());
        let (_, mut stream) = dial_as(&address, hello(2, 1)).await;
        let promise = promise(9);
        let mut out = bytes::BytesMut::new();
        frame::encode(&promise, &mut out);
        stream.write_all(&out).await.unwrap();
        assert_eq!(node.message().await, (NodeId(2), promise));
        let next_life = |round| {
            with(|h| {
                h.facts.incarnation = 2;
                h.facts.process = 2;
                h.facts.promised = ballot(round);
            })
        };
        let (answer, _) = dial_as(&address, next_life(8)).await;
        assert_eq!(reason(answer), RefusalReason::WentBack);
        let (answer, _) = dial_as(&address, next_life(9)).await;
        assert!(matches!(answer, Some(Handshake::Welcome(_))));
    });
}

/// An older copy must not be let in because it went on alone for long enough.
#[test]
fn a_handshake_states_what_the_life_began_with() {
    run(async {
        let (own, address) = listener();
        let (_gone, gone_address) = listener();
        let mut settings = settings(1, &[(2, &gone_address)], limits());
        (settings.promised, settings.position) = (ballot(4), Position(41));
        let node = Node::start(settings, own);
        let stated = async || {
            let (answer, _) = dial_as(&address, hello(2, 1)).await;
            let Some(Handshake::Welcome(welcome)) = answer else {
                panic!("not welcome: {answer:?}")
            };
            (welcome.facts.promised, welcome.facts.position)
        };
        assert_eq!(stated().await, (ballot(4), Position(41)));
        node.transport.send(NodeId(2), &promise(9));
        assert_eq!(stated().await, (ballot(4), Position(41)));
    });
}

#[test]
fn a_new_life_ends_the_connections_of_the_one_before() {
    run(async {
        let (_node, address) = lonely(limits());
        let (_, mut control) = dial_as(&address, hello(2, 1)).await;
        let (_, mut bulk) = dial_as(&address, with(|h| h.lane = Lane::Bulk)).await;
        let next_life = with(|h| {
            h.facts.incarnation = 2;
            h.facts.process = 3;
        });
        let (answer, _next) = dial_as(&address, next_life).await;
        assert!(matches!(answer, Some(Handshake::Welcome(_))));
        closed(&mut control).await;
        closed(&mut bulk).await;
    });
}

#[test]
fn each_wrong_welcome_is_refused_by_the_dialling_node() {
    run(async {
        let wrong: [fn(&mut Welcome); 4] = [
            |w| w.versions = newer(),
            |w| w.facts.cluster = 9,
            |w| w.facts.node = NodeId(3),
            |w| w.facts.store = 99,
        ];
        for change in wrong {
            let fake = FakePeer::new();
            let mut pinned = settings(1, &[(2, &fake.address)], limits());
            pinned.pins = vec![Pin { node: NodeId(2), store: store(2) }];
            let mut node = Node::start(pinned, listener().0);
            let mut answer = welcome(2);
            change(&mut answer);
            for _ in 0..4 {
                let (_, mut stream) = fake.accept().await;
                send_handshake(&mut stream, Handshake::Welcome(answer.clone())).await;
                closed(&mut stream).await;
            }
            let metrics = node.peer_metrics();
            assert_eq!((metrics.connects, metrics.connected), (0, false));
            assert!(metrics.handshakes_refused >= 3);
            assert_eq!(node.leftover(), []);
        }
    });
}

#[test]
fn a_refused_node_dials_again_and_is_connected_when_the_reason_is_gone() {
    run(async {
        let fake = FakePeer::new();
        let mut node = Node::start(settings(1, &[(2, &fake.address)], limits()), listener().0);
        for _ in 0..4 {
            let (hello, mut stream) = fake.accept().await;
            assert_eq!((hello.facts.node, hello.to), (NodeId(1), NodeId(2)));
            let refusal = Refusal { reason: RefusalReason::Member, text: "not yet".into() };
            send_handshake(&mut stream, Handshake::Refusal(refusal)).await;
        }
        let _lanes = fake.accept_both().await;
        node.connected_to(2).await;
        assert!(node.peer_metrics().handshakes_refused >= 4);
    });
}

#[test]
fn garbage_on_the_port_is_cut_off_and_harms_nobody() {
    run(async {
        let (mut node, address) = lonely(limits());
        let (_, mut member) = dial_as(&address, hello(2, 1)).await;
        let mut no_hello = bytes::BytesMut::new();
        frame::encode(&small(1), &mut no_hello);
        let garbage: [&[u8]; 4] =
            [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", &[0; 64], &[0xFF; 64], &no_hello];
        for bytes in garbage {
            let mut stream = TcpStream::connect(&address).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            closed(&mut stream).await;
        }
        assert_eq!(node.transport.metrics().handshakes_failed, 4);
        member.write_all(&no_hello).await.unwrap();
        assert_eq!(node.message().await, (NodeId(2), small(1)));
    });
}

#[test]
fn a_silent_or_slow_stranger_is_cut_off_at_the_deadline() {
    run(async {
        let (node, address) = lonely(Limits { handshake_timeout_ms: 30, ..limits() });
        let mut silent = TcpStream::connect(&address).await.unwrap();
        let mut slow = TcpStream::connect(&address).await.unwrap();
        slow.write_all(&[0x53, 0xD1]).await.unwrap();
        closed(&mut silent).await;
        closed(&mut slow).await;
        assert_eq!(node.transport.metrics().handshakes_failed, 2);
    });
}

#[test]
fn strangers_beyond_the_limit_push_out_the_oldest_and_a_member_comes_in() {
    run(async {
        let limits = Limits { handshakes_max: 4, handshake_timeout_ms: 3_600_000, ..limits() };
        let (node, address) = lonely(limits);
        let mut strangers = Vec::new();
        for _ in 0..7 {
            strangers.push(TcpStream::connect(&address).await.unwrap());
        }
        let (answer, _) = dial_as(&address, hello(2, 1)).await;
        assert!(matches!(answer, Some(Handshake::Welcome(_))));
        for stranger in strangers.iter_mut().take(4) {
            closed(stranger).await;
        }
        assert_eq!(node.transport.metrics().handshakes_evicted, 4);
    });
}

#[test]
fn damaged_frames_end_their_connection_and_nothing_of_them_arrives() {
    run(async {
        let (mut node, address) = lonely(limits());
        for at in [0, 3, 5, 9, 13, 16, 25] {
            let (_, mut stream) = dial_as(&address, hello(2, 1)).await;
            stream.write_all(&damaged_frame(&small(1), at)).await.unwrap();
            closed(&mut stream).await;
        }
        let messages = node.leftover();
        assert!(messages.iter().all(|event| matches!(event, IncomingEvent::Pinned { .. })));
    });
}

#[test]
fn a_message_that_arrives_byte_by_byte_is_whole() {
    run(async {
        let (mut node, address) = lonely(limits());
        let (_, mut stream) = dial_as(&address, hello(2, 1)).await;
        let mut out = bytes::BytesMut::new();
        frame::encode(&small(1), &mut out);
        frame::encode(&small(2), &mut out);
        for byte in &out[..] {
            stream.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(node.message().await.1, small(1));
        assert_eq!(node.message().await.1, small(2));
    });
}

fn at(node: u32, address: &str) -> PeerAddress {
    PeerAddress { node: NodeId(node), address: address.to_owned(), spare: None }
}

#[test]
fn peers_come_move_and_go_while_it_runs() {
    run(async {
        let (mut node, address) = lonely(limits());
        // One comes: it is dialled, and let in.
        let fake = FakePeer::new();
        let three = at(3, &fake.address);
        node.transport.set_peers(std::slice::from_ref(&three), &[]);
        let (hello_to_three, mut stream) = fake.accept().await;
        assert_eq!(hello_to_three.to, NodeId(3));
        send_handshake(&mut stream, Handshake::Welcome(welcome(3))).await;
        let (answer, mut inbound) = dial_as(&address, hello(3, 1)).await;
        assert!(matches!(answer, Some(Handshake::Welcome(_))), "{answer:?}");
        // The one that was there before is a stranger now, and what is sent to it is lost.
        let (answer, _) = dial_as(&address, hello(2, 1)).await;
        assert_eq!(reason(answer), RefusalReason::Member);
        node.transport.send(NodeId(2), &small(1));
        assert_eq!(node.transport.metrics().frames_dropped_no_peer, 1);
        // It moves: it is dialled at the new address, and what it sends is still heard.
        let moved = FakePeer::new();
        node.transport.set_peers(&[at(3, &moved.address)], &[]);
        let _moved = [welcome_three(&moved).await, welcome_three(&moved).await];
        closed(&mut stream).await;
        // It goes: its connection is closed.
        node.transport.set_peers(&[], &[]);
        closed(&mut inbound).await;
        assert!(node.transport.peer_metrics().is_empty());
    });
}

/// Takes a lane as node 3.
async fn welcome_three(fake: &FakePeer) -> TcpStream {
    let (hello, mut stream) = fake.accept().await;
    assert_eq!(hello.to, NodeId(3));
    send_handshake(&mut stream, Handshake::Welcome(welcome(3))).await;
    stream
}

#[test]
fn a_wrong_address_costs_neither_the_connection_nor_the_way_back() {
    run(async {
        let (mut node, _) = lonely(limits());
        let (fake, wrong) = (FakePeer::new(), FakePeer::new());
        node.transport.set_peers(&[at(3, &fake.address)], &[]);
        let lanes = [welcome_three(&fake).await, welcome_three(&fake).await];
        let connected = |lane| IncomingEvent::Connected { node: NodeId(3), lane };
        node.wait_for(|event| *event == connected(Lane::Bulk)).await;
        node.transport.set_peers(&[at(3, &wrong.address)], &[]);
        // Somebody else answers there.
        let (_, mut stream) = wrong.accept().await;
        send_handshake(&mut stream, Handshake::Welcome(welcome(4))).await;
        closed(&mut stream).await;
        assert!(!node.leftover().contains(&IncomingEvent::Disconnected(NodeId(3))));
        // The connections fail: the peer is found where it was.
        drop(wrong);
        drop(lanes);
        let lanes = [welcome_three(&fake).await, welcome_three(&fake).await];
        // The mistake is mended: it moves after all.
        let moved = FakePeer::new();
        node.transport.set_peers(&[at(3, &moved.address)], &[]);
        let _moved = [welcome_three(&moved).await, welcome_three(&moved).await];
        for mut stream in lanes {
            closed(&mut stream).await;
        }
    });
}

#[test]
fn a_peer_is_found_at_its_spare_address_and_wanted_at_the_first() {
    run(async {
        let (mut node, _) = lonely(limits());
        let (gone, fake) = (FakePeer::new(), FakePeer::new());
        let three = PeerAddress { spare: Some(fake.address.clone()), ..at(3, &gone.address) };
        // Somebody else is where it was.
        node.transport.set_peers(std::slice::from_ref(&three), &[]);
        let (_, mut stream) = gone.accept().await;
        send_handshake(&mut stream, Handshake::Welcome(welcome(4))).await;
        drop(gone);
        let lanes = [welcome_three(&fake).await, welcome_three(&fake).await];
        let connected = |lane| IncomingEvent::Connected { node: NodeId(3), lane };
        node.wait_for(|event| *event == connected(Lane::Control)).await;
        // To be told where it is by everybody makes no difference to whoever holds it there.
        node.transport.set_peers(&[at(3, &fake.address)], &[]);
        drop(lanes);
        let _again = [welcome_three(&fake).await, welcome_three(&fake).await];
    });
}

#[test]
fn a_node_that_was_removed_is_told_so_and_hears_it() {
    run(async {
        let (mut node, address) = lonely(limits());
        let removed = Removed { number: 7, witnesses: 2, ids_used_upto: NodeId(3) };
        node.transport.set_removed(Some(removed));
        let (answer, _) = dial_as(&address, hello(3, 1)).await;
        assert_eq!(reason(answer), RefusalReason::Removed { number: 7, witnesses: 2 });
        // An id above is one that this node has not heard of yet.
        let (answer, _) = dial_as(&address, hello(4, 1)).await;
        assert_eq!(reason(answer), RefusalReason::Member);
        // And the other side of it.
        let fake = FakePeer::new();
        node.transport.set_peers(&[at(9, &fake.address)], &[]);
        let (_, mut stream) = fake.accept().await;
        let reason = RefusalReason::Removed { number: 8, witnesses: 1 };
        let refusal = Refusal { reason, text: "you were removed".into() };
        send_handshake(&mut stream, Handshake::Refusal(refusal)).await;
        let told = IncomingEvent::Dismissed { by: NodeId(9), number: 8, witnesses: 1 };
        node.wait_for(|event| *event == told).await;
    });
}

#[test]
fn a_node_whose_folder_went_back_in_time_hears_it() {
    run(async {
        let (mut node, _) = lonely(limits());
        let fake = FakePeer::new();
        node.transport.set_peers(&[at(9, &fake.address)], &[]);
        let (_, mut stream) = fake.accept().await;
        let text = "an older copy".to_owned();
        let refusal = Refusal { reason: RefusalReason::WentBack, text: text.clone() };
        send_handshake(&mut stream, Handshake::Refusal(refusal)).await;
        let told = IncomingEvent::Barred { by: NodeId(9), text, for_good: true };
        node.wait_for(|event| *event == told).await;
    });
}

#[test]
fn the_store_that_the_configuration_names_is_checked_at_first_contact() {
    run(async {
        let (mut node, address) = lonely(limits());
        let fake = FakePeer::new();
        let pin = Pin { node: NodeId(3), store: store(3) + 1 };
        node.transport.set_peers(&[at(3, &fake.address)], &[pin]);
        let (answer, _) = dial_as(&address, hello(3, 1)).await;
        assert_eq!(reason(answer), RefusalReason::Store);
        let pin = Pin { node: NodeId(3), store: store(3) };
        node.transport.set_peers(&[at(3, &fake.address)], &[pin]);
        let (answer, mut stream) = dial_as(&address, hello(3, 1)).await;
        assert!(matches!(answer, Some(Handshake::Welcome(_))), "{answer:?}");
        // It was another one after all: it is shown the door.
        let pin = Pin { node: NodeId(3), store: store(3) + 2 };
        node.transport.set_peers(&[at(3, &fake.address)], &[pin]);
        closed(&mut stream).await;
    });
}

/// Node 1 knows the versions 1 to 3.
#[test]
fn two_peers_speak_the_newest_version_that_both_know() {
    run(async {
        let (gone, gone_address) = listener();
        drop(gone);
        let (own, address) = listener();
        let mut settings = settings(1, &[(2, &gone_address)], limits());
        settings.versions = Versions { oldest: 1, newest: 3 };
        let node = Node::start(settings, own);
        assert_eq!((node.peer_metrics().version, node.transport.known_to_all()), (0, 1));
        // What node 2 speaks, what both speak then, and what everybody knows.
        for (oldest, newest, spoken, known) in [(1, 1, 1, 1), (2, 2, 2, 2), (1, 9, 3, 3)] {
            let hello = with(|h| h.versions = Versions { oldest, newest });
            let (answer, _stream) = dial_as(&address, hello).await;
            assert!(matches!(answer, Some(Handshake::Welcome(_))), "{answer:?}");
            assert_eq!(node.peer_metrics().version, spoken);
            assert_eq!(node.transport.known_to_all(), known);
        }
        let (answer, _stream) =
            dial_as(&address, with(|h| h.versions = Versions { oldest: 4, newest: 9 })).await;
        let Some(Handshake::Refusal(Refusal { reason: RefusalReason::Protocol, text })) = answer
        else {
            panic!("not refused: {answer:?}");
        };
        assert!(text.contains("install a newer release on n1"), "{text}");
        assert_eq!(node.peer_metrics().version, 3, "nothing was agreed on");
    });
}
