//! [`Slots`]: many things, each found by a number of its own, without a hash of it.
//!
//! With 1,000 watches of one key, each change is told 1,000 times. The look-ups of watches in maps,
//! whose hash resists attacks, took a fifth of the thread's time.

use std::cmp::Ordering;

/// The number of a thing. No other thing ever has it, so once the thing is gone, nothing is found
/// by it. Ordered by when the things came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotId {
    place: usize,
    serial: u64,
}

/// See the file.
#[derive(Debug)]
pub(super) struct Slots<T> {
    /// With the serial of what is there.
    slots: Vec<Option<(u64, T)>>,
    free: Vec<usize>,
    last_serial: u64,
}

impl PartialOrd for SlotId {
    fn partial_cmp(&self, other: &SlotId) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SlotId {
    fn cmp(&self, other: &SlotId) -> Ordering {
        self.serial.cmp(&other.serial)
    }
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

    /// Adds what `make` makes of its number.
    pub(super) fn insert_with(&mut self, make: impl FnOnce(SlotId) -> T) -> SlotId {
        self.last_serial += 1;
        let place = self.free.pop().unwrap_or(self.slots.len());
        let id = SlotId { place, serial: self.last_serial };
        let slot = Some((id.serial, make(id)));
        match self.slots.get_mut(place) {
            Some(free) => *free = slot,
            None => self.slots.push(slot),
        }
        id
    }

    pub(super) fn get(&self, id: SlotId) -> Option<&T> {
        match self.slots.get(id.place)? {
            Some((serial, thing)) if *serial == id.serial => Some(thing),
            _ => None,
        }
    }

    pub(super) fn get_mut(&mut self, id: SlotId) -> Option<&mut T> {
        match self.slots.get_mut(id.place)? {
            Some((serial, thing)) if *serial == id.serial => Some(thing),
            _ => None,
        }
    }

    pub(super) fn remove(&mut self, id: SlotId) -> Option<T> {
        let slot = self.slots.get_mut(id.place)?;
        let (_, thing) = slot.take_if(|(serial, _)| *serial == id.serial)?;
        self.free.push(id.place);
        Some(thing)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (SlotId, &mut T)> {
        let slots = self.slots.iter_mut().enumerate();
        slots.filter_map(|(place, slot)| {
            slot.as_mut().map(|(serial, thing)| (SlotId { place, serial: *serial }, thing))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_finds_only_what_it_was_given_for() {
        let mut slots = Slots::default();
        let [a, b] = ["a", "b"].map(|thing| slots.insert_with(|_| thing));
        assert_eq!((slots.len(), slots.remove(a)), (2, Some("a")));
        let c = slots.insert_with(|_| "c");
        assert_eq!(a.place, c.place, "a place is used again");
        assert_eq!(slots.get(a), None);
        assert_eq!(slots.get_mut(a), None);
        assert_eq!(slots.remove(a), None);
        assert_eq!((slots.get(b), slots.get(c), slots.len()), (Some(&"b"), Some(&"c"), 2));
        assert!(a < b && b < c);
        let all: Vec<_> = slots.iter_mut().map(|(id, thing)| (id, *thing)).collect();
        assert_eq!(all, [(c, "c"), (b, "b")]);
    }
}
