//! Reads of ranges: which entries, in which order, as of when.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use bytes::{Bytes, BytesMut};

use super::held::Held;
use super::past::{Past, Seen};
use super::{Budget, History, Tree};
use crate::kv::model::{ANSWER_LEN_MAX, Entry, Range, RangeAnswer, Reason, Revision, SortBy, Want};

/// As much of the history counts as a key for a read of the past.
const HISTORY_BYTES_TOUCHED: u64 = 64 << 10;

/// Reads `range` as of its revision. `tree` has the entries as of `revision`, the newest one in
/// `history`. As an error, the reason and its value.
pub(super) fn read_as_of(
    range: &Range,
    tree: &Tree,
    history: &History,
    revision: Revision,
    budget: &mut Budget<'_>,
) -> Result<RangeAnswer, (Reason, u64)> {
    if !is_past(range.at, history, revision)? {
        return read_tree(range, tree, budget);
    }
    // To find where the range begins in each part of the history. It may not depend on how many
    // parts this member has.
    budget.touch_many(history.bytes() / HISTORY_BYTES_TOUCHED)?;
    let is_descending = range.sort_by == SortBy::Key && range.descending;
    let past = Past::new(tree, history, &range.keys, range.at, is_descending);
    match range.sort_by {
        SortBy::Key => in_order(range, past, budget),
        _ => sorted(range, past, budget),
    }
}

/// Reads `range` from `tree`, whatever its revision.
pub(super) fn read_tree(
    range: &Range,
    tree: &Tree,
    budget: &mut Budget<'_>,
) -> Result<RangeAnswer, (Reason, u64)> {
    let entries = tree.range(&range.keys);
    match (range.sort_by, range.descending) {
        (SortBy::Key, false) => in_order(range, entries.map(Seen::now), budget),
        (SortBy::Key, true) => in_order(range, entries.rev().map(Seen::now), budget),
        _ => sorted(range, entries.map(Seen::now), budget),
    }
}

/// Whether revision `at` is an earlier one than `revision`, the newest. As an error, why it cannot
/// be read.
pub(super) fn is_past(
    at: Revision,
    history: &History,
    revision: Revision,
) -> Result<bool, (Reason, u64)> {
    if at == revision {
        return Ok(false);
    }
    if at < history.compacted() {
        return Err((Reason::Compacted, history.compacted().0));
    }
    if at > revision {
        return Err((Reason::InTheFuture, revision.0));
    }
    Ok(true)
}

impl Range {
    fn is_wanted(&self, held: &Held<'_>) -> bool {
        self.mod_revision.contain(held.mod_revision)
            && self.create_revision.contain(held.create_revision)
    }

    /// How many entries the answer may have.
    fn entries_max(&self) -> usize {
        match (self.want, self.limit) {
            (Want::Count, _) => 0,
            (_, 0) => usize::MAX,
            (_, limit) => usize::try_from(limit).unwrap_or(usize::MAX),
        }
    }

    fn counts_all(&self) -> bool {
        self.count_all || self.want == Want::Count
    }

    fn entry(
        &self,
        key: &[u8],
        held: &Held<'_>,
        copies: &mut Copies,
        budget: &mut Budget<'_>,
    ) -> Result<Entry, (Reason, u64)> {
        let value = match self.want {
            Want::Keys => Bytes::new(),
            _ => {
                budget.touch_bytes(held.copied_len())?;
                held.value_by(|value| copies.copy(value))
            }
        };
        let entry = held.entry(copies.copy(key), value);
        budget.answer(&entry)?;
        Ok(entry)
    }
}

/// How many copies have memory of their own. A short answer may be kept for long, and must not keep
/// more than it needs.
const OWN_COPIES_MAX: usize = 32;
/// Later ones share memory in pieces of this size.
const COPIES_LEN: usize = 4096;

/// Copies of the keys and of the short values of an answer.
#[derive(Default)]
struct Copies {
    room: BytesMut,
    count: usize,
}

impl Copies {
    fn copy(&mut self, bytes: &[u8]) -> Bytes {
        self.count += 1;
        if self.count <= OWN_COPIES_MAX || bytes.len() > COPIES_LEN / 4 {
            return Bytes::copy_from_slice(bytes);
        }
        if self.room.capacity() < bytes.len() {
            self.room = BytesMut::with_capacity(COPIES_LEN);
        }
        self.room.extend_from_slice(bytes);
        self.room.split().freeze()
    }
}

/// Answers with the first entries that come.
fn in_order<'a>(
    range: &Range,
    found: impl Iterator<Item = Seen<'a>>,
    budget: &mut Budget<'_>,
) -> Result<RangeAnswer, (Reason, u64)> {
    let (mut answer, mut copies) = (RangeAnswer::default(), Copies::default());
    for Seen { key, held, undone } in found {
        budget.touch_many(undone)?;
        let Some(held) = held else { continue };
        budget.touch()?;
        answer.count += 1;
        if range.want == Want::Count || !range.is_wanted(&held) {
            continue;
        }
        if answer.entries.len() < range.entries_max() {
            answer.entries.push(range.entry(key, &held, &mut copies, budget)?);
            continue;
        }
        answer.more = true;
        if !range.counts_all() {
            // This key was looked at only to learn that there are more.
            answer.count -= 1;
            break;
        }
    }
    Ok(answer)
}

/// An entry by its place in the answer.
struct Ranked<'a> {
    range: &'a Range,
    key: &'a [u8],
    held: Held<'a>,
}

impl Ord for Ranked<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let (one, two) = (&self.held, &other.held);
        let order = match self.range.sort_by {
            SortBy::Key => Ordering::Equal,
            SortBy::Version => one.version.cmp(&two.version),
            SortBy::CreateRevision => one.create_revision.cmp(&two.create_revision),
            SortBy::ModRevision => one.mod_revision.cmp(&two.mod_revision),
            SortBy::Value => one.value().cmp(two.value()),
        };
        let order = if self.range.descending { order.reverse() } else { order };
        order.then_with(|| self.key.cmp(other.key))
    }
}

impl PartialOrd for Ranked<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked<'_> {}

/// Answers with the first entries of another order. Holds no more of them than fit into an answer.
fn sorted<'a>(
    range: &'a Range,
    found: impl Iterator<Item = Seen<'a>>,
    budget: &mut Budget<'_>,
) -> Result<RangeAnswer, (Reason, u64)> {
    // No entry counts for less than 64 bytes.
    let heap_max = range.entries_max().min((ANSWER_LEN_MAX / 64) as usize + 1);
    let mut answer = RangeAnswer::default();
    let mut first = BinaryHeap::new();
    for Seen { key, held, undone } in found {
        budget.touch_many(undone)?;
        let Some(held) = held else { continue };
        budget.touch()?;
        if range.sort_by == SortBy::Value {
            budget.touch_bytes(held.value().len())?;
        }
        answer.count += 1;
        if !range.is_wanted(&held) {
            continue;
        }
        first.push(Ranked { range, key, held });
        if first.len() > heap_max {
            first.pop();
            answer.more = range.want != Want::Count;
        }
    }
    let mut copies = Copies::default();
    for Ranked { key, held, .. } in first.into_sorted_vec() {
        answer.entries.push(range.entry(key, &held, &mut copies, budget)?);
    }
    Ok(answer)
}
