//! The method `Backup` of `adminRpc`: the state goes into a stream, piece by piece, with a checksum
//! of all of it at the end.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::proto::{BackupEnd, BackupHead, BackupReply, backup_reply::Part};
use crate::kv::api::{self, Api, ApiError, BackupSink, NoRoom};
use crate::node::RequestError;
use crate::rpc::{Outgoing, SendError, Status, StatusCode};

/// How long a copy may wait for its beginning: for a leader, and for a thread.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(10);

/// When a client should ask again.
const BUSY_PAUSE: Duration = Duration::from_millis(100);

pub(super) fn backup(api: &Api, cluster_id: u64, replies: Outgoing<BackupReply>) {
    let sink = Pieces { cluster_id, replies, has_begun: false, end: BackupEnd::default() };
    api.backup(Instant::now() + BEGIN_TIMEOUT, sink);
}

struct Pieces {
    cluster_id: u64,
    replies: Outgoing<BackupReply>,
    /// The head has been sent.
    has_begun: bool,
    /// What has been sent.
    end: BackupEnd,
}

impl BackupSink for Pieces {
    fn take(
        &mut self,
        head: &api::BackupHead,
        piece: &[u8],
        until: Instant,
    ) -> Result<ControlFlow<()>, NoRoom> {
        if !self.has_begun {
            if self.send(Part::Head(self.head(head)), until)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            self.has_begun = true;
        }
        if piece.is_empty() {
            return self.send(Part::End(self.end), until);
        }
        let sent = self.send(Part::Piece(Bytes::copy_from_slice(piece)), until)?;
        self.end.len += piece.len() as u64;
        self.end.crc = crc32c::crc32c_append(self.end.crc, piece);
        Ok(sent)
    }

    fn end(self, result: Result<(), ApiError>) {
        match (result, self.has_begun) {
            (Ok(()), _) => self.replies.end(),
            (Err(error), true) => {
                let words = format!("the backup ended before its end: {error}");
                self.replies.fail(Status::new(code(&error), words));
            }
            (Err(error), false) => self.replies.fail(Status::busy(refusal(&error), BUSY_PAUSE)),
        }
    }
}

impl Pieces {
    /// Waits until there is room. `Break`: the stream is over.
    fn send(&self, part: Part, until: Instant) -> Result<ControlFlow<()>, NoRoom> {
        match self.replies.send(&BackupReply { part: Some(part) }, until) {
            Ok(()) => Ok(ControlFlow::Continue(())),
            Err(SendError::NoRoom) => Err(NoRoom),
            Err(_) => Ok(ControlFlow::Break(())),
        }
    }

    fn head(&self, of: &api::BackupHead) -> BackupHead {
        BackupHead {
            cluster_id: self.cluster_id,
            index: of.index.0,
            term: of.term.0,
            revision: of.revision.0,
            level: of.level,
            keys: of.keys,
            bytes: of.bytes,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

fn refusal(error: &ApiError) -> String {
    match error {
        ApiError::NotServed(RequestError::NotLeader { .. }) => {
            "the member knows no leader that serves".to_owned()
        }
        error => error.to_string(),
    }
}

fn code(error: &ApiError) -> StatusCode {
    match error {
        ApiError::NotServed(RequestError::TimedOut { .. }) => StatusCode::DeadlineExceeded,
        _ => StatusCode::Internal,
    }
}
