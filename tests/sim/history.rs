//! What the clerks saw, for the checker.

use syncraft::testing::{History as Checker, Outcome};

use crate::clerk::End;

/// The longest history of one key. Longer ones would find no more, and take longer to check.
const CALLS_MAX: usize = 256;

/// For each key; this leaves room for some reads at the end.
const CALLS_BEGUN_MAX: usize = CALLS_MAX * 3 / 4;

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Put(Vec<u8>),
    Append(Vec<u8>),
    Get,
}

/// Calls of all clerks, in the order in which they began and ended.
pub(crate) struct History {
    keys: Vec<Key>,
}

#[derive(Default)]
struct Key {
    events: Vec<Event>,
    calls: usize,
    /// How the newest call ended, if it has.
    last_end: Option<Outcome>,
}

enum Event {
    Begin(Op),
    End(usize, Outcome),
}

/// A call in the history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallId {
    key: usize,
    at: usize,
}

impl History {
    pub(crate) fn new(keys: usize) -> History {
        History { keys: (0..keys).map(|_| Key::default()).collect() }
    }

    /// The keys that may have more calls.
    pub(crate) fn open_keys(&self) -> Vec<usize> {
        (0..self.keys.len()).filter(|&key| self.keys[key].calls < CALLS_BEGUN_MAX).collect()
    }

    pub(crate) fn keys(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn begin(&mut self, key: usize, op: Op) -> CallId {
        let calls = &mut self.keys[key];
        assert!(calls.calls < CALLS_MAX, "too many calls");
        calls.events.push(Event::Begin(op));
        (calls.calls, calls.last_end) = (calls.calls + 1, None);
        CallId { key, at: calls.calls - 1 }
    }

    pub(crate) fn end(&mut self, id: CallId, end: &End) {
        let outcome = match end {
            End::Written => Outcome::Done,
            End::Read(value) => Outcome::Value(value.clone()),
            End::NotApplied => Outcome::NotApplied,
            End::Unknown => Outcome::Unknown,
        };
        let key = &mut self.keys[id.key];
        if id.at + 1 == key.calls {
            key.last_end = Some(outcome.clone());
        }
        key.events.push(Event::End(id.at, outcome));
    }

    /// Whether the newest call of each key was answered.
    pub(crate) fn has_last_reads(&self) -> bool {
        let is_answered =
            |key: &Key| matches!(key.last_end, Some(Outcome::Done | Outcome::Value(_)));
        self.keys.iter().all(|key| key.calls == 0 || is_answered(key))
    }

    /// # Panics
    ///
    /// If what the clerks saw is not linearizable.
    pub(crate) fn check(&self) {
        for (number, key) in self.keys.iter().enumerate() {
            let (history, mut calls) = (Checker::new(), Vec::new());
            for event in &key.events {
                match event {
                    Event::Begin(Op::Put(value)) => calls.push(Some(history.begin_put("k", value))),
                    Event::Begin(Op::Append(value)) => {
                        calls.push(Some(history.begin_append("k", value)));
                    }
                    Event::Begin(Op::Get) => calls.push(Some(history.begin_get("k"))),
                    Event::End(at, outcome) => {
                        if let Some(call) = calls[*at].take() {
                            call.end(outcome.clone());
                        }
                    }
                }
            }
            if let Err(violation) = history.check() {
                panic!("of key {number}: {violation}");
            }
        }
    }
}
