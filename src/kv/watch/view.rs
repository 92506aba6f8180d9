//! [`StoreView::changes`]: all changes at once, for those who look now and then.

use super::cursor::{CHANGE_LEN_MAX, Cursor, TooLong};
use crate::kv::StoreView;
use crate::kv::model::{Change, Reason, Refusal, Revision, WatchRange};
use crate::kv::state::{State, Timeline};

impl StoreView {
    /// What a watch is told that is made now: every change from its first revision up to
    /// [`revision`](StoreView::revision), in the order of revisions and keys. Whoever has seen them
    /// goes on behind that revision, at this member or another one.
    ///
    /// # Errors
    /// [`Reason::Compacted`]: some of them are forgotten. The refusal's value is the first revision
    /// from which none is. [`Reason::AnswerTooLong`]: one is too long together with the entry
    /// before.
    pub fn changes(&self, range: &WatchRange) -> Result<Vec<Change>, Refusal> {
        let State { history, revision, .. } = &self.state;
        if range.from == Revision::NONE || range.from > *revision {
            return Ok(Vec::new());
        }
        let oldest = history.compacted().next();
        if range.from < oldest {
            return Err(Refusal::of(Reason::Compacted, oldest.0));
        }
        let timeline = Timeline::new(&self.state, range.from);
        let (mut changes, mut cursor) = (Vec::new(), Cursor::at(range.from));
        while cursor.next <= *revision {
            let piece = cursor.read(range, &timeline);
            let piece =
                piece.map_err(|TooLong| Refusal::of(Reason::AnswerTooLong, CHANGE_LEN_MAX))?;
            changes.extend_from_slice(&piece.changes);
            cursor = piece.end;
        }
        Ok(changes)
    }
}
