//! The configuration of a member: who it is, who the others are, its times in ticks, and its
//! bounds.

use std::sync::Arc;

use super::configuration::Configuration;
use super::membership::Membership;
use super::types::MemberId;

/// Whether a member may vote when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has all its data.
    Voter,
    /// As far as it knows, it has never had any data.
    New,
    /// It had data and has lost it.
    Rebuilding,
    /// It has never had any data, begins no cluster, and waits until a configuration names it.
    Newcomer,
}

/// The configuration of one member's core. [`Config::new`] has the defaults, which are meant for
/// ticks of 10 ms.
#[derive(Clone, Debug)]
pub struct Config {
    /// This member.
    pub id: MemberId,
    /// The members with which this one was started. They are in force while its log and snapshot
    /// have no configuration. After that, they are only where to look for the others.
    pub members: Membership,
    /// Whether `members` say who votes while the log and the snapshot have no configuration. Not so
    /// if the cluster began with other members: this member has only not received its configuration
    /// yet. If two newcomers went by lists that name them, they could elect each other with empty
    /// logs. Default true.
    pub is_list_in_force: bool,
    /// The id of the cluster; 0 if this member does not know it yet. Default 0.
    pub cluster_id: u64,
    /// A hash of the list of members with which the cluster was first started
    /// ([`Configuration::list_id`]). Default 0.
    pub list_id: u64,
    /// The random number of this member's data directory ([`Place`](super::Place)). Default 0.
    pub directory: u64,
    /// What this member appends as leader if its log and snapshot have no configuration. Default
    /// `None`: nothing.
    pub first_configuration: Option<Arc<Configuration>>,
    /// Whether all members know of configurations, so that a leader may append the first one
    /// ([`Event::MayConfigure`](super::Event::MayConfigure)). Default true.
    pub may_configure: bool,
    /// Ticks between heartbeats. Default 5. Too few waste packets; it must stay well below the
    /// election timeout.
    pub heartbeat_ticks: u32,
    /// The same while heartbeats have nothing to tell and nothing to repair: all peers have
    /// everything, have been told so, and answer. At least `heartbeat_ticks`, and below
    /// `election_ticks_min`, of which it should be a third at most. Default 10. After a heartbeat
    /// that was not answered there is another such pause, and then pauses of `heartbeat_ticks`.
    pub rare_heartbeat_ticks: u32,
    /// The shortest election timeout. Each timeout is drawn from `[min, max]` (Raft §5.2). Default
    /// 30, and 60 for `election_ticks_max`. If they are too small, a short stall costs the leader
    /// its term. If they are too large, the cluster is without a leader for as long when one fails.
    pub election_ticks_min: u32,
    /// The longest election timeout.
    pub election_ticks_max: u32,
    /// After the connection to the leader breaks, a follower waits 2 to this many ticks before it
    /// asks for pre-votes. Default 8. If it is too small, two followers ask at the same moment.
    pub leader_lost_ticks_max: u32,
    /// The most bytes of entries in one `AppendEntries`. A larger entry is sent alone. Default 1
    /// MiB.
    pub append_bytes_max: usize,
    /// The most `AppendEntries` on their way to one peer. Default 64.
    pub window_messages_max: usize,
    /// The most bytes of entries on their way to one peer; one message may exceed it. Default 8
    /// MiB.
    pub window_bytes_max: usize,
    /// If this many `AppendEntries` are on their way to a peer, the next one is held back and
    /// gathers entries until it has [`append_gather_bytes`](Config::append_gather_bytes), the peer
    /// answers, or a tick has passed. By default nothing is held back. One or two combine many
    /// small proposals into few messages; larger values combine less.
    pub append_gather_from: usize,
    /// A message that is held back is sent at this size, if the window allows. Default 64 KiB.
    pub append_gather_bytes: usize,
    /// The most proposals not yet committed; more are refused as busy. Default 65,536.
    pub uncommitted_entries_max: u64,
    /// The most bytes of proposals not yet committed; one proposal may exceed it. Default 64 MiB.
    pub uncommitted_bytes_max: usize,
    /// The most committed entries not yet applied here. Beyond it, proposals are refused until the
    /// state machine has caught up. Default 65,536.
    pub unapplied_entries_max: u64,
    /// The most reads that wait for confirmation. Default 65,536.
    pub reads_max: usize,
    /// The most bytes of entries handed out and not yet applied; one entry may exceed it. Default
    /// 16 MiB.
    pub apply_bytes_max: usize,
    /// The most bytes of applied entries that stay in memory, for followers that are a little
    /// behind. Default 32 MiB; entries of few bytes take about twice that, with what the allocator
    /// adds. If it is too small, a follower that was away for a moment is sent a whole snapshot.
    /// Before the cluster has an id, all entries stay.
    pub log_tail_bytes_max: usize,
    /// The most bytes of applied entries that a leader keeps in memory for peers that are connected
    /// and further behind, because a snapshot is on its way to them or their disks are slow.
    /// Default 256 MiB. If it is too small, a peer needs the next snapshot as soon as it has one,
    /// and never catches up while much is written.
    pub log_catch_up_bytes_max: usize,
    /// Whether this member promises leases to leaders, and as leader serves reads under the lease
    /// that a quorum has promised (thesis §6.4.1). Default false. With leases, reads are
    /// linearizable only if no member's clock runs more than a tenth faster than another's, and
    /// after a leader's death the others wait for an election timeout.
    pub lease: bool,
    /// Whether this member may have promised a lease before it was restarted. If so, it helps
    /// nobody to become leader for an election timeout. Default false.
    pub may_have_promised: bool,
    /// The shortest time between two ticks, in microseconds. Only leases use it. Default 10,000.
    pub tick_us: u64,
    /// Whether this member may vote when it starts. Default [`Standing::Voter`].
    pub standing: Standing,
    /// Seeds the election jitter and the names of questions, which must never repeat: use a
    /// different seed at each start. Members of a cluster may share it, because the id is mixed in.
    pub seed: u64,
}

impl Config {
    /// The defaults for member `id`, started with these voters. A newcomer is not among them.
    ///
    /// # Panics
    /// If there are no voters.
    pub fn new(id: MemberId, voters: impl IntoIterator<Item = MemberId>) -> Config {
        let members = Membership::new(voters);
        Config {
            id,
            members,
            is_list_in_force: true,
            cluster_id: 0,
            list_id: 0,
            directory: 0,
            first_configuration: None,
            may_configure: true,
            heartbeat_ticks: 5,
            rare_heartbeat_ticks: 10,
            election_ticks_min: 30,
            election_ticks_max: 60,
            leader_lost_ticks_max: 8,
            append_bytes_max: 1 << 20,
            window_messages_max: 64,
            window_bytes_max: 8 << 20,
            append_gather_from: usize::MAX,
            append_gather_bytes: 64 << 10,
            uncommitted_entries_max: 1 << 16,
            uncommitted_bytes_max: 64 << 20,
            unapplied_entries_max: 1 << 16,
            reads_max: 1 << 16,
            apply_bytes_max: 16 << 20,
            log_tail_bytes_max: 32 << 20,
            log_catch_up_bytes_max: 256 << 20,
            lease: false,
            may_have_promised: false,
            tick_us: 10_000,
            standing: Standing::Voter,
            seed: 0,
        }
    }

    /// # Panics
    /// If the core could not work with these values.
    pub(super) fn assert_sound(&self) {
        assert!(self.heartbeat_ticks >= 1, "heartbeat_ticks is at least 1");
        assert!(
            self.heartbeat_ticks <= self.rare_heartbeat_ticks
                && self.rare_heartbeat_ticks < self.election_ticks_min
                && self.election_ticks_min <= self.election_ticks_max,
            "heartbeat_ticks <= rare_heartbeat_ticks < election_ticks_min <= election_ticks_max"
        );
        assert!(self.leader_lost_ticks_max >= 2, "leader_lost_ticks_max is at least 2");
        assert!(
            self.window_messages_max >= 1
                && self.window_bytes_max >= 1
                && self.append_gather_from >= 1
                && self.uncommitted_entries_max >= 1
                && self.uncommitted_bytes_max >= 1
                && self.unapplied_entries_max >= 1
                && self.apply_bytes_max >= 1,
            "a limit of zero would let nothing through"
        );
    }
}
