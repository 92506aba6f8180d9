//! The requests of the model that have keys: a list, oldest first. A repeat changes nothing.

use bytes::Bytes;
use syncraft::kv::{Outcome, SessionLimits};

use super::sessions::{answer_len, without_answer};

pub(super) struct Requests {
    limits: SessionLimits,
    requests: Vec<Request>,
    /// How many times an outcome was given again.
    repeated: u64,
}

struct Request {
    key: Bytes,
    fingerprint: u64,
    outcome: Outcome,
}

/// What is known of a key.
pub(super) enum Known {
    Nothing,
    Outcome(Outcome),
    Other,
}

impl Requests {
    pub(super) fn new(limits: SessionLimits) -> Requests {
        Requests { limits, requests: Vec::new(), repeated: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    pub(super) fn repeated(&self) -> u64 {
        self.repeated
    }

    pub(super) fn find(&mut self, key: &Bytes, fingerprint: u64) -> Known {
        let Some(request) = self.requests.iter().find(|it| it.key == key) else {
            return Known::Nothing;
        };
        if request.fingerprint != fingerprint {
            return Known::Other;
        }
        self.repeated += 1;
        Known::Outcome(request.outcome.clone())
    }

    pub(super) fn record(&mut self, key: &Bytes, fingerprint: u64, outcome: Outcome) {
        if self.requests.len() == self.limits.requests_max {
            self.requests.remove(0);
        }
        let is_kept = answer_len(&outcome) <= self.limits.answer_kept_max;
        let outcome = if is_kept { outcome } else { without_answer(outcome) };
        self.requests.push(Request { key: key.clone(), fingerprint, outcome });
        while self.requests.iter().map(|it| answer_len(&it.outcome)).sum::<u64>()
            > self.limits.answers_kept_max
        {
            let oldest = self.requests.iter_mut().find(|it| answer_len(&it.outcome) > 0);
            let oldest = oldest.expect("some request has an answer");
            oldest.outcome = without_answer(oldest.outcome.clone());
        }
    }
}
