//! The watches of `storeRpc`: what they tell goes into their stream, as far as it has credit.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::refused::leader;
use crate::ErrorChain;
use crate::kv::api::{Api, NoRoom, WatchEnd, WatchGroup, WatchNews, WatchSink, WatchesEnd};
use crate::kv::model::WatchRange;
use crate::kv::model::proto::{
    NotServed, WatchChanges, WatchCreated, WatchEnded, WatchReply, WatchRequest, watch_ended,
    watch_reply, watch_request,
};
use crate::node::RequestError;
use crate::rpc::{Incoming, Outgoing, SendError, Status, StatusCode};

/// When a client should come back that asked for more than is served.
const OVERLOAD_PAUSE: Duration = Duration::from_secs(1);

pub(super) fn watch(
    api: &Api,
    requests: Incoming<WatchRequest, Status>,
    replies: Outgoing<WatchReply>,
) {
    let replies = Mutex::new(Some(replies));
    let replies = Arc::new(Replies { api: api.clone(), replies });
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
    /// `None` once the stream has been ended.
    replies: Mutex<Option<Outgoing<WatchReply>>>,
}

impl WatchSink for Arc<Replies> {
    fn take(&self, id: u64, news: &WatchNews<'_>) -> Result<ControlFlow<()>, NoRoom> {
        let replies = self.replies.lock();
        let Some(replies) = &*replies else { return Ok(ControlFlow::Break(())) };
        match replies.try_send(&WatchReply { id, reply: Some(self.reply(news)) }) {
            Ok(()) => Ok(ControlFlow::Continue(())),
            Err(SendError::NoRoom) => Err(NoRoom),
            // It is over. (No change is too long, or cannot be serialized.)
            Err(_) => Ok(ControlFlow::Break(())),
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
    fn reply(&self, news: &WatchNews<'_>) -> watch_reply::Reply {
        match news {
            WatchNews::Created { revision } => {
                watch_reply::Reply::Created(WatchCreated { revision: revision.0 })
            }
            WatchNews::Changes { changes, complete_to } => {
                watch_reply::Reply::Changes(WatchChanges {
                    changes: changes.iter().map(Into::into).collect(),
                    complete_to: complete_to.0,
                })
            }
            WatchNews::Ended { end, complete_to } => watch_reply::Reply::Ended(WatchEnded {
                reason: self.reason(end),
                complete_to: complete_to.0,
            }),
        }
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
