//! [`Value`]: a value as the state machine holds it.
//!
//! A short value is stored in the tree's node itself, like a short [`Key`](super::Key). A long one
//! has a buffer of its own. It is never a slice of the network frame or log entry that brought it;
//! otherwise one small value could keep 16 MiB alive.

use std::ops::Deref;

use bytes::{Bytes, BytesMut};

/// The longest value that needs no memory of its own.
const SHORT_LEN_MAX: usize = 22;

/// Any bytes. A clone copies 32 bytes and shares the buffer of a long value.
#[derive(Clone, Debug)]
pub(in crate::kv) enum Value {
    /// `len` bytes, followed by zeros.
    Short {
        len: u8,
        bytes: [u8; SHORT_LEN_MAX],
    },
    Long(Bytes),
}

impl Value {
    /// The value as bytes. Those of a long one share its buffer.
    pub(in crate::kv) fn to_bytes(&self) -> Bytes {
        match self {
            Value::Short { .. } => Bytes::copy_from_slice(self),
            Value::Long(bytes) => bytes.clone(),
        }
    }

    /// The first `len` bytes. A slice that is less than half of its buffer becomes a copy, because
    /// it would keep much more alive than it counts for.
    pub(in crate::kv) fn prefix(&self, len: usize) -> Value {
        match self {
            Value::Long(bytes) if len > SHORT_LEN_MAX && len >= bytes.len() / 2 => {
                Value::Long(bytes.slice(..len))
            }
            _ => Value::from(&self[..len]),
        }
    }

    /// Appends `more`. A buffer that nobody else holds grows in place, with room to spare, so
    /// building a value from many appends takes time in proportion to its length.
    pub(in crate::kv) fn append(&mut self, more: &[u8]) {
        let len = self.len() + more.len();
        let grown = match std::mem::replace(self, Value::from(&[][..])) {
            short @ Value::Short { .. } if len <= SHORT_LEN_MAX => {
                let mut bytes = [0; SHORT_LEN_MAX];
                bytes[..short.len()].copy_from_slice(&short);
                bytes[short.len()..len].copy_from_slice(more);
                *self = Value::Short { len: len as u8, bytes };
                return;
            }
            short @ Value::Short { .. } => with_room(&short, more.len()),
            Value::Long(bytes) => {
                bytes.try_into_mut().unwrap_or_else(|shared| with_room(&shared, more.len()))
            }
        };
        let mut grown = grown;
        grown.extend_from_slice(more);
        *self = Value::Long(grown.freeze());
    }
}

/// A copy of `value` with room for `more` bytes.
fn with_room(value: &[u8], more: usize) -> BytesMut {
    let mut copy = BytesMut::with_capacity(value.len() + more);
    copy.extend_from_slice(value);
    copy
}

/// For a buffer that nobody else holds: a long value keeps it.
impl From<Bytes> for Value {
    fn from(value: Bytes) -> Value {
        if value.len() > SHORT_LEN_MAX { Value::Long(value) } else { Value::from(&value[..]) }
    }
}

impl From<&[u8]> for Value {
    fn from(value: &[u8]) -> Value {
        if value.len() > SHORT_LEN_MAX {
            return Value::Long(Bytes::copy_from_slice(value));
        }
        let mut bytes = [0; SHORT_LEN_MAX];
        bytes[..value.len()].copy_from_slice(value);
        Value::Short { len: value.len() as u8, bytes }
    }
}

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Value::Short { len, bytes } => &bytes[..usize::from(*len)],
            Value::Long(bytes) => bytes,
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        **self == **other
    }
}

impl Eq for Value {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_takes_32_bytes() {
        assert_eq!(size_of::<Value>(), 32);
    }

    proptest! {
        #[test]
        fn appends_and_prefixes_are_those_of_bytes(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 1..5),
            at in any::<prop::sample::Index>(),
        ) {
            let mut value = Value::from(&parts[0][..]);
            // Held by somebody else, so that its buffer cannot grow in place.
            let first = value.clone();
            parts[1..].iter().for_each(|part| value.append(part));
            let whole = parts.concat();
            prop_assert_eq!(&value[..], &whole[..]);
            prop_assert_eq!(&first[..], &parts[0][..]);
            prop_assert_eq!(value.to_bytes(), &whole[..]);
            let len = at.index(whole.len() + 1);
            prop_assert_eq!(&value.prefix(len)[..], &whole[..len]);
        }
    }
}
