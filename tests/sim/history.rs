//! What the clerks saw, for the checker.

use crate::clerk::End;
use crate::linearizability::{self, CALLS_MAX, Call, Op};

/// Calls by key, in virtual microseconds, a few put off a little: no two calls begin or end at the same time.
pub(crate) struct History {
    keys: Vec<Vec<Call>>,
    last_us: u64,
}

/// A call in the history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallId {
    key: usize,
    at: usize,
}

/// Of each key; there is room for some reads at the end.
const CALLS_BEGUN_MAX: usize = CALLS_MAX * 3 / 4;

impl History {
    pub(crate) fn new(keys: usize) -> History {
        History { keys: vec![Vec::new(); keys], last_us: 0 }
    }

    /// The keys that more calls may be made for.
    pub(crate) fn open_keys(&self) -> Vec<usize> {
        (0..self.keys.len()).filter(|&key| self.keys[key].len() < CALLS_BEGUN_MAX).collect()
    }

    pub(crate) fn keys(&self) -> usize {
        self.keys.len()
    }

    /// A call begins; of a read the answer is yet to come.
    pub(crate) fn begin(&mut self, key: usize, op: Op, now_us: u64) -> CallId {
        let asked_at = self.stamp(now_us);
        self.keys[key].push(Call { op, asked_at, answered_at: None });
        CallId { key, at: self.keys[key].len() - 1 }
    }

    pub(crate) fn end(&mut self, id: CallId, end: &End, now_us: u64) {
        let stamp = self.stamp(now_us);
        let call = &mut self.keys[id.key][id.at];
        match end {
            End::Written => call.answered_at = Some(stamp),
            End::Read(value) => {
                call.op = Op::Get(value.as_deref().map(<[u8]>::to_vec));
                call.answered_at = Some(stamp);
            }
            // As if it had never been asked: if it did take effect after all, its value is one that nobody wrote.
            End::NotApplied => {
                (call.op, call.asked_at) = (Op::Get(None), u64::MAX);
            }
            End::Unknown => {}
        }
    }

    /// Whether the newest call of each key was answered.
    pub(crate) fn has_last_reads(&self) -> bool {
        self.keys.iter().all(|calls| calls.last().is_none_or(|call| call.answered_at.is_some()))
    }

    /// # Panics
    /// If what the clerks saw is not linearizable.
    pub(crate) fn check(&self) {
        for (key, calls) in self.keys.iter().enumerate() {
            let counts =
                |call: &&Call| !matches!(call.op, Op::Get(_)) || call.answered_at.is_some();
            let calls: Vec<Call> = calls.iter().filter(counts).cloned().collect();
            if let Err(violation) = linearizability::check(&calls) {
                panic!("key {key}: {violation}");
            }
        }
    }

    fn stamp(&mut self, now_us: u64) -> u64 {
        self.last_us = now_us.max(self.last_us + 1);
        self.last_us
    }
}
