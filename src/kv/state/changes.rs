//! [`Changes`]: the keys that one command has changed so far, and what each held before it.
//!
//! A clone takes well under a microsecond, so that a part of a transaction that fails can be
//! undone. The first key has a place of its own, because most commands change one.

use imbl::{OrdMap, Vector};

use super::{Before, BeforeValue, Key, Stored, Value};

/// See the [module](self).
#[derive(Clone, Debug, Default)]
pub(super) struct Changes {
    /// In the order of their first change.
    first: Option<Change>,
    others: Vector<Change>,
    /// Where a key is among the others.
    positions: OrdMap<Key, usize>,
}

/// A key, and what it held before.
type Change = (Key, Option<Before<Value>>);

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// `key` held `before` until it was replaced, or deleted, or came to be.
    pub(super) fn replaced(&mut self, key: &[u8], before: Option<Stored>) {
        match self.find(key) {
            None => self.push(key, before.map(Before::whole)),
            // What it held before the command is the beginning of what it held just now.
            Some((_, Some(first))) => {
                if let BeforeValue::Prefix(len) = first.value {
                    let held = before.expect("a key that was appended to is there");
                    first.value = BeforeValue::Whole(held.value.prefix(len));
                }
            }
            // The command made the key.
            Some((_, None)) => {}
        }
    }

    /// The value of `key`, which holds `before`, is about to grow.
    pub(super) fn appended(&mut self, key: &[u8], before: &Stored) {
        if self.find(key).is_none() {
            self.push(key, Some(Before::prefix(before)));
        }
    }

    fn find(&mut self, key: &[u8]) -> Option<&mut Change> {
        if let Some(first) = &mut self.first
            && first.0[..] == *key
        {
            return self.first.as_mut();
        }
        let position = *self.positions.get(key)?;
        self.others.get_mut(position)
    }

    fn push(&mut self, key: &[u8], before: Option<Before<Value>>) {
        let key = Key::from(key);
        if self.first.is_none() {
            self.first = Some((key, before));
            return;
        }
        self.positions.insert(key.clone(), self.others.len());
        self.others.push_back((key, before));
    }

    pub(super) fn into_iter(self) -> impl Iterator<Item = Change> {
        self.first.into_iter().chain(self.others)
    }
}
