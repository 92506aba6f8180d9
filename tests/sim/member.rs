//! One simulated member: its core while it lives, its disk always, and the oracle's knowledge of
//! its log.

use std::collections::BTreeMap;

use syncraft::kv::Query;
use syncraft::raft::{
    Config, Entry, Event, Index, MemberId, Message, Raft, RequestId, Status, Term,
};
use syncraft::storage::{Receiver, Snapshot, StorageError};

use crate::disk::{Disk, Started};
use crate::lies::Lie;
use crate::machine::Machine;
use crate::plan::Plan;
use crate::shadow::Shadow;

pub(crate) struct Member {
    pub(crate) id: MemberId,
    pub(crate) disk: Disk,
    /// Counts starts, to recognise events that were meant for an earlier life.
    pub(crate) life: u64,
    pub(crate) living: Option<Living>,
    /// How far its clock has jumped, forward and back.
    pub(crate) clock_jumps_us: (u64, u64),
    /// The newest snapshot that its core has reported, in any life.
    pub(crate) snapshot_index: Index,
}

/// What a crash takes away.
pub(crate) struct Living {
    pub(crate) core: Raft,
    pub(crate) status: Status,
    /// The core's log, as its writes have described it.
    pub(crate) log: Shadow,
    pub(crate) machine: Machine,
    /// Clerks that wait for an answer.
    pub(crate) waiting: BTreeMap<RequestId, Waiting>,
    pub(crate) was_leader: bool,
    /// Its state was loaded, or has a new stamp, and the core has not heard of it.
    pub(crate) is_anew: bool,
    pub(crate) inbox: Vec<Event>,
    /// Reported only after the pause: answers to writes that the disk finished meanwhile.
    pub(crate) outbox: Vec<Message>,
    pub(crate) is_paused: bool,
    pub(crate) is_step_due: bool,
    /// A leader's snapshots that are on the disk and whose events are in the inbox.
    pub(crate) received: Vec<Snapshot>,
    /// A snapshot that is being received.
    pub(crate) arriving: Option<Receiver>,
    /// A snapshot of its own that is being written.
    pub(crate) is_snapshotting: bool,
    /// Snapshots on their way to peers.
    pub(crate) transfers: BTreeMap<MemberId, Transfer>,
}

/// Whom to answer.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) clerk: usize,
    pub(crate) attempt: u64,
    /// What is read; a write has none.
    pub(crate) query: Option<Query>,
}

/// A snapshot on its way to a peer: one at a time. If another one is requested meanwhile, its end
/// is reported as not sent.
pub(crate) struct Transfer {
    pub(crate) token: u64,
    pub(crate) term: Term,
    pub(crate) snapshot: Snapshot,
    /// Of the chunk that is on its way.
    pub(crate) offset: u64,
    /// Sent so far.
    pub(crate) chunks: u64,
    /// How often in a row the peer asked for less than it was sent.
    pub(crate) repeats: u32,
    pub(crate) is_asked_again: bool,
}

impl Member {
    pub(crate) fn new(id: MemberId, plan: &Plan, seed: u64) -> Member {
        let disk = Disk::new(id, plan.segment_len_bytes, seed);
        let (clock_jumps_us, snapshot_index) = ((0, 0), Index::ZERO);
        Member { id, disk, life: 0, living: None, clock_jumps_us, snapshot_index }
    }

    /// Its data is lost: it comes back as a new member, or as one that knows about the loss.
    pub(crate) fn lose_data(&mut self, is_known: bool, seed: u64) {
        assert!(self.living.is_none(), "only who is down loses its data");
        self.disk.lose_data(is_known, seed);
        self.snapshot_index = Index::ZERO;
    }

    /// `committed` is everything that was ever committed.
    ///
    /// # Errors
    ///
    /// Those of storage.
    pub(crate) fn start(
        &mut self,
        plan: &Plan,
        committed: &[Entry],
    ) -> Result<Started, StorageError> {
        assert!(self.living.is_none(), "only who is down can start");
        let started = self.disk.start(committed)?;
        self.life += 1;
        let mut log = Shadow::default();
        log.write(self.disk.entries());
        let mut machine = Machine::new(plan.session_limits);
        if let Some(snapshot) = &started.snapshot {
            machine.load(snapshot);
        }
        let config = Config { standing: started.standing, ..plan.config(self.id, self.life) };
        let snapshot = started.snapshot.as_ref().map(Snapshot::meta);
        let mut hard_state = started.hard_state;
        if plan.lie == Some(Lie::ForgottenVotes) {
            hard_state.voted_for = None;
        }
        let core = Raft::new(config, hard_state, snapshot, started.entries.clone());
        let status = core.status();
        self.living = Some(Living {
            core,
            status,
            log,
            machine,
            waiting: BTreeMap::new(),
            was_leader: false,
            is_anew: true,
            inbox: Vec::new(),
            outbox: Vec::new(),
            is_paused: false,
            is_step_due: false,
            received: Vec::new(),
            arriving: None,
            is_snapshotting: false,
            transfers: BTreeMap::new(),
        });
        Ok(started)
    }
}
