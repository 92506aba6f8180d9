//! Errors in the words of HTTP.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde::Serialize;

use crate::ErrorChain;
use crate::kv::api::{ApiError, WatchEnd};
use crate::kv::json;
use crate::kv::model::{Reason, Refusal, Revision, TxnAnswer};
use crate::kv::{Done, LaneError, Outcome};
use crate::node::RequestError;
use crate::rpc::http::{BodyError, Request, Response};

/// When a client that is told to come again should do so, in seconds.
const RETRY_AFTER: &str = "1";

/// An error.
#[derive(Debug, Serialize)]
pub(crate) struct Told {
    #[serde(skip)]
    status: u16,
    /// Programs read it: it never changes.
    error: &'static str,
    message: String,
    /// Where the entry stands that a condition is about; 0: it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    mod_revision: Option<u64>,
    /// The first revision that is remembered.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_revision: Option<u64>,
}

impl Told {
    pub(crate) fn new(status: u16, error: &'static str, message: impl Into<String>) -> Told {
        let message = message.into();
        Told { status, error, message, mod_revision: None, first_revision: None }
    }

    pub(super) fn at(self, revision: Revision) -> Told {
        Told { mod_revision: Some(revision.0), ..self }
    }

    pub(crate) fn response(self) -> Response {
        let response = object(self.status, &self);
        if self.status == 503 { response.header("Retry-After", RETRY_AFTER) } else { response }
    }
}

/// An answer of one JSON object.
pub(crate) fn object(status: u16, value: &impl Serialize) -> Response {
    let mut line = json::line(value);
    line.push(b'\n');
    Response::new(status).header("Content-Type", "application/json").body(line)
}

/// The request itself is wrong.
pub(crate) fn invalid(message: impl Into<String>) -> Response {
    Told::new(400, "invalid", message).response()
}

pub(crate) fn not_allowed(methods: &'static str) -> Response {
    let message = format!("this path has {methods}");
    Told::new(405, "method", message).response().header("Allow", methods)
}

/// A body that cannot be read.
pub(super) fn bad_body(error: &BodyError) -> Response {
    let status = error.response().status();
    let word = match status {
        413 => "too_long",
        503 => "not_applied",
        _ => "invalid",
    };
    Told::new(status, word, error.to_string()).response()
}

/// The value of a header field that a request has once at most.
pub(super) fn field<'r>(
    request: &'r Request<'_>,
    name: &str,
) -> Result<Option<&'r [u8]>, Response> {
    let mut values = request.headers().filter(|(found, _)| found.eq_ignore_ascii_case(name));
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(invalid(format!("{name} comes twice"))),
        (first, None) => Ok(first.map(|(_, value)| value)),
    }
}

/// Refuses what a browser says it sends for a page of another site. A browser names the page's
/// site in `Origin` with each write. Over TLS, and to this machine, it also sends `Sec-Fetch-Site`
/// with every request. A request with neither field counts as one of no browser.
///
/// - A browser's request has an IP address or `localhost` as its `Host`. Any other name may be one
///   that another site has pointed at this member (DNS rebinding). Its pages are then of the same
///   origin as this member, and an `Origin` that equals the `Host` proves nothing.
/// - A browser's write comes from the same origin, or from the user (`Sec-Fetch-Site: none`).
///
/// The browser itself keeps answers from pages of another origin, so their reads are let through.
pub(crate) fn check_origin(request: &Request<'_>) -> Result<(), Response> {
    use crate::rpc::http::Method::{Get, Head};
    let (origin, site) = (field(request, "Origin")?, field(request, "Sec-Fetch-Site")?);
    if origin.is_none() && site.is_none() {
        return Ok(());
    }
    let host = request.header("Host").unwrap_or_default();
    if !is_literal(host) {
        let message = "a browser reaches this server by an IP address or as localhost";
        return Err(Told::new(403, "cross_origin", message).response());
    }
    let is_own_origin = origin.is_none_or(|origin| authority(origin) == Some(host));
    let is_own_site = site.is_none_or(|site| matches!(site, b"same-origin" | b"none"));
    if matches!(request.method(), Get | Head) || is_own_origin && is_own_site {
        return Ok(());
    }
    let message = "a page of another site may not write here";
    Err(Told::new(403, "cross_origin", message).response())
}

/// Whether a `Host` is an IP address or `localhost`, with a port or without: what no DNS server
/// has a say in.
fn is_literal(host: &[u8]) -> bool {
    let host = std::str::from_utf8(host).unwrap_or_default();
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (host, ""),
    };
    let address = name.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let is_address = match address {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => name.parse::<Ipv4Addr>().is_ok(),
    };
    port.bytes().all(|byte| byte.is_ascii_digit())
        && (is_address || name.eq_ignore_ascii_case("localhost"))
}

/// The host and port of an origin, `SCHEME://HOST:PORT`.
fn authority(origin: &[u8]) -> Option<&[u8]> {
    origin.splitn(3, |&byte| byte == b'/').nth(2)
}

/// What a refusal of the store is.
pub(super) fn refused(refusal: &Refusal) -> Response {
    refusal_told(refusal).response()
}

fn refusal_told(refusal: &Refusal) -> Told {
    let (status, word) = match refusal.reason {
        Reason::NoSpace => (507, "no_space"),
        Reason::ValueTooLong => (413, "too_long"),
        Reason::AnswerTooLong => (400, "answer_too_long"),
        Reason::TooManyKeys => (400, "too_many_keys"),
        Reason::Compacted => (410, "compacted"),
        Reason::InTheFuture => (400, "in_the_future"),
        Reason::SessionExpired | Reason::Superseded => (504, "unknown"),
        Reason::NoSuchLease => (409, "no_such_lease"),
        Reason::LeaseExists => (409, "lease_exists"),
        Reason::NotANumber | Reason::Overflow | Reason::KeyAbsent => (409, "failed"),
        Reason::Malformed | Reason::LimitOutOfBounds => (400, "invalid"),
        Reason::RequestKeyTaken => (422, "key_taken"),
    };
    let first_revision = (refusal.reason == Reason::Compacted).then_some(refusal.value);
    Told { first_revision, ..Told::new(status, word, refusal.to_string()) }
}

/// Why a watch has ended, or never began.
pub(super) fn watch_ended(end: &WatchEnd) -> Told {
    match end {
        WatchEnd::Refused(refusal) => refusal_told(refusal),
        WatchEnd::BadRequest(words) => Told::new(400, "invalid", words.clone()),
        WatchEnd::Cancelled => Told::new(503, "not_served", "the watch was cancelled"),
        WatchEnd::NotServed(RequestError::NotLeader { .. }) => {
            Told::new(503, "not_served", "this member knows no leader")
        }
        WatchEnd::NotServed(RequestError::TimedOut { .. }) => {
            Told::new(503, "not_served", "this member reached no majority in time")
        }
        WatchEnd::NotServed(error) => Told::new(503, "not_served", error.to_string()),
    }
}

/// Why a read has no answer.
pub(super) fn not_read(error: &ApiError) -> Response {
    match error {
        ApiError::Refused { refusal, .. } => refused(refusal),
        ApiError::Invalid(_) | ApiError::RevisionZero => invalid(ErrorChain(error).to_string()),
        ApiError::NotServed(RequestError::TimedOut { .. }) => {
            Told::new(503, "not_served", "this member reached no majority in time").response()
        }
        error => Told::new(503, "not_served", ErrorChain(error).to_string()).response(),
    }
}

/// The answer that is remembered is that of another request with the same key.
pub(super) fn key_taken() -> Response {
    refused(&Refusal::of(Reason::RequestKeyTaken, 0))
}

/// What a transaction did: the revision of the store afterwards, and the answers; or the answer
/// that says why it did nothing, or that it may have.
pub(super) fn written(
    end: Result<Outcome, LaneError>,
) -> Result<(Revision, Arc<TxnAnswer>), Response> {
    match took_effect(end)? {
        Outcome::Ran { result: Ok(Done { revision, answer: Some(answer), .. }), .. } => {
            Ok((revision, answer))
        }
        // A lane or a client has sent the request twice, and its answer was long.
        Outcome::Ran { result: Ok(Done { branches, .. }), .. } => {
            let words = match branches.held & 1 {
                0 => "the condition did not hold",
                _ => "it was carried out",
            };
            let message = format!("{words}; what was answered is no longer known");
            Err(Told::new(200, "forgotten", message).response())
        }
        outcome => panic!("a transaction was answered with {outcome:?}"),
    }
}

/// The outcome of a write that took effect; or the answer that says why it did not, or that it may
/// have.
pub(super) fn took_effect(end: Result<Outcome, LaneError>) -> Result<Outcome, Response> {
    let refusal = match end {
        Ok(Outcome::Ran { result: Err(refusal), .. }) => refusal,
        Ok(Outcome::TooLarge) => Refusal::of(Reason::ValueTooLong, 0),
        Ok(Outcome::NoSpace) => Refusal::of(Reason::NoSpace, 0),
        Ok(Outcome::SessionExpired { .. }) => Refusal::of(Reason::SessionExpired, 0),
        Ok(Outcome::Malformed) => Refusal::of(Reason::Malformed, 0),
        Ok(outcome) => return Ok(outcome),
        Err(error) => return Err(not_written(&error)),
    };
    Err(refused(&refusal))
}

fn not_written(error: &LaneError) -> Response {
    let words = ErrorChain(error).to_string();
    match error {
        LaneError::Limit(_) => invalid(words),
        LaneError::TooLong(_) => Told::new(413, "too_long", words).response(),
        _ if error.may_apply() => {
            let message = format!("the write may have taken effect, or may still do so: {words}");
            Told::new(504, "unknown", message).response()
        }
        _ => Told::new(503, "not_applied", words).response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_beyond_the_reach_of_dns() {
        for host in
            ["127.0.0.1", "10.0.0.1:7381", "[::1]", "[fd00::1]:80", "localhost:1", "LOCALHOST"]
        {
            assert!(is_literal(host.as_bytes()), "{host}");
        }
        for host in [
            "",
            ":80",
            "evil.example",
            "evil.example:7381",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "::1",
            "[::1",
            "[evil.example]:80",
            "[127.0.0.1]",
            "127.0.0.1:80:80",
            "evil.example:127.0.0.1",
            "localhost:x",
            "256.0.0.1",
            "1",
        ] {
            assert!(!is_literal(host.as_bytes()), "{host}");
        }
    }
}
