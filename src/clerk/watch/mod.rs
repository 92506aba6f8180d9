//! [`Watch`]: the changes of a range of keys, as they happen, whichever member serves them.
//!
//! ```text
//! members ── streams, one at a time ──> Link ── messages ──> Join ── whole revisions ──> the caller
//!              again from here <── the first revision that is not complete ──┘
//! ```
//!
//! A watch is served by one member at a time, from the member's own state. If that member dies,
//! stops, loses its leader or falls silent, the watch goes on with another one, at the revision
//! behind the last complete one.
//!
//! # Promises
//! - Every change that is acknowledged after [`WatchBuilder::start`] has returned is given: the
//!   member has first applied everything that was committed when it was asked.
//! - Changes are given in the order of their revisions, each once; all that one revision did to the
//!   watched keys is given together.
//! - If changes were forgotten before they were given, the watch ends with an error, and says where
//!   a new one can begin.
//!
//! # Bounds
//! What one stream may hold (its window of 1 MiB and one message), and the parts of one revision
//! (`join`). A caller that does not ask for changes stops the member's sending, and nothing else. A
//! caller that never asks falls out of the history in the end.
//!
//! # Files
//! | file | what |
//! | --- | --- |
//! | `link` | which member serves, and which one when that is lost |
//! | `stream` | a watch at one member; when that is silent |
//! | `join` | whole revisions out of messages |
//! | `error` | how a watch ends |

mod error;
mod join;
mod link;
mod stream;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use super::error::Reason;
use super::{Clerk, ClerkError, TIMEOUT_MAX};
use crate::kv::check_key_and_value;
use crate::kv::model::proto::{WatchChanges, WatchCreate};
use crate::kv::model::{self, Change, Changes, KeyRange, Refusal, Revision, WatchRange};
use error::End;
pub use error::WatchError;
use join::{Join, JoinError, PARTS_BYTES_MAX};
use link::{Heard, Link, WATCH};

/// A watch that is about to be made. See [`Clerk::watch`].
#[derive(Debug)]
#[must_use = "a watch sees nothing before it is started"]
pub struct WatchBuilder<'a> {
    clerk: &'a Clerk,
    wanted: WatchRange,
}

impl WatchBuilder<'_> {
    /// Begins with the changes of this revision, which may be a past one, instead of those to come.
    pub fn from(mut self, revision: Revision) -> Self {
        self.wanted.from = revision;
        self
    }

    /// Leaves out deletions.
    pub fn puts_only(mut self) -> Self {
        self.wanted.deletes = false;
        self
    }

    /// Leaves out puts.
    pub fn deletes_only(mut self) -> Self {
        self.wanted.puts = false;
        self
    }

    /// Changes come with the [entry before](Change::previous).
    pub fn previous(mut self) -> Self {
        self.wanted.previous = true;
        self
    }

    /// Makes the watch. Every change that is acknowledged after this has returned is seen.
    ///
    /// # Errors
    /// No member made it within the Clerk's [timeout](super::ClerkBuilder::timeout), the store has
    /// forgotten changes that are wanted, or the request makes no sense.
    pub fn start(self) -> Result<Watch, WatchError> {
        let WatchBuilder { clerk, wanted } = self;
        let link = Link::new(clerk.pool.clone(), clerk.timeout, wanted.keys.begin().clone());
        check_keys(clerk, &wanted.keys)?;
        let join = Join::new(wanted.from);
        let mut watch = Watch { wanted, link, join, end: None, is_over: false };
        // The link gives up by itself.
        let until = Instant::now() + TIMEOUT_MAX;
        while !watch.turn(until)? {}
        Ok(watch)
    }
}

/// A key that is too long is no key of the store.
fn check_keys(clerk: &Clerk, keys: &KeyRange) -> Result<(), ClerkError> {
    let end = match keys.end() {
        model::RangeEnd::Before(before) => before,
        model::RangeEnd::Alone | model::RangeEnd::Open => keys.begin(),
    };
    let checked = [keys.begin(), end].into_iter().try_for_each(|key| check_key_and_value(key, &[]));
    checked.map_err(|error| clerk.call(WATCH, 0).reject(Reason::Limit(error)))
}

/// The changes of a range of keys: see [`Clerk::watch`].
///
/// It is an iterator that waits for each revision. [`next_timeout`](Watch::next_timeout) waits for
/// a limited time. An error that is not [final](WatchError::is_final) does not end it: no member
/// has served it for a while, and it goes on when it is asked again.
///
/// Dropping it cancels it.
#[derive(Debug)]
#[must_use = "dropping a watch cancels it"]
pub struct Watch {
    wanted: WatchRange,
    link: Link,
    join: Join,
    end: Option<End>,
    /// Whether a final error was given.
    is_over: bool,
}

impl Watch {
    /// Waits for the next revision that changes a watched key, but not for longer than `timeout`.
    /// `None`: there was none. With a timeout of zero it only looks. A watch that is asked seldom
    /// may fall out of the history that the store keeps.
    ///
    /// # Errors
    /// The watch has ended, or no member has served it for as long as the Clerk's timeout:
    /// [`WatchError::is_final`] tells which.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Changes>, WatchError> {
        let until = Instant::now() + timeout.min(TIMEOUT_MAX);
        loop {
            if let Some(changes) = self.join.pop() {
                return Ok(Some(changes));
            }
            if let Some(end) = self.end {
                return Err(end.into());
            }
            self.turn(until)?;
            if self.join.is_empty() && self.end.is_none() && Instant::now() >= until {
                return Ok(None);
            }
        }
    }

    /// Everything that a revision up to this one changed was given. It grows while nothing is
    /// given, too. A watch from the [next](Revision::next) revision on misses nothing that this one
    /// has not given.
    pub fn revision(&self) -> Revision {
        self.join.given()
    }

    /// Hears one message, at most. Returns whether a member has just made the watch.
    fn turn(&mut self, until: Instant) -> Result<bool, WatchError> {
        let (wanted, from) = (&self.wanted, self.join.wanted());
        let create = || WatchCreate { from: from.0, ..WatchCreate::from(wanted) };
        match self.link.hear(&create, until) {
            Ok(None) => {}
            Ok(Some(Heard::Created(revision))) => {
                self.join.begin(revision);
                return Ok(true);
            }
            Ok(Some(Heard::Changes(changes))) => self.take(changes),
            Ok(Some(Heard::Refused { refusal, complete_to })) => {
                return Err(self.refused(refusal, complete_to).into());
            }
            Err(error) => return Err(error.into()),
        }
        Ok(false)
    }

    fn take(&mut self, WatchChanges { changes, complete_to }: WatchChanges) {
        let changes = changes.into_iter().map(Change::try_from).collect::<Result<Vec<_>, _>>();
        let taken = match changes {
            Ok(changes) => self.join.take(changes, Revision(complete_to)),
            Err(error) => return self.link.nonsense(&error.to_string()),
        };
        match taken {
            Ok(()) => {}
            Err(JoinError::OutOfOrder) => self.link.nonsense("changes out of order"),
            Err(JoinError::TooLarge(revision)) => {
                self.end(End::TooLarge { revision, limit: PARTS_BYTES_MAX });
            }
        }
    }

    fn refused(&mut self, refusal: Refusal, complete_to: Revision) -> End {
        // The rest of a part would have come before.
        self.join.begin(complete_to);
        let _ = self.join.take(Vec::new(), complete_to);
        self.end(match refusal.reason {
            model::Reason::Compacted => {
                End::Compacted { wanted: self.join.wanted(), oldest: Revision(refusal.value) }
            }
            _ => End::Refused(refusal),
        })
    }

    fn end(&mut self, end: End) -> End {
        self.link.close();
        self.end = Some(end);
        end
    }
}

impl Iterator for Watch {
    type Item = Result<Changes, WatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.is_over {
            match self.next_timeout(TIMEOUT_MAX) {
                Ok(None) => {}
                Ok(Some(changes)) => return Some(Ok(changes)),
                Err(error) => {
                    self.is_over = error.is_final();
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

impl Clerk {
    /// Watches a range of keys: the changes from now on, or from a past revision. The watch is made
    /// by [`start`](WatchBuilder::start), and goes on by itself when the member that serves it dies
    /// or is cut off: no change is lost, and none comes twice.
    ///
    /// ```
    /// use std::time::Duration;
    /// use syncraft::kv::model::KeyRange;
    /// # let cluster = syncraft::testing::Cluster::start(1)?;
    /// # let clerk = cluster.clerk();
    /// let mut watch = clerk.watch(KeyRange::prefix("user/")).start()?;
    /// clerk.put("user/1", "ann")?;
    /// clerk.delete("user/1")?;
    /// let put = watch.next_timeout(Duration::from_secs(10))?.expect("it was put");
    /// assert_eq!(put.changes[0].value().map(|it| &it[..]), Some(&b"ann"[..]));
    /// let delete = watch.next().expect("a watch goes on")?;
    /// assert_eq!((&delete.changes[0].key()[..], delete.changes[0].value()), (&b"user/1"[..], None));
    /// assert_eq!(watch.next_timeout(Duration::from_millis(1))?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn watch(&self, keys: KeyRange) -> WatchBuilder<'_> {
        WatchBuilder { clerk: self, wanted: WatchRange::of(keys) }
    }
}
