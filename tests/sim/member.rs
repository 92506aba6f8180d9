//! One simulated member: its core while it lives, its disk always, and what the oracle knows of its log.

use std::collections::BTreeMap;

use bytes::Bytes;
use syncraft::raft::{Event, Index, MemberId, Message, Raft, RequestId, SnapshotMeta, Status};

use crate::disk::Disk;
use crate::machine::Machine;
use crate::plan::Plan;
use crate::shadow::Shadow;

pub(crate) struct Member {
    pub(crate) id: MemberId,
    pub(crate) disk: Disk,
    /// Counts starts, so that what was meant for an earlier life can be told apart.
    pub(crate) life: u64,
    pub(crate) living: Option<Living>,
    /// What its core last said of its newest snapshot, in any life.
    pub(crate) snapshot_index: Index,
}

/// What a crash takes away.
pub(crate) struct Living {
    pub(crate) core: Raft,
    pub(crate) status: Status,
    /// The core's log, as its writes have told.
    pub(crate) log: Shadow,
    pub(crate) machine: Machine,
    /// Clerks that wait for an answer.
    pub(crate) waiting: BTreeMap<RequestId, Waiting>,
    pub(crate) was_leader: bool,
    pub(crate) inbox: Vec<Event>,
    /// Said only after the pause: answers to writes that the disk finished meanwhile.
    pub(crate) outbox: Vec<Message>,
    pub(crate) is_paused: bool,
    pub(crate) is_step_due: bool,
    /// Snapshots of a leader's that are on the disk, and in the inbox.
    pub(crate) received: Vec<(SnapshotMeta, Bytes)>,
    /// Snapshots on their way to peers.
    pub(crate) transfers: BTreeMap<MemberId, Transfer>,
}

/// Whom to answer.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) clerk: usize,
    pub(crate) attempt: u64,
    /// What is read; a write has none.
    pub(crate) key: Option<Bytes>,
}

/// A snapshot on its way to a peer: one at a time. Who is asked for another meanwhile says at its end that it was not sent.
pub(crate) struct Transfer {
    pub(crate) token: u64,
    pub(crate) is_asked_again: bool,
}

impl Member {
    pub(crate) fn new(id: MemberId) -> Member {
        Member { id, disk: Disk::default(), life: 0, living: None, snapshot_index: Index::ZERO }
    }

    /// True if its log had to begin anew behind its snapshot.
    pub(crate) fn start(&mut self, plan: &Plan) -> bool {
        assert!(self.living.is_none(), "only who is down can start");
        self.life += 1;
        let is_reset = self.disk.recover();
        let entries = self.disk.entries();
        let mut log = Shadow::default();
        log.write(entries);
        let snapshot = self.disk.snapshot();
        let mut machine = Machine::new(plan.sessions_max);
        if let Some(meta) = snapshot {
            machine.load(meta.last_included_index, &mut self.disk.snapshot_state());
        }
        let behind = entries[machine.applied().0 as usize..].to_vec();
        let config = plan.config(self.id, self.life);
        let core = Raft::new(config, self.disk.hard_state(), snapshot, behind);
        let status = core.status();
        self.living = Some(Living {
            core,
            status,
            log,
            machine,
            waiting: BTreeMap::new(),
            was_leader: false,
            inbox: Vec::new(),
            outbox: Vec::new(),
            is_paused: false,
            is_step_due: false,
            received: Vec::new(),
            transfers: BTreeMap::new(),
        });
        is_reset
    }
}
