//! [`Command`]: a write as it is in the log.
//!
//! | offset | size | field |
//! |-------:|-----:|-------|
//! | 0 | 1 | kind: 3 Put, 4 Append, 5 Txn, 6 Compact, 7 RaiseLevel, 8 SetLimits |
//! | 1 | 1 | length of the client id, at most 64 |
//! | 2 | 8 | request id, signed, little-endian |
//! | 10 | 8 | seen index, little-endian |
//! | 18 | 4 | length of the key, little-endian; 0 if the kind is neither Put nor Append |
//! | 22 | | client id, key, rest |
//!
//! | kind | rest |
//! |------|------|
//! | Put, Append | the value |
//! | Txn | the message `Txn` of `proto/store_rpc.proto` |
//! | Compact | 8 bytes: the revision |
//! | RaiseLevel | 4 bytes: the level |
//! | SetLimits | for each limit: 1 byte, whether it changes, and 8 bytes, the new one or 0 |
//!
//! The limits come in the order of [`Limits`](super::Limits). Another layout gets another kind.
//! Numbers are little-endian. Kinds 1 and 2 belonged to formats that were never released.
//!
//! These bytes are on disk, and members of different versions exchange them. The golden test below
//! must never change. All kinds belong to feature level 1. A message `Txn` with fields that this
//! version does not know is not refused, so a new field needs a feature level before it is
//! proposed.

use std::fmt;

use crate::rpc::prost::{self, Message as _};
use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::limits::LimitsChange;
use super::model::{self, Revision, Txn, TxnError, WireError};
use super::{CLIENT_ID_LEN_MAX, KEY_LEN_MAX, VALUE_LEN_MAX};
use syncraft_types::Index;

const KIND_PUT: u8 = 3;
const KIND_APPEND: u8 = 4;
const KIND_TXN: u8 = 5;
const KIND_COMPACT: u8 = 6;
const KIND_RAISE_LEVEL: u8 = 7;
const KIND_SET_LIMITS: u8 = 8;
const HEAD_LEN: usize = 22;

/// One write, as it is proposed, stored in the log and applied. While it is applied it borrows the
/// bytes of its entry (`B`).
#[derive(Clone, PartialEq, Eq)]
pub struct Command<B = Bytes> {
    /// Who writes.
    pub identity: Identity<B>,
    /// What is written.
    pub change: Change<B>,
}

/// Who writes, and which of its writes this is: a repeat takes effect once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity<B = Bytes> {
    /// The client that writes; at most [`CLIENT_ID_LEN_MAX`]. Empty, with `request_id` 0: nobody
    /// will repeat this write.
    pub client_id: B,
    /// Grows with each new write of the client. A repeat has the same one.
    pub request_id: i64,
    /// An applied index that the client had learned before it first sent this write. Zero: none.
    pub seen_index: Index,
}

/// What a command changes.
#[derive(Clone, PartialEq, Eq)]
pub enum Change<B = Bytes> {
    /// Replaces a value. The key loses its lease.
    Put {
        /// Any bytes, or none; at most [`KEY_LEN_MAX`].
        key: B,
        /// Any bytes, or none; at most [`VALUE_LEN_MAX`].
        value: B,
    },
    /// Appends to a value. An absent key counts as empty.
    Append {
        /// Any bytes, or none; at most [`KEY_LEN_MAX`].
        key: B,
        /// Any bytes, or none; at most [`VALUE_LEN_MAX`].
        value: B,
    },
    /// Runs a transaction.
    Txn(Txn),
    /// Forgets what the store was like before this revision.
    Compact {
        /// The oldest revision that can still be read afterwards.
        revision: Revision,
    },
    /// Raises the cluster's feature level.
    RaiseLevel(u32),
    /// Changes limits.
    SetLimits(LimitsChange),
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
    /// A command of fixed length is longer.
    #[error("command with {0} bytes too many")]
    TooLong(usize),
    /// The bytes are those of a command in another form: with fields that this version does not
    /// know. What they decide here and in a later version would differ.
    #[error("the command has parts that this version does not know")]
    UnknownParts,
    /// A client asks for a change that the leader alone makes.
    #[error("the feature level is the leader's to raise")]
    NotForClients,
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
    /// The bytes of a transaction are not a message.
    #[error("the transaction cannot be decoded")]
    NotAMessage(#[source] prost::DecodeError),
    /// The message is not a transaction of this version.
    #[error("the transaction makes no sense")]
    NotATxn(#[source] WireError),
    /// The transaction is over a limit.
    #[error("the transaction is over a limit")]
    Txn(#[source] TxnError),
}

impl Command {
    /// A write of a client that will not repeat it.
    pub fn unrepeated(change: Change) -> Command {
        Command { identity: Identity::default(), change }
    }

    /// As [`check_limits`](Self::check_limits), for a command that comes from outside a member.
    ///
    /// # Errors
    /// The same, and [`CommandError::NotForClients`].
    pub fn check_of_client(&self) -> Result<(), CommandError> {
        match self.change {
            Change::RaiseLevel(_) => Err(CommandError::NotForClients),
            _ => self.check_limits(),
        }
    }

    /// The bytes for the log.
    ///
    /// # Panics
    /// If the client id or the key is over its limit: see [`check_limits`](Self::check_limits).
    pub fn encode(&self) -> Bytes {
        let put = |kind, key: &Bytes, value: &Bytes| {
            let mut bytes = self.head(kind, key, value.len());
            bytes.put_slice(value);
            bytes
        };
        let bytes = match &self.change {
            Change::Put { key, value } => put(KIND_PUT, key, value),
            Change::Append { key, value } => put(KIND_APPEND, key, value),
            Change::Txn(txn) => {
                let message = model::proto::Txn::from(txn);
                let mut bytes = self.head(KIND_TXN, &Bytes::new(), message.encoded_len());
                message.encode(&mut bytes).expect("the buffer grows");
                bytes
            }
            Change::Compact { revision } => {
                let mut bytes = self.head(KIND_COMPACT, &Bytes::new(), 8);
                bytes.put_u64_le(revision.0);
                bytes
            }
            Change::RaiseLevel(level) => {
                let mut bytes = self.head(KIND_RAISE_LEVEL, &Bytes::new(), 4);
                bytes.put_u32_le(*level);
                bytes
            }
            Change::SetLimits(change) => {
                let mut bytes = self.head(KIND_SET_LIMITS, &Bytes::new(), LimitsChange::LEN_BYTES);
                change.encode(&mut bytes);
                bytes
            }
        };
        bytes.freeze()
    }

    /// The head, the client id and the key, with room for `rest` bytes.
    fn head(&self, kind: u8, key: &Bytes, rest: usize) -> BytesMut {
        let Identity { client_id, request_id, seen_index } = &self.identity;
        assert!(client_id.len() <= CLIENT_ID_LEN_MAX && key.len() <= KEY_LEN_MAX);
        let len = HEAD_LEN + client_id.len() + key.len() + rest;
        let mut bytes = BytesMut::with_capacity(len);
        bytes.put_u8(kind);
        // The casts lose nothing: the limits asserted above are 64 and 65,536.
        bytes.put_u8(client_id.len() as u8);
        bytes.put_i64_le(*request_id);
        bytes.put_u64_le(seen_index.0);
        bytes.put_u32_le(key.len() as u32);
        bytes.put_slice(client_id);
        bytes.put_slice(key);
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote. The parts share the buffer of `bytes`.
    ///
    /// # Errors
    /// [`CommandError`] if the bytes are not a command, whatever they are. Limits on lengths are
    /// not checked here.
    pub fn decode(bytes: &Bytes) -> Result<Command, CommandError> {
        Encoded::parse(bytes)?.command(bytes, |part| bytes.slice_ref(part))
    }

    /// As [`decode`](Self::decode), for bytes that no member has checked: a transaction with too
    /// many operations is refused before it takes memory.
    ///
    /// # Errors
    /// The same, and [`CommandError::Txn`].
    #[cfg(feature = "server")]
    pub(super) fn decode_of_client(bytes: &Bytes) -> Result<Command, CommandError> {
        let encoded = Encoded::parse(bytes)?;
        if encoded.kind == KIND_TXN {
            model::check_message(encoded.rest).map_err(CommandError::Txn)?;
        }
        encoded.command(bytes, |part| bytes.slice_ref(part))
    }
}

#[cfg(feature = "server")]
impl<'a> Command<&'a [u8]> {
    /// As [`Command::decode`], without a share in the buffer.
    pub(super) fn decode_borrowed(bytes: &'a Bytes) -> Result<Command<&'a [u8]>, CommandError> {
        Encoded::parse(bytes)?.command(bytes, |part| part)
    }
}

impl<B: AsRef<[u8]>> Command<B> {
    /// Checks each part against its limit. A member does this before it proposes the command.
    ///
    /// # Errors
    /// [`CommandError::TooLarge`], naming the part, or [`CommandError::Txn`].
    pub fn check_limits(&self) -> Result<(), CommandError> {
        match &self.change {
            Change::Put { key, value } | Change::Append { key, value } => {
                check_key_and_value(key.as_ref(), value.as_ref())?;
            }
            Change::Txn(txn) => txn.check().map_err(CommandError::Txn)?,
            Change::Compact { .. } | Change::RaiseLevel(_) | Change::SetLimits(_) => {}
        }
        check_len("client id", self.identity.client_id.as_ref().len(), CLIENT_ID_LEN_MAX)
    }

    /// Whether repeats of this write can be recognized.
    pub fn has_session(&self) -> bool {
        !(self.identity.client_id.as_ref().is_empty() && self.identity.request_id == 0)
    }
}

/// The parts of a command's bytes.
struct Encoded<'a> {
    kind: u8,
    client_id: &'a [u8],
    request_id: i64,
    seen_index: Index,
    key: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Encoded<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Encoded<'a>, CommandError> {
        let len = bytes.len();
        let cut_short = |needed| CommandError::CutShort { len, needed };
        let kind = *bytes.first().ok_or(cut_short(HEAD_LEN))?;
        if !(KIND_PUT..=KIND_SET_LIMITS).contains(&kind) {
            return Err(CommandError::UnknownKind(kind));
        }
        let (mut head, rest) = bytes.split_at_checked(HEAD_LEN).ok_or(cut_short(HEAD_LEN))?;
        head.advance(1);
        let client_id_len = usize::from(head.get_u8());
        let (request_id, seen_index) = (head.get_i64_le(), Index(head.get_u64_le()));
        let key_len = head.get_u32_le() as usize;
        let needed = HEAD_LEN.saturating_add(client_id_len).saturating_add(key_len);
        let cut = || cut_short(needed);
        let (client_id, rest) = rest.split_at_checked(client_id_len).ok_or_else(cut)?;
        let (key, rest) = rest.split_at_checked(key_len).ok_or_else(cut)?;
        Ok(Encoded { kind, client_id, request_id, seen_index, key, rest })
    }

    /// The command. `bytes` are those of which these are the parts.
    fn command<B>(
        &self,
        bytes: &Bytes,
        part: impl Fn(&'a [u8]) -> B,
    ) -> Result<Command<B>, CommandError> {
        let &Encoded { kind, client_id, request_id, seen_index, key, rest } = self;
        let identity = Identity { client_id: part(client_id), request_id, seen_index };
        let change = match kind {
            KIND_PUT => Change::Put { key: part(key), value: part(rest) },
            KIND_APPEND => Change::Append { key: part(key), value: part(rest) },
            _ => Change::decode(kind, bytes.slice_ref(rest))?,
        };
        Ok(Command { identity, change })
    }
}

impl<B> Change<B> {
    /// A change that is neither a put nor an append.
    fn decode(kind: u8, mut rest: Bytes) -> Result<Change<B>, CommandError> {
        let change = match kind {
            KIND_TXN => {
                let message = model::proto::Txn::decode(rest).map_err(CommandError::NotAMessage)?;
                return message.try_into().map(Change::Txn).map_err(CommandError::NotATxn);
            }
            KIND_COMPACT => {
                Change::Compact { revision: Revision(fixed(&mut rest, 8)?.get_u64_le()) }
            }
            KIND_RAISE_LEVEL => Change::RaiseLevel(fixed(&mut rest, 4)?.get_u32_le()),
            KIND_SET_LIMITS => {
                Change::SetLimits(LimitsChange::decode(fixed(&mut rest, LimitsChange::LEN_BYTES)?))
            }
            other => return Err(CommandError::UnknownKind(other)),
        };
        if rest.is_empty() { Ok(change) } else { Err(CommandError::TooLong(rest.len())) }
    }
}

/// The next `len` bytes.
fn fixed(rest: &mut Bytes, len: usize) -> Result<Bytes, CommandError> {
    match rest.len() < len {
        true => Err(CommandError::CutShort { len: HEAD_LEN + rest.len(), needed: HEAD_LEN + len }),
        false => Ok(rest.split_to(len)),
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

impl<B: AsRef<[u8]> + fmt::Debug> fmt::Debug for Command<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Command { identity, change } = self;
        f.debug_struct("Command").field("identity", identity).field("change", change).finish()
    }
}

/// Shows lengths in place of values, which may have 15 MiB.
impl<B: AsRef<[u8]>> fmt::Debug for Change<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut write = |name, key: &B, value: &B| {
            let (key, value) = (key.as_ref(), value.as_ref());
            let mut change = f.debug_struct(name);
            change.field("key_len", &key.len()).field("value_len", &value.len()).finish()
        };
        match self {
            Change::Put { key, value } => write("Put", key, value),
            Change::Append { key, value } => write("Append", key, value),
            Change::Txn(txn) => f.debug_tuple("Txn").field(txn).finish(),
            Change::Compact { revision } => write!(f, "Compact({revision})"),
            Change::RaiseLevel(level) => write!(f, "RaiseLevel({level})"),
            Change::SetLimits(change) => f.debug_tuple("SetLimits").field(change).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kv::model::{Action, Compare};

    fn identity() -> Identity {
        let (client_id, seen_index) = (Bytes::from_static(b"42"), Index(0x0102));
        Identity { client_id, request_id: -2, seen_index }
    }

    fn command(change: Change) -> Command {
        Command { identity: identity(), change }
    }

    fn put() -> Change {
        Change::Put { key: Bytes::from_static(b"k\0y"), value: Bytes::from_static(b"value") }
    }

    fn append() -> Change {
        Change::Append { key: Bytes::from_static(b"k\0y"), value: Bytes::from_static(b"value") }
    }

    fn txn() -> Change {
        Change::Txn(Txn {
            compare: vec![Compare::absent("k")],
            then: vec![Action::put("k", "v").into()],
            otherwise: vec![Action::increment("n", -1).into()],
        })
    }

    fn set_limits() -> Change {
        Change::SetLimits(LimitsChange { keys_max: Some(7), ..LimitsChange::default() })
    }

    fn every_change() -> [Change; 6] {
        let compact = Change::Compact { revision: Revision(0x0304) };
        [put(), append(), txn(), compact, Change::RaiseLevel(2), set_limits()]
    }

    #[test]
    fn bytes_in_the_log_never_change() {
        let check = |change: Change, kind: u8, key_len: u8, rest: &[u8]| {
            let mut golden = vec![kind, 2];
            golden.extend(b"\xfe\xff\xff\xff\xff\xff\xff\xff\x02\x01\0\0\0\0\0\0");
            golden.extend([key_len, 0, 0, 0]);
            golden.extend(b"42");
            golden.extend(rest);
            let encoded = command(change.clone()).encode();
            assert_eq!(encoded.escape_ascii().to_string(), golden.escape_ascii().to_string());
            assert_eq!(Command::decode(&encoded), Ok(command(change)));
        };
        check(put(), 3, 3, b"k\0yvalue");
        check(append(), 4, 3, b"k\0yvalue");
        let message = [
            &b"\x0a\x07\x0a\x03\x0a\x01k\x20\0"[..],
            b"\x12\x0a\x0a\x08\x0a\x01k\x12\x01v\x18\0",
            b"\x1a\x07\x1a\x05\x0a\x01n\x10\x01",
        ];
        check(txn(), 5, 0, &message.concat());
        check(Change::Compact { revision: Revision(0x0304) }, 6, 0, b"\x04\x03\0\0\0\0\0\0");
        check(Change::RaiseLevel(2), 7, 0, b"\x02\0\0\0");
        let limits = [&[0; 9][..], b"\x01\x07\0\0\0\0\0\0\0", &[0; 9]].concat();
        check(set_limits(), 8, 0, &limits);
    }

    #[test]
    fn every_part_may_be_empty() {
        let empty = Change::Put { key: Bytes::new(), value: Bytes::new() };
        let empty = Command::unrepeated(empty);
        assert_eq!(empty.encode().len(), HEAD_LEN);
        assert_eq!(Command::decode(&empty.encode()), Ok(empty.clone()));
        assert!(!empty.has_session());
        let identity = Identity { request_id: 1, ..Identity::default() };
        assert!(Command { identity, ..empty }.has_session());
    }

    #[test]
    fn a_command_cut_anywhere_before_its_value_is_refused() {
        let whole = command(put()).encode();
        for len in 0..whole.len() - b"value".len() {
            let cut = Command::decode(&whole.slice(..len));
            assert!(
                matches!(cut, Err(CommandError::CutShort { len: l, .. }) if l == len),
                "{len}: {cut:?}"
            );
        }
    }

    #[test]
    fn a_command_of_fixed_length_has_that_length() {
        for change in every_change().into_iter().skip(3) {
            let whole = command(change).encode();
            let cut = Command::decode(&whole.slice(..whole.len() - 1));
            assert!(matches!(cut, Err(CommandError::CutShort { .. })), "{cut:?}");
            let longer = [&whole[..], b"!"].concat().into();
            assert_eq!(Command::decode(&longer), Err(CommandError::TooLong(1)));
        }
    }

    #[test]
    fn unknown_kinds_are_refused() {
        for kind in [0, 1, 2, 9, 255] {
            let bytes = Bytes::from(vec![kind; 40]);
            assert_eq!(Command::decode(&bytes), Err(CommandError::UnknownKind(kind)));
        }
    }

    #[test]
    fn a_transaction_that_makes_no_sense_is_refused() {
        let check = |rest: &[u8]| {
            let head = command(Change::Txn(Txn::default())).encode();
            Command::decode(&[&head[..], rest].concat().into()).unwrap_err()
        };
        assert!(matches!(check(b"\xff"), CommandError::NotAMessage(_)));
        // An operation without an action, and a comparison without keys.
        let missing = |error| matches!(error, CommandError::NotATxn(WireError::Missing { .. }));
        assert!(missing(check(b"\x12\0")));
        assert!(missing(check(b"\x0a\x02\x20\0")));
        // The relation 9.
        let unknown = check(b"\x0a\x06\x0a\0\x10\x09\x20\0");
        assert!(matches!(unknown, CommandError::NotATxn(WireError::Unknown { number: 9, .. })));
    }

    #[test]
    fn limits_name_the_part() {
        let check = |part, command: Command| match command.check_limits() {
            Err(CommandError::TooLarge { part: named, .. }) => assert_eq!(named, part),
            Ok(()) => panic!("{part} passed"),
            Err(other) => panic!("{other}"),
        };
        every_change().into_iter().for_each(|it| assert_eq!(command(it).check_limits(), Ok(())));
        let (key, value) = (vec![0; KEY_LEN_MAX + 1].into(), Bytes::new());
        check("key", command(Change::Put { key, value }));
        let (key, value) = (Bytes::new(), vec![0; VALUE_LEN_MAX + 1].into());
        check("value", command(Change::Append { key, value }));
        let client_id = vec![0; CLIENT_ID_LEN_MAX + 1].into();
        check(
            "client id",
            Command { identity: Identity { client_id, ..identity() }, change: txn() },
        );
    }

    fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..=max).prop_map(Bytes::from)
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            is_put in any::<bool>(), key in bytes(300), value in bytes(300),
            client_id in bytes(CLIENT_ID_LEN_MAX), request_id in any::<i64>(), seen in any::<u64>(),
        ) {
            let change = match is_put {
                true => Change::Put { key, value },
                false => Change::Append { key, value },
            };
            let identity = Identity { client_id, request_id, seen_index: Index(seen) };
            let command = Command { identity, change };
            prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
        }

        #[test]
        fn garbage_is_an_error_or_a_command(kind in 0..10u8, garbage in bytes(80)) {
            let bytes = [&[kind], &garbage[..]].concat().into();
            if let Ok(command) = Command::decode(&bytes)
                && command.check_limits().is_ok() {
                prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
            }
        }
    }
}
