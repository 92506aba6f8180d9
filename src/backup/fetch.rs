//! [`fetch`]: copies the state of a running cluster into a file.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::file::check_absent;
use super::format::BackupHead;
use super::{BackupError, BackupFile};
use crate::kv::model::Revision;
use crate::raft::{Index, Term};
use crate::rpc::{CallError, Channel, Next};
use crate::server::proto::{AdminRpcStub, BackupArgs, BackupEnd, BackupReply, backup_reply::Part};

/// Why no backup was made. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The member did not begin, or its stream broke. Another member, or a later attempt, may do
    /// better.
    #[error("{addr} sent no backup")]
    Call {
        /// The member.
        addr: String,
        /// What became of the call.
        source: CallError,
    },
    /// Nothing came for too long.
    #[error("{addr} sent nothing for {waited:?}")]
    Silent {
        /// The member.
        addr: String,
        /// For how long.
        waited: Duration,
    },
    /// What came is not what the member says that it has sent, or makes no sense.
    #[error("what {addr} sent is not a backup: {reason}")]
    Wrong {
        /// The member.
        addr: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The file cannot be written.
    #[error(transparent)]
    File(#[from] BackupError),
}

impl FetchError {
    /// Whether another member, or a later attempt, may do better.
    pub fn is_retryable(&self) -> bool {
        matches!(self, FetchError::Call { .. } | FetchError::Silent { .. })
    }
}

/// How far a backup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How many bytes of the state have come.
    pub done_bytes: u64,
    /// About how many there are.
    pub total_bytes: u64,
}

/// How long an attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A member that says nothing is pinged after this long, and given up after as long again.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// What each key takes in the state, beside key and value.
const ENTRY_OVERHEAD_BYTES: u64 = 48;

/// Has the member at `addr` copy its state into the file `path`, which must not be there. The copy
/// holds everything that was acknowledged before this call. Each part of it may take `timeout`.
/// Returns what the file is of, and its length.
///
/// # Errors
/// [`FetchError`]
pub fn fetch(
    addr: &str,
    path: &Path,
    timeout: Duration,
    progress: &mut dyn FnMut(Progress),
) -> Result<(BackupHead, u64), FetchError> {
    check_absent(path)?;
    let channel = Channel::builder(addr).connect_timeout(CONNECT_TIMEOUT);
    let stub = AdminRpcStub::new(channel.ping_interval(PING_INTERVAL).lazy());
    let stream = stub.backup(&BackupArgs {}, None);
    let mut parts = Parts { addr, stream, timeout };
    let head = match parts.next()? {
        Part::Head(head) => head,
        _ => return Err(parts.wrong("it does not begin with its head")),
    };
    let overhead_bytes = head.keys.saturating_mul(ENTRY_OVERHEAD_BYTES);
    let total_bytes = head.bytes.saturating_add(overhead_bytes);
    let head = own_head(head);
    let mut file = BackupFile::create(path, &head)?;
    let mut received = BackupEnd::default();
    let sent = loop {
        match parts.next()? {
            Part::Piece(piece) => {
                file.write_all(&piece).map_err(BackupError::io("write", path))?;
                received.len += piece.len() as u64;
                received.crc = crc32c::crc32c_append(received.crc, &piece);
                progress(Progress { done_bytes: received.len, total_bytes });
            }
            Part::End(end) => break end,
            Part::Head(_) => return Err(parts.wrong("it begins twice")),
        }
    };
    if received != sent {
        return Err(parts.wrong("its length or its checksum is not the one that was sent"));
    }
    Ok((head, file.finish()?))
}

fn own_head(head: crate::server::proto::BackupHead) -> BackupHead {
    let made_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    BackupHead {
        cluster_id: head.cluster_id,
        index: Index(head.index),
        term: Term(head.term),
        revision: Revision(head.revision),
        made_at_ms: made_at.as_millis() as u64,
        level: head.level,
        keys: head.keys,
        bytes: head.bytes,
        version: head.version,
    }
}

struct Parts<'a> {
    addr: &'a str,
    stream: crate::rpc::Incoming<BackupReply>,
    timeout: Duration,
}

impl Parts<'_> {
    fn next(&mut self) -> Result<Part, FetchError> {
        let addr = self.addr.to_owned();
        let began = Instant::now();
        match self.stream.next_timeout(self.timeout) {
            Next::Item(BackupReply { part: Some(part) }) => Ok(part),
            Next::Item(BackupReply { part: None }) => Err(self.wrong("an unknown part")),
            Next::End => Err(self.wrong("it ends before its end")),
            Next::NotYet => Err(FetchError::Silent { addr, waited: began.elapsed() }),
            Next::Failed(source) => Err(FetchError::Call { addr, source }),
        }
    }

    fn wrong(&self, reason: &'static str) -> FetchError {
        FetchError::Wrong { addr: self.addr.to_owned(), reason }
    }
}
