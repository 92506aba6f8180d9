//! The cluster's time: a leader's stamps, which never fall from leader to leader.

/// What a state machine says of the cluster's time, as of the last entry that it has applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppliedTime {
    /// The newest stamp that was applied, in milliseconds; 0: there was none.
    pub newest_ms: u64,
    /// When something is next due, in the same milliseconds. `None`: nothing has a deadline.
    pub next_deadline_ms: Option<u64>,
}
