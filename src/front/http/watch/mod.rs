//! Watches: `GET /v1/kv/KEY?watch`, a stream of changes.
//!
//! ```text
//! request ─> WatchRange, Form ─> Hub (its thread, for all watches of the member)
//!                                  │ Telling::take: what is told
//!                                  v
//!                     Encoded: lines or events, made once for all who are told the same
//!                                  │ Stream::try_send: as far as there is room
//!                                  v
//!                                client
//! ```
//!
//! # What a client can rely on
//! - The answer begins once the watch is made and has looked at its first revision. What forbids it
//!   (a revision that is forgotten, or that has not come; no leader) has a status of its own.
//! - The first thing told is the revision behind which the watch begins.
//! - Changes come in the order of revisions, and of keys within one. A revision is complete when a
//!   progress line, or the `id` of an event, names it or a later one. So a client that goes on
//!   behind the last one never begins in the middle of a transaction.
//! - A quiet watch is told its progress, or a comment, every ten seconds. So both sides notice that
//!   the other one is gone.
//! - A watch that cannot go on says so with an end. A body that ends without one was cut, and is
//!   taken up again in the same way.
//!
//! # Bounds
//! A watch is a connection of the server, whose limits bound their number. A client that does not
//! read has a little to read kept for it (`Limits::stream_unsent_max_bytes`, and one message of the
//! hub). It is cut when it has taken nothing for `Limits::write_timeout`. No thread waits for it.
//!
//! # Files
//! `telling`: the watch of one request. `encoded`, `form`: what it is told, in bytes.

mod encoded;
mod form;
mod telling;

use std::sync::Arc;

use bytes::Bytes;

pub(super) use encoded::Encoded;
use form::{Form, Framing};
use telling::Telling;

use super::condition::Condition;
use super::params::{Only, Params, number};
use super::told::{field, invalid};
use super::{HttpFront, Task};
use crate::kv::model::{KeyRange, Revision, WatchRange};
use crate::rpc::http::{Method, Request, Response};

/// Whether a request is for a watch.
pub(super) fn is_asked_for(request: &Request<'_>) -> bool {
    request.query().any(|(name, _)| &*name == b"watch")
}

impl HttpFront {
    pub(super) fn watch(&self, request: &Request<'_>, key: Bytes) -> Result<Task, Response> {
        let known = ["watch", "prefix", "from", "prev", "keys", "only"];
        let params = Params::read(request, &known)?;
        if request.method() == Method::Head {
            return Err(invalid("a watch is asked for with GET"));
        }
        Condition::refuse(request, "a watch has no conditions")?;
        let range = range(request, key, &params)?;
        let framing = if wants_events(request) { Framing::Events } else { Framing::Lines };
        let form = Form { framing, keys_only: params.keys_only };
        let (api, encoded) = (self.api.clone(), Arc::clone(&self.encoded));
        Ok(Box::new(move |answer| Telling::begin(&api, encoded, answer, form, range)))
    }
}

fn range(request: &Request<'_>, key: Bytes, params: &Params) -> Result<WatchRange, Response> {
    let keys = match params.prefix {
        true => KeyRange::prefix(key),
        false if key.is_empty() => {
            return Err(invalid("there is no key: ?watch&prefix watches all keys"));
        }
        false => KeyRange::key(key),
    };
    Ok(WatchRange {
        keys,
        from: last_event(request)?.unwrap_or(params.from),
        puts: params.only != Some(Only::Deletes),
        deletes: params.only != Some(Only::Puts),
        previous: params.prev,
    })
}

/// Where a client goes on whose stream of events was cut. It asks for the same target as at first,
/// so this counts more than `from`.
fn last_event(request: &Request<'_>) -> Result<Option<Revision>, Response> {
    let Some(id) = field(request, "Last-Event-ID")?.filter(|id| !id.is_empty()) else {
        return Ok(None);
    };
    match number(id).ok().and_then(|id| id.checked_add(1)) {
        Some(from) => Ok(Some(Revision(from))),
        None => Err(invalid("Last-Event-ID is the id of an event: a revision")),
    }
}

/// Whether the client asks for server-sent events.
fn wants_events(request: &Request<'_>) -> bool {
    let accepted = request.headers().filter(|(name, _)| name.eq_ignore_ascii_case("accept"));
    let mut types = accepted.flat_map(|(_, value)| value.split(|&byte| byte == b','));
    types.any(|it| {
        let name = it.split(|&byte| byte == b';').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
    })
}
