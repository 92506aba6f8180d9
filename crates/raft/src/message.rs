//! What members say to each other.
//!
//! Every request gets exactly one reply, unless it is nonsense (a stranger, a broken promise),
//! which is dropped and counted. The core neither numbers nor matches calls: a reply repeats the
//! request's `token`, and whoever carries messages finds the waiting call by it.

use std::sync::Arc;

use super::configuration::Configuration;
use super::types::{Entry, Index, MemberId, Snapshot, Term};

/// One message between two members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who sent it.
    pub from: MemberId,
    /// Whom it is for.
    pub to: MemberId,
    /// The sender's current term; in a pre-vote request, and in the grant of one, the term that
    /// would be started.
    pub term: Term,
    /// The shell's mark on a request, repeated by its reply; 0 in what the core starts.
    pub token: u64,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A question or an order.
    Request(Request),
    /// The answer to a request.
    Reply(Reply),
}

/// What a member asks another one: the messages of Raft figure 2, the heartbeats of thesis §6.4,
/// and what this project adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A candidate asks for a vote.
    RequestVote(RequestVote),
    /// The leader replicates entries.
    AppendEntries(AppendEntries),
    /// The leader shows that it lives, and asks whether it still leads.
    Heartbeat(Heartbeat),
    /// A snapshot of the leader has arrived, whole and verified (Raft §7). The core asks for it
    /// with [`Effect::SendSnapshot`](super::Effect::SendSnapshot), and the shell sends its
    /// chunks.
    InstallSnapshot(Snapshot),
    /// The leader hands over: stand for election at once (thesis §3.10).
    TimeoutNow,
    /// A follower that serves a read asks the leader what it must have applied first (thesis §6.4).
    ReadIndex(ReadIndex),
    /// A member without its data asks where the others stand, before it may promise anything.
    Join(Join),
}

/// The answer to the [`Request`] of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The vote is granted or refused.
    RequestVote(RequestVoteReply),
    /// How far the follower's log matches. This answers [`Request::InstallSnapshot`] too.
    AppendEntries(AppendEntriesReply),
    /// The follower has heard the leader.
    Heartbeat(HeartbeatReply),
    /// The request to stand for election has arrived.
    TimeoutNow,
    /// What is committed.
    ReadIndex(ReadIndexReply),
    /// Where the sender stands.
    Join(JoinReply),
}

impl From<Request> for Body {
    fn from(request: Request) -> Body {
        Body::Request(request)
    }
}

impl From<Reply> for Body {
    fn from(reply: Reply) -> Body {
        Body::Reply(reply)
    }
}

/// Who waits for a reply, and the token by which the shell finds the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) id: MemberId,
    pub(super) token: u64,
}

impl Message {
    /// The member to which a reply to this message goes.
    pub(super) fn caller(&self) -> Caller {
        Caller { id: self.from, token: self.token }
    }
}

/// Asks for a vote (Raft §5.2), or whether one would be granted (pre-vote, thesis §9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestVote {
    /// Whether this only asks, so that neither side changes its term or vote.
    pub pre_vote: bool,
    /// Whether the leader has asked this candidate to stand, so that followers that hear the leader
    /// may vote (thesis §4.2.3).
    pub is_transfer: bool,
    /// Index of the candidate's last entry (Raft §5.4.1).
    pub last_log_index: Index,
    /// Term of the candidate's last entry.
    pub last_log_term: Term,
}

/// Answers a [`RequestVote`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestVoteReply {
    /// Repeats the request's.
    pub pre_vote: bool,
    /// Whether the candidate has, or would have, this vote.
    pub vote_granted: bool,
    /// Whether the candidate was removed from the cluster: the sender has a committed configuration
    /// that says so.
    pub is_removed: bool,
}

/// Replicates entries (Raft §5.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendEntries {
    /// Index of the entry just before the new ones.
    pub prev_log_index: Index,
    /// Its term.
    pub prev_log_term: Term,
    /// The new entries; none in a probe.
    pub entries: Vec<Entry>,
    /// The leader's commit index.
    pub leader_commit: Index,
}

/// Answers an [`AppendEntries`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendEntriesReply {
    /// The follower's log matches the leader's up to here, on its disk.
    Matched {
        /// The last index that is known to match.
        match_index: Index,
    },
    /// The follower has no entry at `prev_log_index` with `prev_log_term`.
    Conflict {
        /// The refused request's `prev_log_index`.
        rejected_index: Index,
        /// The last entry of the follower that could match. The leader need not look above it.
        conflict_index: Index,
        /// That entry's term.
        conflict_term: Term,
    },
    /// The request's term is over. The reply's own `term` is the current one.
    Stale,
}

/// Shows that the leader lives. Unlike the empty `AppendEntries` of figure 2, it checks no log, so
/// its answer never waits for a follower's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The leader's commit index, cut to what this follower is known to hold.
    pub leader_commit: Index,
    /// The number of the leader's round. The reply repeats it.
    pub round: u64,
}

/// Answers a [`Heartbeat`]. Its sender knew no later term than the reply's `term`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatReply {
    /// The request's round; [`HeartbeatReply::NO_ROUND`] if the request's term is over.
    pub round: u64,
    /// For how many microseconds from the heartbeat's arrival, by its own clock, the sender helps
    /// nobody else to become leader. 0: no promise.
    pub promised_us: u64,
    /// Whether the sender's disk is full or stalled, so that it should not become leader.
    pub cannot_write: bool,
}

impl HeartbeatReply {
    /// Confirms no round; only the reply's term matters. Rounds count from 1 in each term.
    pub const NO_ROUND: u64 = 0;
}

/// Asks for the leader's commit index, to be confirmed after this message was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadIndex {
    /// The follower's name for the reads that wait. It is never used again, not even after a
    /// restart.
    pub batch: u64,
}

/// Answers a [`ReadIndex`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadIndexReply {
    /// The request's.
    pub batch: u64,
    /// Index and term of the leader's last committed entry. `None`: ask again, or another member.
    pub committed: Option<(Index, Term)>,
}

/// Asks where the receiver stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Join {
    /// The asker's name for this question. It is never used again, not even after a restart.
    pub question: u64,
    /// Whether the asker is of another cluster, as far as the receiver's shell knows.
    pub is_stranger: bool,
}

/// Answers a [`Join`]: the sender has not begun a later term than the reply's `term`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinReply {
    /// The request's.
    pub question: u64,
    /// The sender has never had any data either, nor voted, nor heard of another cluster.
    pub is_new: bool,
    /// Index and term of the sender's last entry, if it leads.
    pub last: Option<(Index, Term)>,
    /// The sender's cluster; 0 if it does not know it yet.
    pub cluster_id: u64,
    /// The sender's [`list_id`](Configuration::list_id).
    pub list_id: u64,
    /// The configuration in force at the sender, if its log or snapshot has one.
    pub configuration: Option<Arc<Configuration>>,
    /// Whether that configuration is committed.
    pub is_settled: bool,
    /// Whether the sender knows its promises and is in every quorum, of whichever configuration may
    /// be in force.
    pub is_needed: bool,
    /// Whether the asker was removed from the cluster, by a committed configuration.
    pub is_removed: bool,
}

impl Request {
    /// Whether only the leader of the message's term can have sent this.
    pub fn is_from_leader(&self) -> bool {
        match self {
            Request::AppendEntries(_)
            | Request::Heartbeat(_)
            | Request::InstallSnapshot(_)
            | Request::TimeoutNow => true,
            Request::RequestVote(_) | Request::ReadIndex(_) | Request::Join(_) => false,
        }
    }
}
