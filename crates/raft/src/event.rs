//! What goes into the core and what comes out: its whole interface.

use std::sync::Arc;

use bytes::Bytes;

use super::config::Standing;
use super::configuration::Configuration;
use super::configurations::Configured;
use super::message::Message;
use super::reconfiguration::{Change, Refusal};
use super::time::AppliedTime;
use super::types::{Entry, HardState, Index, MemberId, SnapshotMeta, Term};

/// The shell's name for a proposal or a read. The effects that answer it repeat the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// The number of a [`Persist`], counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PersistId(pub u64);

/// What happens to a member.
#[derive(Clone, Debug)]
pub enum Event {
    /// One tick of the clock has passed: the core's notion of time.
    Tick,
    /// The reading of this member's boot-time clock in microseconds: the time since some moment in
    /// the past, including the machine's sleep. The cluster's time and leases use it. It comes
    /// first in each batch, and is read after the reads of the batch have arrived.
    Clock(u64),
    /// A message has arrived.
    Message(Message),
    /// A client proposes a command. Becomes [`Effect::Proposed`] or [`Effect::Rejected`].
    Propose {
        /// The shell's name for it.
        id: RequestId,
        /// What to replicate.
        command: Bytes,
    },
    /// As `Propose`, and the leader adds its time to the command: 8 bytes behind its last one, the
    /// milliseconds of the cluster's time, little-endian. Rejected as [`Rejection::Busy`] until the
    /// leader knows the time.
    ProposeStamped {
        /// The shell's name for it.
        id: RequestId,
        /// What to replicate.
        command: Bytes,
    },
    /// As `ProposeStamped`, for a command that only tells the time, because it
    /// [is due](super::Raft::is_time_due).
    ProposeTime {
        /// The shell's name for it.
        id: RequestId,
        /// What to replicate.
        command: Bytes,
    },
    /// A client wants to read the state machine. Becomes [`Effect::ReadReady`] or
    /// [`Effect::Rejected`].
    Read {
        /// The shell's name for it.
        id: RequestId,
    },
    /// This member should hand its leadership over: to one peer, or to the one that is furthest.
    /// Nothing if it does not lead.
    Transfer {
        /// The next leader. A stranger, or this member itself, is ignored.
        to: Option<MemberId>,
    },
    /// This member should ask for pre-votes now, without waiting for its election timeout: nobody
    /// leads, and the shell knows that. Nothing if it hears a leader, stands already, or may not
    /// stand.
    Campaign,
    /// This [`Effect::Persist`] and all before it are durable.
    Persisted(PersistId),
    /// The state machine has applied everything up to here.
    Applied(Index),
    /// What the state machine says of the cluster's time. It comes before an `Applied` of the
    /// entries that it follows from.
    AppliedTime {
        /// The time.
        time: AppliedTime,
        /// Whether time is to be counted anew from this step: the state machine has applied a
        /// stamp, which may be equal to the last one, has just started, or has loaded a snapshot.
        is_anew: bool,
    },
    /// This many of the reads that were ready ([`Effect::ReadReady`]) have no answer yet. A leader
    /// lets reads wait for each other while others are being answered. A shell that reports this
    /// must also report when fewer are left: at once if
    /// [`Raft::holds_reads`](super::Raft::holds_reads), otherwise with its next events.
    Unanswered(usize),
    /// A snapshot of the applied state is on the disk, whole: the log on the disk may drop the
    /// entries in it. Becomes [`Effect::ReleaseLog`].
    SnapshotTaken(SnapshotMeta),
    /// Whether the disk is full. The leader is told. A leader whose disk is full may hand over.
    DiskFull(bool),
    /// What [`Effect::Joined`] asked for is on the disk.
    Joined,
    /// An operator wants another membership. Becomes [`Effect::Proposed`] or [`Effect::Rejected`].
    /// The change is done when a configuration that shows it is committed and not joint.
    ChangeMembers {
        /// The shell's name for it.
        id: RequestId,
        /// What to change.
        change: Change,
    },
    /// All members know of configurations, so a leader may append the first one.
    MayConfigure,
    /// The connection with a peer broke, or a request to it failed. What was sent may be lost. If
    /// the peer is the leader, it may be dead.
    Disconnected(MemberId),
}

/// What a member must do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send this at once; losing it is allowed.
    Send(Message),
    /// Write this. Writes happen in order; the core goes on meanwhile.
    Persist(Persist),
    /// The proposal stands in the log here. If another entry is applied at this index, it never
    /// takes effect.
    Proposed {
        /// Which proposal.
        id: RequestId,
        /// Where it stands.
        index: Index,
        /// The term of its entry.
        term: Term,
    },
    /// The proposal or read was not taken up, and never will be.
    Rejected {
        /// Which one.
        id: RequestId,
        /// Why.
        reason: Rejection,
    },
    /// Send this peer the newest snapshot: it lacks entries that are forgotten here. When all of it
    /// is on the peer's disk, verified, the peer's core gets
    /// [`Request::InstallSnapshot`](super::Request::InstallSnapshot); until its answer, or an
    /// [`Event::Disconnected`], nothing else is sent to it but heartbeats.
    SendSnapshot {
        /// The peer.
        to: MemberId,
        /// The leader's term, for the request.
        term: Term,
    },
    /// Take a snapshot of the state as it is now or later, and say [`Event::SnapshotTaken`]: a peer
    /// lacks entries that are forgotten here, and the newest snapshot does not hold all of them.
    /// If one is being taken already, that may be enough: this effect comes again if it was not,
    /// or if none comes.
    TakeSnapshot,
    /// Load this snapshot, which has arrived, in place of the state: the entries that led to it
    /// will not come.
    Install(SnapshotMeta),
    /// A snapshot on this member's disk holds every entry up to this one, so the log on disk may
    /// drop them. A crash may lose this: the next snapshot releases the same entries.
    ReleaseLog(Index),
    /// These entries are committed: apply them, in order. Each is handed out once.
    Apply(Vec<Entry>),
    /// These reads may be served from the state that all `Apply` effects before this one lead to.
    ReadReady(Vec<RequestId>),
    /// This peer refuses what it had acknowledged: its disk was emptied or replaced. It is filled
    /// again, but what was committed with its help may have been lost, and an operator should know.
    PeerLostData {
        /// Which one.
        peer: MemberId,
        /// What it had acknowledged.
        match_index: Index,
    },
    /// This member holds all that it can ever have promised. Record that in later lives it is a
    /// [`Standing::Voter`](super::Standing::Voter), and say [`Event::Joined`]: from then on it
    /// votes.
    Joined,
    /// This member, which has no data, belongs to this cluster, and not to the one that it was
    /// started for. Record that and begin anew: this core does nothing any more.
    TakeCluster {
        /// The cluster's id.
        cluster_id: u64,
        /// Its [`list_id`](Configuration::list_id).
        list_id: u64,
        /// With which standing to begin anew: [`Standing::Voter`] for a newcomer, who cannot have
        /// promised anything, and [`Standing::Rebuilding`] for a member that has lost its data.
        standing: Standing,
    },
    /// A member without its data has learned the id of its cluster from all others. Record it. The
    /// core asks anew whether the first configuration may be appended
    /// ([`Event::MayConfigure`]).
    ClusterKnown(u64),
    /// A member without its data has heard of these members, and will send them messages.
    Introduced(Arc<Configuration>),
    /// The configuration in force, or the newest committed one, is another than before. Messages go
    /// to the members of both.
    Reconfigured(Configured),
    /// This member was removed from the cluster for ever. This core does nothing any more.
    Removed,
    /// The role, the term or the known leader is another than before.
    RoleChanged(RoleChange),
}

/// One write to the disk and what may be said once it is there.
///
/// Thesis §3.8: nothing that promises a vote, a term or an entry leaves before the promise is
/// durable. That rule is in the data: such a message waits in `then`, unless what it promises is
/// durable already.
///
/// The hard state goes to the disk before the entries: what a crash leaves of a write must not hold
/// an entry of a term that the disk has not reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persist {
    /// To be named in [`Event::Persisted`].
    pub id: PersistId,
    /// The new hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// Forget the whole log and begin it anew behind this snapshot, which is on the disk already.
    /// Before the entries.
    pub reset: Option<SnapshotMeta>,
    /// New entries. The first one replaces everything in the log from its index on.
    pub entries: Vec<Entry>,
    /// Send these once this write and all before it are durable.
    pub then: Vec<Message>,
}

/// Why a proposal or a read was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// This member does not lead. Contains the leader, if it knows one.
    NotLeader(Option<MemberId>),
    /// A bound is reached. It is worth trying again soon.
    Busy,
    /// This leader hands over (thesis §3.10). In a moment another member leads, or this one goes
    /// on.
    HandingOver,
    /// The members cannot be changed in this way.
    Members(Refusal),
}

/// The role of this member, with its term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleChange {
    /// Its role.
    pub role: RoleName,
    /// The term.
    pub term: Term,
    /// Who leads in this term, if known.
    pub leader: Option<MemberId>,
}

/// The roles of Raft §5.1, and the pre-candidate of thesis §9.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleName {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether an election could be won.
    PreCandidate,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
}

impl RoleName {
    /// The word that `status` prints.
    pub fn as_str(self) -> &'static str {
        match self {
            RoleName::Follower => "follower",
            RoleName::PreCandidate => "pre-candidate",
            RoleName::Candidate => "candidate",
            RoleName::Leader => "leader",
        }
    }
}
