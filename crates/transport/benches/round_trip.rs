//! What a message between two nodes costs: each node a thread with its own runtime,
//! as in production. Prints the round trip of one Accept and its Accepted, and the
//! rate at which a pipeline of them flows.

use std::time::{Duration, Instant};

use bytes::Bytes;
use synod_paxos::{Accept, Accepted, Ballot, Message, NodeId, Position, Slot, Value};
use synod_transport::{
    Incoming, IncomingEvent, Limits, Own, PeerAddress, Transport, TransportSettings,
};
use synod_wire::PeerMessage;

const ROUNDS: u64 = 20_000;
const PIPELINED: u64 = 16;

fn main() {
    let listeners = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = [0, 1].map(|i: usize| listeners[i].local_addr().unwrap().to_string());
    let [leader, follower] = listeners;
    let (to_follower, to_leader) = (addresses[1].clone(), addresses[0].clone());
    let answering = std::thread::spawn(move || {
        run(async {
            let (transport, mut incoming) = start(2, 1, to_leader, follower);
            let mut batch = Vec::new();
            loop {
                incoming.recv_batch(&mut batch).await;
                for event in batch.drain(..) {
                    match event {
                        IncomingEvent::Message { from, message } => {
                            answer(&transport, from, &message)
                        }
                        IncomingEvent::PeerDied(_) => return,
                        _ => {}
                    }
                }
            }
        });
    });
    run(async {
        let (transport, mut incoming) = start(1, 2, to_follower, leader);
        while !(transport.peer_metrics()[0].connected
            && transport.peer_metrics()[0].frames_received > 0)
        {
            transport.send(NodeId(2), &accept(0, 0));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for value_bytes in [300, 7_200, 50_000] {
            let one = rounds(&transport, &mut incoming, value_bytes, 1).await;
            let many = rounds(&transport, &mut incoming, value_bytes, PIPELINED).await;
            println!(
                "{value_bytes:>6} bytes: round trip {one:?}, {PIPELINED} in flight {:.0}/s",
                1.0 / many.as_secs_f64()
            );
        }
        transport.close(Duration::from_secs(1)).await;
    });
    answering.join().unwrap();
}

fn answer(transport: &Transport, from: NodeId, message: &PeerMessage) {
    let PeerMessage::Paxos(Message::Accept(accept)) = message else { return };
    let accepted = Accepted {
        ballot: accept.ballot,
        first: accept.slot,
        last: accept.slot,
        read_round: accept.read_round,
    };
    transport.send(from, &PeerMessage::Paxos(Message::Accepted(accepted)));
}

/// The time of one round, with as many of them in flight.
async fn rounds(
    transport: &Transport,
    incoming: &mut Incoming,
    value_bytes: usize,
    in_flight: u64,
) -> Duration {
    let mut batch = Vec::new();
    while incoming.try_recv_batch(&mut batch) {}
    batch.clear();
    let start = Instant::now();
    let (mut sent, mut done) = (0, 0);
    while done < ROUNDS {
        while sent < ROUNDS && sent - done < in_flight {
            sent += 1;
            transport.send(NodeId(2), &accept(sent, value_bytes));
        }
        incoming.recv_batch(&mut batch).await;
        for event in batch.drain(..) {
            if let IncomingEvent::Message {
                message: PeerMessage::Paxos(Message::Accepted(a)),
                ..
            } = event
            {
                done = done.max(a.last.0);
            }
        }
    }
    start.elapsed() / u32::try_from(ROUNDS).unwrap()
}

fn accept(slot: u64, value_bytes: usize) -> PeerMessage {
    PeerMessage::Paxos(Message::Accept(Accept {
        ballot: Ballot { round: 1, node: NodeId(1) },
        slot: Slot(slot),
        value: Value::Batch(Bytes::from(vec![7; value_bytes])),
        chosen_upto: Slot(slot.saturating_sub(1)),
        read_round: slot,
    }))
}

fn start(
    node: u32,
    peer: u32,
    address: String,
    listener: std::net::TcpListener,
) -> (Transport, Incoming) {
    let settings = TransportSettings {
        versions: synod_wire::Versions::default(),
        own: Own {
            cluster: 1,
            node: NodeId(node),
            store: u128::from(node),
            incarnation: 1,
            founded: 1,
        },
        promised: Ballot::ZERO,
        position: Position::ZERO,
        peers: vec![PeerAddress { node: NodeId(peer), address, spare: None }],
        pins: Vec::new(),
        limits: Limits::default(),
    };
    Transport::start(settings, listener).unwrap()
}

fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, work);
}
