//! [`Past`]: the entries of a range as they were at an earlier revision, one after the other.
//!
//! ```text
//! tree, what the keys hold now ─────────────────────────┐
//! history ─> runs: changes since, each in order of keys ─┴─ merge, key by key ─> what the key held
//! ```
//!
//! Nothing is computed ahead of the reader. A page that begins in the middle of a large range costs
//! a search in the tree and in each chunk of the history, and then what its own keys cost: however
//! many other keys have changed since.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::iter::Peekable;

use super::held::Held;
use super::history::Run;
use super::{Before, BeforeValue, History, Key, Record, Stored, Tree};
use crate::kv::model::{KeyRange, Revision};

/// A key of a range that is read.
pub(super) struct Seen<'a> {
    pub(super) key: &'a [u8],
    /// What it held. `None`: it was absent, and is mentioned only for what it cost.
    pub(super) held: Option<Held<'a>>,
    /// How many changes were undone to find that out.
    pub(super) undone: u64,
}

impl<'a> Seen<'a> {
    pub(super) fn now((key, stored): (&'a Key, &'a Stored)) -> Seen<'a> {
        Seen { key, held: Some(stored.into()), undone: 0 }
    }
}

/// See the [module](self).
pub(super) struct Past<'a> {
    now: Peekable<Box<dyn Iterator<Item = (&'a Key, &'a Stored)> + 'a>>,
    /// Oldest first.
    runs: Vec<Run<'a>>,
    /// The next key of each run.
    heads: BinaryHeap<Head<'a>>,
    is_descending: bool,
}

/// The next key of a run. The greatest head is the one to read first.
#[derive(PartialEq, Eq)]
struct Head<'a> {
    key: &'a [u8],
    /// The place of the run among all.
    run: usize,
    is_descending: bool,
}

impl<'a> Past<'a> {
    /// The entries of `keys` as of revision `at`, in the order of the keys or the reverse of it, if
    /// `tree` has the current ones.
    ///
    /// # Panics
    /// If the history has forgotten the revision.
    pub(super) fn new(
        tree: &'a Tree,
        history: &'a History,
        keys: &'a KeyRange,
        at: Revision,
        is_descending: bool,
    ) -> Past<'a> {
        let now = tree.range(keys);
        let now: Box<dyn Iterator<Item = _> + 'a> =
            if is_descending { Box::new(now.rev()) } else { Box::new(now) };
        let runs: Vec<Run<'a>> = history.changes_after(at, keys).collect();
        let head = |(run, it): (usize, &Run<'a>)| {
            it.next_key(is_descending).map(|key| Head { key, run, is_descending })
        };
        let heads = runs.iter().enumerate().filter_map(head).collect();
        Past { now: now.peekable(), runs, heads, is_descending }
    }

    /// Undoes all changes of `key`, which is the next one of some run. Returns what it held, and
    /// how many changes that took.
    fn undo(&mut self, key: &'a [u8]) -> (Option<Before<&'a [u8]>>, u64) {
        let (mut first, mut undone): (Option<Option<Before<&[u8]>>>, u64) = (None, 0);
        // Runs of the same key come in the order of their age.
        while let Some(Head { run, .. }) = self.heads.peek().filter(|head| head.key == key) {
            let run = *run;
            self.heads.pop();
            for record in self.runs[run].take_next(self.is_descending) {
                undone += 1;
                match &mut first {
                    Some(held) => lengthen(held, record),
                    None => first = Some(record.before),
                }
            }
            if let Some(key) = self.runs[run].next_key(self.is_descending) {
                self.heads.push(Head { key, run, is_descending: self.is_descending });
            }
        }
        (first.flatten(), undone)
    }
}

impl<'a> Iterator for Past<'a> {
    type Item = Seen<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let order = |one: &[u8], other: &[u8]| match self.is_descending {
            true => other.cmp(one),
            false => one.cmp(other),
        };
        let changed = self.heads.peek().map(|head| head.key);
        let changed_first = match (changed, self.now.peek()) {
            (Some(changed), Some((now, _))) => order(changed, now).is_le(),
            (changed, _) => changed.is_some(),
        };
        let Some(key) = changed.filter(|_| changed_first) else {
            let (key, stored) = self.now.next()?;
            return Some(Seen::now((key, stored)));
        };
        let now = self.now.next_if(|(now, _)| now[..] == *key);
        let (before, undone) = self.undo(key);
        let now = now.map(|(_, now)| &now.value);
        let held = before.map(|before| Held::before(before, now));
        Some(Seen { key, held, undone })
    }
}

/// The first change after the revision that is read says what the key held then, or how long its
/// value was; a later change has the bytes.
fn lengthen<'a>(held: &mut Option<Before<&'a [u8]>>, later: Record<'a>) {
    if let Some(Before { value, .. }) = held
        && let BeforeValue::Prefix(len) = *value
        && let Some(BeforeValue::Whole(later)) = later.before.map(|it| it.value)
    {
        *value = BeforeValue::Whole(&later[..len]);
    }
}

impl Ord for Head<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_key = self.key.cmp(other.key);
        let by_key = if self.is_descending { by_key } else { by_key.reverse() };
        by_key.then_with(|| other.run.cmp(&self.run))
    }
}

impl PartialOrd for Head<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
