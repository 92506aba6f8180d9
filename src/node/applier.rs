//! The stage of the state machine: applies what is committed, and answers reads.
//!
//! Tasks come in the order of the core's effects, and the order carries meaning: a read stands
//! behind the entries that it must see, and a proposal is expected before its entry is applied. The
//! queue needs no bound of its own, because the core limits what it hands out: bytes of entries,
//! proposals and reads.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::leased::Leased;
use super::levels::UnknownLevel;
use super::request::{RequestError, Responder, Stale};
use super::shared::{NodeFailure, SLOW_APPLY, Shared};
use super::stage::{Queue, Sink, Worker};
use super::state_machine::StateMachine;
use crate::clock;
use crate::raft::{
    self, AppliedTime, Configuration, Entry, Index, MemberId, Payload, SnapshotMeta, Term,
};
use crate::rpc::Cork;
use crate::storage::{Snapshot, StorageError};

/// How long an answer may wait for others of the same turn.
const HELD_BACK_MAX: Duration = Duration::from_millis(1);

/// What a client is told whose command is in the log of a member that is found to have diverged.
const DIVERGED_AND_MAY_APPLY: RequestError = RequestError::Diverged { may_apply: true };

/// What the core orders from the state machine.
pub(super) enum ApplierTask<S: StateMachine> {
    /// These proposals are in the log, in this order.
    Expect(Vec<PendingProposal<S::Outcome>>),
    /// These entries are committed.
    Apply(Vec<Entry>),
    /// These reads may be answered now.
    Read(Vec<(S::Query, Responder<S::Answer>)>),
    /// This read may be answered at any time, if the state is as fresh as it asks for.
    ReadStale {
        query: S::Query,
        /// `None` allows any age.
        age_max: Option<Duration>,
        responder: Responder<Stale<S::Answer>>,
    },
    /// The state reflects all writes that were acknowledged before this moment of the boot-time
    /// clock.
    FreshAsOf(Duration),
    /// Take a snapshot of the state.
    TakeSnapshot,
    /// Replace the state by this snapshot of the leader's.
    Install(Snapshot),
    /// This member no longer leads: nobody knows which expected proposals will be committed.
    LeadershipLost(Option<MemberId>),
    /// End the proposals whose deadline has passed.
    Sweep,
}

/// What the state machine has for others.
pub(super) enum ApplierOutput<V> {
    /// The state as it was after this entry, to be written out as a snapshot.
    View {
        meta: SnapshotMeta,
        /// The configuration in force after that entry.
        configuration: Option<Arc<Configuration>>,
        view: V,
    },
    Failed(NodeFailure),
}

/// A proposal in the log.
pub(super) struct PendingProposal<T> {
    pub(super) index: Index,
    pub(super) term: Term,
    pub(super) responder: Responder<T>,
}

/// What waits for the state machine, in order.
pub(super) struct ApplierQueue<S: StateMachine> {
    tasks: Vec<ApplierTask<S>>,
    /// Tasks that are worth a turn. Expected proposals wait for their entries.
    due: usize,
    /// Tasks that may take long.
    slow: usize,
}

impl<S: StateMachine> Default for ApplierQueue<S> {
    fn default() -> ApplierQueue<S> {
        ApplierQueue { tasks: Vec::new(), due: 0, slow: 0 }
    }
}

impl<S: StateMachine> ApplierQueue<S> {
    pub(super) fn push(&mut self, task: ApplierTask<S>) {
        let (is_due, is_slow) = match task {
            ApplierTask::Expect(_) => (false, false),
            ApplierTask::Read(_) | ApplierTask::ReadStale { .. } | ApplierTask::FreshAsOf(_) => {
                (true, false)
            }
            _ => (true, true),
        };
        self.due += usize::from(is_due);
        self.slow += usize::from(is_slow);
        self.tasks.push(task);
    }

    /// Whether a thread that must be back soon may do these tasks.
    pub(super) fn is_quick(&self) -> bool {
        self.slow == 0
    }
}

impl<S: StateMachine> Queue for ApplierQueue<S> {
    type Batch = Vec<ApplierTask<S>>;

    fn take(&mut self) -> Option<Vec<ApplierTask<S>>> {
        self.has_work().then(|| std::mem::take(self).tasks)
    }

    fn has_work(&self) -> bool {
        self.due > 0
    }
}

pub(super) struct Applier<S: StateMachine> {
    leased: Arc<Leased<S>>,
    /// The state reflects every write that was acknowledged before this moment.
    fresh_as_of: Option<Duration>,
    expected: VecDeque<PendingProposal<S::Outcome>>,
    /// The last entry that the state holds.
    applied: Option<SnapshotMeta>,
    /// The configuration in force after that entry.
    configuration: Option<Arc<Configuration>>,
    /// Whether the data directory knew the cluster's id when the node started.
    is_cluster_recorded: bool,
    /// The cluster's time as of that entry.
    time: AppliedTime,
    shared: Arc<Shared>,
    /// The state cannot be used any more.
    has_failed: bool,
    /// One for each entry of the task at hand that was applied.
    digests: Vec<u64>,
}

impl<S: StateMachine> Worker for Applier<S> {
    type Queue = ApplierQueue<S>;
    type Output = ApplierOutput<S::View>;

    fn turn(&mut self, tasks: Vec<ApplierTask<S>>, out: &mut Sink<'_, Self::Output>) {
        self.shared.gate.pass();
        // Answers of one turn that go over one connection leave together.
        let (cork, began) = (Cork::new(), Instant::now());
        for task in tasks {
            self.carry_out(task, &cork, out);
        }
        self.shared.is_apply_slow.store(began.elapsed() > SLOW_APPLY, Ordering::Relaxed);
    }

    fn panicked(&self) -> Self::Output {
        let id = self.shared.status.lock().id;
        ApplierOutput::Failed(NodeFailure::Panicked(format!("apply-{id}")))
    }
}

impl<S: StateMachine> Applier<S> {
    /// The state machine has loaded `snapshot`, if there is one.
    pub(super) fn new(
        leased: Arc<Leased<S>>,
        snapshot: Option<raft::Snapshot>,
        shared: Arc<Shared>,
    ) -> Applier<S> {
        let (snapshot, configuration) =
            snapshot.map_or((None, None), |it| (Some(it.meta), it.configuration));
        let expected = VecDeque::new();
        let index = snapshot.map_or(Index::ZERO, |snapshot| snapshot.last_included_index);
        let machine = leased.read();
        shared.watch.restored(index, machine.get().digest());
        shared.levels.set_applied(machine.get().level());
        let time = machine.get().time();
        drop(machine);
        shared.time_applied(time, true);
        let is_cluster_recorded = shared.identity.affiliation().cluster_id != 0;
        shared.snapshot_index.store(index.0, Ordering::Relaxed);
        Applier {
            leased,
            fresh_as_of: None,
            expected,
            applied: snapshot,
            configuration,
            is_cluster_recorded,
            time,
            shared,
            has_failed: false,
            digests: Vec::new(),
        }
    }

    fn carry_out(
        &mut self,
        task: ApplierTask<S>,
        cork: &Cork,
        out: &mut Sink<'_, ApplierOutput<S::View>>,
    ) {
        match task {
            // Dropping the task ends its requests: they may have been applied.
            _ if self.has_failed => {}
            ApplierTask::Expect(proposals) => self.expected.extend(proposals),
            ApplierTask::Apply(entries) => {
                if let Err(unknown) = self.apply_all(&entries, cork) {
                    self.give_up(unknown, out);
                }
            }
            ApplierTask::Read(reads) => {
                let count = reads.len();
                self.answer_all(reads);
                self.shared.reads.add_answered(count);
            }
            ApplierTask::ReadStale { query, age_max, responder } => {
                responder.respond(self.answer_stale(query, age_max));
            }
            ApplierTask::FreshAsOf(moment) => self.fresh_as_of = self.fresh_as_of.max(Some(moment)),
            ApplierTask::LeadershipLost(leader) => {
                self.fail_all(RequestError::LeadershipLost { leader })
            }
            ApplierTask::Sweep => self.sweep(),
            ApplierTask::TakeSnapshot => self.take_snapshot(out),
            ApplierTask::Install(snapshot) => {
                cork.flush();
                if let Err(failure) = self.install(&snapshot) {
                    self.give_up(failure, out);
                }
            }
        }
    }

    /// The state is of no more use.
    fn give_up(
        &mut self,
        failure: impl Into<NodeFailure>,
        out: &mut Sink<'_, ApplierOutput<S::View>>,
    ) {
        self.has_failed = true;
        out(ApplierOutput::Failed(failure.into()));
    }

    /// Does what is left, and ends the proposals that are still expected then.
    pub(super) fn end(mut self, left: ApplierQueue<S>, out: &mut Sink<'_, ApplierOutput<S::View>>) {
        let cork = Cork::new();
        left.tasks.into_iter().for_each(|task| self.carry_out(task, &cork, out));
        self.fail_all(RequestError::Stopped { may_apply: true });
    }

    /// Stops before the first entry whose level is not known.
    fn apply_all(&mut self, entries: &[Entry], cork: &Cork) -> Result<(), UnknownLevel> {
        let (mut flushed, mut count) = (Instant::now(), 0);
        let applied = entries.iter().try_for_each(|entry| {
            self.apply(entry)?;
            count += 1;
            if flushed.elapsed() > HELD_BACK_MAX {
                cork.flush();
                flushed = Instant::now();
            }
            Ok(())
        });
        if let Some(first) = entries.first().filter(|_| count > 0 && self.digests.len() == count) {
            self.shared.watch.applied(first.index, &self.digests);
        }
        self.digests.clear();
        applied
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), UnknownLevel> {
        let mut machine = self.leased.write();
        let outcome = match &entry.payload {
            Payload::Noop => None,
            Payload::Configuration(configuration) => {
                self.configuration = Some(configuration.clone());
                None
            }
            Payload::Command(command) => {
                // An error leaves no state machine: nobody reads a state that is not understood.
                Some(machine.change(|it| {
                    let outcome = it.apply(entry.index, command);
                    self.shared.levels.check(it.level()).map(|()| outcome)
                })?)
            }
        };
        if outcome.is_some() {
            machine.tell_applied();
        }
        self.digests.extend(machine.get().digest());
        self.shared.levels.set_applied(machine.get().level());
        let time = machine.get().time();
        drop(machine);
        // Before the index: the core must not learn of an entry without the time that it brought.
        // A stamp counts although it is equal to the last one: it was told later.
        let is_stamped =
            matches!(&entry.payload, Payload::Command(command) if S::is_stamped(command));
        if std::mem::replace(&mut self.time, time) != time || is_stamped {
            self.shared.time_applied(time, is_stamped);
        }
        self.applied =
            Some(SnapshotMeta { last_included_index: entry.index, last_included_term: entry.term });
        self.shared.applied_index.store(entry.index.0, Ordering::Release);
        if let Some(expected) = self.expected.pop_front_if(|it| it.index == entry.index) {
            let is_same = expected.term == entry.term;
            let outcome = outcome.filter(|_| is_same).ok_or(RequestError::Superseded);
            expected.responder.respond(match outcome {
                Ok(_) if self.is_diverged() => Err(DIVERGED_AND_MAY_APPLY),
                outcome => outcome,
            });
        }
        Ok(())
    }

    /// A state that has diverged answers nobody.
    fn is_diverged(&self) -> bool {
        self.shared.watch.is_diverged()
    }

    /// Takes a view, which costs next to nothing. Another thread writes it.
    fn take_snapshot(&mut self, out: &mut Sink<'_, ApplierOutput<S::View>>) {
        let has = Index(self.shared.snapshot_index.load(Ordering::Relaxed));
        let is_news = |meta: &SnapshotMeta| meta.last_included_index > has && !self.is_diverged();
        // A snapshot names the cluster: by its configuration, or as the data directory knows it.
        let is_named = self.is_cluster_recorded || self.configuration.is_some();
        match self.applied.filter(is_news).filter(|_| is_named) {
            Some(meta) => {
                let view = self.leased.read().get().view();
                let configuration = self.configuration.clone();
                out(ApplierOutput::View { meta, configuration, view });
            }
            None => self.shared.end_snapshot(true),
        }
    }

    fn install(&mut self, snapshot: &Snapshot) -> Result<(), NodeFailure> {
        let (meta, path) = (snapshot.meta(), snapshot.path());
        let mut machine = self.leased.write();
        machine.change(|it| {
            let loaded = load(it, snapshot);
            self.shared.levels.check(it.level())?;
            loaded.map_err(NodeFailure::Storage)
        })?;
        machine.tell_replaced();
        let digest = machine.get().digest();
        self.shared.levels.set_applied(machine.get().level());
        self.time = machine.get().time();
        drop(machine);
        self.shared.time_applied(self.time, true);
        log::info!("the state was loaded from {}", path.display());
        self.applied = Some(meta);
        self.configuration = snapshot.configuration().cloned();
        self.shared.snapshot_index.fetch_max(meta.last_included_index.0, Ordering::Relaxed);
        self.shared.snapshot_len_bytes.store(snapshot.len_bytes(), Ordering::Relaxed);
        self.shared.applied_index.store(meta.last_included_index.0, Ordering::Release);
        self.shared.watch.restored(meta.last_included_index, digest);
        Ok(())
    }

    fn answer_stale(
        &self,
        query: S::Query,
        allowed: Option<Duration>,
    ) -> Result<Stale<S::Answer>, RequestError> {
        if self.is_diverged() {
            return Err(RequestError::Diverged { may_apply: false });
        }
        // A state of unknown age may be that of a member without its data.
        let fresh_as_of = self.fresh_as_of.max(self.leased.fresh_as_of());
        let age_max = fresh_as_of.map(clock::since).ok_or(RequestError::TooStale)?;
        if allowed.is_some_and(|allowed| age_max > allowed) {
            return Err(RequestError::TooStale);
        }
        Ok(Stale { answer: self.leased.read().get().query(query), age_max })
    }

    /// The proof that these reads may be answered also shows how fresh the state is.
    fn answer_all(&mut self, reads: Vec<(S::Query, Responder<S::Answer>)>) {
        let newest = reads.iter().map(|(_, responder)| responder.begun()).max();
        self.fresh_as_of = self.fresh_as_of.max(newest);
        for (query, responder) in reads {
            // In a statement of its own: the state is free again when the answer leaves.
            let answer = match self.is_diverged() {
                true => Err(RequestError::Diverged { may_apply: false }),
                false => Ok(self.leased.read().get().query(query)),
            };
            responder.respond(answer);
        }
    }

    fn fail_all(&mut self, error: RequestError) {
        self.expected.drain(..).for_each(|it| it.responder.respond(Err(error)));
    }

    fn sweep(&mut self) {
        if self.is_diverged() {
            return self.fail_all(DIVERGED_AND_MAY_APPLY);
        }
        let now = Instant::now();
        let is_expired = |it: &PendingProposal<S::Outcome>| it.responder.is_expired(now);
        if !self.expected.iter().any(is_expired) {
            return;
        }
        let (expired, rest): (VecDeque<_>, VecDeque<_>) =
            self.expected.drain(..).partition(is_expired);
        self.expected = rest;
        let timed_out = RequestError::TimedOut { may_apply: true };
        expired.into_iter().for_each(|it| it.responder.respond(Err(timed_out)));
    }
}

impl<S: StateMachine> Drop for Applier<S> {
    fn drop(&mut self) {
        self.leased.end();
    }
}

/// Replaces the state by that of the snapshot. Whether it could be read or not, the caller first
/// [checks](super::levels::Levels::check) the level of the state: a program that does not know it
/// may have failed for just that reason.
pub(super) fn load<S: StateMachine>(
    state_machine: &mut S,
    snapshot: &Snapshot,
) -> Result<(), StorageError> {
    let mut body = snapshot.reader()?;
    state_machine.load(&mut body).map_err(StorageError::io("load", snapshot.path()))
}
