//! The state machine, and reads of it under a lease (`raft::lease`).
//!
//! While a lease holds, nobody has to be asked, so the thread that brings a read answers it: the
//! read costs no wake-up and waits for no other thread. If the state is being changed, or the state
//! machine is slow, the read goes the usual way, through the core.
//!
//! # Why such a read is linearizable
//! The thread looks at the clock, at the end of the lease, at the last committed entry and at what
//! the state machine has applied, in this order, and then reads the state.
//!
//! - The lease still held when the thread looked at the clock, so no leader of a later term had
//!   committed anything by then. The core takes a lease back, for a transfer, before it tells
//!   anyone, because [`publish`](Leased::publish) comes before the messages of the same step.
//! - There is no lease until an entry of this term is committed. From then on the commit index
//!   covers everything that earlier leaders have acknowledged. So it is published before the end of
//!   the lease, and looked at after it.
//! - The commit index is also published before it is sent to anyone. So no follower has shown more
//!   than that to its own clients.
//! - The state has all that, or the read is not answered here.
//! - What the state has beyond that is committed as well, and so comes before whatever another
//!   leader commits later.
//!
//! # Invariants
//! - Nobody reads a state in which an entry is half applied: the applier has it for itself
//!   meanwhile, and after a panic or a failure nobody gets it any more.
//! - The state machine ends with the applier.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::request::Proposal;
use super::shared::{SLOW_APPLY, Shared};
use super::state_machine::{Observer, StateMachine};
use crate::clock;
use crate::raft::Index;

pub(super) struct Leased<S: StateMachine> {
    machine: RwLock<Machine<S>>,
    /// Until when the lease holds, by the boot-time clock in microseconds; 0: there is none.
    lease_end_us: AtomicU64,
    commit_index: AtomicU64,
    /// When the newest read that was answered here began, by the boot-time clock in nanoseconds.
    read_begun_ns: AtomicU64,
    is_stopped: AtomicBool,
    held_back: OnceLock<HeldBack<S>>,
    shared: Arc<Shared>,
}

/// A command that is held back until a tick, or until something gets a stamp: see
/// [`NodeHandle::at_each_tick`](super::NodeHandle::at_each_tick).
type HeldBack<S> =
    Box<dyn Fn(bool, Instant) -> Option<Proposal<<S as StateMachine>::Outcome>> + Send + Sync>;

pub(super) struct Machine<S> {
    /// None once a change of it has panicked or failed, or the applier has ended.
    state_machine: Option<S>,
    observers: Vec<Arc<dyn Observer<S>>>,
}

impl<S: StateMachine> Machine<S> {
    pub(super) fn get(&self) -> &S {
        self.state_machine.as_ref().expect("the applier stops at the first failure")
    }

    /// Changes the state.
    pub(super) fn change<T, E>(
        &mut self,
        change: impl FnOnce(&mut S) -> Result<T, E>,
    ) -> Result<T, E> {
        let state_machine = self.state_machine.take();
        let mut state_machine = state_machine.expect("the applier stops at the first failure");
        let result = change(&mut state_machine)?;
        self.state_machine = Some(state_machine);
        Ok(result)
    }

    /// An entry has changed the state.
    pub(super) fn tell_applied(&self) {
        self.observers.iter().for_each(|observer| observer.applied(self.get()));
    }

    /// A snapshot has replaced the state.
    pub(super) fn tell_replaced(&self) {
        self.observers.iter().for_each(|observer| observer.replaced(self.get()));
    }
}

impl<S: StateMachine> Leased<S> {
    pub(super) fn new(state_machine: S, shared: Arc<Shared>) -> Arc<Leased<S>> {
        Arc::new(Leased {
            machine: RwLock::new(Machine {
                state_machine: Some(state_machine),
                observers: Vec::new(),
            }),
            lease_end_us: AtomicU64::new(0),
            commit_index: AtomicU64::new(0),
            read_begun_ns: AtomicU64::new(0),
            is_stopped: AtomicBool::new(false),
            held_back: OnceLock::new(),
            shared,
        })
    }

    /// For the applier, to answer reads. Other threads may do so at the same time.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Machine<S>> {
        self.machine.read()
    }

    /// For the applier, to change the state.
    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Machine<S>> {
        self.machine.write()
    }

    /// Where the core stands after a step, before anybody else learns of it.
    pub(super) fn publish(&self, lease_end_us: u64, commit_index: Index) {
        self.commit_index.store(commit_index.0, Ordering::SeqCst);
        self.lease_end_us.store(lease_end_us, Ordering::SeqCst);
    }

    /// No more reads are answered here.
    pub(super) fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
    }

    /// The command that raises the level of the state, unless the state is being changed.
    pub(super) fn try_level_command(&self, level: u32) -> Option<Bytes> {
        self.machine.try_read()?.state_machine.as_ref().map(|it| it.level_command(level))
    }

    pub(super) fn set_held_back(&self, held_back: HeldBack<S>) {
        let _ = self.held_back.set(held_back);
    }

    /// The command that is held back until now. `must_go`: something is due soon.
    pub(super) fn held_back(&self, must_go: bool, now: Instant) -> Option<Proposal<S::Outcome>> {
        self.held_back.get().and_then(|held_back| held_back(must_go, now))
    }

    /// From now on `observer` is told of every change.
    pub(super) fn observe(&self, observer: Arc<dyn Observer<S>>) {
        let mut machine = self.machine.write();
        machine.state_machine.as_ref().inspect(|it| observer.replaced(it));
        machine.observers.push(observer);
    }

    /// Looks at the state as it is, after a change that is under way. `None`: there is none any
    /// more, or it has diverged.
    pub(super) fn inspect<T>(&self, look: impl FnOnce(&S) -> T) -> Option<T> {
        let machine = self.machine.read();
        machine.state_machine.as_ref().filter(|_| !self.is_diverged()).map(look)
    }

    /// Ends the state machine.
    pub(super) fn end(&self) {
        let state_machine = self.machine.write().state_machine.take();
        // Without the lock: it may take long.
        drop(state_machine);
    }

    /// The state reflects every write that was acknowledged before this moment of the boot-time
    /// clock, as reads that were answered here show.
    pub(super) fn fresh_as_of(&self) -> Option<Duration> {
        let begun_ns = self.read_begun_ns.load(Ordering::Relaxed);
        (begun_ns > 0).then(|| Duration::from_nanos(begun_ns))
    }

    /// Answers a query that began at this moment of the boot-time clock, if a lease allows it and
    /// nobody changes the state. Otherwise gives it back.
    pub(super) fn try_read(&self, query: S::Query, begun: Duration) -> Result<S::Answer, S::Query> {
        if self.lease_end_us.load(Ordering::Relaxed) == 0 || !self.may_read() {
            return Err(query);
        }
        let Some(machine) = self.machine.try_read() else { return Err(query) };
        let Some(state_machine) = machine.state_machine.as_ref().filter(|_| !self.is_diverged())
        else {
            return Err(query);
        };
        let asked = Instant::now();
        let answer = state_machine.query(query);
        drop(machine);
        if asked.elapsed() > SLOW_APPLY {
            self.shared.is_apply_slow.store(true, Ordering::Relaxed);
        }
        self.read_begun_ns.fetch_max(begun.as_nanos() as u64, Ordering::Relaxed);
        Ok(answer)
    }

    fn may_read(&self) -> bool {
        let now_us = clock::boot_time().as_micros() as u64;
        let is_held = now_us < self.lease_end_us.load(Ordering::SeqCst);
        let committed = self.commit_index.load(Ordering::SeqCst);
        is_held
            && self.shared.applied_index.load(Ordering::Acquire) >= committed
            && !self.shared.is_apply_slow.load(Ordering::Relaxed)
            && !self.is_stopped.load(Ordering::SeqCst)
            && !self.shared.gate.is_closed()
            && !self.shared.is_killed()
    }

    fn is_diverged(&self) -> bool {
        self.shared.watch.is_diverged()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io;

    use super::super::config::Detour;
    use super::super::configured::SharedMembers;
    use super::super::identity::{Affiliation, Identity};
    use super::*;
    use crate::node::divergence::{Checkpoint, Query};
    use crate::node::levels::Levels;
    use crate::node::state_machine::StateView;
    use crate::node::watch::Watch;
    use crate::raft::{Config, HardState, MemberId, Raft};

    const SECOND_US: u64 = 1_000_000;

    /// Holds one number.
    struct Number(u64);

    impl StateMachine for Number {
        type Outcome = ();
        type Query = ();
        type Answer = u64;
        type View = Nothing;

        fn apply(&mut self, _: Index, _: &Bytes) {
            self.0 += 1;
        }

        fn query(&self, (): ()) -> u64 {
            self.0
        }

        fn view(&self) -> Nothing {
            Nothing
        }

        fn load(&mut self, _: &mut dyn io::Read) -> io::Result<()> {
            Ok(())
        }
    }

    struct Nothing;

    impl StateView for Nothing {
        fn write(&self, _: &mut dyn io::Write) -> io::Result<()> {
            Ok(())
        }
    }

    fn now_us() -> u64 {
        clock::boot_time().as_micros() as u64
    }

    /// A leader that holds a lease for a while, and has applied all five entries.
    fn leased() -> Arc<Leased<Number>> {
        let config = Config::new(MemberId(1), [MemberId(1)]);
        let watch = Watch::new(MemberId(1), config.members.clone());
        let levels = Levels::new(MemberId(1), config.members.clone(), 0);
        let raft = Raft::new(config, HardState::default(), None, Vec::new());
        let identity = Identity::new(MemberId(1), Affiliation { cluster_id: 7, list_id: 7 });
        let members = SharedMembers::new("1=a:1".parse().unwrap(), Detour::default());
        let shared = Shared::new(identity, members, raft.status(), watch, levels);
        let shared = Arc::new(shared);
        shared.applied_index.store(5, Ordering::Release);
        let leased = Leased::new(Number(5), shared);
        leased.publish(now_us() + 60 * SECOND_US, Index(5));
        leased
    }

    fn read(leased: &Leased<Number>) -> Option<u64> {
        leased.try_read((), clock::boot_time()).ok()
    }

    #[test]
    fn a_read_is_answered_while_the_lease_holds() {
        let leased = leased();
        assert_eq!(leased.fresh_as_of(), None);
        let asked = clock::boot_time();
        assert_eq!(read(&leased), Some(5));
        assert!(leased.fresh_as_of() >= Some(asked), "it shows how fresh the state is");
        leased.publish(now_us() - 1, Index(5));
        assert_eq!(read(&leased), None, "the lease is over");
        leased.publish(0, Index(5));
        assert_eq!(read(&leased), None, "there is none");
    }

    #[test]
    fn a_read_waits_for_all_that_is_committed() {
        let leased = leased();
        leased.publish(now_us() + 60 * SECOND_US, Index(6));
        assert_eq!(read(&leased), None, "a follower may have shown entry 6");
        let apply = |it: &mut Number| {
            it.0 += 1;
            Ok::<_, Infallible>(())
        };
        let Ok(()) = leased.write().change(apply);
        leased.shared.applied_index.store(6, Ordering::Release);
        assert_eq!(read(&leased), Some(6));
    }

    #[test]
    fn a_read_never_waits_for_the_state_machine() {
        let leased = leased();
        let applying = leased.write();
        assert_eq!(read(&leased), None);
        drop(applying);
        let _others_read = leased.read();
        assert_eq!(read(&leased), Some(5));
        leased.shared.is_apply_slow.store(true, Ordering::Relaxed);
        assert_eq!(read(&leased), None);
    }

    #[test]
    fn a_member_that_stops_or_is_paused_answers_nothing() {
        let leased = leased();
        leased.shared.is_killed.store(true, Ordering::Release);
        assert_eq!(read(&leased), None);
        leased.shared.is_killed.store(false, Ordering::Release);
        assert_eq!(read(&leased), Some(5));
        leased.stop();
        leased.publish(now_us() + 60 * SECOND_US, Index(5));
        assert_eq!(read(&leased), None, "a step that was under way changes nothing");
    }

    #[test]
    fn a_state_that_has_diverged_answers_nothing() {
        let leased = leased();
        leased.shared.watch.restored(Index(5), Some(1));
        let agreed = Some(Checkpoint { index: Index(5), digest: 2 });
        leased.shared.watch.heard(Query { asked: Index::ZERO, agreed });
        assert_eq!(read(&leased), None);
    }

    #[test]
    fn nobody_reads_a_state_that_a_change_has_left_half_done() {
        let leased = leased();
        assert_eq!(leased.write().change(|_| Err::<(), _>("failed")), Err("failed"));
        assert_eq!(read(&leased), None);
        let leased = self::leased();
        leased.end();
        assert_eq!(read(&leased), None);
    }
}
