//! The sessions of the model: a list, in the order of their last use.

use std::sync::Arc;

use bytes::Bytes;
use syncraft::kv::model::TxnAnswer;
use syncraft::kv::{Done, Identity, Outcome, SessionLimits};
use syncraft::raft::Index;

pub(super) struct Sessions {
    limits: SessionLimits,
    /// The one that was used longest ago comes first.
    sessions: Vec<Session>,
    /// When any of those that are forgotten was last used.
    forgotten_up_to: Index,
}

struct Session {
    client: Bytes,
    newest: i64,
    last_used: Index,
    outcome: Outcome,
}

/// What becomes of a write.
pub(super) enum Decision {
    New,
    Repeat(Outcome),
    Older,
    Expired,
}

impl Sessions {
    pub(super) fn new(limits: SessionLimits) -> Sessions {
        Sessions { limits, sessions: Vec::new(), forgotten_up_to: Index::ZERO }
    }

    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn decide(&mut self, index: Index, identity: &Identity) -> Decision {
        let Identity { client_id, request_id, seen_index } = identity;
        let Some(mut session) = self.take(client_id) else {
            let may_be_forgotten = (Index(1)..self.forgotten_up_to).contains(seen_index);
            return if may_be_forgotten { Decision::Expired } else { Decision::New };
        };
        session.last_used = if *request_id > session.newest { session.last_used } else { index };
        let decision = match request_id.cmp(&session.newest) {
            std::cmp::Ordering::Greater => Decision::New,
            std::cmp::Ordering::Equal => Decision::Repeat(session.outcome.clone()),
            std::cmp::Ordering::Less => Decision::Older,
        };
        self.put_back(session);
        decision
    }

    pub(super) fn record(&mut self, index: Index, identity: &Identity, outcome: Outcome) {
        let is_known = self.take(&identity.client_id).is_some();
        if !is_known && self.sessions.len() == self.limits.sessions_max {
            self.forgotten_up_to = self.sessions.remove(0).last_used;
        }
        let is_kept = answer_len(&outcome) <= self.limits.answer_kept_max;
        self.sessions.push(Session {
            client: identity.client_id.clone(),
            newest: identity.request_id,
            last_used: index,
            outcome: if is_kept { outcome } else { without_answer(outcome) },
        });
        while self.answers_len() > self.limits.answers_kept_max {
            let oldest = self.sessions.iter_mut().find(|it| answer_len(&it.outcome) > 0);
            let oldest = oldest.expect("some session has an answer");
            oldest.outcome = without_answer(oldest.outcome.clone());
        }
    }

    fn answers_len(&self) -> u64 {
        self.sessions.iter().map(|session| answer_len(&session.outcome)).sum()
    }

    fn take(&mut self, client: &Bytes) -> Option<Session> {
        let at = self.sessions.iter().position(|session| session.client == client)?;
        Some(self.sessions.remove(at))
    }

    fn put_back(&mut self, session: Session) {
        self.sessions.push(session);
        self.sessions.sort_by_key(|session| session.last_used);
    }
}

pub(super) fn answer_len(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Ran { result: Ok(Done { answer: Some(answer), .. }), .. } => answer.len_bytes(),
        _ => 0,
    }
}

/// What is left of an outcome whose answer is forgotten.
pub(super) fn without_answer(outcome: Outcome) -> Outcome {
    let forget = |done: Done| Done { answer: None::<Arc<TxnAnswer>>, ..done };
    match outcome {
        Outcome::Ran { index, result } => Outcome::Ran { index, result: result.map(forget) },
        other => other,
    }
}
