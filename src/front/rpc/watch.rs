//! The watches of `storeRpc`: what they tell goes into their stream, as far as it has credit.
//!
//! Many watches may be told the same. So changes are encoded once, and each watch's reply is made
//! of its number and of these bytes.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::refused::leader;
use crate::ErrorChain;
use crate::kv::api::{Api, NoRoom, WatchEnd, WatchGroup, WatchNews, WatchSink, WatchesEnd};
use crate::kv::model::proto::{
    NotServed, WatchChanges, WatchCreated, WatchEnded, WatchReply, WatchRequest, watch_ended,
    watch_request,
};
use crate::kv::model::{Change, Revision, WatchRange};
use crate::node::RequestError;
use crate::rpc::prost::Message;
use crate::rpc::{Incoming, Outgoing, SendError, Status, StatusCode};

/// When a client should come back that asked for more than is served.
const OVERLOAD_PAUSE: Duration = Duration::from_secs(1);

pub(super) fn watch(
    api: &Api,
    encoded: &Arc<Encoded>,
    requests: Incoming<WatchRequest, Status>,
    replies: Outgoing<WatchReply>,
) {
    let replies = Mutex::new(Some(replies));
    let replies = Arc::new(Replies { api: api.clone(), encoded: Arc::clone(encoded), replies });
    let watches = Arc::new(api.watches(Arc::clone(&replies)));
    // They end with the stream, not with the client's last request.
    let until_over = Arc::clone(&watches);
    if let Some(replies) = &*replies.replies.lock() {
        replies.when_over(move || drop(until_over));
    }
    requests.on_item(move |request| match request {
        Ok(Some(request)) => ask(&watches, request),
        Ok(None) => watches.no_more(),
        Err(_) => {}
    });
}

fn ask(watches: &WatchGroup, WatchRequest { id, request }: WatchRequest) {
    match request {
        Some(watch_request::Request::Create(create)) => match WatchRange::try_from(create) {
            Ok(range) => watches.create(id, range),
            Err(error) => watches.refuse(id, ErrorChain(&error).to_string()),
        },
        Some(watch_request::Request::Cancel(_)) => watches.cancel(id),
        Some(watch_request::Request::Progress(_)) => watches.progress(id),
        None => watches.refuse(id, "the request does not say what it asks for".to_owned()),
    }
}

struct Replies {
    api: Api,
    encoded: Arc<Encoded>,
    /// `None` once the stream has been ended.
    replies: Mutex<Option<Outgoing<WatchReply>>>,
}

impl WatchSink for Arc<Replies> {
    fn take(&self, id: u64, news: &WatchNews<'_>) -> Result<ControlFlow<()>, NoRoom> {
        let replies = self.replies.lock();
        let Some(replies) = &*replies else { return Ok(ControlFlow::Break(())) };
        match replies.try_send_as(&self.reply(id, news)) {
            Ok(()) => Ok(ControlFlow::Continue(())),
            Err(SendError::NoRoom) => Err(NoRoom),
            // It is over. (No change is too long, or cannot be serialized.)
            Err(_) => Ok(ControlFlow::Break(())),
        }
    }

    fn take_many(&self, ids: &[u64], news: &WatchNews<'_>) -> ControlFlow<(), usize> {
        let replies = self.replies.lock();
        let Some(replies) = &*replies else { return ControlFlow::Break(()) };
        let reply = self.reply(0, news);
        let replies_to = ids.iter().map(|id| Reply { id: *id, ..reply.clone() });
        match replies.try_send_many_as(&replies_to.collect::<Vec<Reply>>()) {
            Ok(told) => ControlFlow::Continue(told),
            Err(SendError::NoRoom) => ControlFlow::Continue(0),
            Err(_) => ControlFlow::Break(()),
        }
    }

    fn when_ready(&self, callback: Box<dyn FnOnce() + Send>) {
        match &*self.replies.lock() {
            Some(replies) => replies.when_ready(callback),
            None => callback(),
        }
    }

    fn end(&self, end: WatchesEnd) {
        let Some(replies) = self.replies.lock().take() else { return };
        match end {
            WatchesEnd::Done => replies.end(),
            WatchesEnd::Stopped => {
                let words = "this member is stopping";
                replies.fail(Status::new(StatusCode::ShuttingDown, words));
            }
            WatchesEnd::Overload => {
                let words = "more is asked of watches than is answered";
                replies.fail(Status::busy(words, OVERLOAD_PAUSE));
            }
        }
    }
}

impl Replies {
    fn reply(&self, id: u64, news: &WatchNews<'_>) -> Reply {
        let mut reply = Reply { id, ..Reply::default() };
        match news {
            WatchNews::Created { revision } => {
                reply.created = Some(WatchCreated { revision: revision.0 });
            }
            WatchNews::Changes { changes, complete_to } => {
                reply.changes = Some(self.encoded.changes(changes, *complete_to));
            }
            WatchNews::Ended { end, complete_to } => {
                let (reason, complete_to) = (self.reason(end), complete_to.0);
                reply.ended = Some(WatchEnded { reason, complete_to });
            }
        }
        reply
    }

    fn reason(&self, end: &WatchEnd) -> Option<watch_ended::Reason> {
        Some(match end {
            WatchEnd::Cancelled => return None,
            WatchEnd::Refused(refusal) => watch_ended::Reason::Refusal((*refusal).into()),
            WatchEnd::NotServed(error) => watch_ended::Reason::NotServed(NotServed {
                leader: match error {
                    RequestError::NotLeader { leader: id } => leader(&self.api, *id),
                    _ => None,
                },
                may_apply: false,
            }),
            WatchEnd::BadRequest(words) => watch_ended::Reason::BadRequest(words.clone()),
        })
    }
}

/// A `WatchReply`, with changes that are encoded already.
#[derive(Clone, PartialEq, Message)]
#[prost(prost_path = "crate::rpc::prost")]
struct Reply {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, optional, tag = "2")]
    created: Option<WatchCreated>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    changes: Option<Bytes>,
    #[prost(message, optional, tag = "4")]
    ended: Option<WatchEnded>,
}

/// The changes that were encoded last, for the watches that are told the same.
#[derive(Default)]
pub(super) struct Encoded(Mutex<Option<EncodedChanges>>);

struct EncodedChanges {
    changes: Arc<[Change]>,
    complete_to: Revision,
    /// A `WatchChanges`.
    bytes: Bytes,
}

impl Encoded {
    /// A `WatchChanges`.
    fn changes(&self, changes: &Arc<[Change]>, complete_to: Revision) -> Bytes {
        let mut last = self.0.lock();
        if let Some(last) = &*last
            && Arc::ptr_eq(&last.changes, changes)
            && last.complete_to == complete_to
        {
            return last.bytes.clone();
        }
        let message = WatchChanges {
            changes: changes.iter().map(Into::into).collect(),
            complete_to: complete_to.0,
        };
        let bytes = Bytes::from(message.encode_to_vec());
        let changes = Arc::clone(changes);
        *last = Some(EncodedChanges { changes, complete_to, bytes: bytes.clone() });
        bytes
    }
}
