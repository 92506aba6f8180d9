//! How a state leaves its cluster, and how another cluster begins with it.
//!
//! ```text
//! StoreView ── without_past ──> the bytes in a backup ──> Store ── begin_anew ──> a new cluster
//! ```
//!
//! Clients of the old cluster may turn to the new one, at the same addresses, and must not take it
//! for the old one:
//!
//! - *Index and revision are raised by [`RAISED_BY`]*, further than the old cluster will ever come.
//!   So no number that it gave after the copy was made is given again: no revision, no id of a
//!   lease that the store chooses, no fence of a lock.
//! - *The history is forgotten*, up to the raised revision. So a watch that resumes learns that it
//!   must begin anew: what the old cluster told after the copy never happened in the new one.
//! - *The sessions are forgotten*, and `expired_up_to` is the first new index. Every client of the
//!   old cluster has learned lower indexes only. So its writes are refused as expired, whether the
//!   copy contains them or not, and it begins a new session with an index of the new log. The proof
//!   in `sessions` holds: all that was forgotten was last used before that index.
//! - *Entries, limits and the feature level stay.* So do leases, with the time that was left of
//!   them: the cluster's time is part of the state, and the time without a leader does not count.
//! - *Requests with keys stay*: one that has been carried out is not carried out again. They make
//!   no use of an index.

use super::sessions::{Sessions, Table};
use super::state::History;
use super::{Store, StoreView};
use crate::raft::Index;

/// How far the new log and the new revisions are beyond those of the state's cluster: 2^40.
pub const RAISED_BY: u64 = 1 << 40;

/// A state has been raised so often that its numbers end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its index or its revision is too high to be raised by 2^40")]
pub struct TooHigh;

impl StoreView {
    /// The state without its history and its sessions, which no other cluster takes over. Less is
    /// left to be copied.
    pub fn without_past(mut self) -> StoreView {
        self.sessions = Table::expired(self.sessions.newest_use());
        self.state.history = History::compacted_at(self.state.revision);
        self
    }
}

impl Store {
    /// Makes this the first state of a new cluster. The state's cluster had come to the entry
    /// `index`. Returns the first index of the new log, which is this state's own.
    ///
    /// # Errors
    /// [`TooHigh`]. Then nothing has changed.
    pub fn begin_anew(&mut self, index: Index) -> Result<Index, TooHigh> {
        let raised = |number: u64| number.checked_add(RAISED_BY).filter(|&it| it < u64::MAX / 2);
        let first = Index(raised(index.0).ok_or(TooHigh)?);
        let (state, sessions) = self.parts_mut();
        state.revision.0 = raised(state.revision.0).ok_or(TooHigh)?;
        state.history = History::compacted_at(state.revision);
        *sessions = Sessions::restore(Table::expired(first), sessions.limits())
            .expect("a table of no sessions is sound");
        Ok(first)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::kv::model::{LeaseId, Revision};
    use crate::kv::{Change, Command, Identity, Outcome};
    use crate::node::{StateMachine, StateView};

    fn put(client: &'static str, request_id: i64, seen: u64, key: &'static str) -> Bytes {
        let client_id = Bytes::from_static(client.as_bytes());
        let identity = Identity { client_id, request_id, seen_index: Index(seen) };
        let (key, value) = (Bytes::from(key), Bytes::from("v"));
        Command { identity, change: Change::Put { key, value } }.encode()
    }

    /// A store at index 9 and revision 3.
    fn store() -> Store {
        let mut store = Store::new();
        store.apply(Index(8), &put("old", 1, 1, "a"));
        store.apply(Index(9), &put("old", 2, 1, "b"));
        store
    }

    fn bytes(view: &StoreView) -> Vec<u8> {
        let mut bytes = Vec::new();
        view.write(&mut bytes).unwrap();
        bytes
    }

    fn loaded(bytes: &[u8]) -> Store {
        let mut store = Store::new();
        store.load(&mut &bytes[..]).unwrap();
        store
    }

    /// As a leader appends it.
    fn stamped(command: &Command, stamp_ms: u64) -> Bytes {
        [&command.encode()[..], &stamp_ms.to_le_bytes()].concat().into()
    }

    const FIRST: u64 = RAISED_BY + 9;

    #[test]
    fn numbers_are_raised_and_the_past_is_forgotten() {
        let mut store = loaded(&bytes(&store().view().without_past()));
        assert_eq!(store.begin_anew(Index(9)), Ok(Index(FIRST)));
        let stats = store.stats();
        assert_eq!(stats.revision, Revision(RAISED_BY + 3));
        assert_eq!((stats.compacted, stats.history_bytes), (stats.revision, 0));
        assert_eq!((stats.keys, stats.sessions), (2, 0));
        assert_eq!(store.value(b"a").as_deref(), Some(&b"v"[..]));
        // Equal on all members, and sound as a snapshot.
        let again = loaded(&bytes(&store.view()));
        assert_eq!(bytes(&again.view()), bytes(&store.view()));
    }

    #[test]
    fn what_a_backup_leaves_out_is_forgotten_anyway() {
        let (mut whole, mut without) = (store(), loaded(&bytes(&store().view().without_past())));
        whole.begin_anew(Index(9)).unwrap();
        without.begin_anew(Index(9)).unwrap();
        assert_eq!(bytes(&whole.view()), bytes(&without.view()));
    }

    /// Whatever an old client sends, whether the copy contains it or not.
    #[test]
    fn a_session_of_the_old_cluster_has_expired() {
        let mut store = store();
        store.begin_anew(Index(9)).unwrap();
        let mut index = FIRST + 1;
        for (request_id, seen) in [(2, 1), (3, 9), (3, 1_000_000), (4, FIRST - 1)] {
            index += 1;
            let outcome = store.apply(Index(index), &put("old", request_id, seen, "c"));
            assert_eq!(outcome, Outcome::SessionExpired { index: Index(index) });
        }
        let outcome = store.apply(Index(index + 1), &put("new", 1, index, "c"));
        assert_eq!(outcome, Outcome::Applied { index: Index(index + 1) });
        // A member that has applied nothing yet may serve it.
        let outcome = store.apply(Index(index + 2), &put("lane", 1, FIRST, "d"));
        assert_eq!(outcome, Outcome::Applied { index: Index(index + 2) });
    }

    #[test]
    fn leases_keep_the_time_that_is_left() {
        let mut store = Store::new();
        let grant = Command::unrepeated(Change::LeaseGrant { ttl_ms: 5_000, id: LeaseId(7) });
        store.apply(Index(2), &stamped(&grant, 1_000));
        let before = store.time();
        store.begin_anew(Index(2)).unwrap();
        assert_eq!((store.time(), store.stats().leases), (before, 1));
    }

    #[test]
    fn numbers_end_before_they_overflow() {
        let mut store = store();
        assert_eq!(store.begin_anew(Index(u64::MAX / 2)), Err(TooHigh));
        assert_eq!(store.revision(), Revision(3), "nothing has changed");
    }
}
