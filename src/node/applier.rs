//! The far end of the apply channel: the stage of the state machine.
//!
//! Tasks come in the order of the core's effects, and that order carries meaning: a read stands behind the entries that
//! it must see; a proposal is expected before its entry can arrive. The queue needs no bound of its own: the core hands
//! out only so many bytes of entries, and so many proposals and reads, at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::StateMachine;
use super::request::{RequestError, Stale, Waiting};
use super::shared::{NodeFailure, Shared};
use super::snapshotter;
use super::stage::{Queue, Worker};
use crate::clock;
use crate::raft::{Entry, Index, MemberId, Payload, SnapshotMeta, Term};
use crate::rpc::Cork;
use crate::storage::{Snapshot, StorageError};

pub(super) enum Task<S: StateMachine> {
    /// These proposals stand in the log, in order.
    Expect(Vec<Expected<S::Outcome>>),
    /// These entries are committed.
    Apply(Vec<Entry>),
    /// These reads may be served now.
    Read(Vec<(S::Query, Waiting<S::Answer>)>),
    /// This read may be served whenever, if the state is as fresh as it says.
    ReadStale { query: S::Query, age_max: Option<Duration>, waiting: Waiting<Stale<S::Answer>> },
    /// The state reflects all writes that were acknowledged before then, by the boot-time clock.
    FreshAsOf(Duration),
    /// Write out the state.
    TakeSnapshot,
    /// This snapshot, which has come from the leader, takes the place of the state.
    Install(Snapshot),
    /// The member no longer leads: what is expected may or may not come.
    LeadershipLost(Option<MemberId>),
    /// Look for deadlines that have passed.
    Sweep,
}

/// What waits for the state machine, in order.
pub(super) struct Tasks<S: StateMachine> {
    tasks: Vec<Task<S>>,
    /// Tasks that are worth a turn; what is only expected waits for its entries.
    due: usize,
    /// Of these, tasks that may take long.
    slow: usize,
}

impl<S: StateMachine> Default for Tasks<S> {
    fn default() -> Tasks<S> {
        Tasks { tasks: Vec::new(), due: 0, slow: 0 }
    }
}

impl<S: StateMachine> Tasks<S> {
    pub(super) fn push(&mut self, task: Task<S>) {
        let is_slow = !matches!(
            task,
            Task::Expect(_) | Task::Read(_) | Task::ReadStale { .. } | Task::FreshAsOf(_)
        );
        self.due += usize::from(!matches!(task, Task::Expect(_)));
        self.slow += usize::from(is_slow);
        self.tasks.push(task);
    }

    /// Whether a thread that must be back soon may do them.
    pub(super) fn are_quick(&self) -> bool {
        self.slow == 0
    }
}

impl<S: StateMachine> Queue for Tasks<S> {
    type Batch = Vec<Task<S>>;

    fn take(&mut self) -> Option<Vec<Task<S>>> {
        self.has_work().then(|| std::mem::take(self).tasks)
    }

    fn has_work(&self) -> bool {
        self.due > 0
    }
}

/// A turn that takes longer is for the state machine's own thread.
const TURN_MAX: Duration = Duration::from_millis(20);
/// Answers wait no longer than this for others of the same turn.
const HELD_BACK_MAX: Duration = Duration::from_millis(1);

/// What becomes of a proposal that stands in the log when this member is found to have gone astray.
const DIVERGED_AND_MAY_APPLY: RequestError = RequestError::Diverged { may_apply: true };

/// A proposal in the log.
pub(super) struct Expected<T> {
    pub(super) index: Index,
    pub(super) term: Term,
    pub(super) waiting: Waiting<T>,
}

pub(super) struct Applier<S: StateMachine> {
    state_machine: S,
    /// Every write that was acknowledged before then is in the state.
    fresh_as_of: Option<Duration>,
    expected: VecDeque<Expected<S::Outcome>>,
    /// The last entry that the state holds.
    applied: Option<SnapshotMeta>,
    to_snapshot: Sender<snapshotter::Task<S::View>>,
    shared: Arc<Shared>,
    fail: Box<dyn Fn(NodeFailure) + Send>,
    /// The state is not to be used any more.
    has_failed: bool,
    /// Of the entries of one task.
    digests: Vec<u64>,
}

impl<S: StateMachine> Worker for Applier<S> {
    type Queue = Tasks<S>;

    fn turn(&mut self, tasks: Vec<Task<S>>) {
        self.shared.gate.pass();
        // Answers of one turn that go over one connection leave together.
        let (cork, began) = (Cork::new(), Instant::now());
        for task in tasks {
            self.carry_out(task, &cork);
        }
        self.shared.is_apply_slow.store(began.elapsed() > TURN_MAX, Ordering::Relaxed);
    }

    fn panicked(&self) {
        let id = self.shared.status.lock().id;
        (self.fail)(NodeFailure::Panicked(format!("apply-{id}")));
    }
}

impl<S: StateMachine> Applier<S> {
    /// The state machine has loaded `snapshot`, if there is one.
    pub(super) fn new(
        state_machine: S,
        snapshot: Option<SnapshotMeta>,
        to_snapshot: Sender<snapshotter::Task<S::View>>,
        shared: Arc<Shared>,
        fail: impl Fn(NodeFailure) + Send + 'static,
    ) -> Applier<S> {
        let expected = VecDeque::new();
        let index = snapshot.map_or(Index::ZERO, |snapshot| snapshot.last_included_index);
        shared.watch.restored(index, state_machine.digest());
        shared.snapshot_index.store(index.0, Ordering::Relaxed);
        Applier {
            state_machine,
            fresh_as_of: None,
            expected,
            applied: snapshot,
            to_snapshot,
            shared,
            fail: Box::new(fail),
            has_failed: false,
            digests: Vec::new(),
        }
    }

    fn carry_out(&mut self, task: Task<S>, cork: &Cork) {
        match task {
            // Dropped, requests end: they may have been applied.
            _ if self.has_failed => {}
            Task::Expect(proposals) => self.expected.extend(proposals),
            Task::Apply(entries) => self.apply_all(&entries, cork),
            Task::Read(reads) => self.serve(reads),
            Task::ReadStale { query, age_max, waiting } => {
                waiting.end(self.answer_stale(query, age_max));
            }
            Task::FreshAsOf(moment) => self.fresh_as_of = self.fresh_as_of.max(Some(moment)),
            Task::LeadershipLost(leader) => self.fail_all(RequestError::LeadershipLost { leader }),
            Task::Sweep => self.sweep(),
            Task::TakeSnapshot => self.take_snapshot(),
            Task::Install(snapshot) => {
                cork.flush();
                if let Err(error) = self.install(&snapshot) {
                    self.has_failed = true;
                    (self.fail)(NodeFailure::Storage(error));
                }
            }
        }
    }

    /// Does what is left, and ends what then still waits.
    pub(super) fn end(mut self, left: Tasks<S>) {
        let cork = Cork::new();
        left.tasks.into_iter().for_each(|task| self.carry_out(task, &cork));
        self.fail_all(RequestError::Stopped { may_apply: true });
    }

    fn apply_all(&mut self, entries: &[Entry], cork: &Cork) {
        let mut flushed = Instant::now();
        for entry in entries {
            self.apply(entry);
            self.digests.extend(self.state_machine.digest());
            if flushed.elapsed() > HELD_BACK_MAX {
                cork.flush();
                flushed = Instant::now();
            }
        }
        if let Some(first) = entries.first().filter(|_| self.digests.len() == entries.len()) {
            self.shared.watch.applied(first.index, &self.digests);
        }
        self.digests.clear();
    }

    fn apply(&mut self, entry: &Entry) {
        let outcome = match &entry.payload {
            Payload::Noop => None,
            Payload::Command(command) => Some(self.state_machine.apply(entry.index, command)),
        };
        self.applied =
            Some(SnapshotMeta { last_included_index: entry.index, last_included_term: entry.term });
        self.shared.applied_index.store(entry.index.0, Ordering::Release);
        if self.expected.front().is_some_and(|expected| expected.index == entry.index) {
            let expected = self.expected.pop_front().expect("there is a front");
            let is_same = expected.term == entry.term;
            let outcome = outcome.filter(|_| is_same).ok_or(RequestError::Superseded);
            expected.waiting.end(match outcome {
                Ok(_) if self.is_diverged() => Err(DIVERGED_AND_MAY_APPLY),
                outcome => outcome,
            });
        }
    }

    /// Then nothing that the state says goes to anybody.
    fn is_diverged(&self) -> bool {
        self.shared.watch.is_diverged()
    }

    /// Takes a view, which costs next to nothing, and has it written out by another thread.
    fn take_snapshot(&mut self) {
        let has = Index(self.shared.snapshot_index.load(Ordering::Relaxed));
        let is_news = |meta: &SnapshotMeta| meta.last_included_index > has && !self.is_diverged();
        let Some(meta) = self.applied.filter(is_news) else {
            return self.shared.end_snapshot(true);
        };
        let write = snapshotter::Task::Write { meta, view: self.state_machine.view() };
        // If it is busy with what a leader sends, the log will ask again.
        if self.to_snapshot.try_send(write).is_err() {
            self.shared.end_snapshot(true);
        }
    }

    fn install(&mut self, snapshot: &Snapshot) -> Result<(), StorageError> {
        let (meta, path) = (snapshot.meta(), snapshot.path());
        load(&mut self.state_machine, snapshot)?;
        log::info!("the state was loaded from {}", path.display());
        self.applied = Some(meta);
        self.shared.snapshot_index.fetch_max(meta.last_included_index.0, Ordering::Relaxed);
        self.shared.applied_index.store(meta.last_included_index.0, Ordering::Release);
        self.shared.watch.restored(meta.last_included_index, self.state_machine.digest());
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
        // A state of which nothing is known may be that of a member without its data: no answer at all.
        let age_max = self.fresh_as_of.map(clock::since).ok_or(RequestError::TooStale)?;
        if allowed.is_some_and(|allowed| age_max > allowed) {
            return Err(RequestError::TooStale);
        }
        Ok(Stale { answer: self.state_machine.query(query), age_max })
    }

    /// What proves that these may be served also says how fresh the state is.
    fn serve(&mut self, reads: Vec<(S::Query, Waiting<S::Answer>)>) {
        let newest = reads.iter().map(|(_, waiting)| waiting.begun()).max();
        self.fresh_as_of = self.fresh_as_of.max(newest);
        for (query, waiting) in reads {
            waiting.end(match self.is_diverged() {
                true => Err(RequestError::Diverged { may_apply: false }),
                false => Ok(self.state_machine.query(query)),
            });
        }
    }

    fn fail_all(&mut self, error: RequestError) {
        self.expected.drain(..).for_each(|expected| expected.waiting.end(Err(error)));
    }

    fn sweep(&mut self) {
        if self.is_diverged() {
            return self.fail_all(DIVERGED_AND_MAY_APPLY);
        }
        let now = Instant::now();
        if !self.expected.iter().any(|expected| expected.waiting.is_expired(now)) {
            return;
        }
        let (expired, rest) =
            self.expected.drain(..).partition(|expected| expected.waiting.is_expired(now));
        self.expected = rest;
        let expired: VecDeque<Expected<S::Outcome>> = expired;
        expired
            .into_iter()
            .for_each(|it| it.waiting.end(Err(RequestError::TimedOut { may_apply: true })));
    }
}

/// Makes the state that of the snapshot.
pub(super) fn load<S: StateMachine>(
    state_machine: &mut S,
    snapshot: &Snapshot,
) -> Result<(), StorageError> {
    let mut body = snapshot.reader()?;
    state_machine.load(&mut body).map_err(StorageError::io("load", snapshot.path()))
}
