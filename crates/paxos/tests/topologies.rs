//! The partial partitions of the literature ("Omni-Paxos", Ng et al. 2023; "Raft
//! does not Guarantee Liveness in the face of Network Faults", Howard and Abraham
//! 2020), and what this design makes of them.

mod world;

use synod_paxos::{NodeId, Slot};
use world::{Faults, World};

const SECOND_US: u64 = 1_000_000;

/// A calm cluster with a leader and some chosen values.
fn calm(seed: u64, members: u32) -> (World, NodeId) {
    let mut world = World::new(seed, members, Faults::none());
    world.run_until("a leader and some values", 5 * SECOND_US, |world| {
        world.leader().is_some() && world.oracle.acknowledged > Slot(20)
    });
    let leader = world.leader().expect("just seen");
    (world, leader)
}

fn others(world: &World, node: NodeId) -> Vec<NodeId> {
    world.machines.iter().map(|machine| machine.id).filter(|id| *id != node).collect()
}

fn cut(world: &mut World, a: NodeId, b: NodeId) {
    world.cuts.insert((a, b));
    world.cuts.insert((b, a));
}

/// Values go on being chosen though the network stays as it is.
fn demand_choices(world: &mut World) {
    let before = world.oracle.acknowledged;
    world.run_until("new values are chosen", 5 * SECOND_US, |world| {
        world.oracle.acknowledged > before.plus(50)
    });
}

#[test]
fn quorum_loss_only_one_node_still_reaches_a_quorum() {
    for seed in 0..6 {
        let (mut world, leader) = calm(seed, 5);
        let hub = others(&world, leader)[0];
        for a in 1..=5 {
            for b in a + 1..=5 {
                if NodeId(a) != hub && NodeId(b) != hub {
                    cut(&mut world, NodeId(a), NodeId(b));
                }
            }
        }
        world.run_for(2 * SECOND_US);
        demand_choices(&mut world);
        assert_eq!(world.leader(), Some(hub), "seed {seed}");
    }
}

#[test]
fn constrained_election_the_only_candidate_has_an_old_log() {
    for seed in 0..6 {
        let (mut world, leader) = calm(seed, 5);
        let hub = others(&world, leader)[0];
        // First the hub misses values, then it is the only one with a quorum.
        for other in others(&world, hub) {
            cut(&mut world, hub, other);
        }
        demand_choices(&mut world);
        world.cuts.clear();
        world.crash(leader);
        for a in others(&world, hub) {
            for b in others(&world, hub) {
                if a < b {
                    cut(&mut world, a, b);
                }
            }
        }
        world.run_for(2 * SECOND_US);
        demand_choices(&mut world);
        assert_eq!(world.leader(), Some(hub), "seed {seed}");
    }
}

#[test]
fn chained_a_node_that_cannot_hear_the_leader_does_not_unseat_it() {
    for seed in 0..6 {
        let (mut world, leader) = calm(seed, 3);
        let far = others(&world, leader)[1];
        cut(&mut world, leader, far);
        let elected = world.oracle.events["elected"];
        world.run_for(5 * SECOND_US);
        assert_eq!(world.oracle.events["elected"], elected, "seed {seed}: an election too many");
        assert_eq!(world.leader(), Some(leader));
        // The far node learns what is chosen from the middle one.
        let acknowledged = world.oracle.acknowledged;
        world.run_until("the far node catches up", SECOND_US, |world| {
            world.machines[far.0 as usize - 1].applied >= acknowledged
        });
    }
}

#[test]
fn ring_each_node_hears_two_neighbours_only() {
    for seed in 0..6 {
        let (mut world, _) = calm(seed, 5);
        for a in 1..=5_u32 {
            for b in a + 1..=5 {
                if b - a != 1 && b - a != 4 {
                    cut(&mut world, NodeId(a), NodeId(b));
                }
            }
        }
        world.run_for(3 * SECOND_US);
        let elected = world.oracle.events["elected"];
        demand_choices(&mut world);
        world.run_for(3 * SECOND_US);
        assert_eq!(world.oracle.events["elected"], elected, "seed {seed}: unrest in the ring");
    }
}

#[test]
fn one_way_a_leader_that_hears_no_answers_gives_up() {
    for seed in 0..6 {
        let (mut world, leader) = calm(seed, 3);
        for other in others(&world, leader) {
            world.cuts.insert((other, leader));
        }
        world.run_for(2 * SECOND_US);
        demand_choices(&mut world);
        assert_ne!(world.leader(), Some(leader), "seed {seed}");
    }
}

#[test]
fn a_node_that_was_cut_off_comes_back_without_an_election() {
    for seed in 0..6 {
        let (mut world, leader) = calm(seed, 3);
        let lost = others(&world, leader)[0];
        for other in others(&world, lost) {
            cut(&mut world, lost, other);
        }
        world.run_for(3 * SECOND_US);
        let elected = world.oracle.events["elected"];
        world.cuts.clear();
        world.run_for(3 * SECOND_US);
        assert_eq!(world.oracle.events["elected"], elected, "seed {seed}");
        assert_eq!(world.leader(), Some(leader));
        world.demand_progress(SECOND_US);
    }
}

#[test]
fn evidence_of_death_elects_within_a_few_round_trips() {
    for seed in 0..20 {
        let (mut world, leader) = calm(seed, 3);
        world.crash(leader);
        let died_at = world.now;
        world.run_until("another leader", SECOND_US, |world| world.leader().is_some());
        // Evidence takes up to 3 ms here, a round trip or a sync less than 1 ms. The
        // clock is simulated, so this is arithmetic and not a measurement.
        let took = world.now.since_us(died_at);
        assert!(took < 100_000, "seed {seed}: {took} us");
    }
}

#[test]
fn a_silent_leader_is_replaced_within_two_election_timeouts() {
    for seed in 0..20 {
        let (mut world, leader) = calm(seed, 3);
        for other in others(&world, leader) {
            cut(&mut world, leader, other);
        }
        let silent_at = world.now;
        world.run_until("another leader", 2 * SECOND_US, |world| {
            world.leader().is_some_and(|now| now != leader)
        });
        let took = world.now.since_us(silent_at);
        assert!(took <= 2 * world.options.election_timeout_us, "seed {seed}: {took} us");
    }
}

#[test]
fn five_eager_candidates_end_their_duel() {
    for seed in 0..6 {
        let (mut world, leader) = calm(seed, 5);
        world.faults.delay_us_max = 40_000;
        world.crash(leader);
        world.run_until("another leader", 5 * SECOND_US, |world| world.leader().is_some());
        demand_choices(&mut world);
    }
}
