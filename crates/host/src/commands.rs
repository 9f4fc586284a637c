//! The commands of this node's own clients, from their arrival until they are
//! applied.
//!
//! A command gets the next sequence of this node's incarnation when it first
//! leaves for a leader, and is kept until the state machine has taken it. Nothing
//! on the way is reliable: a leader may lose what it was sent. So this is a
//! go-back-n sender: when there is reason to think that something was lost, it
//! sends everything again from the first command that was not taken. The state
//! machine takes each sequence once, so sending too much costs bytes and nothing
//! else.

use std::collections::VecDeque;

use bytes::Bytes;
use synod_kv::ServerId;
use synod_paxos::{Ballot, Bug, NodeId, Planted, Route, Time};
use synod_wire::batch;

use crate::Limits;
use crate::boundary::{Action, Refusal, RequestId, Waiter};

/// Deadlines are looked at no more often than this, so that a thousand of them
/// in a row do not cost a thousand walks over all that wait.
const SWEEP_US: u64 = 5_000;

/// The pause between retries doubles up to this many times.
const RETRY_DOUBLINGS_MAX: u32 = 3;

/// Where commands go, and under whose ballot. A new ballot is a new target even
/// on the same node: what its leader queued before is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    pub(crate) route: Route,
    pub(crate) ballot: Option<Ballot>,
}

/// A command without a sequence: it was never sent and can be refused.
#[derive(Debug)]
struct Unsent {
    request: RequestId,
    command: Bytes,
    deadline: Time,
}

/// The sender.
#[derive(Debug)]
pub(crate) struct Commands {
    node: NodeId,
    incarnation: u64,
    waiting_max: usize,
    waiting_bytes_max: usize,
    in_flight_max: usize,
    in_flight_bytes_max: usize,
    retry_us: u64,
    planted: Planted,

    unsent: VecDeque<Unsent>,
    unsent_bytes: usize,
    /// No deadline of an unsent command lies before this.
    sweep_at: Option<Time>,

    /// Every own sequence up to here is taken.
    taken: u64,
    /// Encoded commands from sequence `taken + 1` on.
    sent: VecDeque<Bytes>,
    sent_bytes: usize,
    /// How many of `sent` are on their way to the present target.
    in_flight: usize,
    in_flight_bytes: usize,
    /// Clients of commands that got a sequence since the last Apply.
    waiters: Vec<Waiter>,

    /// The last target that was not nowhere.
    target: Option<Target>,
    reachable: bool,
    /// When to send again if nothing is taken until then.
    retry_at: Option<Time>,
    retries: u32,
    /// The value of `taken` when a gap last made this sender go back: one gap is
    /// reported by every value that follows it.
    gap_answered_at: Option<u64>,
}

impl Commands {
    /// A sender for a new incarnation, whose sequences start at 1.
    pub(crate) fn new(
        node: NodeId,
        incarnation: u64,
        limits: &Limits,
        retry_us: u64,
        planted: Planted,
    ) -> Self {
        Commands {
            node,
            incarnation,
            waiting_max: limits.writes_waiting_max,
            waiting_bytes_max: limits.writes_waiting_bytes_max,
            in_flight_max: limits.writes_in_flight_max,
            in_flight_bytes_max: limits.writes_in_flight_bytes_max,
            retry_us,
            planted,
            unsent: VecDeque::new(),
            unsent_bytes: 0,
            sweep_at: None,
            taken: 0,
            sent: VecDeque::new(),
            sent_bytes: 0,
            in_flight: 0,
            in_flight_bytes: 0,
            waiters: Vec::new(),
            target: None,
            reachable: false,
            retry_at: None,
            retries: 0,
            gap_answered_at: None,
        }
    }

    /// A client's command.
    ///
    /// # Errors
    /// Refused when too many wait.
    pub(crate) fn receive_write(
        &mut self,
        request: RequestId,
        command: Bytes,
        deadline: Time,
    ) -> Result<(), Refusal> {
        let bytes = self.unsent_bytes + self.sent_bytes + command.len();
        if self.unsent.len() + self.sent.len() >= self.waiting_max || bytes > self.waiting_bytes_max
        {
            return Err(Refusal::Overloaded);
        }
        self.unsent_bytes += command.len();
        self.sweep_at = Some(self.sweep_at.map_or(deadline, |at| at.min(deadline)));
        self.unsent.push_back(Unsent { request, command, deadline });
        Ok(())
    }

    /// Where commands go from now on. Says whether that is another leader than
    /// before; then all that is not taken goes there from the start.
    pub(crate) fn set_target(&mut self, target: Target) -> bool {
        self.reachable = target.route != Route::Nowhere;
        if !self.reachable || self.target == Some(target) {
            return false;
        }
        self.target = Some(target);
        self.retries = 0;
        self.go_back();
        true
    }

    /// The next command to send, already encoded: first what was sent before and
    /// has to go again, then new ones. None when all is on its way, when there is
    /// nowhere to send it, or when enough is on its way.
    pub(crate) fn next_entry(&mut self, now: Time) -> Option<Bytes> {
        if !self.reachable || self.in_flight >= self.in_flight_max {
            return None;
        }
        // The bound is checked before, so that one command larger than it goes too.
        if self.in_flight_bytes >= self.in_flight_bytes_max {
            return None;
        }
        if self.in_flight == self.sent.len() {
            self.number_next()?;
        }
        let entry = self.sent[self.in_flight].clone();
        self.in_flight += 1;
        self.in_flight_bytes += entry.len();
        if self.retry_at.is_none() {
            self.retry_at = Some(now.plus_us(self.retry_us << self.retries));
        }
        Some(entry)
    }

    /// The state machine has taken every own command up to `own_sequence`; with
    /// `gap`, it met one whose predecessor is missing.
    ///
    /// # Panics
    /// When it has taken a command that was never sent.
    pub(crate) fn applied(&mut self, now: Time, own_sequence: u64, gap: bool) {
        let newly = own_sequence.saturating_sub(self.taken);
        assert!(newly <= self.sent.len() as u64, "a command was taken that was never sent");
        for _ in 0..newly {
            let entry = self.sent.pop_front().expect("the length was just checked");
            self.sent_bytes -= entry.len();
            if self.in_flight > 0 {
                self.in_flight -= 1;
                self.in_flight_bytes -= entry.len();
            }
        }
        if newly > 0 {
            self.taken = own_sequence;
            self.retries = 0;
            self.retry_at = (self.in_flight > 0).then(|| now.plus_us(self.retry_us));
        }
        if gap && self.gap_answered_at != Some(self.taken) {
            self.gap_answered_at = Some(self.taken);
            self.go_back();
        }
    }

    /// A snapshot replaced the state, and with it every own command up to `own_sequence`
    /// was taken; those who wait for one that was not handed out yet are told that
    /// nobody knows its outcome. What is not taken goes again from the start.
    ///
    /// # Panics
    /// When the snapshot lacks a command that was taken: the state would go back.
    pub(crate) fn installed(&mut self, now: Time, own_sequence: u64, actions: &mut Vec<Action>) {
        assert!(own_sequence >= self.taken, "a snapshot lacks a command that was taken");
        self.applied(now, own_sequence, false);
        self.waiters.retain(|waiter| {
            let waits = waiter.sequence > own_sequence;
            if !waits {
                let (request, refusal) = (waiter.request, Refusal::Unknown);
                actions.push(Action::Refuse { request, refusal });
            }
            waits
        });
        self.go_back();
    }

    /// A connection to `peer` was made. If commands were on their way to it, they
    /// may have been lost with the one before.
    pub(crate) fn connected(&mut self, peer: NodeId) {
        let target = self.target.map(|target| target.route);
        if target == Some(Route::Leader(peer)) || target == Some(Route::Through(peer)) {
            self.go_back();
        }
    }

    /// Sends again when nothing was taken for too long. `lossless` says that the
    /// target is this node's own queue, which holds what it was given.
    pub(crate) fn retry_if_due(&mut self, now: Time, lossless: bool) {
        if self.retry_at.is_none_or(|at| now < at) {
            return;
        }
        if lossless {
            self.retry_at = Some(now.plus_us(self.retry_us));
            return;
        }
        self.retries = (self.retries + 1).min(RETRY_DOUBLINGS_MAX);
        self.go_back();
    }

    /// Refuses commands that were never sent and whose time is over.
    pub(crate) fn expire(&mut self, now: Time, actions: &mut Vec<Action>) {
        if self.sweep_at.is_none_or(|at| now < at) {
            return;
        }
        // With somewhere to send it, it was only room that it waited for.
        let refusal = if self.reachable { Refusal::Overloaded } else { Refusal::NoLeader };
        let mut next: Option<Time> = None;
        let unsent_bytes = &mut self.unsent_bytes;
        self.unsent.retain(|unsent| {
            let alive = now < unsent.deadline;
            if alive {
                next = Some(next.map_or(unsent.deadline, |at| at.min(unsent.deadline)));
            } else {
                *unsent_bytes -= unsent.command.len();
                actions.push(Action::Refuse { request: unsent.request, refusal });
            }
            alive
        });
        if self.planted.is(Bug::TimeoutIsFailure) {
            let late = self.waiters.drain(..).map(|waiter| waiter.request);
            actions.extend(late.map(|request| Action::Refuse { request, refusal }));
        }
        self.sweep_at = next.map(|at| at.max(now.plus_us(SWEEP_US)));
    }

    /// When something is due by the passing of time alone.
    pub(crate) fn deadline(&self) -> Option<Time> {
        [self.sweep_at, self.retry_at].into_iter().flatten().min()
    }

    /// Those who wait for commands that got a sequence since this was last asked.
    pub(crate) fn take_waiters(&mut self) -> Vec<Waiter> {
        std::mem::take(&mut self.waiters)
    }

    /// Commands that were never sent.
    pub(crate) fn unsent(&self) -> usize {
        self.unsent.len()
    }

    /// Commands that were sent and are not taken.
    pub(crate) fn sent(&self) -> usize {
        self.sent.len()
    }

    /// Gives the oldest unsent command the next sequence.
    fn number_next(&mut self) -> Option<()> {
        let Unsent { request, command, .. } = self.unsent.pop_front()?;
        self.unsent_bytes -= command.len();
        if self.unsent.is_empty() {
            self.sweep_at = None;
        }
        let sequence = self.taken + self.sent.len() as u64 + 1;
        let id = ServerId { origin: self.node.0, incarnation: self.incarnation, sequence };
        let entry = batch::encode_entry(id, &command);
        self.sent_bytes += entry.len();
        self.sent.push_back(entry);
        self.waiters.push(Waiter { sequence, request });
        Some(())
    }

    fn go_back(&mut self) {
        if self.planted.is(Bug::ForwardedOnce) {
            return;
        }
        self.in_flight = 0;
        self.in_flight_bytes = 0;
        self.retry_at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEADER: Target = Target {
        route: Route::Leader(NodeId(2)),
        ballot: Some(Ballot { round: 1, node: NodeId(2) }),
    };
    const NOWHERE: Target = Target { route: Route::Nowhere, ballot: None };

    fn commands(limits: &Limits) -> Commands {
        Commands::new(NodeId(1), 7, limits, 1_000, Planted::NONE)
    }

    fn write(commands: &mut Commands, request: u64) {
        let command = Bytes::from(vec![b'c'; 10]);
        commands.receive_write(RequestId(request), command, Time(50_000)).expect("room");
    }

    /// Sends all that may leave, and tells the sequences.
    fn send(commands: &mut Commands, now: u64) -> Vec<u64> {
        let mut sequences = Vec::new();
        while let Some(entry) = commands.next_entry(Time(now)) {
            let id = batch::entry_id(&entry).expect("an entry of our own");
            assert_eq!((id.origin, id.incarnation), (1, 7));
            sequences.push(id.sequence);
        }
        sequences
    }

    fn refused(commands: &mut Commands, now: u64) -> Vec<u64> {
        let mut actions = Vec::new();
        commands.expire(Time(now), &mut actions);
        let request = |action: &Action| match action {
            Action::Refuse { request, refusal: Refusal::NoLeader } => request.0,
            other => panic!("unexpected {other:?}"),
        };
        actions.iter().map(request).collect()
    }

    #[test]
    fn a_command_gets_its_sequence_when_it_first_leaves() {
        let mut commands = commands(&Limits::default());
        write(&mut commands, 100);
        write(&mut commands, 101);
        assert_eq!(send(&mut commands, 0), Vec::<u64>::new(), "there is nowhere to send them");
        assert_eq!(commands.take_waiters(), vec![]);
        assert!(commands.set_target(LEADER));
        assert_eq!(send(&mut commands, 0), vec![1, 2]);
        let waiter = |sequence, request| Waiter { sequence, request: RequestId(request) };
        assert_eq!(commands.take_waiters(), vec![waiter(1, 100), waiter(2, 101)]);
        assert_eq!(commands.take_waiters(), vec![]);
        commands.applied(Time(10), 1, false);
        write(&mut commands, 102);
        assert_eq!(send(&mut commands, 10), vec![3]);
        commands.applied(Time(20), 3, false);
        assert_eq!((commands.sent(), commands.sent_bytes, commands.deadline()), (0, 0, None));
    }

    #[test]
    fn another_ballot_gets_all_again_and_a_pause_without_leader_changes_nothing() {
        let mut commands = commands(&Limits::default());
        commands.set_target(LEADER);
        write(&mut commands, 1);
        write(&mut commands, 2);
        assert_eq!(send(&mut commands, 0), vec![1, 2]);
        assert!(!commands.set_target(NOWHERE));
        write(&mut commands, 3);
        assert_eq!(send(&mut commands, 0), Vec::<u64>::new());
        assert!(!commands.set_target(LEADER), "the same leader in the same ballot");
        assert_eq!(send(&mut commands, 0), vec![3]);
        let later = Ballot { round: 2, node: NodeId(2) };
        assert!(commands.set_target(Target { ballot: Some(later), ..LEADER }));
        assert_eq!(send(&mut commands, 0), vec![1, 2, 3]);
        assert_eq!(commands.take_waiters().len(), 3, "a waiter is handed out once");
    }

    #[test]
    fn one_gap_makes_it_go_back_once() {
        let mut commands = commands(&Limits::default());
        commands.set_target(LEADER);
        (0..4).for_each(|request| write(&mut commands, request));
        assert_eq!(send(&mut commands, 0), vec![1, 2, 3, 4]);
        commands.applied(Time(10), 1, true);
        assert_eq!(send(&mut commands, 10), vec![2, 3, 4]);
        commands.applied(Time(11), 1, true);
        assert_eq!(send(&mut commands, 11), Vec::<u64>::new(), "the same gap, already answered");
        commands.applied(Time(12), 2, true);
        assert_eq!(send(&mut commands, 12), vec![3, 4], "there was progress, and a new gap");
    }

    /// Four commands on their way, the first two handed to the state machine; a snapshot
    /// took each number of them.
    #[test]
    fn what_a_snapshot_took_is_unknown_and_the_rest_goes_again() {
        for (handed, took) in (0..=4).flat_map(|handed| (0..=4).map(move |took| (handed, took))) {
            let mut commands = commands(&Limits::default());
            commands.set_target(LEADER);
            (1..=handed).for_each(|request| write(&mut commands, request));
            send(&mut commands, 0);
            assert_eq!(commands.take_waiters().len() as u64, handed);
            (handed + 1..=4).for_each(|request| write(&mut commands, request));
            send(&mut commands, 0);
            let mut actions = Vec::new();
            commands.installed(Time(10), took, &mut actions);
            let refuse =
                |request| Action::Refuse { request: RequestId(request), refusal: Refusal::Unknown };
            let unknown: Vec<Action> = (handed + 1..=took).map(refuse).collect();
            assert_eq!(actions, unknown, "{handed} handed out, {took} took");
            let waits: Vec<u64> = commands.take_waiters().iter().map(|w| w.sequence).collect();
            assert_eq!(waits, (handed.max(took) + 1..=4).collect::<Vec<_>>());
            assert_eq!(send(&mut commands, 10), (took + 1..=4).collect::<Vec<_>>());
        }
    }

    #[test]
    #[should_panic(expected = "lacks a command that was taken")]
    fn a_snapshot_that_lacks_a_taken_command_is_a_bug() {
        let mut commands = commands(&Limits::default());
        commands.set_target(LEADER);
        write(&mut commands, 1);
        send(&mut commands, 0);
        commands.applied(Time(1), 1, false);
        commands.installed(Time(2), 0, &mut Vec::new());
    }

    #[test]
    fn without_progress_it_sends_again_with_growing_pauses() {
        let mut commands = commands(&Limits::default());
        commands.set_target(LEADER);
        write(&mut commands, 1);
        assert_eq!(send(&mut commands, 0), vec![1]);
        let mut now = 0;
        for pause in [1_000, 2_000, 4_000, 8_000, 8_000] {
            commands.retry_if_due(Time(now + pause - 1), false);
            assert_eq!(send(&mut commands, now + pause - 1), Vec::<u64>::new());
            now += pause;
            commands.retry_if_due(Time(now), false);
            assert_eq!(send(&mut commands, now), vec![1]);
        }
        commands.applied(Time(now), 1, false);
        write(&mut commands, 2);
        assert_eq!(send(&mut commands, now), vec![2]);
        assert_eq!(commands.retry_at, Some(Time(now + 1_000)));
        commands.retry_if_due(Time(now + 1_000), true);
        assert_eq!(send(&mut commands, now + 1_000), Vec::<u64>::new(), "nothing lost here");
    }

    #[test]
    fn only_so_much_is_on_its_way_at_once() {
        let limits = Limits { writes_in_flight_max: 2, ..Limits::default() };
        let mut commands = commands(&limits);
        commands.set_target(LEADER);
        (0..4).for_each(|request| write(&mut commands, request));
        assert_eq!(send(&mut commands, 0), vec![1, 2]);
        assert_eq!((commands.sent(), commands.unsent()), (2, 2));
        commands.applied(Time(1), 1, false);
        assert_eq!(send(&mut commands, 1), vec![3]);
        // A rewound sender that hears of progress beyond its cursor stays sound.
        commands.go_back();
        commands.applied(Time(2), 3, false);
        assert_eq!(send(&mut commands, 2), vec![4]);
    }

    #[test]
    fn the_bound_on_bytes_lets_one_large_command_through() {
        let limits = Limits { writes_in_flight_bytes_max: 5, ..Limits::default() };
        let mut commands = commands(&limits);
        commands.set_target(LEADER);
        (0..2).for_each(|request| write(&mut commands, request));
        assert_eq!(send(&mut commands, 0), vec![1]);
    }

    #[test]
    fn only_unsent_commands_are_refused() {
        let mut commands = commands(&Limits::default());
        commands.set_target(LEADER);
        write(&mut commands, 1);
        assert_eq!(send(&mut commands, 0), vec![1]);
        commands.set_target(NOWHERE);
        write(&mut commands, 2);
        commands.receive_write(RequestId(3), Bytes::new(), Time(90_000)).expect("room");
        assert_eq!(refused(&mut commands, 49_999), Vec::<u64>::new());
        assert_eq!(refused(&mut commands, 50_000), vec![2]);
        assert_eq!(refused(&mut commands, 90_000), vec![3]);
        assert_eq!((commands.unsent(), commands.unsent_bytes, commands.sent()), (0, 0, 1));
    }

    #[test]
    fn a_command_that_only_lacked_room_is_not_told_that_there_is_no_leader() {
        let limits = Limits { writes_in_flight_max: 1, ..Limits::default() };
        for (target, refusal) in [(LEADER, Refusal::Overloaded), (NOWHERE, Refusal::NoLeader)] {
            let mut commands = commands(&limits);
            commands.set_target(LEADER);
            (0..2).for_each(|request| write(&mut commands, request));
            assert_eq!(send(&mut commands, 0), vec![1]);
            commands.set_target(target);
            let mut actions = Vec::new();
            commands.expire(Time(50_000), &mut actions);
            assert_eq!(actions, vec![Action::Refuse { request: RequestId(1), refusal }]);
        }
    }

    #[test]
    fn too_many_or_too_large_writes_are_refused_at_once() {
        let limits =
            Limits { writes_waiting_max: 2, writes_waiting_bytes_max: 25, ..Limits::default() };
        let mut commands = commands(&limits);
        let large = Bytes::from(vec![0; 26]);
        let refusal = commands.receive_write(RequestId(1), large, Time(9));
        assert_eq!(refusal, Err(Refusal::Overloaded));
        write(&mut commands, 1);
        write(&mut commands, 2);
        let refusal = commands.receive_write(RequestId(3), Bytes::new(), Time(9));
        assert_eq!(refusal, Err(Refusal::Overloaded));
    }
}
