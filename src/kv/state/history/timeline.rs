//! [`Timeline`]: the changes from one revision on, in the order in which they are told, each with
//! what its key held before and after.
//!
//! A record has what its key held *before* a change. What the key held *after* the change is what
//! the key's next record has, or what the tree has if there is none. To find the next record of a
//! key, a timeline has the changes of each key together. It is made with one pass over the changes
//! from its first revision to the newest one, whatever their keys, and serves all watches that are
//! within it.
//!
//! ```text
//! places  in the order of revision and key   3a 3c 4a 5b 5c 7a 8a ...
//! by_key  in the order of key and revision   a: 3 4 7 8   b: 5   c: 3 5
//! ```
//!
//! If a record has only a length, because the change appended to the value, the bytes are in the
//! key's first later record that has a whole value, or in the tree. Each place knows which one that
//! is, so a thousand appends in a row take a thousand steps, not a million.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::{Before, BeforeValue, Chunk, Record};
use crate::kv::model::{KeyRange, RangeEnd, Revision};
use crate::kv::state::held::Held;
use crate::kv::state::{Key, State, Tree};

/// In place of a number: what is looked for is in the tree.
const IN_TREE: u32 = u32::MAX;

/// See the file. It shares what it holds with the state that it was made of.
#[derive(Debug)]
pub(in crate::kv) struct Timeline {
    first: Revision,
    revision: Revision,
    tree: Tree,
    /// Newest first.
    chunks: Vec<Arc<Chunk>>,
    places: Vec<Place>,
    by_key: Vec<u32>,
    /// Where the changes of a key are in `by_key`.
    keys: HashMap<Key, Range<u32>>,
}

/// Where a change is.
#[derive(Clone, Copy, Debug)]
struct Place {
    chunk: u32,
    begin: u32,
    /// Its place in `by_key`.
    rank: u32,
    /// The place of the same key that has the value before, if this one has only its length.
    whole: u32,
}

/// A change of one key.
pub(in crate::kv) struct KeyChange<'a> {
    pub(in crate::kv) revision: Revision,
    pub(in crate::kv) key: &'a [u8],
    /// What the key held before. `None`: it was absent.
    pub(in crate::kv) before: Option<Held<'a>>,
    /// What the key holds from then on. `None`: it was deleted.
    pub(in crate::kv) after: Option<Held<'a>>,
}

impl Timeline {
    /// The changes of `state` from revision `first` on.
    ///
    /// # Panics
    /// If the history has forgotten some of them.
    pub(in crate::kv) fn new(state: &State, first: Revision) -> Timeline {
        assert!(first > state.history.compacted(), "the caller knows what is forgotten");
        let mut timeline = Timeline {
            first,
            revision: state.revision,
            tree: state.tree.clone(),
            chunks: Vec::new(),
            places: Vec::new(),
            by_key: Vec::new(),
            keys: HashMap::new(),
        };
        for (chunk, begin) in state.history.places_after(Revision(first.0 - 1)) {
            if timeline.chunks.last().is_none_or(|last| !Arc::ptr_eq(last, chunk)) {
                timeline.chunks.push(Arc::clone(chunk));
            }
            let chunk = (timeline.chunks.len() - 1) as u32;
            timeline.places.push(Place { chunk, begin, rank: 0, whole: IN_TREE });
        }
        timeline.places.reverse();
        timeline.sort_revisions();
        timeline.group_keys();
        timeline.find_values();
        timeline
    }

    /// The first revision whose changes it has.
    pub(in crate::kv) fn first(&self) -> Revision {
        self.first
    }

    /// The last one.
    pub(in crate::kv) fn revision(&self) -> Revision {
        self.revision
    }

    /// Records of one revision lie in the order in which the command changed their keys. They are
    /// told in the order of their keys.
    fn sort_revisions(&mut self) {
        let mut places = std::mem::take(&mut self.places);
        let is_one = |a: &Place, b: &Place| self.record(a).revision == self.record(b).revision;
        for revision in places.chunk_by_mut(is_one).filter(|revision| revision.len() > 1) {
            revision.sort_unstable_by(|a, b| self.record(a).key.cmp(self.record(b).key));
        }
        self.places = places;
    }

    fn group_keys(&mut self) {
        let (mut numbers, mut counts) = (HashMap::new(), Vec::new());
        let number_of = |place: &Place| {
            let key = Key::from(self.record(place).key);
            let number = *numbers.entry(key).or_insert(counts.len());
            if number == counts.len() {
                counts.push(0);
            }
            counts[number] += 1;
            number
        };
        let key_numbers: Vec<usize> = self.places.iter().map(number_of).collect();
        let begin_of = |end: &mut u32, count: u32| {
            *end += count;
            Some(*end - count)
        };
        let mut next: Vec<u32> =
            counts.iter().scan(0, |end, &count| begin_of(end, count)).collect();
        let range = |number: usize| next[number]..next[number] + counts[number];
        self.keys = numbers.into_iter().map(|(key, number)| (key, range(number))).collect();
        self.by_key = vec![0; self.places.len()];
        for (at, (place, number)) in self.places.iter_mut().zip(key_numbers).enumerate() {
            place.rank = next[number];
            self.by_key[place.rank as usize] = at as u32;
            next[number] += 1;
        }
    }

    /// Says for each change where the value before it is.
    fn find_values(&mut self) {
        for of_key in self.keys.values() {
            let mut whole = IN_TREE;
            for &at in self.by_key[of_key.start as usize..of_key.end as usize].iter().rev() {
                let place = self.places[at as usize];
                let before = self.chunks[place.chunk as usize].record(place.begin).before;
                if !matches!(before, Some(Before { value: BeforeValue::Prefix(_), .. })) {
                    whole = at;
                }
                self.places[at as usize].whole = whole;
            }
        }
    }

    fn record(&self, place: &Place) -> Record<'_> {
        self.chunks[place.chunk as usize].record(place.begin)
    }

    /// The changes from revision `from` on, of that revision those behind the key `after`: all of
    /// them, or those of a single key.
    pub(in crate::kv) fn places(
        &self,
        keys: &KeyRange,
        from: Revision,
        after: Option<&[u8]>,
    ) -> Places<'_> {
        let is_before = |place: &Place| {
            let Record { revision, key, .. } = self.record(place);
            revision < from || (revision == from && after.is_some_and(|after| key <= after))
        };
        let RangeEnd::Alone = keys.end() else {
            let begin = self.places.partition_point(is_before) as u32;
            return Places::All(begin..self.places.len() as u32);
        };
        let of_key = self.keys.get(&keys.begin()[..]).cloned().unwrap_or_default();
        let of_key = &self.by_key[of_key.start as usize..of_key.end as usize];
        let begin = of_key.partition_point(|&at| is_before(&self.places[at as usize]));
        Places::OfKey(of_key[begin..].iter())
    }

    /// The revision and the key of a change.
    pub(in crate::kv) fn look(&self, at: u32) -> (Revision, &[u8]) {
        let Record { revision, key, .. } = self.record(&self.places[at as usize]);
        (revision, key)
    }

    /// The change.
    pub(in crate::kv) fn see(&self, at: u32) -> KeyChange<'_> {
        let place = self.places[at as usize];
        let Record { revision, key, .. } = self.record(&place);
        let next = self.by_key.get(place.rank as usize + 1);
        let next = next.map(|next| self.places[*next as usize]);
        let after = match next.filter(|next| self.record(next).key == key) {
            Some(next) => self.before(&next),
            None => self.tree.get(key).map(Held::from),
        };
        KeyChange { revision, key, before: self.before(&place), after }
    }

    /// What the key of a change held before it.
    fn before(&self, place: &Place) -> Option<Held<'_>> {
        let Record { key, before, .. } = self.record(place);
        let mut before = before?;
        let in_tree = match (before.value, place.whole) {
            (BeforeValue::Whole(_), _) => None,
            (BeforeValue::Prefix(_), IN_TREE) => self.tree.get(key).map(|stored| &stored.value),
            (BeforeValue::Prefix(len), whole) => {
                let whole = self.record(&self.places[whole as usize]).before;
                if let Some(BeforeValue::Whole(value)) = whole.map(|whole| whole.value) {
                    before.value = BeforeValue::Whole(&value[..len]);
                }
                None
            }
        };
        Some(Held::before(before, in_tree))
    }
}

/// Changes of a [`Timeline`], by their numbers.
pub(in crate::kv) enum Places<'a> {
    All(Range<u32>),
    OfKey(std::slice::Iter<'a, u32>),
}

impl Iterator for Places<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        match self {
            Places::All(range) => range.next(),
            Places::OfKey(places) => places.next().copied(),
        }
    }
}
