//! [`History`]: what clients asked and were told, and whether a single copy of the data could have
//! given these answers.
//!
//! A history is linearizable if there is an order of its calls that explains every answer, and in
//! which no call comes before one that had ended when it began. Keys are independent of each other,
//! so each is checked on its own. The search is Wing and Gong's, with Lowe's memory of what was
//! tried: take any call that may come next, and step back when none fits.
//!
//! - A write whose outcome is unknown may take effect at any time after it began, or never.
//! - A write that certainly failed takes no effect. A read that saw it is a violation.
//! - A read that failed says nothing.
//!
//! Make each written value unique, and no value the beginning of another (`[1]`, `[2]`). Then a
//! read shows which writes it has seen, and the search is short however many calls overlap
//! (`parts`). Otherwise the search may be given up.

mod parts;
mod record;
mod search;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::clerk::{Clerk, ClerkError, ClerkErrorKind};
pub use record::Outcome;
use record::{Action, Moment, Record};
use search::Search;
pub use search::Violation;

/// A record of calls, shared by the threads that make the calls.
///
/// ```no_run
/// use std::thread;
/// use syncraft::testing::{Cluster, History};
///
/// let cluster = Cluster::start(3)?;
/// let history = History::new();
/// thread::scope(|scope| {
///     for client in 0..4 {
///         let (history, clerk) = (&history, cluster.clerk());
///         scope.spawn(move || {
///             for n in 0..100 {
///                 // Failures are part of the record.
///                 let _ = history.append(&clerk, "log", format!("{client}:{n},"));
///                 let _ = history.get(&clerk, "log");
///             }
///         });
///     }
///     cluster.kill(cluster.leader().expect("someone leads"));
/// });
/// history.check()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Clients other than a [`Clerk`] record with [`begin_put`](History::begin_put) and the like:
///
/// ```
/// use syncraft::testing::{History, Outcome};
///
/// let history = History::new();
/// let put = history.begin_put("k", "v");
/// put.end(Outcome::Done);
/// let get = history.begin_get("k");
/// get.end(Outcome::Value(None));
/// assert!(history.check().is_err());       // a write that was acknowledged was not seen
/// ```
#[derive(Debug)]
pub struct History {
    began: Instant,
    calls: Mutex<Calls>,
}

#[derive(Debug, Default)]
struct Calls {
    /// Counts the beginnings and ends of calls. This order agrees with real time.
    moment: u64,
    calls: Vec<Record>,
}

/// A call that has begun. If it is dropped without an end, its outcome is unknown.
#[derive(Debug)]
#[must_use = "the outcome of a call that is dropped is unknown"]
pub struct Call<'a> {
    history: &'a History,
    index: usize,
}

impl Default for History {
    fn default() -> History {
        History::new()
    }
}

impl History {
    /// An empty history.
    pub fn new() -> History {
        History { began: Instant::now(), calls: Mutex::default() }
    }

    /// [`Clerk::put`], recorded.
    ///
    /// # Errors
    /// The Clerk's.
    pub fn put(
        &self,
        clerk: &Clerk,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<(), ClerkError> {
        let call = self.begin_put(&key, &value);
        call.end_write(clerk.put(key, value))
    }

    /// [`Clerk::append`], recorded.
    ///
    /// # Errors
    /// The Clerk's.
    pub fn append(
        &self,
        clerk: &Clerk,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<(), ClerkError> {
        let call = self.begin_append(&key, &value);
        call.end_write(clerk.append(key, value))
    }

    /// [`Clerk::get`], recorded.
    ///
    /// # Errors
    /// The Clerk's.
    pub fn get(&self, clerk: &Clerk, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, ClerkError> {
        let call = self.begin_get(&key);
        let result = clerk.get(key);
        call.end(result.as_ref().map_or(Outcome::NotApplied, |it| Outcome::Value(it.clone())));
        result
    }

    /// Records that a put is about to be sent.
    pub fn begin_put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Call<'_> {
        self.begin(key.as_ref(), Action::Put(Bytes::copy_from_slice(value.as_ref())))
    }

    /// Records that an append is about to be sent.
    pub fn begin_append(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Call<'_> {
        self.begin(key.as_ref(), Action::Append(Bytes::copy_from_slice(value.as_ref())))
    }

    /// Records that a get is about to be sent.
    pub fn begin_get(&self, key: impl AsRef<[u8]>) -> Call<'_> {
        self.begin(key.as_ref(), Action::Get)
    }

    /// How many calls have begun.
    pub fn len(&self) -> usize {
        self.calls.lock().calls.len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Checks that what was recorded so far is linearizable.
    ///
    /// # Errors
    /// [`Violation`], which shows the calls that do not fit.
    pub fn check(&self) -> Result<(), Violation> {
        let mut keys: BTreeMap<Bytes, Vec<(usize, Record)>> = BTreeMap::new();
        for (number, record) in self.calls.lock().calls.iter().enumerate() {
            if record.says_something() {
                keys.entry(record.key.clone()).or_default().push((number, record.clone()));
            }
        }
        keys.iter().try_for_each(|(key, calls)| {
            let calls = search::without_unseen_writes(calls);
            Search::new(&calls).run(key, self.began)
        })
    }

    fn begin(&self, key: &[u8], action: Action) -> Call<'_> {
        let mut calls = self.calls.lock();
        let (key, began) = (Bytes::copy_from_slice(key), calls.next_moment());
        calls.calls.push(Record { key, action, began, ended: None });
        Call { history: self, index: calls.calls.len() - 1 }
    }
}

impl Call<'_> {
    /// Records how the call ended.
    pub fn end(self, outcome: Outcome) {
        let mut calls = self.history.calls.lock();
        let now = calls.next_moment();
        calls.calls[self.index].ended = Some((now, outcome));
    }

    fn end_write(self, result: Result<(), ClerkError>) -> Result<(), ClerkError> {
        self.end(match &result {
            Ok(()) => Outcome::Done,
            Err(error) if error.kind() == ClerkErrorKind::Unknown => Outcome::Unknown,
            Err(_) => Outcome::NotApplied,
        });
        result
    }
}

impl Calls {
    fn next_moment(&mut self) -> Moment {
        self.moment += 1;
        Moment { order: self.moment, at: Instant::now() }
    }
}
