//! What clients ask for. Each command is unique, so that each place it takes in the log can be found.

use bytes::Bytes;
use syncraft::raft::{Event, Payload, RequestId};

use crate::plan::Plan;

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

    pub(crate) fn proposal(&mut self, plan: &Plan) -> Event {
        let id = self.next_id();
        let mut command = id.0.to_le_bytes().to_vec();
        command.resize(8 + self.rng.usize(plan.value_len.clone()), b'.');
        Event::Propose { id, command: Bytes::from(command) }
    }

    pub(crate) fn read(&mut self) -> Event {
        Event::Read { id: self.next_id() }
    }

    fn next_id(&mut self) -> RequestId {
        self.last.0 += 1;
        self.last
    }
}

/// Which proposal an entry carries.
pub(crate) fn proposal_of(payload: &Payload) -> Option<RequestId> {
    let Payload::Command(command) = payload else { return None };
    let id = command.first_chunk().expect("the workload's commands begin with their id");
    Some(RequestId(u64::from_le_bytes(*id)))
}
