//! The scans of `storeRpc`: pages go into a stream, and wait for its credit.

use std::ops::ControlFlow;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use super::refused::{Refused, bad_arguments, refused};
use crate::kv::api::{Api, ApiError, NoRoom, PageSink};
use crate::kv::model::proto::{self, ScanReply, ScanRequest, scan_reply};
use crate::kv::model::{Revision, ScanPage, ScanRange};
use crate::rpc::{Outgoing, SendError, Status, StatusCode};

/// How long a scan without a deadline may take. The api has the same bound.
const SCAN_TIMEOUT: Duration = Duration::from_secs(5 * 60);

pub(super) fn scan(
    api: &Api,
    leader: Option<proto::Leader>,
    args: ScanRequest,
    replies: Outgoing<ScanReply>,
) {
    let range = match ScanRange::try_from(args) {
        Ok(range) => range,
        Err(error) => return replies.fail(bad_arguments(&error)),
    };
    let deadline = replies.deadline().unwrap_or_else(|| Instant::now() + SCAN_TIMEOUT);
    api.scan(range, deadline, Pages { api: api.clone(), leader, replies });
}

struct Pages {
    api: Api,
    /// Told with the first page.
    leader: Option<proto::Leader>,
    replies: Outgoing<ScanReply>,
}

impl PageSink for Pages {
    fn take(
        &mut self,
        revision: Revision,
        page: &ScanPage,
        until: Instant,
    ) -> Result<ControlFlow<()>, NoRoom> {
        let result = Some(scan_reply::Result::Page(page.into()));
        let reply = ScanReply { result, revision: revision.0, leader: self.leader.clone() };
        loop {
            match self.replies.try_send(&reply) {
                Ok(()) => {
                    self.leader = None;
                    return Ok(ControlFlow::Continue(()));
                }
                Err(SendError::NoRoom) => self.wait_for_room(until)?,
                // It is over. (No page is too long, or cannot be serialized.)
                Err(_) => return Ok(ControlFlow::Break(())),
            }
        }
    }

    fn end(self, result: Result<(), ApiError>) {
        let Pages { api, replies, .. } = self;
        let Err(error) = result else { return replies.end() };
        let result = match refused(&api, &error) {
            Ok(Refused::Refusal(refusal, _)) => scan_reply::Result::Refusal(refusal),
            Ok(Refused::NotServed(it)) => scan_reply::Result::NotServed(it),
            Err(status) => return replies.fail(status),
        };
        match replies.try_send(&ScanReply { result: Some(result), ..ScanReply::default() }) {
            Ok(()) => replies.end(),
            Err(_) => replies.fail(Status::new(
                StatusCode::DeadlineExceeded,
                format!("the scan ended before its pages were taken: {error}"),
            )),
        }
    }
}

impl Pages {
    /// Waits until there may be room, or the stream is over.
    fn wait_for_room(&self, until: Instant) -> Result<(), NoRoom> {
        let (told, hears) = sync_channel(1);
        self.replies.when_ready(move || {
            // Nobody hears it who has stopped waiting.
            let _ = told.try_send(());
        });
        let left = until.saturating_duration_since(Instant::now());
        hears.recv_timeout(left).map_err(|_| NoRoom)
    }
}
