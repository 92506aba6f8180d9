//! [`Pages`]: the entries of a scan, a page at a time, from one state.

use bytes::Bytes;

use super::past::{Past, Seen};
use super::range_read::is_past;
use super::{Budget, State};
use crate::kv::model::{Entry, Reason, Refusal, Revision, ScanPage, ScanRange};

/// How long a page may be, unless its only entry is longer. An entry counts as in
/// [`Entry::len_bytes`].
const PAGE_LEN_MAX: u64 = 64 << 10;

/// See the [module](self).
pub(in crate::kv) struct Pages<'a> {
    keys_only: bool,
    found: Box<dyn Iterator<Item = Seen<'a>> + 'a>,
    /// What was found and did not fit into the page before.
    ahead: Option<Entry>,
}

impl<'a> Pages<'a> {
    /// Finds nothing yet.
    ///
    /// # Errors
    /// Why the revision cannot be read.
    pub(super) fn new(state: &'a State, scan: &'a ScanRange) -> Result<Pages<'a>, Refusal> {
        let State { tree, history, revision, .. } = state;
        let refusal = |(reason, value)| Refusal::of(reason, value);
        let reads_the_past =
            scan.at != Revision::NONE && is_past(scan.at, history, *revision).map_err(refusal)?;
        let found: Box<dyn Iterator<Item = _> + 'a> = match reads_the_past {
            true => Box::new(Past::new(tree, history, &scan.keys, scan.at, false)),
            false => Box::new(tree.range(&scan.keys).map(Seen::now)),
        };
        Ok(Pages { keys_only: scan.keys_only, found, ahead: None })
    }

    /// The next page. The one without [`more`](ScanPage::more) is the last.
    ///
    /// # Errors
    /// The budget has run out.
    pub(in crate::kv) fn next(
        &mut self,
        budget: &mut Budget<'_>,
    ) -> Result<ScanPage, (Reason, u64)> {
        let mut page = ScanPage { entries: self.ahead.take().into_iter().collect(), more: false };
        let mut len = page.entries.first().map_or(0, |entry| entry.len_bytes());
        for Seen { key, held, undone } in self.found.by_ref() {
            budget.touch_many(undone)?;
            let Some(held) = held else { continue };
            budget.touch()?;
            let value = match self.keys_only {
                true => Bytes::new(),
                false => held.value_by(Bytes::copy_from_slice),
            };
            let entry = held.entry(Bytes::copy_from_slice(key), value);
            len += entry.len_bytes();
            if len > PAGE_LEN_MAX && !page.entries.is_empty() {
                self.ahead = Some(entry);
                page.more = true;
                break;
            }
            page.entries.push(entry);
        }
        Ok(page)
    }
}
