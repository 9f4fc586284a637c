//! The host's rules, each on real cores in simulated time.

mod support;

use std::sync::Arc;
use support::{Answer, Cluster};

use synod_host::{Action, Applied, Event, Limits, Refusal, RequestId};
use synod_paxos::{Configuration, Configurations, Message, NodeId, Reign, Role, Slot};
use synod_wire::PeerMessage;

const SECOND_US: u64 = 1_000_000;
const LONG_US: u64 = 60 * SECOND_US;

fn with_leader(size: u32) -> (Cluster, NodeId) {
    let mut cluster = Cluster::new(size, &Limits::default());
    assert!(cluster.run_until(10 * SECOND_US, |cluster| cluster.leader().is_some()));
    let leader = cluster.leader().expect("just seen");
    // Followers have to hear of it before they can forward.
    let following = |cluster: &Cluster| {
        cluster.nodes.values().all(|node| node.host.status(cluster.now).following.is_some())
    };
    assert!(cluster.run_until(SECOND_US, following));
    // The leader has to hear of that too before it hands over to anybody.
    cluster.run_for(100_000);
    (cluster, leader)
}

fn other_than(nodes: &[NodeId]) -> NodeId {
    (1..).map(NodeId).find(|id| !nodes.contains(id)).expect("ids do not end")
}

fn answered(cluster: &Cluster, at: NodeId, requests: std::ops::Range<u64>) -> bool {
    let answers = &cluster.nodes[&at].answers;
    requests.into_iter().all(|request| answers.get(&RequestId(request)) == Some(&Answer::Applied))
}

/// Every command once, in the order of its origin, on each living node alike.
fn assert_taken(cluster: &mut Cluster, count: usize) {
    let done = |cluster: &Cluster| {
        cluster.nodes.values().filter(|node| !node.is_dead).all(|node| node.taken.len() >= count)
    };
    assert!(cluster.run_until(10 * SECOND_US, done), "not all nodes applied everything");
    let mut living = cluster.nodes.values().filter(|node| !node.is_dead);
    let first = &living.next().expect("somebody lives").taken;
    assert_eq!(first.len(), count);
    assert!(living.all(|node| node.taken == *first));
}

#[test]
fn a_single_node_answers_its_writes_and_reads() {
    let (mut cluster, leader) = with_leader(1);
    for request in 0..10 {
        cluster.write(leader, request, LONG_US);
    }
    cluster.read(leader, 100, LONG_US);
    assert!(cluster.run_until(SECOND_US, |cluster| answered(cluster, NodeId(1), 0..10)));
    let read =
        |cluster: &Cluster| cluster.node(1).answers.get(&RequestId(100)) == Some(&Answer::Read);
    assert!(cluster.run_until(SECOND_US, read));
    assert_taken(&mut cluster, 10);
}

/// The leader removes itself. Until another one leads it is talked to, though no newer
/// configuration names it; then it is not.
#[test]
fn a_leader_that_removed_itself_is_talked_to_until_it_has_handed_over() {
    let (mut cluster, leader) = with_leader(3);
    let others: Vec<NodeId> = (1..=3).map(NodeId).filter(|node| *node != leader).collect();
    let new = Configuration::majority(others.clone(), 1_024).expect("valid").numbered(1);
    let change = Event::Change { request: RequestId(1), configuration: new, force: false };
    cluster.step(leader, change);
    let was_guest = std::cell::Cell::new(0);
    let names = |cluster: &Cluster, by: NodeId, node: NodeId| {
        cluster.nodes[&by].talks_to.iter().any(|one| one.contains(node))
    };
    let governs = |cluster: &Cluster, node: NodeId| {
        let status = cluster.nodes[&node].host.status(cluster.now);
        status.configuration == 1 && status.chosen_upto.next() >= status.configuration_from
    };
    let parted = |cluster: &Cluster| {
        for node in &others {
            let host = &cluster.nodes[node].host;
            for peer in host.status(cluster.now).peers {
                assert!(names(cluster, *node, peer.node), "{node} talks to {}", peer.node);
            }
            let is_guest = governs(cluster, *node) && names(cluster, *node, leader);
            was_guest.set(was_guest.get() + usize::from(is_guest));
        }
        others.iter().all(|node| governs(cluster, *node) && !names(cluster, *node, leader))
    };
    assert!(cluster.run_until(60 * SECOND_US, parted), "nobody took over");
    assert!(was_guest.get() > 0, "the old leader was let go too early");
    let led = |cluster: &Cluster| cluster.leader().is_some_and(|new| others.contains(&new));
    assert!(cluster.run_until(SECOND_US, led));
}

/// The changes stood in slots that the snapshot skipped.
#[test]
fn whom_a_snapshot_names_is_talked_to() {
    let mut cluster = Cluster::new(1, &Limits::default());
    cluster.write(NodeId(1), 1, LONG_US);
    assert!(cluster.run_until(10 * SECOND_US, |cluster| answered(cluster, NodeId(1), 1..2)));
    let now = cluster.now;
    let host = &mut cluster.nodes.get_mut(&NodeId(1)).expect("a member").host;
    let old = host.configurations().newest().configuration.clone();
    let new = Configuration::majority(vec![NodeId(2), NodeId(3)], old.alpha()).expect("valid");
    let new = Arc::new(new.with_learners(vec![NodeId(1)]).expect("another").numbered(7));
    let configuration = Arc::clone(&new);
    let reign = Reign { from: Slot(90), configuration };
    let applied = Applied {
        upto: Slot(100),
        durable: Slot(100),
        cluster_time_ms: 0,
        tick_ms: None,
        own_sequence: 1,
        own_gap: false,
        state: (Slot(100), 5),
    };
    let configurations = Configurations::restore(vec![reign]).expect("one");
    let mut actions = Vec::new();
    host.step(now, Event::Installed { applied, configurations }, &mut actions);
    assert!(actions.contains(&Action::TalkTo(vec![new])), "{actions:?}");
    let status = host.status(now);
    assert_eq!((status.role, status.chosen_upto), (Role::Follower, Slot(100)));
    let beats = |to| {
        actions.iter().any(|action| {
            matches!(action, Action::Send { to: node, message: PeerMessage::Paxos(message), .. }
                if *node == NodeId(to) && matches!(message, Message::Heartbeat(_)))
        })
    };
    assert!(beats(2) && beats(3), "{actions:?}");
}

#[test]
fn writes_that_came_before_a_leader_are_sent_when_there_is_one() {
    let mut cluster = Cluster::new(3, &Limits::default());
    for id in 1..=3 {
        cluster.write(NodeId(id), u64::from(id), LONG_US);
    }
    let done = |cluster: &Cluster| {
        (1..=3).all(|id| answered(cluster, NodeId(id), u64::from(id)..u64::from(id) + 1))
    };
    assert!(cluster.run_until(10 * SECOND_US, done));
    assert_taken(&mut cluster, 3);
}

#[test]
fn a_follower_forwards_all_of_a_step_in_one_message() {
    let (mut cluster, leader) = with_leader(3);
    let follower = other_than(&[leader]);
    let now = cluster.now;
    let node = cluster.nodes.get_mut(&follower).expect("a member");
    for request in 0..50 {
        let command = support::some_command("put");
        let deadline = now.plus_us(LONG_US);
        node.host.receive(now, Event::Write { request: RequestId(request), command, deadline });
    }
    let before = node.forwards_sent;
    cluster.step(follower, Event::Tick);
    assert_eq!(cluster.nodes[&follower].forwards_sent - before, 1);
    assert!(cluster.run_until(SECOND_US, |cluster| answered(cluster, follower, 0..50)));
    assert_taken(&mut cluster, 50);
}

#[test]
fn a_lost_forward_is_sent_again_in_order() {
    let (mut cluster, leader) = with_leader(3);
    let follower = other_than(&[leader]);
    cluster.lose_forwards = 1;
    cluster.write(follower, 0, LONG_US);
    cluster.write(follower, 1, LONG_US);
    cluster.write(follower, 2, LONG_US);
    assert!(cluster.run_until(SECOND_US, |cluster| answered(cluster, follower, 0..3)));
    // The very last one leaves no gap behind it: only time tells that it is lost.
    cluster.lose_forwards = 1;
    cluster.write(follower, 3, LONG_US);
    assert!(cluster.run_until(5 * SECOND_US, |cluster| answered(cluster, follower, 3..4)));
    assert_taken(&mut cluster, 4);
}

#[test]
fn a_change_of_leader_is_invisible_to_clients_whose_node_lives() {
    let (mut cluster, leader) = with_leader(3);
    let follower = other_than(&[leader]);
    for request in 0..100 {
        cluster.write(follower, request, LONG_US);
        cluster.run_for(300);
    }
    cluster.kill(leader);
    for request in 100..150 {
        cluster.write(follower, request, LONG_US);
    }
    assert!(cluster.run_until(20 * SECOND_US, |cluster| answered(cluster, follower, 0..150)));
    assert_taken(&mut cluster, 150);
}

#[test]
fn a_write_without_a_leader_is_refused_at_its_deadline_and_not_later_applied() {
    let (mut cluster, leader) = with_leader(3);
    let survivor = other_than(&[leader]);
    cluster.kill(leader);
    cluster.kill(other_than(&[leader, survivor]));
    let alone =
        |cluster: &Cluster| cluster.nodes[&survivor].host.status(cluster.now).following.is_none();
    assert!(cluster.run_until(5 * SECOND_US, alone));
    cluster.run_for(100_000);
    cluster.write(survivor, 1, SECOND_US);
    cluster.read(survivor, 2, SECOND_US);
    let refused = |cluster: &Cluster| {
        let answers = &cluster.nodes[&survivor].answers;
        [1, 2].iter().all(|request| {
            answers.get(&RequestId(*request)) == Some(&Answer::Refused(Refusal::NoLeader))
        })
    };
    let begun = cluster.now;
    assert!(cluster.run_until(2 * SECOND_US, refused));
    assert!(cluster.now.since_us(begun) >= SECOND_US);
    assert_eq!(cluster.nodes[&survivor].host.queues().writes_unsent, 0);
}

#[test]
fn a_read_waits_until_this_node_has_applied_what_was_acknowledged_before() {
    let (mut cluster, leader) = with_leader(3);
    let follower = other_than(&[leader]);
    for round in 0..20 {
        cluster.write(leader, round, LONG_US);
        assert!(cluster.run_until(SECOND_US, |cluster| answered(
            cluster,
            leader,
            round..round + 1
        )));
        let request = RequestId(1_000 + round);
        cluster.read(follower, 1_000 + round, LONG_US);
        let ready = |cluster: &Cluster| cluster.nodes[&follower].answers.contains_key(&request);
        assert!(cluster.run_until(SECOND_US, ready));
        let seen = cluster.nodes[&follower].taken.len() as u64;
        assert!(seen > round, "a read was served before its write was applied here");
    }
}

#[test]
fn too_many_writes_are_refused_at_once() {
    let limits = Limits { writes_waiting_max: 5, reads_waiting_max: 2, ..Limits::default() };
    let mut cluster = Cluster::new(3, &limits);
    for request in 0..6 {
        cluster.write(NodeId(1), request, LONG_US);
    }
    for request in 10..13 {
        cluster.read(NodeId(1), request, LONG_US);
    }
    let refused = Some(&Answer::Refused(Refusal::Overloaded));
    assert_eq!(cluster.node(1).answers.get(&RequestId(5)), refused);
    assert_eq!(cluster.node(1).answers.get(&RequestId(12)), refused);
    assert_eq!(cluster.node(1).answers.len(), 2);
    assert!(cluster.run_until(10 * SECOND_US, |cluster| answered(cluster, NodeId(1), 0..5)));
}

#[test]
fn a_peer_passes_commands_on_when_the_leader_is_out_of_reach() {
    let (mut cluster, leader) = with_leader(3);
    let follower = other_than(&[leader]);
    cluster.cuts = vec![(follower, leader), (leader, follower)];
    for request in 0..5 {
        cluster.write(follower, request, LONG_US);
    }
    // This node gets no Accept either: it is told what was chosen by its peer.
    let relayed = |cluster: &Cluster| cluster.nodes[&leader].taken.len() == 5;
    assert!(cluster.run_until(10 * SECOND_US, relayed));
    assert_eq!(cluster.leader(), Some(leader), "a half-cut node disturbs nobody");
}

#[test]
fn a_leader_that_hands_over_loses_no_command() {
    let (mut cluster, leader) = with_leader(3);
    let follower = other_than(&[leader]);
    for request in 0..20 {
        cluster.write(leader, request, LONG_US);
        cluster.write(follower, 100 + request, LONG_US);
    }
    cluster.step(leader, Event::HandOver { to: None });
    for request in 20..40 {
        cluster.write(leader, request, LONG_US);
    }
    let moved = |cluster: &Cluster| cluster.leader().is_some_and(|now| now != leader);
    assert!(cluster.run_until(SECOND_US, moved));
    let old = cluster.nodes[&leader].host.status(cluster.now);
    assert_ne!(old.role, Role::Leader);
    assert!(cluster.run_until(5 * SECOND_US, |cluster| answered(cluster, leader, 0..40)));
    assert!(cluster.run_until(5 * SECOND_US, |cluster| answered(cluster, follower, 100..120)));
    assert_taken(&mut cluster, 60);
}

#[test]
fn a_node_that_comes_back_is_not_taken_for_its_own_past() {
    let mut cluster = Cluster::new(3, &Limits::default());
    let mut heard = Vec::new();
    for incarnation in [1, 2] {
        cluster.restart(NodeId(1), incarnation);
        let mut actions = Vec::new();
        let node = cluster.nodes.get_mut(&NodeId(1)).expect("a member");
        let now = node.host.deadline();
        node.host.step(now, Event::Tick, &mut actions);
        let sequence = |action: &Action| match action {
            Action::Send { message: PeerMessage::Paxos(Message::Heartbeat(heartbeat)), .. } => {
                Some(heartbeat.sequence)
            }
            _ => None,
        };
        heard.push(actions.iter().find_map(sequence).expect("a heartbeat"));
    }
    // As many heartbeats as a node can send in a long life lie between the two.
    assert!(heard[1] - heard[0] > u64::from(u32::MAX / 2), "{heard:?}");
}

/// While nobody writes, the log's time stands still. A leader lets it pass where the
/// state wants that, and no longer.
#[test]
fn an_idle_leader_lets_time_pass_while_something_is_to_expire() {
    let (mut cluster, leader) = with_leader(3);
    let chosen = |cluster: &Cluster| cluster.nodes[&leader].host.status(cluster.now).chosen_upto;
    let before = chosen(&cluster);
    cluster.run_for(20 * SECOND_US);
    assert_eq!(chosen(&cluster), before, "nothing is to expire");
    let until_ms = cluster.now.0 / 1_000 + 10_000;
    for node in cluster.nodes.values_mut() {
        node.wants_time = (2_000, until_ms);
    }
    cluster.write(leader, 1, LONG_US);
    cluster.run_for(30 * SECOND_US);
    let after = chosen(&cluster);
    let ticks = after.0 - before.0 - 1;
    assert!((4..=6).contains(&ticks), "{ticks} values in ten seconds, one each two seconds");
    cluster.run_for(30 * SECOND_US);
    assert_eq!(chosen(&cluster), after, "all is over");
}
