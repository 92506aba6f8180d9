//! [`Spots`]: which watches have the same keys.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::interests::{Interests, SpotId};
use crate::kv::model::KeyRange;

/// See the file. `W` stands for a watch.
#[derive(Debug)]
pub(super) struct Spots<W> {
    interests: Arc<Interests>,
    spots: HashMap<SpotId, Spot<W>>,
    of_keys: HashMap<KeyRange, SpotId>,
    last: SpotId,
}

#[derive(Debug)]
struct Spot<W> {
    keys: KeyRange,
    watches: BTreeSet<W>,
}

impl<W: Ord> Spots<W> {
    pub(super) fn new(interests: Arc<Interests>) -> Spots<W> {
        // Those of a thread that has panicked may still be among the interests.
        let last = interests.last_spot();
        Spots { interests, spots: HashMap::new(), of_keys: HashMap::new(), last }
    }

    /// From now on the spot is marked when one of these keys changes.
    pub(super) fn add(&mut self, keys: &KeyRange, watch: W) -> SpotId {
        if let Some(id) = self.of_keys.get(keys) {
            self.spots.get_mut(id).expect("keys have their spot").watches.insert(watch);
            return *id;
        }
        self.last += 1;
        self.interests.add(self.last, keys);
        self.of_keys.insert(keys.clone(), self.last);
        self.spots.insert(self.last, Spot { keys: keys.clone(), watches: [watch].into() });
        self.last
    }

    pub(super) fn remove(&mut self, id: SpotId, watch: &W) {
        let spot = self.spots.get_mut(&id).expect("a watch has its spot");
        spot.watches.remove(watch);
        if spot.watches.is_empty() {
            self.interests.remove(id, &spot.keys);
            self.of_keys.remove(&spot.keys);
            self.spots.remove(&id);
        }
    }

    /// The watches of a spot, which may be gone.
    pub(super) fn watches(&self, id: SpotId) -> impl Iterator<Item = &W> {
        self.spots.get(&id).into_iter().flat_map(|spot| &spot.watches)
    }
}
