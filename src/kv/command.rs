//! [`Command`]: a write as it is in the log.
//!
//! | offset | size | field |
//! |-------:|-----:|-------|
//! | 0 | 1 | kind: 1 Put, 2 Append. Another layout gets another number, so this byte is the version, too |
//! | 1 | 1 | length of the client id, at most 64 |
//! | 2 | 8 | request id, signed, little-endian |
//! | 10 | 8 | seen index, little-endian |
//! | 18 | 4 | length of the key, little-endian |
//! | 22 | | client id, key, value. The value is the rest, so its length is not stored |
//!
//! These bytes are on disk, and members of different versions exchange them. The golden test below
//! must never change.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{CLIENT_ID_LEN_MAX, KEY_LEN_MAX, VALUE_LEN_MAX};
use syncraft_types::Index;

const KIND_PUT: u8 = 1;
const KIND_APPEND: u8 = 2;
const HEAD_LEN: usize = 22;

/// What a write does to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Replaces the value.
    Put,
    /// Appends to the value. An absent key counts as empty.
    Append,
}

/// One write, as it is proposed, stored in the log and applied.
#[derive(Clone, PartialEq, Eq)]
pub struct Command {
    /// Put or Append.
    pub op: Op,
    /// Any bytes, or none; at most [`KEY_LEN_MAX`].
    pub key: Bytes,
    /// Any bytes, or none; at most [`VALUE_LEN_MAX`].
    pub value: Bytes,
    /// The client that writes; at most [`CLIENT_ID_LEN_MAX`]. Empty, with `request_id` 0: no
    /// session.
    pub client_id: Bytes,
    /// Grows with each new write of the client. A retry repeats it.
    pub request_id: i64,
    /// An applied index that the client had learned before it first sent this write. Zero: none.
    pub seen_index: Index,
}

/// Why bytes are not a command, or a command must not be proposed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// This version does not know the first byte.
    #[error("command of unknown kind {0}")]
    UnknownKind(u8),
    /// There are fewer bytes than the head announces.
    #[error("command of {len} bytes is cut short: {needed} needed")]
    CutShort {
        /// How many there are.
        len: usize,
        /// How many there must be at least.
        needed: usize,
    },
    /// A part is over its limit.
    #[error("{part} of {len} bytes is over the limit of {max}")]
    TooLarge {
        /// "key", "value" or "client id".
        part: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
}

impl Command {
    /// Checks each part against its limit. A member does this before it proposes the command.
    ///
    /// # Errors
    /// [`CommandError::TooLarge`], naming the part.
    pub fn check_limits(&self) -> Result<(), CommandError> {
        check_key_and_value(&self.key, &self.value)?;
        check_len("client id", self.client_id.len(), CLIENT_ID_LEN_MAX)
    }

    /// The bytes for the log.
    ///
    /// # Panics
    /// If the client id or the key is over its limit: see [`check_limits`](Self::check_limits).
    pub fn encode(&self) -> Bytes {
        assert!(self.client_id.len() <= CLIENT_ID_LEN_MAX && self.key.len() <= KEY_LEN_MAX);
        let len = HEAD_LEN + self.client_id.len() + self.key.len() + self.value.len();
        let mut bytes = BytesMut::with_capacity(len);
        bytes.put_u8(match self.op {
            Op::Put => KIND_PUT,
            Op::Append => KIND_APPEND,
        });
        // The casts lose nothing: the limits asserted above are 64 and 65,536.
        bytes.put_u8(self.client_id.len() as u8);
        bytes.put_i64_le(self.request_id);
        bytes.put_u64_le(self.seen_index.0);
        bytes.put_u32_le(self.key.len() as u32);
        bytes.put_slice(&self.client_id);
        bytes.put_slice(&self.key);
        bytes.put_slice(&self.value);
        bytes.freeze()
    }

    /// Reads what [`encode`](Self::encode) wrote. The parts share the buffer of `bytes`.
    ///
    /// # Errors
    /// [`CommandError`] if the bytes are not a command, whatever they are. Limits on lengths are
    /// not checked here.
    pub fn decode(bytes: &Bytes) -> Result<Command, CommandError> {
        let len = bytes.len();
        let needed = |needed| {
            if len < needed { Err(CommandError::CutShort { len, needed }) } else { Ok(()) }
        };
        let op = match bytes.first() {
            Some(&KIND_PUT) => Op::Put,
            Some(&KIND_APPEND) => Op::Append,
            Some(&other) => return Err(CommandError::UnknownKind(other)),
            None => return Err(CommandError::CutShort { len, needed: HEAD_LEN }),
        };
        needed(HEAD_LEN)?;
        let mut rest = bytes.slice(1..);
        let client_id_len = usize::from(rest.get_u8());
        let request_id = rest.get_i64_le();
        let seen_index = Index(rest.get_u64_le());
        let key_len = rest.get_u32_le() as usize;
        needed(HEAD_LEN.saturating_add(client_id_len).saturating_add(key_len))?;
        let client_id = rest.split_to(client_id_len);
        let key = rest.split_to(key_len);
        Ok(Command { op, key, value: rest, client_id, request_id, seen_index })
    }

    /// Whether this write has a session, so that its retries can be recognized.
    pub fn has_session(&self) -> bool {
        !(self.client_id.is_empty() && self.request_id == 0)
    }
}

/// Checks the parts that a client chooses, before it sends them and before a member proposes them.
pub(crate) fn check_key_and_value(key: &[u8], value: &[u8]) -> Result<(), CommandError> {
    check_len("key", key.len(), KEY_LEN_MAX)?;
    check_len("value", value.len(), VALUE_LEN_MAX)
}

fn check_len(part: &'static str, len: usize, max: usize) -> Result<(), CommandError> {
    if len > max { Err(CommandError::TooLarge { part, len, max }) } else { Ok(()) }
}

/// Shows lengths in place of values, which may have 15 MiB.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("op", &self.op)
            .field("key_len", &self.key.len())
            .field("value_len", &self.value.len())
            .field("client_id", &self.client_id)
            .field("request_id", &self.request_id)
            .field("seen_index", &self.seen_index.0)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn command(op: Op) -> Command {
        Command {
            op,
            key: Bytes::from_static(b"k\x00y"),
            value: Bytes::from_static(b"value"),
            client_id: Bytes::from_static(b"42"),
            request_id: -2,
            seen_index: Index(0x0102),
        }
    }

    #[test]
    fn bytes_in_the_log_never_change() {
        let golden =
            b"\x01\x02\xfe\xff\xff\xff\xff\xff\xff\xff\x02\x01\0\0\0\0\0\0\x03\0\0\x0042k\0yvalue";
        assert_eq!(command(Op::Put).encode(), golden[..]);
        let mut append = golden.to_vec();
        append[0] = 2;
        assert_eq!(command(Op::Append).encode(), append);
        assert_eq!(Command::decode(&Bytes::from(append)), Ok(command(Op::Append)));
    }

    #[test]
    fn every_part_may_be_empty() {
        let empty = Command {
            op: Op::Put,
            key: Bytes::new(),
            value: Bytes::new(),
            client_id: Bytes::new(),
            request_id: 0,
            seen_index: Index::ZERO,
        };
        assert_eq!(empty.encode().len(), HEAD_LEN);
        assert_eq!(Command::decode(&empty.encode()), Ok(empty.clone()));
        assert!(!empty.has_session());
        assert!(Command { request_id: 1, ..empty }.has_session());
    }

    #[test]
    fn a_command_cut_anywhere_before_its_value_is_refused() {
        let whole = command(Op::Put).encode();
        for len in 0..whole.len() - b"value".len() {
            let cut = Command::decode(&whole.slice(..len));
            assert!(
                matches!(cut, Err(CommandError::CutShort { len: l, .. }) if l == len),
                "{len}: {cut:?}"
            );
        }
    }

    #[test]
    fn unknown_kinds_are_refused() {
        for kind in [0, 3, 255] {
            let bytes = Bytes::from(vec![kind; 40]);
            assert_eq!(Command::decode(&bytes), Err(CommandError::UnknownKind(kind)));
        }
    }

    #[test]
    fn limits_name_the_part() {
        let check = |part, command: Command| match command.check_limits() {
            Err(CommandError::TooLarge { part: named, .. }) => assert_eq!(named, part),
            Ok(()) => panic!("{part} passed"),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(command(Op::Put).check_limits(), Ok(()));
        check("key", Command { key: vec![0; KEY_LEN_MAX + 1].into(), ..command(Op::Put) });
        check("value", Command { value: vec![0; VALUE_LEN_MAX + 1].into(), ..command(Op::Put) });
        check(
            "client id",
            Command { client_id: vec![0; CLIENT_ID_LEN_MAX + 1].into(), ..command(Op::Put) },
        );
    }

    fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..=max).prop_map(Bytes::from)
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            put in any::<bool>(), key in bytes(300), value in bytes(300),
            client_id in bytes(CLIENT_ID_LEN_MAX), request_id in any::<i64>(), seen in any::<u64>(),
        ) {
            let op = if put { Op::Put } else { Op::Append };
            let command = Command { op, key, value, client_id, request_id, seen_index: Index(seen) };
            prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
        }

        #[test]
        fn garbage_is_an_error_or_a_command_that_encodes_to_itself(garbage in bytes(80)) {
            if let Ok(command) = Command::decode(&garbage)
                && command.check_limits().is_ok() {
                prop_assert_eq!(command.encode(), garbage);
            }
        }
    }
}
