//! How a node comes to life: what its disk and its state give back.

use synod_host::{Applied, Event, Host, HostSettings, Limits, configurations_of};
use synod_kv::{KvOptions, StateMachine, Taken};
use synod_paxos::{Configuration, NodeId, Options, Slot};

use crate::checkers::{Check, Checker, Violation, demand};
use crate::coverage::Rare;
use crate::node::{Fate, Process, apply_value};
use crate::plan::Plan;
use crate::planted;
use crate::store::Store;
use crate::words;
use crate::world::{Happening, World};

impl World<'_> {
    /// Starts a machine's process, if its disk lets it.
    pub(crate) fn start(&mut self, id: NodeId) -> Check {
        let now_us = self.now_us;
        let node = self.node(id);
        if node.process.is_some() || node.fate == Fate::Left || is_gone(node.fate, node.store_id) {
            return Ok(());
        }
        if node.disk.full {
            self.coverage.rare(Rare::StartFailed);
            self.at(500_000, Happening::Start { node: id });
            return Ok(());
        }
        let Ok(recovered) = node.disk.recover() else {
            node.fate = Fate::Lost;
            node.store_id = 0;
            self.coverage.rare(Rare::DamageRefused);
            self.trace.note(now_us, [words::REFUSED, u64::from(id.0), 0, 0], || {
                format!("{id} finds its journal damaged and stays down")
            });
            return Ok(());
        };
        node.life += 1;
        let (life, is_member) = (node.life, node.is_member());
        if is_member {
            self.checks.promises.started(id, life, recovered.promised)?;
        }
        let kv_options = kv_options(&self.plan);
        let node = &mut self.nodes[id.0 as usize - 1];
        let (store, unflushed) = Store::new(&node.state);
        let mut machine = StateMachine::open(store, kv_options).expect("memory does not fail");
        let truncated = recovered.truncated_upto.0;
        demand(machine.applied_slot() >= truncated, Checker::Durability, || {
            format!("{id} dropped its journal up to slot {truncated}, and its state ends before")
        })?;
        let first = Slot(machine.applied_slot()).next();
        let values = node.disk.values(first, recovered.chosen_upto, usize::MAX);
        let values = values.expect("a damaged journal was refused");
        if !values.is_empty() {
            self.coverage.rare(Rare::Replayed);
        }
        for (slot, value) in (first.0..).zip(&values) {
            if is_member {
                self.checks.agreement.learnt(id, Slot(slot), value)?;
            }
            // It may be the first to apply this at all.
            for took in apply_value(&mut machine, &self.first, slot, value) {
                if let Taken::Applied { outcome, .. } = took.taken {
                    let exactly_once = &mut self.checks.exactly_once;
                    exactly_once.taken(took.id, slot, &took.command, &outcome, now_us)?;
                }
            }
            self.checks.state_hash.applied(id, slot, machine.state_hash())?;
            machine.commit().expect("memory does not fail");
        }
        let applied = Applied {
            upto: Slot(machine.applied_slot()),
            durable: Slot(node.state.slot),
            cluster_time_ms: machine.cluster_time_ms(),
            own_sequence: 0,
            own_gap: false,
            state: (Slot(machine.applied_slot()), machine.state_hash()),
        };
        self.trace.note(now_us, [words::STARTS, u64::from(id.0), life, applied.upto.0], || {
            format!("{id} starts life {life}: {recovered:?}, applied {}", applied.upto)
        });
        let settings = HostSettings {
            node: id,
            incarnation: life,
            configurations: configurations_of(&machine, &self.first).map_err(|error| {
                Violation {
                    checker: Checker::Durability,
                    text: format!("{id} has lost who votes: {error}"),
                }
            })?,
            options: options(&self.plan, self.rng.u64(..)),
            limits: limits(&self.plan),
        };
        let node = self.node(id);
        let now = node.clock.read(now_us);
        node.process = Some(Process {
            host: Host::new(settings, recovered, &applied, now),
            machine,
            unflushed,
            waiters: std::collections::VecDeque::new(),
            applied,
            apply_queue: std::collections::VecDeque::new(),
            inbox: Vec::new(),
            is_woken: false,
            tick_us: 0,
            paused: false,
            deferred: Vec::new(),
            dies_after: None,
            leads: false,
            steps: 0,
        });
        let flush_us = self.rng.u64(1_000..self.plan.pace.flush_us);
        self.at(flush_us, Happening::Flush { node: id, life });
        for peer in 1..=self.plan.members {
            if NodeId(peer) != id {
                let delay_us = self.rng.u64(100..20_000);
                self.at(delay_us, Happening::Connected { one: id, other: NodeId(peer) });
            }
        }
        self.hear(id, Event::Tick)
    }
}

/// A machine without its disk; another store under its name may still run.
fn is_gone(fate: Fate, store_id: u64) -> bool {
    fate == Fate::Lost && store_id == 0
}

/// The configuration of the beginning.
pub(crate) fn configuration(plan: &Plan) -> Result<Configuration, Violation> {
    let members = (1..=plan.members).map(NodeId).collect();
    Configuration::new(members, plan.promise_quorum, plan.accept_quorum, plan.sizes.alpha).map_err(
        |error| Violation {
            checker: Checker::Assertion,
            text: format!("no configuration: {error:?}"),
        },
    )
}

fn options(plan: &Plan, seed: u64) -> Options {
    let (pace, sizes) = (&plan.pace, &plan.sizes);
    Options {
        election_timeout_us: pace.election_timeout_us,
        heartbeat_us: pace.election_timeout_us / 6,
        disk_stall_us: pace.election_timeout_us,
        window_slots_max: sizes.window_slots_max,
        value_bytes_max: sizes.value_bytes_max,
        page_bytes_max: sizes.page_bytes_max,
        cache_bytes_max: sizes.cache_bytes_max,
        seed,
        planted: planted::core(plan.bug),
        ..Options::default()
    }
}

/// The host's limits in this run.
pub(crate) fn limits(plan: &Plan) -> Limits {
    Limits {
        writes_in_flight_max: plan.sizes.in_flight_max,
        forward_entries_max: plan.sizes.in_flight_max,
        queue_entries_max: plan.sizes.queue_entries_max,
        ..Limits::default()
    }
}

fn kv_options(plan: &Plan) -> KvOptions {
    KvOptions {
        metadata_cache_bytes_max: plan.sizes.metadata_cache_bytes_max,
        idempotency_records_max: plan.sizes.idempotency_records_max,
        planted: planted::machine(plan.bug),
        ..KvOptions::default()
    }
}
