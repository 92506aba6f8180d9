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
//! entries, which takes a state machine as long as it likes. It leaves that to the stage's own thread.

use super::StateMachine;
use super::applier::{Applier, Tasks};
use super::driver::Driver;
use super::inbox::{Inbox, Input};
use super::persister::{Persister, Write};
use super::stage::Stage;
use super::{Mailbox, applier::Task};
use crate::raft::{MemberId, Message};

/// What a thread has come with, and so what it may do beside stepping the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    /// A heartbeat, a vote, the clock: it must be back soon. It serves reads, no more.
    Urgent,
    /// A client's request, or a peer's answer about entries: it may apply entries.
    Request,
    /// A leader's entries: it may wait for the disk as well.
    Entries,
}

pub(super) struct Pipeline<S: StateMachine> {
    pub(super) inbox: Inbox<S>,
    pub(super) log: Stage<Persister<S>>,
    pub(super) applier: Stage<Applier<S>>,
}

impl<S: StateMachine> Pipeline<S> {
    /// Stages without workers yet.
    pub(super) fn new() -> Pipeline<S> {
        Pipeline { inbox: Inbox::new(), log: Stage::new(), applier: Stage::new() }
    }

    /// Sees through what was brought to the inbox.
    pub(super) fn attend(&self, errand: Errand) {
        self.inbox.stage().help();
        match errand {
            Errand::Urgent => {
                self.log.call();
                self.applier.help_if(Tasks::are_quick);
            }
            Errand::Request => {
                self.log.call();
                self.applier.help();
            }
            Errand::Entries => {
                if self.log.help() {
                    self.inbox.stage().help();
                }
                self.applier.call();
            }
        }
    }

    /// Brings one thing that no peer or client waits for.
    pub(super) fn report(&self, input: Input<S>) {
        self.inbox.report(input);
        self.attend(Errand::Urgent);
    }

    pub(super) fn write(&self, write: Write) {
        self.log.with_queue(|queue| queue.push(write));
    }

    pub(super) fn task(&self, task: Task<S>) {
        self.applier.with_queue(|tasks| tasks.push(task));
    }

    /// The core's own thread.
    pub(super) fn run_core(&self) {
        let (driver, left) = self.inbox.stage().run(|_: &Stage<Driver<S>>| {
            self.log.call();
            self.applier.call();
        });
        left.refuse();
        if let Some(driver) = driver {
            driver.end();
        }
        self.log.stop();
    }

    /// The log's own thread. What is durable is told to the core; what that commits is applied by another thread while this one
    /// writes the next batch, or by this one if there is none.
    pub(super) fn run_log(&self) {
        let (persister, left) = self.log.run(|log| {
            self.inbox.stage().help();
            match log.has_work() {
                true => self.applier.call(),
                false => drop(self.applier.help()),
            }
        });
        if let Some(persister) = persister {
            persister.end(left);
        }
        self.applier.stop();
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
}

impl<S: StateMachine> Mailbox for Pipeline<S> {
    fn message(&self, message: Message) -> bool {
        self.inbox.message(message)
    }

    fn disconnected(&self, peer: MemberId) {
        self.inbox.disconnected(peer);
    }

    fn attend(&self, errand: Errand) {
        Pipeline::attend(self, errand);
    }
}
