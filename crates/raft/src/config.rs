//! What a member is told once: who it is, who the others are, its times in ticks and its bounds.

use super::joining::Standing;
use super::membership::Membership;
use super::types::MemberId;

/// Configuration of one member's core. [`Config::new`] gives the defaults; a tick is meant to be 10 ms.
#[derive(Clone, Debug)]
pub struct Config {
    /// This member.
    pub id: MemberId,
    /// All members, this one among them.
    pub members: Membership,
    /// Ticks between heartbeats. Default 5. Too small wastes packets; it must stay well below the election timeout.
    pub heartbeat_ticks: u32,
    /// The shortest election timeout; each is drawn anew from `[min, max]` (Raft §5.2). Default 30 and 60. Too small and a
    /// short stall costs the leader its term; too large and a silent leader is missed for as long.
    pub election_ticks_min: u32,
    /// The longest election timeout.
    pub election_ticks_max: u32,
    /// After the connection to the leader broke, wait 2 to this many ticks before asking for a pre-vote. Default 8. Too
    /// small and two followers ask in the same moment.
    pub leader_lost_ticks_max: u32,
    /// Most bytes of entries in one `AppendEntries`; one larger entry goes alone. Default 1 MiB.
    pub append_bytes_max: usize,
    /// Most `AppendEntries` on their way to one peer. Default 64.
    pub window_messages_max: usize,
    /// Most bytes of entries on their way to one peer (one message may exceed it). Default 8 MiB.
    pub window_bytes_max: usize,
    /// With so many `AppendEntries` on their way to a peer the next one is held back, and entries gather in it, until there are
    /// [`append_gather_bytes`](Config::append_gather_bytes), or the peer answers, or a tick has passed. Default: never. One or
    /// two make few, large messages of many small proposals; too many make a message of each.
    pub append_gather_from: usize,
    /// What has gathered to so many bytes is sent, as far as the window allows. Default 64 KiB.
    pub append_gather_bytes: usize,
    /// Most proposals not yet committed; more are refused as busy. Default 65,536.
    pub uncommitted_entries_max: u64,
    /// Most bytes of proposals not yet committed (one proposal may exceed it). Default 64 MiB.
    pub uncommitted_bytes_max: usize,
    /// Most entries committed and not yet applied here: past it proposals are refused until the state machine has caught up.
    /// Default 65,536.
    pub unapplied_entries_max: u64,
    /// Most reads that wait for confirmation. Default 65,536.
    pub reads_max: usize,
    /// Most bytes of entries handed out to be applied and not yet applied (one entry may exceed it). Default 16 MiB.
    pub apply_bytes_max: usize,
    /// Entries that a snapshot holds are kept in memory up to this many bytes, for followers that are a little behind.
    /// Default 16 MiB. Too small: a follower that was away for a moment is sent the whole snapshot.
    pub log_tail_bytes_max: usize,
    /// Serve a leader's reads under a lease where a quorum has promised one, and promise one to leaders (thesis §6.4.1). Default
    /// false. With it reads are linearizable only if no member's clock runs more than a tenth faster than another's, and a
    /// leader that dies is missed for an election timeout.
    pub lease: bool,
    /// An earlier life of this member may have promised a lease: it helps nobody to become leader for an election timeout.
    /// Default false.
    pub may_have_promised: bool,
    /// How long a tick is, in microseconds: at least so much time passes between two of them. Only leases need to know. Default
    /// 10,000.
    pub tick_us: u64,
    /// Whether this member may vote as it starts. Default [`Standing::Voter`].
    pub standing: Standing,
    /// Seeds the election jitter, and the names of questions that must never be used again: a different one in each life.
    /// Members of one cluster may share it: the id is mixed in.
    pub seed: u64,
}

impl Config {
    /// The defaults for member `id` of these voters.
    ///
    /// # Panics
    /// If `id` is not among them.
    pub fn new(id: MemberId, voters: impl IntoIterator<Item = MemberId>) -> Config {
        let members = Membership::new(voters);
        assert!(members.contains(id), "member {id} is not among the members");
        Config {
            id,
            members,
            heartbeat_ticks: 5,
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
            log_tail_bytes_max: 16 << 20,
            lease: false,
            may_have_promised: false,
            tick_us: 10_000,
            standing: Standing::Voter,
            seed: 0,
        }
    }

    /// # Panics
    /// If the core could not work with these values: better at the start than at the first broken connection.
    pub(super) fn assert_sound(&self) {
        assert!(self.members.contains(self.id), "a member is among the members");
        assert!(self.heartbeat_ticks >= 1, "heartbeat_ticks is at least 1");
        assert!(
            self.heartbeat_ticks < self.election_ticks_min
                && self.election_ticks_min <= self.election_ticks_max,
            "heartbeat_ticks < election_ticks_min <= election_ticks_max"
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

    /// All members but this one, in order.
    pub fn peers(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.members.iter().filter(|&member| member != self.id)
    }
}
