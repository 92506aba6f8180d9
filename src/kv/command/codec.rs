//! The bytes of a [`Command`].
//!
//! | offset | size | field |
//! |-------:|-----:|-------|
//! | 0 | 1 | kind: see below |
//! | 1 | 1 | length of the client id, at most 64 |
//! | 2 | 8 | request id, signed, little-endian |
//! | 10 | 8 | seen index, little-endian |
//! | 18 | 4 | length of the key, little-endian; 0 if the kind is none of Put, Append, TxnOnce |
//! | 22 | | client id, key, rest |
//! | | 8 | of a stamped kind, once it is in the log: the stamp, in milliseconds |
//!
//! | kind | | rest |
//! |-----:|-|------|
//! | 3, 4 | Put, Append | the value |
//! | 5 | Txn without a time to live | the message `Txn` of `proto/store_rpc.proto` |
//! | 6 | Compact | 8 bytes: the revision |
//! | 7 | RaiseLevel | 4 bytes: the level |
//! | 8 | SetLimits | for each limit: 1 byte, whether it changes, and 8 bytes, the new one or 0. The limit on leases is left out if it does not change |
//! | 9 | LeaseGrant, stamped | 8 bytes: the time to live in milliseconds; 8 bytes: the lease, or 0 |
//! | 10 | LeaseRevoke, stamped | 8 bytes: the lease |
//! | 11 | LeaseKeepAlive, stamped | 4 bytes: how many; 8 bytes for each: the lease |
//! | 12 | Time, stamped | nothing |
//! | 13 | Txn with a put that has a time to live, stamped | 4 bytes: the length of the message; the message `Txn` |
//! | 14 | TxnOnce, stamped; the key is that of the request | 8 bytes: the fingerprint; as kind 13 |
//!
//! The limits come in the order of [`Limits`](crate::kv::Limits). Another layout gets another kind.
//! Numbers are little-endian. Kinds 1 and 2 belonged to formats that were never released.
//!
//! A client and a member write a command without a stamp; the leader adds it when it appends the
//! command to its log. The first byte says whether a command has one. Each stamped kind knows its
//! length without the stamp, so a command that lacks its stamp is not mistaken for another one.
//!
//! These bytes are on disk, and members of different versions exchange them. The golden test of
//! this module must never change. All kinds belong to feature level 1. A message `Txn` with fields
//! that this version does not know is not refused, so a new field needs a feature level before it
//! is proposed.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Change, Command, CommandError, Identity, Stamped};
use crate::kv::limits::LimitsChange;
use crate::kv::model::{self, LeaseId, Revision, Txn};
use crate::kv::{CLIENT_ID_LEN_MAX, KEY_LEN_MAX};
use crate::rpc::prost::Message as _;
use syncraft_types::Index;

const KIND_PUT: u8 = 3;
const KIND_APPEND: u8 = 4;
const KIND_TXN: u8 = 5;
const KIND_COMPACT: u8 = 6;
const KIND_RAISE_LEVEL: u8 = 7;
const KIND_SET_LIMITS: u8 = 8;
const KIND_LEASE_GRANT: u8 = 9;
const KIND_LEASE_REVOKE: u8 = 10;
const KIND_LEASE_KEEP_ALIVE: u8 = 11;
const KIND_TIME: u8 = 12;
const KIND_TXN_WITH_TTL: u8 = 13;
const KIND_TXN_ONCE: u8 = 14;
pub(super) const HEAD_LEN: usize = 22;
const STAMP_LEN: usize = 8;

impl Command {
    /// The bytes of a command, without a stamp.
    ///
    /// # Panics
    /// If the client id or the key is over its limit: see [`check_limits`](Self::check_limits).
    pub fn encode(&self) -> Bytes {
        let no_key = &Bytes::new();
        let put = |kind, key: &Bytes, value: &Bytes| {
            let mut bytes = self.head(kind, key, value.len());
            bytes.put_slice(value);
            bytes
        };
        let numbers = |kind, numbers: &[u64]| {
            let mut bytes = self.head(kind, no_key, 8 * numbers.len());
            numbers.iter().for_each(|&number| bytes.put_u64_le(number));
            bytes
        };
        let bytes = match &self.change {
            Change::Put { key, value } => put(KIND_PUT, key, value),
            Change::Append { key, value } => put(KIND_APPEND, key, value),
            Change::Txn(txn) => self.encode_txn(txn),
            Change::TxnOnce { key, fingerprint, txn } => {
                let message = model::proto::Txn::from(txn);
                let rest = 8 + 4 + message.encoded_len() + STAMP_LEN;
                let mut bytes = self.head(KIND_TXN_ONCE, key, rest);
                bytes.put_u64_le(*fingerprint);
                put_message(&mut bytes, &message);
                bytes
            }
            Change::Compact { revision } => numbers(KIND_COMPACT, &[revision.0]),
            Change::RaiseLevel(level) => {
                let mut bytes = self.head(KIND_RAISE_LEVEL, no_key, 4);
                bytes.put_u32_le(*level);
                bytes
            }
            Change::SetLimits(change) => {
                let mut bytes = self.head(KIND_SET_LIMITS, no_key, change.len_bytes());
                change.encode(&mut bytes);
                bytes
            }
            Change::LeaseGrant { ttl_ms, id } => numbers(KIND_LEASE_GRANT, &[*ttl_ms, id.0]),
            Change::LeaseRevoke { id } => numbers(KIND_LEASE_REVOKE, &[id.0]),
            Change::LeaseKeepAlive { ids } => {
                let mut bytes = self.head(KIND_LEASE_KEEP_ALIVE, no_key, 4 + 8 * ids.len());
                bytes.put_u32_le(u32::try_from(ids.len()).expect("the caller checks the limit"));
                ids.iter().for_each(|id| bytes.put_u64_le(id.0));
                bytes
            }
            Change::Time => self.head(KIND_TIME, no_key, 0),
        };
        bytes.freeze()
    }

    fn encode_txn(&self, txn: &Txn) -> BytesMut {
        let message = model::proto::Txn::from(txn);
        let len = message.encoded_len();
        if txn.has_ttl() {
            let mut bytes = self.head(KIND_TXN_WITH_TTL, &Bytes::new(), 4 + len + STAMP_LEN);
            put_message(&mut bytes, &message);
            bytes
        } else {
            let mut bytes = self.head(KIND_TXN, &Bytes::new(), len);
            message.encode(&mut bytes).expect("the buffer grows");
            bytes
        }
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
    pub(in crate::kv) fn decode_of_client(bytes: &Bytes) -> Result<Command, CommandError> {
        let encoded = Encoded::parse(bytes)?;
        if let Some(message) = encoded.txn()? {
            model::check_message(message).map_err(CommandError::Txn)?;
        }
        encoded.command(bytes, |part| bytes.slice_ref(part))
    }

    /// Reads an entry of the log: what [`encode`](Self::encode) wrote, and the leader's stamp if
    /// the kind has one.
    ///
    /// # Errors
    /// As [`decode`](Self::decode). A stamped kind without its stamp is cut short.
    pub fn decode_logged(bytes: &Bytes) -> Result<Stamped<Command>, CommandError> {
        let (unstamped, stamp_ms) = split_stamp(bytes)?;
        Ok(Stamped { command: Command::decode(&bytes.slice_ref(unstamped))?, stamp_ms })
    }

    /// Whether the leader adds a stamp to a command that begins so.
    #[cfg(feature = "server")]
    pub(in crate::kv) fn is_stamped(bytes: &[u8]) -> bool {
        bytes.first().is_some_and(|kind| is_stamped(*kind))
    }

    /// Whether a command that begins so keeps leases alive.
    #[cfg(feature = "server")]
    pub(in crate::kv) fn keeps_alive(bytes: &[u8]) -> bool {
        bytes.first() == Some(&KIND_LEASE_KEEP_ALIVE)
    }
}

#[cfg(feature = "server")]
impl<'a> Command<&'a [u8]> {
    /// As [`Command::decode_logged`], without a share in the buffer.
    pub(in crate::kv) fn decode_borrowed(
        bytes: &'a Bytes,
    ) -> Result<Stamped<Command<&'a [u8]>>, CommandError> {
        let (unstamped, stamp_ms) = split_stamp(bytes)?;
        let command = Encoded::parse(unstamped)?.command(bytes, |part| part)?;
        Ok(Stamped { command, stamp_ms })
    }
}

/// A message behind its length.
fn put_message(bytes: &mut BytesMut, message: &model::proto::Txn) {
    let len = message.encoded_len();
    bytes.put_u32_le(u32::try_from(len).expect("a transaction has less than 4 GiB"));
    message.encode(bytes).expect("the buffer grows");
}

fn is_stamped(kind: u8) -> bool {
    (KIND_LEASE_GRANT..=KIND_TXN_ONCE).contains(&kind)
}

/// A command of the log without its stamp, and the stamp if its kind has one.
fn split_stamp(bytes: &[u8]) -> Result<(&[u8], Option<u64>), CommandError> {
    if !bytes.first().is_some_and(|kind| is_stamped(*kind)) {
        return Ok((bytes, None));
    }
    let needed = HEAD_LEN + STAMP_LEN;
    let cut_short = CommandError::CutShort { len: bytes.len(), needed };
    let (unstamped, stamp) = bytes.split_last_chunk().ok_or(cut_short)?;
    Ok((unstamped, Some(u64::from_le_bytes(*stamp))))
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
        if !(KIND_PUT..=KIND_TXN_ONCE).contains(&kind) {
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

    /// The message of a transaction.
    fn txn(&self) -> Result<Option<&'a [u8]>, CommandError> {
        match self.kind {
            KIND_TXN => Ok(Some(self.rest)),
            KIND_TXN_WITH_TTL | KIND_TXN_ONCE => {
                let mut rest = self.rest;
                if self.kind == KIND_TXN_ONCE {
                    number(&mut rest)?;
                }
                let len = u32::from_le_bytes(*fixed::<4>(&mut rest)?) as usize;
                match rest.len().checked_sub(len) {
                    Some(0) => Ok(Some(rest)),
                    Some(more) => Err(CommandError::TooLong(more)),
                    None => Err(cut_short(rest.len(), len)),
                }
            }
            _ => Ok(None),
        }
    }

    /// The command. `bytes` has the buffer of which these are the parts.
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
            _ => match self.txn()? {
                Some(message) => {
                    let txn = decode_txn(kind, bytes.slice_ref(message))?;
                    match kind {
                        KIND_TXN_ONCE => Change::TxnOnce {
                            key: part(key),
                            fingerprint: number(&mut { rest })?,
                            txn,
                        },
                        _ => Change::Txn(txn),
                    }
                }
                None => Change::decode(kind, rest)?,
            },
        };
        Ok(Command { identity, change })
    }
}

fn decode_txn(kind: u8, message: Bytes) -> Result<Txn, CommandError> {
    let message = model::proto::Txn::decode(message).map_err(CommandError::NotAMessage)?;
    let txn = Txn::try_from(message).map_err(CommandError::NotATxn)?;
    if kind == KIND_TXN && txn.has_ttl() { Err(CommandError::NoStamp) } else { Ok(txn) }
}

impl<B> Change<B> {
    /// A change that is neither a put nor an append nor a transaction.
    fn decode(kind: u8, mut rest: &[u8]) -> Result<Change<B>, CommandError> {
        let rest = &mut rest;
        let change = match kind {
            KIND_COMPACT => Change::Compact { revision: Revision(number(rest)?) },
            KIND_RAISE_LEVEL => Change::RaiseLevel(u32::from_le_bytes(*fixed(rest)?)),
            KIND_SET_LIMITS => Change::SetLimits(LimitsChange {
                bytes_max: limit(rest)?,
                keys_max: limit(rest)?,
                history_bytes_max: limit(rest)?,
                leases_max: if rest.len() < LIMIT_LEN { None } else { limit(rest)? },
            }),
            KIND_LEASE_GRANT => {
                Change::LeaseGrant { ttl_ms: number(rest)?, id: LeaseId(number(rest)?) }
            }
            KIND_LEASE_REVOKE => Change::LeaseRevoke { id: LeaseId(number(rest)?) },
            KIND_LEASE_KEEP_ALIVE => Change::LeaseKeepAlive { ids: lease_ids(rest)? },
            KIND_TIME => Change::Time,
            other => return Err(CommandError::UnknownKind(other)),
        };
        if rest.is_empty() { Ok(change) } else { Err(CommandError::TooLong(rest.len())) }
    }
}

/// The bytes of one limit.
const LIMIT_LEN: usize = 9;

fn limit(rest: &mut &[u8]) -> Result<Option<u64>, CommandError> {
    let &[changes] = fixed(rest)?;
    let limit = number(rest)?;
    Ok((changes != 0).then_some(limit))
}

fn lease_ids(rest: &mut &[u8]) -> Result<Vec<LeaseId>, CommandError> {
    let count = u32::from_le_bytes(*fixed(rest)?) as usize;
    let needed = count.saturating_mul(8);
    let ids = rest.split_off(..needed).ok_or(cut_short(rest.len(), needed))?;
    let (ids, _) = ids.as_chunks();
    Ok(ids.iter().map(|id| LeaseId(u64::from_le_bytes(*id))).collect())
}

fn number(rest: &mut &[u8]) -> Result<u64, CommandError> {
    fixed(rest).map(|bytes| u64::from_le_bytes(*bytes))
}

/// The next `N` bytes.
fn fixed<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], CommandError> {
    let (bytes, left) = rest.split_first_chunk().ok_or(cut_short(rest.len(), N))?;
    *rest = left;
    Ok(bytes)
}

fn cut_short(len: usize, needed: usize) -> CommandError {
    CommandError::CutShort { len: HEAD_LEN + len, needed: HEAD_LEN + needed }
}
