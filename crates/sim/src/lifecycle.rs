//! How a node comes to life: what its disk and its state give back.

use synod_host::{Applied, Event, Host, HostSettings, Limits, configurations_of};
use synod_kv::{KvOptions, StateMachine, Taken};
use synod_paxos::{Configuration, Configurations, NodeId, Options, Recovered, Slot};

use crate::checkers::{Check, Checker, Violation, demand};
use crate::coverage::Rare;
use crate::drift::Drift;
use crate::happening::Happening;
use crate::mistakes::Mistake;
use crate::node::{Doubt, Fate, Process, Unfit, apply_value};
use crate::plan::Plan;
use crate::planted;
use crate::repair::Repaired;
use crate::store::{Store, Unflushed};
use crate::words;
use crate::world::World;

/// A node's state machine, and its commits that a crash would take.
type State = (StateMachine<Store>, Unflushed);

impl World<'_> {
    /// Up to which slot a state that begins counts as one from which the journal can drop things.
    fn durable_at_start(&self, id: NodeId, truncated_upto: Slot) -> Slot {
        let node = &self.nodes[id.0 as usize - 1];
        if node.doubt != Doubt::Damaged || node.mistake == Some(Mistake::DamagedCounts) {
            return Slot(node.state.slot);
        }
        truncated_upto
    }

    /// Starts a machine's process, if its disk lets it.
    pub(crate) fn start(&mut self, id: NodeId) -> Check {
        let Some(recovered) = self.read_disk(id)? else { return Ok(()) };
        self.stop_copies(id)?;
        let now_us = self.now_us;
        let node = self.node(id);
        node.life += 1;
        node.incarnation += 1;
        let (life, promised) = (node.life, recovered.promised);
        (node.told, node.position) = (promised, recovered.position);
        if node.is_member() {
            self.checks.promises.started(id, life, promised)?;
        }
        let (machine, unflushed) = match self.rebuild_state(id, &recovered)? {
            Ok(state) => state,
            Err(unfit) => return self.stop_unfit(id, unfit),
        };
        let applied = Applied {
            upto: Slot(machine.applied_slot()),
            durable: self.durable_at_start(id, recovered.truncated_upto),
            cluster_time_ms: machine.cluster_time_ms(),
            own_sequence: 0,
            tick_ms: machine.tick_ms(),
            own_gap: false,
            state: (Slot(machine.applied_slot()), machine.state_hash()),
        };
        self.trace.note(now_us, [words::STARTS, u64::from(id.0), life, applied.upto.0], || {
            format!("{id} starts life {life}: {recovered:?}, applied {}", applied.upto)
        });
        let mut configurations = read_configurations(id, &machine, &self.first)?;
        self.checks.agreement.knows(id, applied.upto, &configurations)?;
        if let Some(joined_in) = self.node(id).joined_in.clone() {
            configurations = configurations.joined_in(joined_in);
        }
        let talks_to = configurations.talked_to();
        let mut options = options(&self.plan, self.rng.u64(..));
        options.state_copied_upto = self.node(id).state.copied_upto;
        let settings = HostSettings {
            node: id,
            incarnation: life,
            configurations,
            options,
            limits: limits(&self.plan),
        };
        let heard = self.nobody_heard();
        let node = self.node(id);
        let host = Host::new(settings, recovered, &applied, node.clock.read(now_us));
        let segments = node.disk.take_filled();
        let mut process = Process::new(host, machine, unflushed, applied);
        process.heard = heard;
        process.release = node.release;
        process.talk_to(id, &talks_to);
        process.inbox.extend(segments.into_iter().map(Event::Segment));
        node.process = Some(process);
        self.schedule_beginnings(id, life);
        self.hear(id, Event::Tick)
    }

    /// What the journal gives back; none if the machine is gone, runs already, or
    /// cannot start from such a disk.
    fn read_disk(&mut self, id: NodeId) -> Result<Option<Recovered>, Violation> {
        let now_us = self.now_us;
        let node = self.node(id);
        let is_out = matches!(node.fate, Fate::Left | Fate::Waits) || node.is_rebuilding;
        if node.process.is_some() || is_out || is_gone(node.fate, node.store_id) {
            return Ok(None);
        }
        if node.disk.full {
            self.coverage.rare(Rare::StartFailed);
            self.at(500_000, Happening::Start { node: id });
            return Ok(None);
        }
        if !self.read_records(id)? {
            return Ok(None);
        }
        match self.repair(id)? {
            Repaired::Whole => {}
            Repaired::Waits => return Ok(None),
            Repaired::Refused => {
                let node = self.node(id);
                node.fate = Fate::Lost;
                node.store_id = 0;
                self.coverage.rare(Rare::DamageRefused);
                self.trace.note(now_us, [words::REFUSED, u64::from(id.0), 0, 0], || {
                    format!("{id} finds its journal damaged and stays down")
                });
                return Ok(None);
            }
        }
        let (mut recovered, made_up) = self.node(id).recover();
        self.start_after_filled(id, &mut recovered);
        if made_up {
            self.coverage.rare(Rare::CrashAfterSwitch);
        }
        Ok(Some(recovered))
    }

    /// The state as it was flushed, and what the journal knows as chosen after that, unless it
    /// cannot be had.
    fn rebuild_state(
        &mut self,
        id: NodeId,
        recovered: &Recovered,
    ) -> Result<Result<State, Unfit>, Violation> {
        let (now_us, kv_options) = (self.now_us, kv_options(&self.plan));
        let node = &mut self.nodes[id.0 as usize - 1];
        let (store, unflushed) = node.open_store();
        let Ok(mut machine) = StateMachine::open(store, kv_options) else {
            return Ok(Err(Unfit::Damaged));
        };
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
        let is_member = node.is_member();
        for (slot, value) in (first.0..).zip(&values) {
            if is_member {
                self.checks.agreement.learnt(id, Slot(slot), value)?;
            }
            // It may be the first to apply this at all.
            let (drift, reader) = (&mut node.drift, (node.release.newest, node.mistake));
            let commands = apply_value(&mut machine, &self.first, slot, value, drift, reader);
            let commands = match commands {
                Ok(commands) => commands,
                Err(unfit) => return Ok(Err(unfit)),
            };
            for took in commands {
                if let Taken::Applied { outcome, .. } = took.taken {
                    self.checks.taken(took.id, slot, &took.command, &outcome, now_us)?;
                }
            }
            if node.drift != Drift::Parted {
                self.checks.state_hash.applied(id, slot, machine.state_hash())?;
            }
            machine.commit().expect("memory does not fail");
        }
        let (upto, chosen_upto) = (machine.applied_slot(), recovered.chosen_upto.0);
        demand(upto >= chosen_upto, Checker::Durability, || {
            format!("the journal of {id} lacks slot {}, which it knows as chosen", upto + 1)
        })?;
        Ok(Ok((machine, unflushed)))
    }

    /// A node met what it cannot apply.
    pub(crate) fn stop_unfit(&mut self, id: NodeId, unfit: Unfit) -> Check {
        match unfit {
            Unfit::Damaged => self.doubt_state(id),
            Unfit::Unreadable => self.stop_unreadable(id),
        }
    }

    /// The first flush of a new process, and its connections.
    fn schedule_beginnings(&mut self, id: NodeId, life: u64) {
        let flush_us = self.rng.u64(1_000..self.plan.pace.flush_us);
        self.at(flush_us, Happening::Flush { node: id, life });
        self.begin_looking(id, life);
        for peer in 1..=self.plan.members {
            if NodeId(peer) != id {
                let delay_us = self.rng.u64(100..20_000);
                self.at(delay_us, Happening::Connected { one: id, other: NodeId(peer) });
            }
        }
    }
}

/// A machine without its disk; another store under its name may still run.
fn is_gone(fate: Fate, store_id: u64) -> bool {
    fate == Fate::Lost && store_id == 0
}

/// The configuration of the beginning.
pub(crate) fn configuration(plan: &Plan) -> Result<Configuration, Violation> {
    let members = (1..=plan.members - plan.joiners).map(NodeId).collect();
    Configuration::new(members, plan.promise_quorum, plan.accept_quorum, plan.sizes.alpha).map_err(
        |error| Violation {
            checker: Checker::Assertion,
            text: format!("no configuration: {error:?}"),
        },
    )
}

/// Who votes, as a state machine knows it.
pub(crate) fn read_configurations(
    id: NodeId,
    machine: &StateMachine<Store>,
    first: &Configuration,
) -> Result<Configurations, Violation> {
    configurations_of(machine, first).map_err(|error| Violation {
        checker: Checker::Durability,
        text: format!("{id} has lost who votes: {error}"),
    })
}

fn options(plan: &Plan, seed: u64) -> Options {
    let (pace, sizes) = (&plan.pace, &plan.sizes);
    Options {
        election_timeout_us: pace.election_timeout_us,
        heartbeat_us: pace.election_timeout_us / 6,
        disk_stall_us: pace.election_timeout_us,
        // In a quarter of the runs some are preferred.
        leader_priority: if plan.seed % 4 == 1 { (seed % 3) as u8 } else { 0 },
        window_slots_max: sizes.window_slots_max,
        value_bytes_max: sizes.value_bytes_max,
        page_bytes_max: sizes.page_bytes_max,
        cache_bytes_max: sizes.cache_bytes_max,
        tail_bytes_max: plan.tail.bytes_max,
        tail_us_max: plan.tail.us_max,
        keep_for_peers_us: plan.tail.keep_for_peers_us,
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

pub(crate) fn kv_options(plan: &Plan) -> KvOptions {
    let options = KvOptions::default();
    let removes_max = plan.guests.as_ref().map(|guests| guests.removes_max);
    KvOptions {
        delete_range_keys_max: removes_max.unwrap_or(options.delete_range_keys_max),
        idempotency_ttl_ms: plan.keys.ttl_ms,
        idempotency_grace_ms: plan.keys.grace_ms,
        metadata_cache_bytes_max: plan.sizes.metadata_cache_bytes_max,
        idempotency_records_max: plan.keys.records_max,
        planted: planted::machine(plan.bug),
        ..options
    }
}
