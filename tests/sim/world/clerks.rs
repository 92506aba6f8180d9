//! Clerks among the members: their calls travel, wait, and are answered or not. The results go into
//! the history.

use syncraft::kv::model::{Action, KeyRange, Range, Txn};
use syncraft::kv::{Command, Identity, Query};
use syncraft::raft::{Event, RequestId, RoleName};

use super::{What, World};
use crate::clerk::{Answer, Clerk, End, Next, Request};
use crate::commands::{Commands, Drawn};
use crate::history::History;
use crate::lies::Lie;
use crate::member::Waiting;
use crate::plan::Plan;
use crate::search::{Found, search};
use crate::tally;

/// How long a call may take when all are well.
const CALM_TIMEOUT_US: u64 = 20_000_000;

pub(super) struct Clerks {
    clerks: Vec<Clerk>,
    history: History,
    commands: Commands,
    rng: fastrand::Rng,
}

impl Clerks {
    pub(super) fn new(plan: &Plan, seed: u64) -> Clerks {
        let mut rng = fastrand::Rng::with_seed(seed);
        let clerks = (0..plan.clerks.count).map(|number| Clerk::new(number, rng.u64(..)));
        let clerks = clerks.collect();
        let commands = Commands::new(plan.clerks.kinds.clone(), rng.u64(..));
        Clerks { clerks, history: History::default(), commands, rng }
    }

    /// When a message sent now arrives, if it does.
    fn travel_us(&mut self, plan: &Plan) -> Option<u64> {
        let is_long = self.rng.f64() < plan.faults.delay_long;
        let factor = if is_long { self.rng.u64(10..200) } else { 1 };
        let delay_us = self.rng.u64(plan.delay_us.clone()) * factor;
        (self.rng.f64() >= plan.faults.drop).then_some(delay_us)
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
        if self.is_calm || !self.clerks.history.has_room() {
            return false;
        }
        let drawn = self.clerks.commands.draw(self.oracle.reference());
        self.begin(clerk, drawn, self.plan.clerks.call_timeout_us);
        true
    }

    fn begin(&mut self, clerk: usize, drawn: Drawn, timeout_us: u64) {
        let committed = self.oracle.committed_index();
        let id = self.clerks.history.begin(clerk, drawn.clone(), committed);
        let deadline_us = self.now_us + timeout_us;
        let clerk = &mut self.clerks.clerks[clerk];
        match drawn {
            Drawn::Read(query) => clerk.begin_read(id, query, deadline_us),
            Drawn::Write(change) => clerk.begin_write(id, change, deadline_us),
        }
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
            Next::End(call, ended) => {
                self.trace.line(self.now_us, || format!("clerk {clerk}: {:?}", ended.end));
                self.count(match ended.end {
                    End::Written(_) => "clerk: written",
                    End::Read { .. } => "clerk: read",
                    End::NotApplied => "clerk: not applied",
                    End::Unknown => "clerk: outcome unknown",
                });
                for name in tally::end(&ended.end) {
                    self.count(name);
                }
                self.clerks.history.end(call, ended, self.oracle.reference());
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
        let waiting = Waiting { clerk, attempt, query: None };
        let Some(living) = &mut self.members[at].living else {
            // Refused at once: nothing can have run.
            if self.plan.are_sockets_noticed || self.members[at].is_gone {
                self.answer(waiting, Answer::NotLeader { hint: None, may_apply: false });
            }
            return;
        };
        let is_leader = living.status.role.role == RoleName::Leader;
        let request = match (self.plan.lie, request) {
            (Some(Lie::UnconfirmedReads), Request::Read(query)) if is_leader => {
                let (at, read) = (living.machine.applied(), living.machine.read(&query));
                return self.answer(waiting, Answer::Read { at, read });
            }
            (Some(Lie::NoSessions), Request::Write(command)) => {
                Request::Write(Command { identity: Identity::default(), ..command })
            }
            (_, request) => request,
        };
        let id = self.workload.next_id();
        let (event, query) = match request {
            Request::Write(command) => (Event::Propose { id, command: command.encode() }, None),
            Request::Read(query) => (Event::Read { id }, Some(query)),
        };
        living.waiting.insert(id, Waiting { query, ..waiting });
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
        let query = living.waiting.get(&id).and_then(|it| it.query.as_ref());
        let Some(query) = query else { return };
        let read = living.machine.read(query);
        let answer = Answer::Read { at: living.machine.applied(), read };
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

    /// All is well, and nobody writes any more: at the end, each clerk reads everything, as it is
    /// and as it was.
    pub(super) fn run_last_reads(&mut self) {
        let clerks = self.clerks.clerks.len();
        for clerk in 0..clerks {
            self.run_until_idle(clerk);
        }
        for clerk in 0..clerks {
            let at = self.clerks.commands.revision(self.oracle.reference());
            let everything = Range::of(KeyRange::all());
            let ranges = [everything.clone(), Range { at, ..everything }];
            let then = ranges.map(|range| Action::Range(range).into()).to_vec();
            let read = Drawn::Read(Query::Read(Box::new(Txn { then, ..Txn::default() })));
            self.begin(clerk, read, CALM_TIMEOUT_US);
            self.go_on(clerk);
        }
        (0..clerks).for_each(|clerk| self.run_until_idle(clerk));
        let history = &self.clerks.history;
        assert!(history.are_answered(clerks), "where all is well, reads are answered");
        history.check(self.oracle.reference());
        if !self.plan.clerks.kinds.are_all {
            match search(&history.seen()) {
                Found::AnOrder => self.count("history: an order found"),
                Found::NoOrder => panic!("no order of all calls explains their answers"),
                Found::Nothing => self.count("history: search given up"),
            }
        }
        let current = self.current_members();
        for member in self.members.iter().filter(|it| current.contains(&it.id)) {
            let living = member.living.as_ref().expect("all are well");
            self.oracle.states.check_all(&living.machine, self.oracle.reference());
        }
    }

    fn run_until_idle(&mut self, clerk: usize) {
        while !self.clerks.clerks[clerk].is_idle() {
            self.run_until(self.now_us + 1_000);
        }
    }
}
