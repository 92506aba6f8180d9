//! The words of `Op` and `Err` on the wire.
//!
//! Every client gets the documented words. The others are ours. Existing clients do not know them,
//! and get them only for requests that they do not send or should not repeat.

/// `Op`: replace the value.
pub(crate) const PUT: &[u8] = b"Put";
/// `Op`: append to the value. An absent key counts as empty.
pub(crate) const APPEND: &[u8] = b"Append";

/// `Err`: done.
pub(crate) const OK: &[u8] = b"OK";
/// `Err` of a Get: the key is absent.
pub(crate) const ERR_NO_KEY: &[u8] = b"ErrNoKey";
/// `Err`: another member leads, or none does.
pub(crate) const ERR_WRONG_LEADER: &[u8] = b"ErrWrongLeader";

/// `Err`, ours: the session of this client was forgotten. The write was not applied, because that
/// could have been the second time.
pub(crate) const ERR_SESSION_EXPIRED: &[u8] = b"ErrSessionExpired";
/// `Err`, ours: the key, the client id or the resulting value is over its limit. Nothing changed.
pub(crate) const ERR_TOO_LARGE: &[u8] = b"ErrTooLarge";
/// `Err`, ours: `Op` is neither `Put` nor `Append`.
#[cfg(feature = "server")]
pub(crate) const ERR_UNKNOWN_OP: &[u8] = b"ErrUnknownOp";
/// `Err`, ours: the store would hold more than its limits allow. Nothing changed.
pub(crate) const ERR_NO_SPACE: &[u8] = b"ErrNoSpace";
