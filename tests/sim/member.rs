//! One simulated member: its core while it lives, its disk always, and the oracle's knowledge of
//! its log.

use std::collections::BTreeMap;
use std::sync::Arc;

use syncraft::kv::Query;
use syncraft::raft::{
    self, Config, Configuration, Configured, Entry, Event, Index, MemberId, Message, Payload, Raft,
    RequestId, Standing, Status, Term,
};
use syncraft::storage::{Identity, Receiver, Snapshot, StorageError};

use crate::device::Loss;
use crate::disk::{Disk, Started};
use crate::lies::Lie;
use crate::machine::Machine;
use crate::plan::Plan;
use crate::shadow::Shadow;
use crate::world::FIRST_LIST_ID;

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
    /// The members in the list that it is started with.
    pub(crate) list: Vec<MemberId>,
    /// It was removed or given up, and is not started again.
    pub(crate) is_gone: bool,
}

/// A cluster, as far as a member knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Affiliation {
    /// 0: not known yet.
    pub(crate) cluster_id: u64,
    pub(crate) list_id: u64,
}

impl Affiliation {
    /// Whether the two can be of the same cluster.
    pub(crate) fn is_compatible(self, other: Affiliation) -> bool {
        match self.cluster_id != 0 && other.cluster_id != 0 {
            true => self.cluster_id == other.cluster_id,
            false => self.list_id == other.list_id,
        }
    }
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
    pub(crate) affiliation: Affiliation,
    /// The configurations that its core has reported.
    pub(crate) configured: Configured,
    /// The cluster whose id the disk has been asked to record.
    pub(crate) recorded_cluster: u64,
    /// The configurations in force during its last step.
    pub(crate) in_force: Vec<Option<Arc<Configuration>>>,
    /// Its core has said that it was removed.
    pub(crate) is_removed: bool,
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
    /// A member without data, started with this list.
    pub(crate) fn new(
        identity: Identity,
        standing: Standing,
        list: Vec<MemberId>,
        plan: &Plan,
        seed: u64,
    ) -> Member {
        Member {
            id: identity.member_id,
            disk: Disk::new(identity, standing, plan.segment_len_bytes, seed),
            life: 0,
            living: None,
            clock_jumps_us: (0, 0),
            snapshot_index: Index::ZERO,
            list,
            is_gone: false,
        }
    }

    /// Its data is lost: it comes back as a new member, or as one that knows about the loss.
    pub(crate) fn lose_data(&mut self, loss: Loss, seed: u64) {
        assert!(self.living.is_none(), "only who is down loses its data");
        self.disk.lose_data(loss, seed);
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
        now_us: u64,
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
        let config = self.config(plan, now_us, started.standing);
        let Config { cluster_id, list_id, .. } = config;
        let snapshot = started.snapshot.as_ref().map(|it| raft::Snapshot {
            meta: it.meta(),
            configuration: it.configuration().cloned(),
        });
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
            affiliation: Affiliation { cluster_id, list_id },
            configured: Configured { latest: None, index: Index::ZERO, committed: None },
            recorded_cluster: 0,
            in_force: Vec::new(),
            is_removed: false,
        });
        Ok(started)
    }

    /// As a node makes it from its data directory.
    fn config(&self, plan: &Plan, now_us: u64, standing: Standing) -> Config {
        let identity = self.disk.identity().expect("it was just opened");
        let Identity { cluster_id, list_id, .. } = identity;
        let mut config = plan.config(self.id, self.life, &self.list);
        // A cluster of an older version keeps its id.
        let drawn = fastrand::Rng::with_seed(config.seed ^ self.id.0).u64(1..);
        let first_id = if cluster_id == 0 { drawn } else { cluster_id };
        let addrs = self.list.iter().map(|&id| (id, addr(id)));
        let first = Configuration::first(first_id, list_id, addrs);
        config.first_configuration = Some(Arc::new(first));
        config.may_configure = cluster_id == 0 || plan.is_upgraded(now_us);
        let is_first = list_id == FIRST_LIST_ID && self.list == plan.first_members();
        config.is_list_in_force = is_first || !self.disk.is_cluster_recorded();
        config.directory = self.disk.directory().unwrap_or_default();
        (config.cluster_id, config.list_id, config.standing) = (cluster_id, list_id, standing);
        config
    }
}

impl Living {
    /// These entries are new in the log.
    pub(crate) fn note_configurations(&mut self, entries: &[Entry]) {
        let configurations = entries.iter().filter_map(|entry| match &entry.payload {
            Payload::Configuration(it) => Some(Some(it.clone())),
            _ => None,
        });
        self.in_force.extend(configurations);
    }
}

/// Where a member is at first.
pub(crate) fn addr(id: MemberId) -> String {
    format!("host{id}:1")
}
