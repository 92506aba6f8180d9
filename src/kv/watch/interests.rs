//! [`Interests`]: which keys are watched, and which of them have changed. The applier tells it of
//! every change ([`Observer`]), and the thread of the watches asks it.
//!
//! Watches of the same keys have one *spot* here, so a change costs a look at the map of keys and
//! one at the tree of ranges, and a mark, however many watches there are. Without watches it costs
//! a store and a load.
//!
//! # Invariants
//! - A change is noted before anybody learns that it was made.
//! - Whoever takes the marks, and the revision up to which changes are noted, takes them together.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use super::ranges::Ranges;
use super::signal::Signal;
use crate::kv::Store;
use crate::kv::model::{KeyRange, Revision};
use crate::node::Observer;

/// Stands for the keys of one or several watches.
pub(super) type SpotId = u64;

/// See the file.
#[derive(Debug)]
pub(super) struct Interests {
    /// The revision of the state, as far as it was told.
    seen: AtomicU64,
    has_spots: AtomicBool,
    table: Mutex<Table>,
    signal: Arc<Signal>,
}

#[derive(Debug, Default)]
struct Table {
    keys: HashMap<Bytes, SpotId>,
    ranges: Ranges,
    /// The first change since the marks were taken.
    marks: HashMap<SpotId, Option<Revision>>,
    marked: Vec<SpotId>,
    /// All changes up to this revision are noted.
    noted: Revision,
}

/// What was marked.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Each spot with the first revision that concerns it.
    pub(super) spots: Vec<(SpotId, Revision)>,
    /// No change up to this revision concerns any other spot.
    pub(super) noted: Revision,
}

impl Table {
    fn mark(&mut self, spot: SpotId, revision: Revision) {
        let mark = self.marks.get_mut(&spot).expect("whoever removes a spot removes all of it");
        if mark.is_none() {
            self.marked.push(spot);
        }
        *mark = Some(mark.map_or(revision, |first| first.min(revision)));
    }

    fn note(&mut self, revision: Revision, key: &[u8], found: &mut Vec<SpotId>) {
        found.extend(self.keys.get(key));
        self.ranges.find(key, &mut |spot| found.push(spot));
        found.drain(..).for_each(|spot| self.mark(spot, revision));
    }

    fn mark_all(&mut self, revision: Revision) {
        let spots: Vec<SpotId> = self.marks.keys().copied().collect();
        spots.into_iter().for_each(|spot| self.mark(spot, revision));
    }
}

impl Interests {
    pub(super) fn new(signal: Arc<Signal>) -> Interests {
        let (seen, has_spots) = (AtomicU64::new(0), AtomicBool::new(false));
        Interests { seen, has_spots, table: Mutex::default(), signal }
    }

    /// The greatest spot that there is.
    pub(super) fn last_spot(&self) -> SpotId {
        self.table.lock().marks.keys().max().copied().unwrap_or(0)
    }

    /// From now on changes of these keys mark the spot.
    pub(super) fn add(&self, spot: SpotId, keys: &KeyRange) {
        let mut table = self.table.lock();
        match keys.is_key() {
            true => drop(table.keys.insert(keys.begin().clone(), spot)),
            false => table.ranges.insert(keys, spot),
        }
        table.marks.insert(spot, None);
        self.has_spots.store(true, Ordering::Relaxed);
    }

    pub(super) fn remove(&self, spot: SpotId, keys: &KeyRange) {
        let mut table = self.table.lock();
        match keys.is_key() {
            true => drop(table.keys.remove(keys.begin())),
            false => table.ranges.remove(keys, spot),
        }
        if table.marks.remove(&spot).flatten().is_some() {
            table.marked.retain(|marked| *marked != spot);
        }
        self.has_spots.store(!table.marks.is_empty(), Ordering::Relaxed);
    }

    /// Takes out what was marked.
    pub(super) fn take(&self) -> Marks {
        let mut table = self.table.lock();
        let Table { marks, marked, noted, .. } = &mut *table;
        let take = |spot: SpotId| {
            let mark = marks.get_mut(&spot).and_then(Option::take);
            (spot, mark.expect("a marked spot has a mark"))
        };
        Marks { spots: marked.drain(..).map(take).collect(), noted: *noted }
    }
}

impl Observer<Store> for Interests {
    fn applied(&self, store: &Store) {
        // Only the thread that applies entries writes it.
        let (revision, before) = (store.revision(), Revision(self.seen.load(Ordering::Relaxed)));
        self.seen.store(revision.0, Ordering::Relaxed);
        if before == revision || !self.has_spots.load(Ordering::Relaxed) {
            return;
        }
        let (mut table, mut found) = (self.table.lock(), Vec::new());
        store.changed_after(before, |revision, key| table.note(revision, key, &mut found));
        if store.compacted() > before {
            // What the entry changed may be forgotten already.
            table.mark_all(before.next());
        }
        table.noted = revision;
        let is_due = !table.marked.is_empty();
        drop(table);
        if is_due {
            self.signal.raise();
        }
    }

    fn replaced(&self, store: &Store) {
        let before = Revision(self.seen.swap(store.revision().0, Ordering::Relaxed));
        let mut table = self.table.lock();
        table.mark_all(before.next());
        table.noted = store.revision();
        drop(table);
        self.signal.raise();
    }
}
