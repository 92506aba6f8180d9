//! The stages of a member, and how they are wired together.
//!
//! ```text
//!                       Persisted, DiskFull, Joined
//!                      ┌─────────────────────────────────────────────┐
//!                      v                                             │
//!   requests, ──────> inbox ──> driver ──┬── LogTask ──────> persister (log)
//!   messages, ticks    ^       (core)    │
//!                      │                 └── ApplierTask ──> applier (state machine)
//!                      │                                            │ a view
//!                      └─────── Taken, Received ─── snapshotter <───┘
//! ```
//! A worker knows its own inputs and outputs, and no other stage. Every output is routed in this
//! file.
//!
//! A thread that brings something to the inbox does everything that follows from it, as far as
//! [`MayDo`] allows, and then goes back to where it came from. So an entry wakes no more threads
//! than it crosses processes: the follower's connection thread that reads an entry also writes it
//! and answers; the leader's thread that reads this answer also applies the entry and answers the
//! client.
//!
//! A thread that carries heartbeats or the clock never writes to the disk and never applies
//! entries, which takes as long as the state machine likes. It leaves that to the stages' own
//! threads. So does every thread while the state machine or the disk is slow.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use super::applier::{Applier, ApplierOutput, ApplierQueue, ApplierTask};
use super::changes::{ChangeCallback, ChangeError};
use super::driver::{CoreOutput, Driver};
use super::inbox::{Inbox, Input};
use super::leased::Leased;
use super::mailbox::{Chunk, Mailbox, MayDo};
use super::persister::{LogOutput, Persister};
use super::request::{Proposal, Request, RequestError, Responder};
use super::shared::{NodeFailure, PanicGuard, Shared};
use super::snapshotter::{SnapshotOutput, SnapshotTask, Snapshotter};
use super::stage::{Stage, in_turn, is_in_turn};
use super::state_machine::{Observer, StateMachine};
use crate::raft::{Change, MemberId, Message};
use crate::rpc::Status;

/// When a leader that sends a snapshot to a busy member should try again.
const CHUNK_RETRY_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Pipeline<S: StateMachine> {
    core: Stage<Driver<S>>,
    log: Stage<Persister>,
    applier: Stage<Applier<S>>,
    /// To the snapshot thread.
    to_snapshotter: Sender<SnapshotTask<S::View>>,
    leased: Arc<Leased<S>>,
    shared: Arc<Shared>,
}

impl<S: StateMachine> Pipeline<S> {
    /// Stages without workers yet.
    pub(super) fn new(
        to_snapshotter: Sender<SnapshotTask<S::View>>,
        leased: Arc<Leased<S>>,
        shared: Arc<Shared>,
    ) -> Pipeline<S> {
        let (core, log, applier) = (Stage::new(), Stage::new(), Stage::new());
        Pipeline { core, log, applier, to_snapshotter, leased, shared }
    }

    pub(super) fn set_workers(&self, driver: Driver<S>, persister: Persister, applier: Applier<S>) {
        self.core.set_worker(driver);
        self.log.set_worker(persister);
        self.applier.set_worker(applier);
    }

    pub(super) fn observe(&self, observer: Arc<dyn Observer<S>>) {
        self.leased.observe(observer);
    }

    pub(super) fn at_each_tick(
        &self,
        waiting: impl Fn(bool, Instant) -> Option<Proposal<S::Outcome>> + Send + Sync + 'static,
    ) {
        self.leased.set_held_back(Box::new(waiting));
    }

    pub(super) fn inspect<T>(&self, look: impl FnOnce(&S) -> T) -> Option<T> {
        self.leased.inspect(look)
    }

    /// Queues a client's request, or refuses it.
    pub(super) fn push_request(&self, request: Request<S>) {
        let mut request = Some(request);
        let is_running = self.core.with_queue(|inbox| inbox.push_request(&mut request)).is_some();
        // Refused here and not under the queue's lock: a refusal runs the client's callback.
        if let Some(request) = request {
            request.refuse(match is_running {
                true => RequestError::Busy,
                false => RequestError::Stopped { may_apply: false },
            });
        }
    }

    /// Answers a read at once if a lease allows it and the state machine is free. Otherwise queues
    /// it, or refuses it.
    pub(super) fn push_read(&self, query: S::Query, responder: Responder<S::Answer>) {
        // A callback that reads again, and again, must not grow the stack.
        if is_in_turn() {
            return self.push_request(Request::Read { query, responder });
        }
        let _stops_the_member = PanicGuard(|failure| self.fail(failure));
        match self.leased.try_read(query, responder.begun()) {
            Ok(answer) => in_turn(|| responder.respond(Ok(answer))),
            Err(query) => self.push_request(Request::Read { query, responder }),
        }
    }

    /// Reports one thing that no peer or client waits for.
    pub(super) fn report(&self, input: Input<S>) {
        self.push(input);
        self.run_pending(MayDo::Step);
    }

    pub(super) fn tick(&self) {
        self.core.with_queue(Inbox::push_tick);
        self.run_pending(MayDo::Step);
    }

    /// Takes a snapshot of the state, unless one is being taken, or one has just failed.
    pub(super) fn take_snapshot(&self) {
        if self.shared.begin_snapshot() {
            self.applier.with_queue(|tasks| tasks.push(ApplierTask::TakeSnapshot));
            self.applier.wake();
        }
    }

    /// Does what waits at the stages, as far as this thread may.
    pub(super) fn run_pending(&self, may_do: MayDo) {
        // The gate of a paused member must not hold up a thread that brings something.
        if may_do == MayDo::Nothing || is_in_turn() || self.shared.gate.is_closed() {
            self.core.wake();
            self.log.wake();
            return self.applier.wake();
        }
        self.try_run_core();
        let may_write = may_do >= MayDo::Write && !self.shared.is_disk_slow.load(Ordering::Relaxed);
        if may_write && self.log.try_run(&mut |output| self.route_from_log(output)) {
            self.try_run_core();
        }
        self.log.wake();
        match may_do {
            MayDo::Nothing | MayDo::Step => self.applier.wake(),
            MayDo::ServeReads => self.try_run_applier(ApplierQueue::is_quick),
            MayDo::Apply | MayDo::Write => self.try_run_applier(|_| true),
        }
    }

    fn try_run_core(&self) {
        self.core.try_run(&mut |output| self.route_from_core(output));
    }

    /// While the state machine is slow, only its own thread waits for it.
    fn try_run_applier(&self, may_do: impl Fn(&ApplierQueue<S>) -> bool) {
        let is_slow = || self.shared.is_apply_slow.load(Ordering::Relaxed);
        self.applier.try_run_if(|tasks| !is_slow() && may_do(tasks), &mut |output| {
            self.route_from_applier(output)
        });
        self.step_if_reads_wait();
    }

    /// After a turn of the applier: the core may hold back reads until others are answered.
    fn step_if_reads_wait(&self) {
        if self.shared.reads.is_waited_for() {
            self.core.with_queue(Inbox::push_answered);
            self.try_run_core();
            self.log.wake();
            self.applier.wake();
        }
    }

    fn route_from_core(&self, output: CoreOutput<S>) {
        match output {
            CoreOutput::Log(task) => {
                self.log.with_queue(|tasks| tasks.push(task));
            }
            CoreOutput::Applier(task) => {
                self.applier.with_queue(|tasks| tasks.push(task));
            }
            CoreOutput::SnapshotWanted => self.take_snapshot(),
            CoreOutput::Again => {
                self.core.with_queue(Inbox::push_answered);
            }
            CoreOutput::Failed(failure) => self.fail(failure),
        }
    }

    fn route_from_log(&self, output: LogOutput) {
        match output {
            // The thread that ran the log steps the core next.
            LogOutput::Persisted(id) => {
                self.push(Input::Persisted(id));
            }
            LogOutput::Joined => {
                self.push(Input::Joined);
            }
            // The log goes on waiting for space: another thread steps the core.
            LogOutput::DiskFull(is_full) => self.report(Input::DiskFull(is_full)),
            LogOutput::SnapshotWanted => self.take_snapshot(),
            LogOutput::Failed(failure) => self.fail(failure),
        }
    }

    fn route_from_applier(&self, output: ApplierOutput<S::View>) {
        match output {
            ApplierOutput::View { meta, configuration, view } => {
                let write = SnapshotTask::Write { meta, configuration, view };
                // If the thread is busy with a leader's snapshot, the log will ask again.
                if self.to_snapshotter.try_send(write).is_err() {
                    self.shared.end_snapshot(true);
                }
            }
            ApplierOutput::Failed(failure) => self.fail(failure),
        }
    }

    /// False if the member is stopping.
    fn route_from_snapshotter(&self, output: SnapshotOutput) -> bool {
        let is_running = self.push(match output {
            SnapshotOutput::Taken(meta) => Input::SnapshotTaken(meta),
            SnapshotOutput::Received { message, snapshot } => {
                Input::SnapshotReceived { message, snapshot }
            }
        });
        self.run_pending(MayDo::Nothing);
        is_running
    }

    /// Takes a change of the members to the core.
    pub(super) fn change_members(&self, change: Change, callback: ChangeCallback) {
        let mut input = Some(Input::Change { change, callback });
        self.core.with_queue(|inbox| input.take().into_iter().for_each(|it| inbox.push(it)));
        match input {
            Some(Input::Change { callback, .. }) => callback(Err(ChangeError::Stopped)),
            _ => self.run_pending(MayDo::Apply),
        }
    }

    /// False once the core is stopped.
    fn push(&self, input: Input<S>) -> bool {
        self.core.with_queue(|inbox| inbox.push(input)).is_some()
    }

    /// The core's own thread.
    pub(super) fn run_core(&self) {
        let _stops_next = OnDrop(|| self.log.stop());
        let wake_others = || {
            self.log.wake();
            self.applier.wake();
        };
        let (driver, left) = self.core.run(&mut |output| self.route_from_core(output), wake_others);
        left.refuse();
        if let Some(driver) = driver {
            driver.end();
        }
    }

    /// The log's own thread. It tells the core what is durable. What the core then commits is for
    /// other threads to apply: the log must not wait for the state machine.
    pub(super) fn run_log(&self) {
        let _stops_next = OnDrop(|| self.applier.stop());
        let out = &mut |output| self.route_from_log(output);
        let (persister, left) = self.log.run(out, || {
            self.try_run_core();
            self.applier.wake();
        });
        if let Some(persister) = persister {
            persister.end(left, out);
        }
    }

    /// The state machine's own thread.
    pub(super) fn run_applier(&self) {
        let out = &mut |output| self.route_from_applier(output);
        let (applier, left) = self.applier.run(out, || self.step_if_reads_wait());
        if let Some(applier) = applier {
            applier.end(left, out);
        }
    }

    /// The snapshot thread.
    pub(super) fn run_snapshotter(
        &self,
        snapshotter: Snapshotter,
        tasks: &Receiver<SnapshotTask<S::View>>,
    ) {
        snapshotter.run(tasks, &|output| self.route_from_snapshotter(output));
    }

    /// The member cannot go on.
    pub(super) fn fail(&self, failure: NodeFailure) {
        self.shared.fail(failure);
        self.stop();
    }

    /// Refuses all requests from now on, and ends the stages: each when the one before it has
    /// ended and its own thread has done what is left.
    pub(super) fn stop(&self) {
        self.leased.stop();
        let left = self.core.with_queue(std::mem::take);
        self.core.stop();
        left.into_iter().for_each(Inbox::refuse);
    }

    /// Ends stages that have no threads of their own.
    pub(super) fn drop_workers(&self) {
        self.core.drop_worker();
        self.log.drop_worker();
        self.applier.drop_worker();
    }
}

/// Runs a function at the end of its scope, after a panic too.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl<S: StateMachine> Mailbox for Pipeline<S> {
    fn message(&self, message: Message) -> bool {
        self.core.with_queue(|inbox| inbox.push_message(message)).unwrap_or(false)
    }

    fn disconnected(&self, peer: MemberId) {
        self.core.with_queue(|inbox| inbox.push_disconnected(peer));
    }

    fn chunk(&self, chunk: Chunk) {
        if let Err(error) = self.to_snapshotter.try_send(SnapshotTask::Chunk(chunk))
            && let SnapshotTask::Chunk(chunk) = error.into_inner()
        {
            let busy = "this member is busy with another snapshot";
            chunk.done.fail(Status::busy(busy, CHUNK_RETRY_PAUSE));
        }
    }

    fn run_pending(&self, may_do: MayDo) {
        Pipeline::run_pending(self, may_do);
    }
}
