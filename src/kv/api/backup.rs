//! [`Api::backup`]: all of the state at one revision, as bytes.
//!
//! A backup holds one of the threads of large reads, and its view, until its last piece is taken.
//! It cannot go on elsewhere, as a scan can, so it may take longer: an hour. There are at most two
//! at a time. It ends early when nobody wants more of it, and when no piece is taken for ten
//! seconds.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::bulk::Place;
use super::readers::Ending;
use super::{Api, ApiError, Consistency};
use crate::kv::model::Revision;
use crate::kv::watch::NoRoom;
use crate::kv::{Query, StoreView};
use crate::node::{RequestError, StateView};
use crate::raft::{Index, Term};

/// How many backups are made at the same time.
pub(super) const BACKUPS_MAX: usize = 2;

/// How long one may take. Too short: a large state cannot be copied over a slow network. Too long:
/// a client of bad will keeps an old state in memory.
const BACKUP_TIME_MAX: Duration = Duration::from_secs(60 * 60);

/// The longest piece.
const PIECE_LEN_MAX: usize = 64 << 10;

/// What a backup is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupHead {
    /// Where the member's log was applied when the copy had been taken.
    pub index: Index,
    /// The member's term then.
    pub term: Term,
    /// The revision of the state.
    pub revision: Revision,
    /// The feature level of the state.
    pub level: u32,
    /// How many keys it has.
    pub keys: u64,
    /// The length of all keys and values.
    pub bytes: u64,
}

/// Takes the bytes of a backup.
pub trait BackupSink: Send + 'static {
    /// Takes a piece of the state that `head` describes, if there is room for it before `until`.
    /// The last piece is empty. `Break`: nobody wants more.
    ///
    /// # Errors
    /// [`NoRoom`]: the same piece is offered again.
    fn take(
        &mut self,
        head: &BackupHead,
        piece: &[u8],
        until: Instant,
    ) -> Result<ControlFlow<()>, NoRoom>;

    /// The last piece was taken, nobody wanted more, or there is an error. Called once, on any
    /// thread, and must not block.
    fn end(self, result: Result<(), ApiError>);
}

impl Api {
    /// Copies the state, without its history and its sessions, as it is once every write is applied
    /// that was acknowledged before this call. The copy must have begun by `begin_by`.
    ///
    /// The bytes are those of a [`StoreView`]. They go to `sink` on a thread of this member's, one
    /// piece after the other.
    pub fn backup(&self, begin_by: Instant, sink: impl BackupSink) {
        let api = self.clone();
        self.queue_query(Query::View, Consistency::Linearizable, begin_by, move |result| {
            match result.and_then(|_| api.shared.backups.take()) {
                Ok(place) => api.copy(place, begin_by, sink),
                Err(error) => sink.end(Err(error.into())),
            }
        });
        self.run_pending();
    }

    fn copy(&self, place: Place, begin_by: Instant, mut sink: impl BackupSink) {
        let api = self.clone();
        self.shared.readers.run_for(begin_by, BACKUP_TIME_MAX, move |ending| {
            let result = match ending.and_then(|ending| Ok((api.view()?, ending))) {
                Ok((view, ending)) => {
                    let (head, view) = (api.head(&view), view.without_past());
                    Copying { api, head, sink: &mut sink, ending, early_end: None }.run(&view)
                }
                Err(error) => Err(error.into()),
            };
            // Whoever is told the end finds the place free.
            drop(place);
            sink.end(result);
        });
    }

    fn head(&self, view: &StoreView) -> BackupHead {
        let (revision, level) = (view.revision(), view.level());
        let (keys, bytes) = view.size();
        let term = self.status().role.term;
        BackupHead { index: self.applied_index(), term, revision, level, keys, bytes }
    }
}

/// A backup that has not ended. What is written into it is offered to the sink.
struct Copying<'a, S> {
    api: Api,
    head: BackupHead,
    sink: &'a mut S,
    ending: Ending<'a>,
    /// Why it ends before its end. `Ok`: nobody wants more.
    early_end: Option<Result<(), RequestError>>,
}

impl<S: BackupSink> Copying<'_, S> {
    fn run(mut self, view: &StoreView) -> Result<(), ApiError> {
        let written = view.write(&mut self);
        if let Some(early_end) = self.early_end {
            return Ok(early_end?);
        }
        written.expect("a state can be written");
        // Whether anybody wants more does not matter any more.
        let _ = self.offer(&[])?;
        Ok(())
    }

    fn offer(&mut self, piece: &[u8]) -> Result<ControlFlow<()>, RequestError> {
        // Also while its client keeps up.
        if let Some(error) = (self.ending)() {
            return Err(error);
        }
        self.api.check_state()?;
        let (head, sink) = (&self.head, &mut self.sink);
        self.api.offer(self.ending, |until| sink.take(head, piece, until))
    }
}

impl<S: BackupSink> Write for Copying<'_, S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let piece = &buf[..buf.len().min(PIECE_LEN_MAX)];
        match self.offer(piece) {
            Ok(ControlFlow::Continue(())) => return Ok(piece.len()),
            Ok(ControlFlow::Break(())) => self.early_end = Some(Ok(())),
            Err(error) => self.early_end = Some(Err(error)),
        }
        Err(io::Error::other("the backup ends early"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
