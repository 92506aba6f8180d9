//! The stages of a member, and who does what is to be done there.
//!
//! ```text
//!   clients, peers, ticks ──> inbox ──> core ──┬──> log: one write, one fdatasync ──> persisted ──> inbox
//!                                              └──> applier: the state machine ──> clients' callbacks
//! ```
//! Whoever brings something to the inbox sees it through, as far as its [`Errand`] lets it, before it goes back to where it came
//! from. So an entry takes no more wake-ups than it crosses processes: the follower's connection thread that reads it also
//! writes it and answers; the leader's thread that reads that answer also applies the entry and answers the client.
//!
//! What must not wait never does: a thread that carries heartbeats or the clock never writes to the disk, nor does it apply
//! entries, which takes a state machine as long as it likes. It leaves that to the stage's own thread; and so does everybody
//! while the state machine or the disk takes long.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::StateMachine;
use super::applier::{Applier, Tasks};
use super::driver::Driver;
use super::inbox::{Inbox, Input};
use super::persister::{Persister, Write};
use super::shared::Shared;
use super::stage::{Stage, is_in_turn};
use super::{Mailbox, applier::Task};
use crate::raft::{MemberId, Message, OtherCluster};

/// What a thread has come with, and so what it may do beside stepping the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    /// That of a thread which steps back for others: it leaves everything to them.
    Background,
    /// The clock, or news of this member's own: it does nothing else.
    Clock,
    /// A heartbeat or its answer, a vote: it must be back soon. It serves reads, no more.
    Urgent,
    /// A client's request, or a peer's answer about entries: it may apply entries.
    Request,
    /// A leader's entries: it may wait for the disk as well, unless that is slow.
    Entries,
}

pub(super) struct Pipeline<S: StateMachine> {
    pub(super) inbox: Inbox<S>,
    pub(super) log: Stage<Persister<S>>,
    pub(super) applier: Stage<Applier<S>>,
    shared: Arc<Shared>,
}

impl<S: StateMachine> Pipeline<S> {
    /// Stages without workers yet.
    pub(super) fn new(shared: Arc<Shared>) -> Pipeline<S> {
        Pipeline { inbox: Inbox::new(), log: Stage::new(), applier: Stage::new(), shared }
    }

    /// Sees through what was brought to the inbox.
    pub(super) fn attend(&self, errand: Errand) {
        // Held up at the gate would be whoever brings something to a member that is paused.
        if errand == Errand::Background || is_in_turn() || self.shared.gate.is_closed() {
            self.inbox.stage().call();
            self.log.call();
            return self.applier.call();
        }
        self.inbox.stage().help();
        let may_write =
            errand == Errand::Entries && !self.shared.is_disk_slow.load(Ordering::Relaxed);
        if may_write && self.log.help() {
            self.inbox.stage().help();
        }
        self.log.call();
        // A client's thread and a peer's may be held up by what they bring, up to a point; others may not.
        let may_apply = match errand {
            Errand::Background | Errand::Clock => return self.applier.call(),
            Errand::Urgent => Tasks::are_quick,
            Errand::Request | Errand::Entries => |_: &Tasks<S>| true,
        };
        self.applier.help_if(|tasks| self.is_quick() && may_apply(tasks));
    }

    /// Whether the state machine lets nobody wait, as far as is known.
    fn is_quick(&self) -> bool {
        !self.shared.is_apply_slow.load(Ordering::Relaxed)
    }

    /// Brings one thing that no peer or client waits for.
    pub(super) fn report(&self, input: Input<S>) {
        self.inbox.report(input);
        self.attend(Errand::Clock);
    }

    pub(super) fn write(&self, write: Write) {
        self.log.with_queue(|queue| queue.push(write));
    }

    pub(super) fn task(&self, task: Task<S>) {
        self.applier.with_queue(|tasks| tasks.push(task));
    }

    /// Has the state written out, unless that is being done.
    pub(super) fn take_snapshot(&self) {
        if self.shared.begin_snapshot() {
            self.task(Task::TakeSnapshot);
        }
    }

    /// The core's own thread.
    pub(super) fn run_core(&self) {
        let _next = OnDrop(|| self.log.stop());
        let (driver, left) = self.inbox.stage().run(|_: &Stage<Driver<S>>| {
            self.log.call();
            self.applier.call();
        });
        left.refuse();
        if let Some(driver) = driver {
            driver.end();
        }
    }

    /// The log's own thread. What is durable is told to the core; what that commits is for others to apply: the log must not
    /// wait for the state machine.
    pub(super) fn run_log(&self) {
        let _next = OnDrop(|| self.applier.stop());
        let (persister, left) = self.log.run(|_: &Stage<Persister<S>>| {
            self.inbox.stage().help();
            self.applier.call();
        });
        if let Some(persister) = persister {
            persister.end(left);
        }
    }

    /// The state machine's own thread.
    pub(super) fn run_applier(&self) {
        let (applier, left) = self.applier.run(|_| {});
        if let Some(applier) = applier {
            applier.end(left);
        }
    }

    /// Ends the stages one after the other, each when its thread has done what was left there.
    pub(super) fn stop(&self) {
        self.inbox.stop();
    }

    /// Ends them where there are not threads enough to do that.
    pub(super) fn dismiss(&self) {
        self.inbox.stage().dismiss();
        self.log.dismiss();
        self.applier.dismiss();
    }
}

/// Runs it, however its scope ends.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl<S: StateMachine> Mailbox for Pipeline<S> {
    fn message(&self, message: Message) -> bool {
        self.inbox.message(message)
    }

    fn disconnected(&self, peer: MemberId) {
        self.inbox.disconnected(peer);
    }

    fn other_cluster(&self, peer: MemberId, other: OtherCluster) {
        self.inbox.report(Input::OtherCluster { peer, other });
    }

    fn attend(&self, errand: Errand) {
        Pipeline::attend(self, errand);
    }
}
