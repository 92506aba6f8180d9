//! [`Command`]: a write, as it is proposed and applied. `codec` has its bytes.

mod codec;
#[cfg(feature = "server")]
mod fingerprint;
#[cfg(test)]
mod tests;

use std::fmt;

use bytes::Bytes;

use super::limits::LimitsChange;
use super::model::{LeaseId, Revision, TTL_MAX_MS, Txn, TxnError, WireError};
use super::{CLIENT_ID_LEN_MAX, KEY_LEN_MAX, REQUEST_KEY_LEN_MAX, VALUE_LEN_MAX};
use crate::rpc::prost;
#[cfg(feature = "server")]
pub use fingerprint::Fingerprint;
use syncraft_types::Index;

/// How many leases one command keeps alive at most.
pub const KEEP_ALIVE_IDS_MAX: usize = 100_000;

/// How many leases one request keeps alive, or lists.
pub const LEASES_PER_REQUEST_MAX: usize = 10_000;

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

/// A command in the log, which has the leader's stamp if its kind has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamped<C> {
    /// The command.
    pub command: C,
    /// The cluster's time when the leader appended the command, in milliseconds.
    pub stamp_ms: Option<u64>,
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
    /// Runs a transaction unless one with the same key has run: then it gets that one's outcome.
    /// Stamped.
    TxnOnce {
        /// Chosen by whoever asks; at most [`REQUEST_KEY_LEN_MAX`].
        key: B,
        /// Of what was asked for. If it is not that of the earlier request, this one is refused.
        fingerprint: u64,
        /// The transaction.
        txn: Txn,
    },
    /// Forgets what the store was like before this revision.
    Compact {
        /// The oldest revision that can still be read afterwards.
        revision: Revision,
    },
    /// Raises the cluster's feature level.
    RaiseLevel(u32),
    /// Changes limits.
    SetLimits(LimitsChange),
    /// Grants a lease. Stamped.
    LeaseGrant {
        /// How long the lease lives without being kept alive, in milliseconds: from 1 to
        /// [`TTL_MAX_MS`].
        ttl_ms: u64,
        /// At most [`LeaseId::MAX`]. [`LeaseId::NONE`]: the first free one from the entry's index
        /// on.
        id: LeaseId,
    },
    /// Ends a lease and deletes its keys. Stamped.
    LeaseRevoke {
        /// Which one.
        id: LeaseId,
    },
    /// Keeps leases alive. To do so twice is to do so once, so it needs no identity, and one that
    /// it has is ignored. Stamped.
    LeaseKeepAlive {
        /// Which ones, at most [`KEEP_ALIVE_IDS_MAX`]. Those that do not exist are passed over.
        ids: Vec<LeaseId>,
    },
    /// Tells the time, and changes nothing else. Stamped.
    Time,
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
    #[error("the feature level and the time are the leader's to raise")]
    NotForClients,
    /// A part is over its limit.
    #[error("{part} of {len} bytes is over the limit of {max}")]
    TooLarge {
        /// "key", "value", "client id" or "key of a request".
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
    /// The transaction has a put with a time to live, and is of the kind that has no stamp.
    #[error("a put with a time to live needs a stamp")]
    NoStamp,
    /// A lease is to live shorter or longer than a lease can.
    #[error("a time to live of {ttl_ms} ms: it is from 1 ms to {TTL_MAX_MS} ms")]
    TtlOutOfBounds {
        /// How long, in milliseconds.
        ttl_ms: u64,
    },
    /// A lease is to have an id that no lease can have.
    #[error("lease id {0}: ids are from 1 to 2^63 - 1")]
    LeaseIdOutOfBounds(LeaseId),
    /// One command keeps too many leases alive.
    #[error("{count} leases to keep alive at once")]
    TooManyLeases {
        /// How many.
        count: usize,
    },
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
            Change::RaiseLevel(_) | Change::Time => Err(CommandError::NotForClients),
            _ => self.check_limits(),
        }
    }
}

#[cfg(feature = "server")]
impl Change {
    /// A transaction that runs once for all requests with this key. Their fingerprint is that of
    /// what came before it in the request, and of the transaction.
    pub fn once(key: Bytes, mut before: Fingerprint, txn: Txn) -> Change {
        use crate::rpc::prost::Message as _;
        before.add(&super::model::proto::Txn::from(&txn).encode_to_vec());
        Change::TxnOnce { key, fingerprint: before.value(), txn }
    }
}

impl<B: AsRef<[u8]>> Command<B> {
    /// Checks each part against its limit. A member does this before it proposes the command.
    ///
    /// # Errors
    /// The error that names the part.
    pub fn check_limits(&self) -> Result<(), CommandError> {
        match &self.change {
            Change::Put { key, value } | Change::Append { key, value } => {
                check_key_and_value(key.as_ref(), value.as_ref())?;
            }
            Change::Txn(txn) => txn.check().map_err(CommandError::Txn)?,
            Change::TxnOnce { key, txn, .. } => {
                check_len("key of a request", key.as_ref().len(), REQUEST_KEY_LEN_MAX)?;
                txn.check().map_err(CommandError::Txn)?;
            }
            Change::LeaseGrant { ttl_ms, id } => check_grant(*ttl_ms, *id)?,
            Change::LeaseKeepAlive { ids } if ids.len() > KEEP_ALIVE_IDS_MAX => {
                return Err(CommandError::TooManyLeases { count: ids.len() });
            }
            _ => {}
        }
        check_len("client id", self.identity.client_id.as_ref().len(), CLIENT_ID_LEN_MAX)
    }

    /// Whether repeats of this write can be recognized.
    pub fn has_session(&self) -> bool {
        let is_repeatable = !matches!(self.change, Change::LeaseKeepAlive { .. } | Change::Time);
        let Identity { client_id, request_id, .. } = &self.identity;
        is_repeatable && !(client_id.as_ref().is_empty() && *request_id == 0)
    }
}

/// Checks the parts that a client chooses, before it sends them and before a member proposes them.
pub(crate) fn check_key_and_value(key: &[u8], value: &[u8]) -> Result<(), CommandError> {
    check_len("key", key.len(), KEY_LEN_MAX)?;
    check_len("value", value.len(), VALUE_LEN_MAX)
}

/// Checks what a client asks for when it wants a lease.
pub(crate) fn check_grant(ttl_ms: u64, id: LeaseId) -> Result<(), CommandError> {
    if !(1..=TTL_MAX_MS).contains(&ttl_ms) {
        return Err(CommandError::TtlOutOfBounds { ttl_ms });
    }
    if id > LeaseId::MAX { Err(CommandError::LeaseIdOutOfBounds(id)) } else { Ok(()) }
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
            Change::TxnOnce { key, fingerprint, txn } => f
                .debug_struct("TxnOnce")
                .field("key_len", &key.as_ref().len())
                .field("fingerprint", fingerprint)
                .field("txn", txn)
                .finish(),
            Change::Compact { revision } => write!(f, "Compact({revision})"),
            Change::RaiseLevel(level) => write!(f, "RaiseLevel({level})"),
            Change::SetLimits(change) => f.debug_tuple("SetLimits").field(change).finish(),
            Change::LeaseGrant { ttl_ms, id } => write!(f, "LeaseGrant({id}, {ttl_ms} ms)"),
            Change::LeaseRevoke { id } => write!(f, "LeaseRevoke({id})"),
            Change::LeaseKeepAlive { ids } => match &ids[..] {
                [id] => write!(f, "LeaseKeepAlive({id})"),
                _ => write!(f, "LeaseKeepAlive(of {})", ids.len()),
            },
            Change::Time => f.write_str("Time"),
        }
    }
}
