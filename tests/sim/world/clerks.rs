//! Clerks among the members: their calls travel, wait, and are answered or not. The results go into
//! the history.

use bytes::Bytes;
use syncraft::kv::{Change, Command, Identity};
use syncraft::raft::{Event, RequestId, RoleName};

use super::{What, World};
use crate::clerk::{Answer, Clerk, End, Next, Request};
use crate::history::{History, Op};
use crate::lies::Lie;
use crate::member::Waiting;
use crate::plan::Plan;

/// How long a call may take when all are well.
const CALM_TIMEOUT_US: u64 = 20_000_000;

pub(super) struct Clerks {
    clerks: Vec<Clerk>,
    history: History,
    rng: fastrand::Rng,
    /// So that each value is written once.
    written: u64,
}

impl Clerks {
    pub(super) fn new(plan: &Plan, seed: u64) -> Clerks {
        let mut rng = fastrand::Rng::with_seed(seed);
        let clerks = (0..plan.clerks.count).map(|number| Clerk::new(number, rng.u64(..)));
        let clerks = clerks.collect();
        Clerks { clerks, history: History::new(plan.clerks.keys), rng, written: 0 }
    }

    /// When a message sent now arrives, if it does.
    fn travel_us(&mut self, plan: &Plan) -> Option<u64> {
        let is_long = self.rng.f64() < plan.faults.delay_long;
        let factor = if is_long { self.rng.u64(10..200) } else { 1 };
        let delay_us = self.rng.u64(plan.delay_us.clone()) * factor;
        (self.rng.f64() >= plan.faults.drop).then_some(delay_us)
    }

    /// A value that nobody wrote before.
    fn new_value(&mut self) -> Vec<u8> {
        self.written += 1;
        format!("[{}]", self.written).into_bytes()
    }

    /// A call of one clerk on one of its keys begins.
    fn begin(&mut self, clerk: usize, key: usize, op: Op, now_us: u64, timeout_us: u64) {
        let id = self.history.begin(key, op.clone());
        let key = Bytes::from(format!("key {key}"));
        let (clerk, deadline_us) = (&mut self.clerks[clerk], now_us + timeout_us);
        let change = match op {
            Op::Put(value) => Change::Put { key, value: value.into() },
            Op::Append(value) => Change::Append { key, value: value.into() },
            Op::Get => return clerk.begin_read(id, key, deadline_us),
        };
        clerk.begin_write(id, change, deadline_us);
    }
}

impl World {
    pub(super) fn start_clerks(&mut self) {
        for clerk in 0..self.clerks.clerks.len() {
            self.think(clerk);
        }
    }

    fn think(&mut self, clerk: usize) {
        let think_us = self.clerks.rng.u64(self.plan.clerks.think_us.clone());
        let attempt = self.clerks.clerks[clerk].attempt;
        self.after(think_us, What::ClerkActs { clerk, attempt });
    }

    /// A pause of a clerk is over, between two calls or within one.
    pub(super) fn clerk_acts(&mut self, clerk: usize, attempt: u64) {
        if self.clerks.clerks[clerk].attempt != attempt {
            return;
        }
        if self.clerks.clerks[clerk].is_idle() && !self.begin_call(clerk) {
            return;
        }
        self.go_on(clerk);
    }

    /// In the calm, clerks finish what they have begun.
    fn begin_call(&mut self, clerk: usize) -> bool {
        let keys = self.clerks.history.open_keys();
        if self.is_calm || keys.is_empty() {
            return false;
        }
        let key = keys[self.clerks.rng.usize(..keys.len())];
        let op = match self.clerks.rng.u8(0..10) {
            0..2 => Op::Put(self.clerks.new_value()),
            2..6 => Op::Append(self.clerks.new_value()),
            _ => Op::Get,
        };
        let timeout_us = self.plan.clerks.call_timeout_us;
        self.clerks.begin(clerk, key, op, self.now_us, timeout_us);
        true
    }

    /// The next attempt of a call, or the end of it.
    fn go_on(&mut self, clerk: usize) {
        let Some(next) = self.clerks.clerks[clerk].next(self.members.len(), self.now_us) else {
            return;
        };
        self.take(clerk, next);
    }

    fn take(&mut self, clerk: usize, next: Next) {
        let attempt = self.clerks.clerks[clerk].attempt;
        match next {
            Next::Pause(pause_us) => self.after(pause_us, What::ClerkActs { clerk, attempt }),
            Next::End(call, end) => {
                self.trace.line(self.now_us, || format!("clerk {clerk}: {end:?}"));
                self.count(match end {
                    End::Written => "clerk: written",
                    End::Read(_) => "clerk: read",
                    End::NotApplied => "clerk: not applied",
                    End::Unknown => "clerk: outcome unknown",
                });
                self.clerks.history.end(call, &end);
                if self.trace.is_told() {
                    // So that the story ends where the violation is. Once at the end would be
                    // enough to find it.
                    self.clerks.history.check();
                }
                self.think(clerk);
            }
            Next::Ask(at, request) => {
                self.trace.line(self.now_us, || {
                    format!("clerk {clerk} asks {}: {request}, attempt {attempt}", at + 1)
                });
                if let Some(delay_us) = self.clerks.travel_us(&self.plan) {
                    self.after(delay_us, What::Asked { at, clerk, attempt, request });
                }
                let timeout_us = self.plan.clerks.attempt_timeout_us;
                self.after(timeout_us, What::Answered { clerk, attempt, answer: Answer::None });
            }
        }
    }

    /// A call has reached a member.
    pub(super) fn asked(&mut self, at: usize, clerk: usize, attempt: u64, request: Request) {
        let waiting = Waiting { clerk, attempt, key: None };
        let Some(living) = &mut self.members[at].living else {
            // Refused at once: nothing can have run.
            if self.plan.are_sockets_noticed {
                self.answer(waiting, Answer::NotLeader { hint: None, may_apply: false });
            }
            return;
        };
        let is_leader = living.status.role.role == RoleName::Leader;
        let request = match (self.plan.lie, request) {
            (Some(Lie::UnconfirmedReads), Request::Read(key)) if is_leader => {
                let value = living.machine.value(&key);
                return self.answer(waiting, Answer::Read(value));
            }
            (Some(Lie::NoSessions), Request::Write(command)) => {
                Request::Write(Command { identity: Identity::default(), ..command })
            }
            (_, request) => request,
        };
        let id = self.workload.next_id();
        let (event, key) = match request {
            Request::Write(command) => (Event::Propose { id, command: command.encode() }, None),
            Request::Read(key) => (Event::Read { id }, Some(key)),
        };
        living.waiting.insert(id, Waiting { key, ..waiting });
        self.request(at, event);
    }

    /// A member answers a request, if a clerk waits for it.
    pub(super) fn end_request(&mut self, at: usize, id: RequestId, answer: Answer) {
        let waiting = self.members[at].living.as_mut().and_then(|it| it.waiting.remove(&id));
        if let Some(waiting) = waiting {
            self.answer(waiting, answer);
        }
    }

    pub(super) fn answer(&mut self, Waiting { clerk, attempt, .. }: Waiting, answer: Answer) {
        let Some(delay_us) = self.clerks.travel_us(&self.plan) else {
            return self.count("clerk: answer lost");
        };
        self.after(delay_us, What::Answered { clerk, attempt, answer });
    }

    /// A read may be served now.
    pub(super) fn serve(&mut self, at: usize, id: RequestId) {
        let Some(living) = &self.members[at].living else { return };
        let Some(key) = living.waiting.get(&id).and_then(|it| it.key.as_ref()) else { return };
        let answer = Answer::Read(living.machine.value(key));
        if living.status.role.role != RoleName::Leader {
            self.count("clerk: read at a follower");
        }
        self.end_request(at, id, answer);
    }

    pub(super) fn answered(&mut self, clerk: usize, attempt: u64, answer: Answer) {
        if self.clerks.clerks[clerk].attempt != attempt || self.clerks.clerks[clerk].is_idle() {
            return match answer {
                Answer::None => {}
                _ => self.count("clerk: late answer"),
            };
        }
        self.trace.line(self.now_us, || format!("clerk {clerk} <- {answer:?}, attempt {attempt}"));
        let sessions = self.clerks.clerks[clerk].sessions;
        let next = self.clerks.clerks[clerk].judge(answer);
        if self.clerks.clerks[clerk].sessions > sessions {
            self.count("clerk: session begun anew");
        }
        match next {
            Some(next) => self.take(clerk, next),
            None => self.go_on(clerk),
        }
    }

    /// All is well, and nobody writes any more: at the end, each clerk reads everything that was
    /// ever written.
    pub(super) fn run_last_reads(&mut self) {
        for key in 0..self.clerks.history.keys() {
            for clerk in 0..self.clerks.clerks.len() {
                self.run_until_idle(clerk);
                self.clerks.begin(clerk, key, Op::Get, self.now_us, CALM_TIMEOUT_US);
                self.go_on(clerk);
            }
        }
        (0..self.clerks.clerks.len()).for_each(|clerk| self.run_until_idle(clerk));
        assert!(self.clerks.history.has_last_reads(), "where all is well, reads are answered");
        self.clerks.history.check();
    }

    fn run_until_idle(&mut self, clerk: usize) {
        while !self.clerks.clerks[clerk].is_idle() {
            self.run_until(self.now_us + 1_000);
        }
    }
}
