//! The requests that the core knows by number: proposals during a step, reads until they are
//! confirmed.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::request::{RequestError, Responder};
use super::state_machine::StateMachine;
use crate::clock;
use crate::raft::{Event, Rejection, RequestId};

/// How stale a follower may get before it refreshes itself, if no client reads from it.
const REFRESH_PAUSE: Duration = Duration::from_secs(1);

/// The requests that the core knows by number.
pub(super) struct Requests<S: StateMachine> {
    last_id: u64,
    /// Only during a turn, in the order of their numbers: the core answers a proposal in the step
    /// that takes it.
    proposals: VecDeque<(RequestId, Responder<S::Outcome>)>,
    /// Until they are confirmed or refused.
    reads: HashMap<RequestId, (S::Query, Responder<S::Answer>)>,
    /// A read of this member's own, and when it began.
    refresh: Option<(RequestId, Duration)>,
    refresh_due: Option<Instant>,
}

impl<S: StateMachine> Requests<S> {
    pub(super) fn new() -> Requests<S> {
        Requests {
            last_id: 0,
            proposals: VecDeque::new(),
            reads: HashMap::new(),
            refresh: None,
            refresh_due: None,
        }
    }

    pub(super) fn next_id(&mut self) -> RequestId {
        self.last_id += 1;
        RequestId(self.last_id)
    }

    pub(super) fn propose(&mut self, command: Bytes, responder: Responder<S::Outcome>) -> Event {
        let id = self.next_id();
        self.proposals.push_back((id, responder));
        Event::Propose { id, command }
    }

    /// As [`propose`](Requests::propose), with the leader's time.
    pub(super) fn propose_stamped(
        &mut self,
        command: Bytes,
        responder: Responder<S::Outcome>,
    ) -> Event {
        let id = self.next_id();
        self.proposals.push_back((id, responder));
        Event::ProposeStamped { id, command }
    }

    /// A command that only tells the time.
    pub(super) fn propose_time(
        &mut self,
        command: Bytes,
        responder: Responder<S::Outcome>,
    ) -> Event {
        let id = self.next_id();
        self.proposals.push_back((id, responder));
        Event::ProposeTime { id, command }
    }

    pub(super) fn read(&mut self, query: S::Query, responder: Responder<S::Answer>) -> Event {
        let id = self.next_id();
        self.reads.insert(id, (query, responder));
        Event::Read { id }
    }

    /// A read of this member's own, now and then. It shows how fresh the state is from which stale
    /// reads are served.
    pub(super) fn refresh(&mut self, now: Instant) -> Option<Event> {
        if self.refresh_due.is_some_and(|due| now < due) {
            return None;
        }
        self.refresh_due = Some(now + REFRESH_PAUSE);
        let id = self.next_id();
        self.refresh = Some((id, clock::boot_time()));
        Some(Event::Read { id })
    }

    /// When that read began, if it is one of these.
    pub(super) fn take_refresh(&mut self, ids: &[RequestId]) -> Option<Duration> {
        self.refresh.take_if(|(id, _)| ids.contains(id)).map(|(_, begun)| begun)
    }

    pub(super) fn has_proposals(&self) -> bool {
        !self.proposals.is_empty()
    }

    /// The proposal with this number, if it is the next one to be answered.
    pub(super) fn take_proposal(&mut self, id: RequestId) -> Option<Responder<S::Outcome>> {
        self.proposals.pop_front_if(|(next, _)| *next == id).map(|(_, responder)| responder)
    }

    /// These reads, except those that have expired.
    pub(super) fn take_reads(
        &mut self,
        ids: Vec<RequestId>,
    ) -> Vec<(S::Query, Responder<S::Answer>)> {
        ids.into_iter().filter_map(|id| self.reads.remove(&id)).collect()
    }

    pub(super) fn reject(&mut self, id: RequestId, reason: Rejection) {
        let error = match reason {
            Rejection::NotLeader(leader) => RequestError::NotLeader { leader },
            Rejection::Busy => RequestError::Busy,
            Rejection::HandingOver => RequestError::HandingOver,
            Rejection::Members(_) => unreachable!("only changes of the members are refused so"),
        };
        if let Some(responder) = self.take_proposal(id) {
            responder.respond(Err(error));
        } else if let Some((_, responder)) = self.reads.remove(&id) {
            responder.respond(Err(error));
        }
    }

    /// Ends the reads that wait: the member stops.
    pub(super) fn end(self) {
        let stopped = RequestError::Stopped { may_apply: false };
        self.reads.into_values().for_each(|(_, responder)| responder.respond(Err(stopped)));
    }

    pub(super) fn end_expired_reads(&mut self, now: Instant) {
        let expired = self.reads.extract_if(|_, (_, responder)| responder.is_expired(now));
        expired.for_each(|(_, (_, responder))| {
            responder.respond(Err(RequestError::TimedOut { may_apply: false }))
        });
    }
}
