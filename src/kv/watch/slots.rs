//! [`Slots`]: a table whose elements are found by index, not by a hash.
//!
//! With 1,000 watches of one key, each change is told 1,000 times. When the watches were in a map,
//! whose hash resists attacks, look-ups took a fifth of the thread's time.

/// The id of an element. No other element of the table ever has it, so once the element is removed,
/// its id finds nothing. Ordered by insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SlotId {
    serial: u64,
    place: usize,
}

/// See the file.
#[derive(Debug)]
pub(super) struct Slots<T> {
    /// Each occupied slot has the serial of its element.
    slots: Vec<Option<(u64, T)>>,
    free: Vec<usize>,
    last_serial: u64,
}

impl<T> Default for Slots<T> {
    fn default() -> Slots<T> {
        Slots { slots: Vec::new(), free: Vec::new(), last_serial: 0 }
    }
}

impl<T> Slots<T> {
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Inserts the element that `make` returns for the new id.
    pub(super) fn insert_with(&mut self, make: impl FnOnce(SlotId) -> T) -> SlotId {
        self.last_serial += 1;
        let place = self.free.pop().unwrap_or(self.slots.len());
        let id = SlotId { serial: self.last_serial, place };
        let slot = Some((id.serial, make(id)));
        match self.slots.get_mut(place) {
            Some(free) => *free = slot,
            None => self.slots.push(slot),
        }
        id
    }

    pub(super) fn get(&self, id: SlotId) -> Option<&T> {
        match self.slots.get(id.place)? {
            Some((serial, element)) if *serial == id.serial => Some(element),
            _ => None,
        }
    }

    pub(super) fn get_mut(&mut self, id: SlotId) -> Option<&mut T> {
        match self.slots.get_mut(id.place)? {
            Some((serial, element)) if *serial == id.serial => Some(element),
            _ => None,
        }
    }

    pub(super) fn remove(&mut self, id: SlotId) -> Option<T> {
        let slot = self.slots.get_mut(id.place)?;
        let (_, element) = slot.take_if(|(serial, _)| *serial == id.serial)?;
        self.free.push(id.place);
        Some(element)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (SlotId, &mut T)> {
        let slots = self.slots.iter_mut().enumerate();
        slots.filter_map(|(place, slot)| {
            slot.as_mut().map(|(serial, element)| (SlotId { serial: *serial, place }, element))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_finds_only_what_it_was_given_for() {
        let mut slots = Slots::default();
        let [a, b] = ["a", "b"].map(|element| slots.insert_with(|_| element));
        assert_eq!((slots.len(), slots.remove(a)), (2, Some("a")));
        let c = slots.insert_with(|_| "c");
        assert_eq!(a.place, c.place, "a place is used again");
        assert_eq!(slots.get(a), None);
        assert_eq!(slots.get_mut(a), None);
        assert_eq!(slots.remove(a), None);
        assert_eq!((slots.get(b), slots.get(c), slots.len()), (Some(&"b"), Some(&"c"), 2));
        assert!(a < b && b < c);
        let all: Vec<_> = slots.iter_mut().map(|(id, element)| (id, *element)).collect();
        assert_eq!(all, [(c, "c"), (b, "b")]);
    }
}
