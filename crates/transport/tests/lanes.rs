//! Messages between connected nodes.

mod peers;

use std::time::Duration;

use peers::*;
use synod_paxos::NodeId;
use synod_transport::{IncomingEvent, Limits};
use synod_wire::{Handshake, Lane};

#[test]
fn messages_of_both_lanes_arrive_in_their_order() {
    run(async {
        let (first, mut second) = pair(limits()).await;
        for nonce in 0..100 {
            first.transport.send(NodeId(2), &small(nonce));
            if nonce % 10 == 0 {
                first.transport.send(NodeId(2), &large(nonce, 300_000));
            }
        }
        let (mut smalls, mut larges) = (Vec::new(), Vec::new());
        while smalls.len() < 100 || larges.len() < 10 {
            let (from, message) = second.message().await;
            assert_eq!(from, NodeId(1));
            if (0..100).any(|nonce| message == small(nonce)) {
                smalls.push(message);
            } else {
                larges.push(message);
            }
        }
        assert_eq!(smalls, (0..100).map(small).collect::<Vec<_>>());
        let expected: Vec<_> = (0..100).step_by(10).map(|nonce| large(nonce, 300_000)).collect();
        assert_eq!(larges, expected);
    });
}

#[test]
fn commands_arrive_in_their_order_however_long_they_are() {
    run(async {
        let (first, mut second) = pair(limits()).await;
        let sent: Vec<_> = (0..30)
            .map(|nonce| commands(nonce, if nonce % 3 == 0 { 1 << 20 } else { 100 }))
            .collect();
        for message in &sent {
            first.transport.send(NodeId(2), message);
        }
        for message in sent {
            assert!(second.message().await.1 == message);
        }
    });
}

#[test]
fn each_lane_tells_that_it_is_connected() {
    run(async {
        let fake = FakePeer::new();
        let mut node = Node::start(settings(1, &[(2, &fake.address)], limits()), listener().0);
        let is_bulk = |event: &IncomingEvent| {
            *event == IncomingEvent::Connected { node: NodeId(2), lane: Lane::Bulk }
        };
        let (_control, bulk) = fake.accept_both().await;
        node.wait_for(is_bulk).await;
        drop(bulk);
        let (hello, mut bulk) = fake.accept().await;
        assert_eq!(hello.lane, Lane::Bulk);
        send_handshake(&mut bulk, Handshake::Welcome(welcome(2))).await;
        node.wait_for(is_bulk).await;
        // What is sent then arrives.
        node.transport.send(NodeId(2), &commands(1, 10));
        assert_eq!(read_message(&mut bulk).await, Some(commands(1, 10)));
    });
}

#[test]
fn messages_flow_both_ways_at_once() {
    run(async {
        let (mut first, mut second) = pair(limits()).await;
        first.transport.send(NodeId(2), &small(1));
        second.transport.send(NodeId(1), &small(2));
        assert_eq!(first.message().await, (NodeId(2), small(2)));
        assert_eq!(second.message().await, (NodeId(1), small(1)));
    });
}

#[test]
fn what_is_sent_in_one_step_leaves_in_one_write_and_arrives_in_one_batch() {
    run(async {
        let (first, mut second) = pair(limits()).await;
        second.leftover();
        (0..500).for_each(|nonce| first.transport.send(NodeId(2), &small(nonce)));
        let mut batch = Vec::new();
        second.incoming.recv_batch(&mut batch).await;
        assert_eq!(batch.len(), 500);
        let metrics = first.peer_metrics();
        assert_eq!((metrics.frames_sent, metrics.writes), (500, 1));
        assert_eq!(metrics.bytes_sent, second.peer_metrics().bytes_received);
        assert_eq!(second.peer_metrics().frames_received, 500);
    });
}

#[test]
fn the_largest_message_arrives_and_a_larger_one_is_dropped_and_counted() {
    run(async {
        let (first, mut second) = pair(limits()).await;
        // Both values of the message, their count, and the block before them.
        let overhead_bytes = 2 + 16 + 4 + 2 * 5;
        let bytes_max = synod_wire::frame::FRAME_BYTES_MAX - overhead_bytes;
        first.transport.send(NodeId(2), &large(1, bytes_max + 1));
        first.transport.send(NodeId(2), &large(2, bytes_max));
        assert!(second.message().await.1 == large(2, bytes_max));
        assert_eq!(first.peer_metrics().frames_dropped_oversize, 1);
    });
}

#[test]
fn a_bulk_lane_that_nobody_reads_does_not_delay_the_control_lane() {
    run(async {
        let fake = FakePeer::new();
        let limits = Limits { bulk_queue_bytes_max: 8 << 20, ..limits() };
        let mut node = Node::start(settings(1, &[(2, &fake.address)], limits), listener().0);
        let (mut control, mut bulk) = fake.accept_both().await;
        node.connected_to(2).await;
        node.metrics_where(|metrics| metrics.connects == 2).await;
        // More than the socket buffers and the queue take, nothing of which is read.
        for nonce in 0..100 {
            node.transport.send(NodeId(2), &large(nonce, 1 << 20));
            node.transport.send(NodeId(2), &small(nonce));
            assert_eq!(read_message(&mut control).await, Some(small(nonce)));
        }
        assert!(node.peer_metrics().frames_dropped_full > 0);
        // What was not dropped is the oldest, and is whole.
        assert!(read_message(&mut bulk).await == Some(large(0, 1 << 20)));
        assert!(read_message(&mut bulk).await == Some(large(1, 1 << 20)));
    });
}

#[test]
fn an_owner_that_takes_nothing_stops_bulk_before_control() {
    run(async {
        let limits = Limits { inbox_bytes_max: 4 << 20, ..limits() };
        let (first, mut second) = pair(limits).await;
        for nonce in 0..30 {
            first.transport.send(NodeId(2), &large(nonce, 1 << 20));
        }
        // Bulk stops at half of the inbox; 2 MiB and one read at the most.
        second.metrics_where(|metrics| metrics.bytes_received >= 2 << 20).await;
        first.transport.send(NodeId(2), &small(77));
        let bulk_frames = second.peer_metrics().frames_received;
        second.metrics_where(|metrics| metrics.frames_received > bulk_frames).await;
        let mut seen = 0;
        while seen < 31 {
            let (_, message) = second.message().await;
            seen += 1;
            assert!(seen <= 4 || message != small(77), "the small message waited for bulk");
        }
    });
}

#[test]
fn messages_to_a_peer_that_is_away_are_dropped_and_counted() {
    run(async {
        let (gone, address) = listener();
        drop(gone);
        let node = Node::start(settings(1, &[(2, &address)], limits()), listener().0);
        (0..3).for_each(|nonce| node.transport.send(NodeId(2), &small(nonce)));
        assert_eq!(node.peer_metrics().frames_dropped_unconnected, 3);
    });
}

#[test]
fn a_peer_that_comes_back_in_a_new_life_is_connected_again() {
    run(async {
        let ((first, first_address), (second, second_address)) = (listener(), listener());
        // The port outlives its node, as it does where a proxy stands before it.
        let kept = second.try_clone().unwrap();
        let mut first = Node::start(settings(1, &[(2, &second_address)], limits()), first);
        let mut lives = Node::start(settings(2, &[(1, &first_address)], limits()), second);
        first.connected_to(2).await;
        lives.connected_to(1).await;
        lives.transport.close(Duration::from_secs(5)).await;
        first.wait_for(|event| *event == IncomingEvent::Disconnected(NodeId(2))).await;

        let mut again = settings(2, &[(1, &first_address)], limits());
        again.own.incarnation = 2;
        let mut lives = Node::start(again, kept);
        first.connected_to(2).await;
        lives.connected_to(1).await;
        lives.transport.send(NodeId(1), &small(5));
        assert_eq!(first.message().await, (NodeId(2), small(5)));
        first.transport.send(NodeId(2), &small(6));
        assert_eq!(lives.message().await, (NodeId(1), small(6)));
    });
}

#[test]
fn closing_writes_what_is_queued() {
    run(async {
        let (first, mut second) = pair(limits()).await;
        first.transport.send(NodeId(2), &large(1, 4 << 20));
        first.transport.send(NodeId(2), &small(2));
        let close = tokio::task::spawn_local(first.transport.close(Duration::from_secs(20)));
        let mut messages = vec![second.message().await.1, second.message().await.1];
        messages.sort_by_key(|message| *message != small(2));
        assert!(messages == [small(2), large(1, 4 << 20)]);
        close.await.unwrap();
        second.wait_for(|event| *event == IncomingEvent::PeerDied(NodeId(1))).await;
    });
}
