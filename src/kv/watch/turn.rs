//! [`Turn`]: the state from which the watches are served that have something to tell, and what was
//! read of it.

use std::collections::HashMap;
use std::sync::Arc;

use super::cursor::{CHANGE_LEN_MAX, Cursor, Piece, TooLong};
use super::far::Far;
use super::interests::SpotId;
use super::sink::WatchEnd;
use super::watch::Watch;
use crate::kv::model::{Reason, Refusal, Revision, WatchRange};
use crate::kv::state::{State, Timeline};

/// A watch that has more changes before it, whatever their keys, is far behind: the timeline for it
/// is made elsewhere. Larger: the thread of the watches makes larger ones. Smaller: it waits for
/// others more often.
const NEAR_CHANGES: usize = 2_000;

/// How many bytes of changes are kept for other watches of the same keys.
const KEPT_BYTES_MAX: u64 = 4 << 20;

/// See the file.
pub(super) struct Turn<'a> {
    state: &'a State,
    /// All marks up to this revision have reached their watches.
    noted: Revision,
    near_from: Revision,
    near: Option<Timeline>,
    far: &'a mut Far,
    has_read_far: bool,
    pieces: HashMap<PieceId, Arc<Piece>>,
    pieces_bytes: u64,
    /// The piece that was read last. Most watches are due the same piece as the one before.
    last: Option<(PieceId, Arc<Piece>)>,
}

/// Watches that agree in this are told the same.
#[derive(Clone, PartialEq, Eq, Hash)]
struct PieceId {
    spot: SpotId,
    cursor: Cursor,
    puts: bool,
    deletes: bool,
    previous: bool,
}

impl PieceId {
    fn of(watch: &Watch) -> PieceId {
        let WatchRange { puts, deletes, previous, .. } = watch.range;
        PieceId { spot: watch.spot, cursor: watch.cursor.clone(), puts, deletes, previous }
    }

    /// Whether it is [`of`](PieceId::of) this watch.
    fn is_of(&self, watch: &Watch) -> bool {
        let WatchRange { puts, deletes, previous, .. } = watch.range;
        self.spot == watch.spot
            && self.cursor == watch.cursor
            && (self.puts, self.deletes, self.previous) == (puts, deletes, previous)
    }
}

/// What there is for a watch that is behind.
pub(super) enum Read {
    Piece(Arc<Piece>),
    End(WatchEnd),
    /// It is too far behind.
    Far,
}

impl<'a> Turn<'a> {
    /// Serves these watches from `state`, and those that are far behind from what `far` has.
    pub(super) fn new<'w>(
        state: &'a State,
        noted: Revision,
        far: &'a mut Far,
        watches: impl Iterator<Item = &'w Watch>,
    ) -> Turn<'a> {
        let forgotten = state.history.compacted();
        let before = state.history.revision_before_newest(NEAR_CHANGES).unwrap_or(forgotten);
        let near_from = before.max(forgotten).next();
        let is_near = |next: &Revision| (near_from..=state.revision).contains(next);
        let nexts = watches.filter(|watch| watch.is_behind).map(|watch| watch.cursor.next);
        let near = nexts.filter(is_near).min().map(|first| Timeline::new(state, first));
        Turn {
            state,
            noted,
            near_from,
            near,
            far,
            has_read_far: false,
            pieces: HashMap::new(),
            pieces_bytes: 0,
            last: None,
        }
    }

    pub(super) fn noted(&self) -> Revision {
        self.noted
    }

    /// Whether there may be more behind this cursor.
    pub(super) fn is_behind(&self, cursor: &Cursor) -> bool {
        cursor.next <= self.state.revision
    }

    /// Whether it has read for a watch that is far behind.
    pub(super) fn has_read_far(&self) -> bool {
        self.has_read_far
    }

    /// Whether a watch there is served from what [`Far`] has.
    pub(super) fn is_far(&self, cursor: &Cursor) -> bool {
        cursor.next < self.near_from
    }

    /// Reads on for a watch that is behind.
    pub(super) fn read(&mut self, watch: &Watch) -> Read {
        let next = watch.cursor.next;
        if !self.is_behind(&watch.cursor) {
            let piece = Piece { changes: Arc::default(), end: watch.cursor.clone() };
            return Read::Piece(Arc::new(piece));
        }
        if let Some((id, piece)) = &self.last
            && id.is_of(watch)
        {
            return Read::Piece(Arc::clone(piece));
        }
        let id = PieceId::of(watch);
        if let Some(piece) = self.pieces.get(&id) {
            self.last = Some((id, Arc::clone(piece)));
            return Read::Piece(Arc::clone(piece));
        }
        let is_far = self.is_far(&watch.cursor);
        self.has_read_far |= is_far;
        let timeline = if is_far { self.far.find(next) } else { self.near.as_ref() };
        let Some(timeline) = timeline else {
            let compacted = self.state.history.compacted();
            return match next <= compacted {
                true => {
                    let refusal = Refusal::of(Reason::Compacted, compacted.next().0);
                    Read::End(WatchEnd::Refused(refusal))
                }
                false => Read::Far,
            };
        };
        match watch.cursor.read(&watch.range, timeline) {
            Ok(piece) => Read::Piece(self.keep(id, piece)),
            Err(TooLong) => {
                let refusal = Refusal::of(Reason::AnswerTooLong, CHANGE_LEN_MAX);
                Read::End(WatchEnd::Refused(refusal))
            }
        }
    }

    fn keep(&mut self, id: PieceId, piece: Piece) -> Arc<Piece> {
        self.pieces_bytes += piece.changes.iter().map(|change| change.len_bytes()).sum::<u64>();
        if self.pieces_bytes > KEPT_BYTES_MAX {
            self.pieces.clear();
            self.pieces_bytes = 0;
        }
        let piece = Arc::new(piece);
        self.last = Some((id.clone(), Arc::clone(&piece)));
        self.pieces.insert(id, Arc::clone(&piece));
        piece
    }
}
