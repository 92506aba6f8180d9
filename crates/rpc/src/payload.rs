//! How arguments and replies are serialized: [`Payload`].

use bincode::Options;
use bytes::Bytes;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The number of protobuf on the wire.
pub(super) const CODEC_PROTOBUF: u32 = 0;
/// The number of bincode on the wire.
pub(super) const CODEC_BINCODE: u32 = 1;

/// Arguments or a reply: every protobuf message, and any serde type in a [`Bincode`].
pub trait Payload: Sized {
    /// The number of its serialization on the wire. It must be that of its service
    /// ([`Service::codec`](super::Service::codec)).
    const CODEC: u32;

    /// How many bytes [`write`](Payload::write) will write.
    ///
    /// # Errors
    ///
    /// [`PayloadError`]: it cannot be serialized.
    fn measure(&self) -> Result<usize, PayloadError>;

    /// Appends its serialization to `out`, which grows as needed. Called only after
    /// [`measure`](Payload::measure), with no change in between.
    fn write(&self, out: &mut Vec<u8>);

    /// The value that all of `bytes` are.
    ///
    /// # Errors
    ///
    /// [`PayloadError`]: they are no such value.
    fn read(bytes: Bytes) -> Result<Self, PayloadError>;
}

/// Why a value cannot be serialized, or bytes are no such value.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct PayloadError(Box<dyn std::error::Error + Send + Sync>);

impl<M: Message + Default> Payload for M {
    const CODEC: u32 = CODEC_PROTOBUF;

    fn measure(&self) -> Result<usize, PayloadError> {
        Ok(self.encoded_len())
    }

    fn write(&self, out: &mut Vec<u8>) {
        self.encode(out).expect("a Vec grows as needed");
    }

    fn read(bytes: Bytes) -> Result<Self, PayloadError> {
        M::decode(bytes).map_err(|error| PayloadError(error.into()))
    }
}

/// A Rust value, serialized by serde and bincode 1.3: numbers of fixed length, little-endian.
///
/// For services whose both sides are written in Rust and built together, because one field more is
/// another format. And for callers that are trusted: bincode 1.3 does not bound the depth of a
/// recursive type, which can use up the stack, nor the number of values of zero size. Do not let
/// strangers send such types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bincode<T>(pub T);

impl<T: Serialize + DeserializeOwned> Payload for Bincode<T> {
    const CODEC: u32 = CODEC_BINCODE;

    fn measure(&self) -> Result<usize, PayloadError> {
        let len = options(u64::MAX).serialized_size(&self.0).map_err(PayloadError::new)?;
        usize::try_from(len).map_err(PayloadError::new)
    }

    fn write(&self, out: &mut Vec<u8>) {
        options(u64::MAX).serialize_into(out, &self.0).expect("it was measured, and a Vec grows");
    }

    fn read(bytes: Bytes) -> Result<Self, PayloadError> {
        // With this limit a length that cannot be true is refused before memory is allocated for
        // it.
        options(bytes.len() as u64).deserialize(&bytes).map(Bincode).map_err(PayloadError::new)
    }
}

impl PayloadError {
    /// For your own implementations of [`Payload`].
    pub fn new(error: impl std::error::Error + Send + Sync + 'static) -> PayloadError {
        PayloadError(Box::new(error))
    }
}

/// Refuses bytes behind the value.
fn options(limit: u64) -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(limit)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn written<P: Payload>(value: &P) -> Bytes {
        let mut out = Vec::new();
        value.write(&mut out);
        assert_eq!(out.len(), value.measure().unwrap());
        out.into()
    }

    #[test]
    fn bytes_that_are_none_are_refused() {
        let bytes = written(&Bincode((7u32, "seven".to_owned())));
        for len in 0..bytes.len() {
            assert!(Bincode::<(u32, String)>::read(bytes.slice(..len)).is_err(), "{len}");
        }
        assert!(Bincode::<u32>::read(bytes).is_err(), "with something behind it");
        // A length of 2^64 - 1.
        assert!(Bincode::<Vec<u8>>::read(Bytes::from_static(&[0xff; 8])).is_err());
        assert!(<String as Payload>::read(Bytes::from_static(&[0x0a, 5, b'x'])).is_err());
    }

    proptest! {
        #[test]
        fn values_round_trip(value: BTreeMap<String, (Option<u64>, Vec<i8>)>, text: String) {
            let value = Bincode(value);
            prop_assert_eq!(Bincode::read(written(&value)).unwrap(), value);
            prop_assert_eq!(<String as Payload>::read(written(&text)).unwrap(), text);
        }
    }
}
