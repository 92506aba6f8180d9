//! [`Watch`]: one watch, and what it still has to tell.

use std::sync::Arc;

use super::cursor::{Cursor, Piece};
use super::hub::SinkId;
use super::interests::SpotId;
use super::sink::{NoRoom, WatchEnd, WatchNews, WatchSink};
use super::turn::{Read, Turn};
use crate::kv::model::{Revision, WatchRange};

/// A watch. What it tells goes out in the order of these fields.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) sink: SinkId,
    /// The id under which its sink knows it.
    pub(super) number: u64,
    pub(super) range: WatchRange,
    pub(super) spot: SpotId,
    pub(super) cursor: Cursor,
    /// The revision at which it was made, until that is told.
    created: Option<Revision>,
    /// Whether there may be changes to tell. Otherwise nothing up to the last revision that was
    /// noted concerns it.
    pub(super) is_behind: bool,
    /// Why it ends, until that is told.
    end: Option<WatchEnd>,
    /// Whether it was asked how far it is.
    progress: Progress,
    /// What it has told to be complete.
    told: Revision,
    /// Whether the read that began after it was asked for has been answered.
    pub(super) is_made: bool,
    /// Whether it waits in some queue.
    pub(super) is_queued: bool,
}

/// Whether a watch is to tell how far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    NotAsked,
    /// When it has told what there is now.
    Asked,
    /// Before it tells more: changes may come without end.
    Due,
}

/// What became of a watch that was served.
#[derive(Debug)]
pub(super) enum Served {
    /// It is to be told these changes: see [`told`](Watch::told).
    Changes(Arc<Piece>),
    /// It has nothing more to tell now.
    Idle,
    /// It has more to tell.
    Again,
    /// It is too far behind to be served in this turn.
    Far,
    /// It has to wait for room.
    NoRoom,
    /// Its end was told.
    Over,
    /// Nobody wants to hear of any watch of the sink.
    Gone,
}

impl From<NoRoom> for Served {
    fn from(NoRoom: NoRoom) -> Served {
        Served::NoRoom
    }
}

impl Watch {
    pub(super) fn new(sink: SinkId, number: u64, range: WatchRange, spot: SpotId) -> Watch {
        Watch {
            sink,
            number,
            cursor: Cursor::at(range.from),
            range,
            spot,
            created: None,
            is_behind: false,
            end: None,
            progress: Progress::NotAsked,
            told: Revision::NONE,
            is_made: false,
            is_queued: false,
        }
    }

    /// The state has everything that was committed when the watch was asked for, and is at this
    /// revision.
    pub(super) fn made(&mut self, revision: Revision) {
        if self.range.from == Revision::NONE {
            self.cursor = Cursor::at(revision.next());
        }
        (self.created, self.told, self.is_made) = (Some(revision), revision, true);
        // There may have been changes since.
        self.is_behind = true;
    }

    /// A change at this revision concerns it, and none since it was last not behind.
    pub(super) fn mark(&mut self, revision: Revision) {
        if self.is_made && !self.is_behind {
            self.cursor.skip_to(revision);
            self.is_behind = true;
        }
    }

    /// The first end counts.
    pub(super) fn end(&mut self, end: WatchEnd) {
        self.end.get_or_insert(end);
    }

    pub(super) fn ask_progress(&mut self) {
        if self.progress == Progress::NotAsked {
            self.progress = Progress::Asked;
        }
    }

    /// Whether whoever resumes where it was last told would begin before this revision without
    /// need.
    pub(super) fn needs_bookmark(&self, noted: Revision) -> bool {
        self.is_quiet() && self.told < noted
    }

    /// Whether it has nothing to tell, and has told everything before.
    pub(super) fn is_quiet(&self) -> bool {
        self.is_made && !self.is_behind && !self.is_queued
    }

    /// Tells what there is to tell and fits. Changes it only finds: others may be due the same.
    pub(super) fn serve(&mut self, sink: &dyn WatchSink, turn: &mut Turn<'_>) -> Served {
        self.tell(sink, turn).unwrap_or_else(|served| served)
    }

    fn tell(&mut self, sink: &dyn WatchSink, turn: &mut Turn<'_>) -> Result<Served, Served> {
        let number = self.number;
        let offer = |news: WatchNews<'_>| match sink.take(number, &news)?.is_break() {
            true => Err(Served::Gone),
            false => Ok(()),
        };
        if let Some(revision) = self.created {
            offer(WatchNews::Created { revision })?;
            self.created = None;
        }
        let tell_progress = |watch: &mut Watch| {
            let complete_to = watch.cursor.complete_to();
            offer(WatchNews::Changes { changes: &Arc::default(), complete_to })?;
            (watch.progress, watch.told) = (Progress::NotAsked, complete_to);
            Ok::<_, Served>(())
        };
        if self.progress == Progress::Due {
            tell_progress(self)?;
        }
        if self.is_behind && self.end.is_none() {
            match turn.read(self) {
                Read::Piece(piece) if !piece.changes.is_empty() => {
                    return Ok(Served::Changes(piece));
                }
                Read::Piece(piece) => self.advance_to(&piece.end, turn),
                Read::End(end) => self.end = Some(end),
                Read::Far => return Ok(Served::Far),
            }
        }
        if let Some(end) = &self.end {
            let complete_to = self.cursor.complete_to();
            offer(WatchNews::Ended { end, complete_to })?;
            return Ok(Served::Over);
        }
        self.skip_noted(turn);
        if self.is_made && self.progress != Progress::NotAsked {
            tell_progress(self)?;
        }
        Ok(if self.is_behind { Served::Again } else { Served::Idle })
    }

    /// The sink has taken the changes that [`serve`](Watch::serve) has found.
    pub(super) fn told(&mut self, piece: &Piece, turn: &Turn<'_>) -> Served {
        self.told = piece.end.complete_to();
        self.advance_to(&piece.end, turn);
        if self.progress == Progress::Asked {
            self.progress = Progress::Due;
        }
        match self.is_behind || self.progress == Progress::Due {
            true => Served::Again,
            false => Served::Idle,
        }
    }

    fn advance_to(&mut self, end: &Cursor, turn: &Turn<'_>) {
        self.cursor = end.clone();
        self.is_behind = turn.is_behind(end);
        self.skip_noted(turn);
    }

    /// A watch that is not behind has nothing to tell of what was noted.
    fn skip_noted(&mut self, turn: &Turn<'_>) {
        if self.is_made && !self.is_behind {
            self.cursor.skip_to(turn.noted().next());
        }
    }
}
