//! Load beside the clerks, enough to test the limits: proposals and reads that nobody retries. Each
//! command is unique, and has no session.

use bytes::Bytes;
use syncraft::kv::{Change, Command};
use syncraft::raft::{Event, RequestId};

use crate::plan::Plan;

/// Keys that it writes to, so that a state has a size.
const KEYS: u64 = 40;

pub(crate) struct Workload {
    rng: fastrand::Rng,
    last: RequestId,
}

impl Workload {
    pub(crate) fn new(seed: u64) -> Workload {
        Workload { rng: fastrand::Rng::with_seed(seed), last: RequestId(0) }
    }

    pub(crate) fn rng(&mut self) -> &mut fastrand::Rng {
        &mut self.rng
    }

    /// Proposals and reads that arrive at the same moment.
    pub(crate) fn requests(&mut self, plan: &Plan) -> Vec<Event> {
        let count = self.rng.u64(plan.requests_at_once.clone());
        (0..count)
            .map(|_| match self.rng.u8(0..5) {
                0..3 => self.proposal(plan),
                _ => self.read(),
            })
            .collect()
    }

    /// Whether these are keys that it writes to.
    pub(crate) fn writes(key: &[u8]) -> bool {
        key.starts_with(b"load ")
    }

    pub(crate) fn proposal(&mut self, plan: &Plan) -> Event {
        let id = self.next_id();
        let mut value = id.0.to_le_bytes().to_vec();
        value.resize(8 + self.rng.usize(plan.value_len.clone()), b'.');
        let key = Bytes::from(format!("load {}", id.0 % KEYS));
        let command = Command::unrepeated(Change::Put { key, value: value.into() });
        Event::Propose { id, command: command.encode() }
    }

    pub(crate) fn read(&mut self) -> Event {
        Event::Read { id: self.next_id() }
    }

    /// A number for a request that no other request has.
    pub(crate) fn next_id(&mut self) -> RequestId {
        self.last.0 += 1;
        self.last
    }
}
