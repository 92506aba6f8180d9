//! [`Key`]: a key as the state machine's tree holds it.
//!
//! A short key is stored in the tree's node itself. A search in a tree of ten million keys compares
//! some 25 of them. Behind a pointer each would be in another cache line, and copying a node for a
//! view would touch all of its keys.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;

/// The longest key that needs no memory of its own. With this limit a [`Key`] has 24 bytes, as many
/// as a pointer, a length and a tag.
const SHORT_LEN_MAX: usize = 22;

/// Any bytes, compared as bytes. A clone copies 24 bytes.
#[derive(Clone, Debug)]
pub(in crate::kv) enum Key {
    /// `len` bytes, followed by zeros.
    Short {
        len: u8,
        bytes: [u8; SHORT_LEN_MAX],
    },
    Long(Arc<[u8]>),
}

impl From<&[u8]> for Key {
    fn from(key: &[u8]) -> Key {
        if key.len() > SHORT_LEN_MAX {
            return Key::Long(key.into());
        }
        let mut bytes = [0; SHORT_LEN_MAX];
        bytes[..key.len()].copy_from_slice(key);
        Key::Short { len: key.len() as u8, bytes }
    }
}

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Key::Short { len, bytes } => &bytes[..usize::from(*len)],
            Key::Long(key) => key,
        }
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        **self == **other
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (**self).hash(hasher);
    }
}

impl From<&Key> for Bytes {
    fn from(key: &Key) -> Bytes {
        Bytes::copy_from_slice(key)
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Key) -> Ordering {
        (**self).cmp(&**other)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_takes_24_bytes() {
        assert_eq!(size_of::<Key>(), 24);
    }

    /// Zeros and ones, so that one key is often the beginning of another, with lengths on both
    /// sides of the limit.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0..2u8, 0..SHORT_LEN_MAX + 3)
    }

    proptest! {
        #[test]
        fn keys_are_their_bytes_and_ordered_by_them(one in bytes(), other in bytes()) {
            let (a, b) = (Key::from(&one[..]), Key::from(&other[..]));
            prop_assert_eq!(&a[..], &one[..]);
            prop_assert_eq!(a.cmp(&b), one.cmp(&other));
            prop_assert_eq!(a == b, one == other);
        }
    }
}
