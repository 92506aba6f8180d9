//! [`Requests`]: how a request that its client sends again by itself takes effect once.
//!
//! A client that speaks HTTP has no session. It can give a request a key of its own choice
//! (`Idempotency-Key`), and send it again with the same key if it does not know what became of it.
//! For each of the newest [`REQUESTS_MAX`] keys, the table has the outcome of its first request,
//! which any later one gets. A key is as old as its first request: a repeat makes it no younger, so
//! that repeats drive out nothing. A request that the store refuses has changed nothing, so it is
//! not remembered: sent again, it may succeed.
//!
//! # What is promised
//! While a key is among the newest [`REQUESTS_MAX`], all requests with it together take effect at
//! most once. A request is refused if its fingerprint is not that of the first one: somebody has
//! used a key twice. Answers are kept as those of [sessions](super::sessions).
//!
//! # Why no more is promised
//! A request carries no index that its client knew before it first sent it, unlike the writes of a
//! session. So a late copy of a request whose key was forgotten cannot be told from a new request,
//! and takes effect again. Keys have a table of their own, so that clients which use a new one for
//! each request drive out no session.

use super::outcome::Outcome;
use super::sessions::{SessionLimits, Sessions, Table};
use crate::raft::Index;

/// How many keys of requests are remembered. Every member applies this limit alike; it belongs to
/// feature level 1.
pub const REQUESTS_MAX: usize = 10_000;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Requests {
    /// A key is a client here, which has made one request, whose number is the fingerprint.
    by_key: Sessions,
}

/// What is known of a key.
pub(super) enum Known {
    /// Nothing: the request is to be carried out, and its outcome [recorded](Requests::record).
    Nothing,
    /// The outcome of the same request.
    Outcome(Outcome),
    /// Another request had the key.
    Other,
}

impl Requests {
    /// An empty table, with the limits on answers that sessions have.
    pub(super) fn new(limits: SessionLimits) -> Requests {
        Requests { by_key: Sessions::new(of_keys(limits)) }
    }

    pub(super) fn find(&self, key: &[u8], fingerprint: u64) -> Known {
        match self.by_key.newest_of(key) {
            None => Known::Nothing,
            Some((number, outcome)) if number == fingerprint.cast_signed() => {
                Known::Outcome(outcome.clone())
            }
            Some(_) => Known::Other,
        }
    }

    /// Keeps the outcome of a request of which nothing was known, and which is entry `index`.
    /// Forgets the oldest key if there is no room.
    pub(super) fn record(&mut self, index: Index, key: &[u8], fingerprint: u64, outcome: Outcome) {
        self.by_key.record(index, key, fingerprint.cast_signed(), outcome);
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn table(&self) -> &Table {
        self.by_key.table()
    }

    /// From the table of a snapshot; see [`Sessions::restore`].
    pub(super) fn restore(table: Table, limits: SessionLimits) -> Option<Requests> {
        Some(Requests { by_key: Sessions::restore(table, of_keys(limits))? })
    }
}

fn of_keys(limits: SessionLimits) -> SessionLimits {
    SessionLimits { sessions_max: limits.requests_max, ..limits }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(requests_max: usize) -> Requests {
        Requests::new(SessionLimits { requests_max, ..SessionLimits::default() })
    }

    fn applied(index: u64) -> Outcome {
        Outcome::Applied { index: Index(index) }
    }

    fn outcome(requests: &Requests, key: &[u8], fingerprint: u64) -> Option<Outcome> {
        match requests.find(key, fingerprint) {
            Known::Nothing => None,
            Known::Outcome(outcome) => Some(outcome),
            Known::Other => panic!("{key:?} is known with another fingerprint"),
        }
    }

    #[test]
    fn the_newest_keys_are_known_whatever_is_repeated() {
        let mut requests = requests(3);
        for index in 1..=3 {
            requests.record(Index(index), &[index as u8], u64::MAX, applied(index));
        }
        // A repeat does not make the oldest one younger.
        assert_eq!(outcome(&requests, &[1], u64::MAX), Some(applied(1)));
        requests.record(Index(9), &[4], 0, applied(9));
        assert_eq!(outcome(&requests, &[1], u64::MAX), None);
        assert_eq!(outcome(&requests, &[2], u64::MAX), Some(applied(2)));
        assert_eq!(outcome(&requests, &[4], 0), Some(applied(9)));
        assert_eq!(requests.len(), 3);
    }

    #[test]
    fn a_key_belongs_to_one_request() {
        let mut requests = requests(3);
        requests.record(Index(1), b"key", 7, applied(1));
        assert!(matches!(requests.find(b"key", 8), Known::Other));
        assert!(matches!(requests.find(b"", 7), Known::Nothing));
    }
}
