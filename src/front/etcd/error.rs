//! [`EtcdError`]: errors in etcd's words. Clients compare the texts, so they are exactly etcd's.

use std::borrow::Cow;

use super::out::Object;
use crate::ErrorChain;
use crate::kv::LaneError;
use crate::kv::api::{ApiError, WatchEnd};
use crate::kv::model::{Reason, Refusal};
use crate::node::RequestError;
use crate::rpc::http::{BodyError, Response};

/// What kind of error it is: the codes of gRPC that this front uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Code {
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    NotFound = 5,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

impl Code {
    /// The status of HTTP that etcd's gateway makes of it.
    fn status(self) -> u16 {
        match self {
            Code::Unknown | Code::Internal => 500,
            Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
            Code::NotFound => 404,
            Code::Canceled => 408,
            Code::PermissionDenied => 403,
            Code::ResourceExhausted => 429,
            Code::Unimplemented => 501,
            Code::Unavailable => 503,
        }
    }

    /// The words of that status.
    fn status_words(self) -> &'static str {
        match self.status() {
            400 => "Bad Request",
            403 => "Forbidden",
            404 => "Not Found",
            408 => "Request Timeout",
            429 => "Too Many Requests",
            501 => "Not Implemented",
            503 => "Service Unavailable",
            _ => "Internal Server Error",
        }
    }
}

/// Why a request is not answered as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(super) struct EtcdError {
    code: Code,
    text: Cow<'static, str>,
}

macro_rules! errors {
    ($($name:ident = $code:ident, $text:literal;)*) => {
        $(pub(super) const $name: EtcdError =
            EtcdError { code: Code::$code, text: Cow::Borrowed($text) };)*
    };
}

errors! {
    EMPTY_KEY = InvalidArgument, "etcdserver: key is not provided";
    KEY_NOT_FOUND = InvalidArgument, "etcdserver: key not found";
    VALUE_PROVIDED = InvalidArgument, "etcdserver: value is provided";
    LEASE_PROVIDED = InvalidArgument, "etcdserver: lease is provided";
    TOO_MANY_OPS = InvalidArgument, "etcdserver: too many operations in txn request";
    DUPLICATE_KEY = InvalidArgument, "etcdserver: duplicate key given in txn request";
    BAD_SORT = InvalidArgument, "etcdserver: invalid sort option";
    TOO_LARGE = InvalidArgument, "etcdserver: request is too large";
    COMPACTED = OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    IN_THE_FUTURE = OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    TTL_TOO_LARGE = OutOfRange, "etcdserver: too large lease TTL";
    NO_SPACE = ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    TOO_MANY_REQUESTS = ResourceExhausted, "etcdserver: too many requests";
    LEASE_NOT_FOUND = NotFound, "etcdserver: requested lease not found";
    BAD_MEMBER_URLS = InvalidArgument, "etcdserver: given member URLs are invalid";
    MEMBER_NOT_FOUND = NotFound, "etcdserver: member not found";
    PEER_URL_EXISTS = FailedPrecondition, "etcdserver: Peer URLs already exists";
    NOT_A_LEARNER = FailedPrecondition, "etcdserver: can only promote a learner member";
    LEARNER_NOT_READY = FailedPrecondition,
        "etcdserver: can only promote a learner member which is in sync with leader";
    LEASE_EXISTS = FailedPrecondition, "etcdserver: lease already exists";
    NOT_LEADER = FailedPrecondition, "etcdserver: not leader";
    BAD_TRANSFEREE = FailedPrecondition, "etcdserver: bad leader transferee";
    AUTH_NOT_ENABLED = FailedPrecondition, "etcdserver: authentication is not enabled";
    NO_LEADER = Unavailable, "etcdserver: no leader";
    TIMED_OUT = Unavailable, "etcdserver: request timed out";
    CANCELED = Canceled, "context canceled";
    STOPPED = Unavailable, "etcdserver: server stopped";
    SESSION_KEY_EMPTY = Unknown, "etcdserver: key is not provided";
    SESSION_LEASE_NOT_FOUND = Unknown, "etcdserver: requested lease not found";
    SESSION_EXPIRED = Unknown, "mutex: session is expired";
    CAMPAIGN_LOST = Unknown, "election: session expired";
    ELECTION_NOT_LEADER = Unknown, "election: not leader";
    ELECTION_NO_LEADER = Unknown, "election: no leader";
    LEADER_MISSING = Unknown, "\"leader\" field must be provided";
}

impl EtcdError {
    pub(super) fn new(code: Code, text: impl Into<Cow<'static, str>>) -> EtcdError {
        EtcdError { code, text: text.into() }
    }

    /// The request itself is wrong.
    pub(super) fn invalid(text: impl Into<Cow<'static, str>>) -> EtcdError {
        EtcdError::new(Code::InvalidArgument, text)
    }

    /// etcd has it, and this front does not.
    pub(super) fn unimplemented(what: &str) -> EtcdError {
        EtcdError::new(Code::Unimplemented, format!("syncraft does not implement {what}"))
    }

    /// The answer to a request that gets one message. Both generations of etcd's gateway, and so
    /// both generations of clients, find their fields in it.
    pub(super) fn response(&self) -> Response {
        let body = Object::whole(|body| {
            body.text("error", &self.text);
            body.text("message", &self.text);
            body.plain("code", self.code as u32);
            body.raw("details", b"[]");
        });
        super::json(self.code.status(), body)
    }

    /// The head of a stream that cannot begin, and its only message.
    pub(super) fn stream_response(&self) -> Response {
        super::json(self.code.status(), self.last_message())
    }

    /// The last message of a stream.
    pub(super) fn last_message(&self) -> Vec<u8> {
        let mut message = Object::whole(|message| {
            message.object("error", |error| {
                error.plain("grpc_code", self.code as u32);
                error.plain("code", self.code as u32);
                error.plain("http_code", self.code.status().into());
                error.text("message", &self.text);
                error.text("http_status", self.code.status_words());
                error.raw("details", b"[]");
            });
        });
        message.push(b'\n');
        message
    }

    /// What the lock and election services make of it: they answer with the errors of a client
    /// of etcd, which have lost their codes.
    pub(super) fn of_a_session(self) -> EtcdError {
        if self == LEASE_NOT_FOUND { SESSION_LEASE_NOT_FOUND } else { self }
    }
}

impl From<&Refusal> for EtcdError {
    fn from(refusal: &Refusal) -> EtcdError {
        match refusal.reason {
            Reason::NoSuchLease => LEASE_NOT_FOUND,
            Reason::LeaseExists => LEASE_EXISTS,
            Reason::KeyAbsent => KEY_NOT_FOUND,
            Reason::Compacted => COMPACTED,
            Reason::InTheFuture => IN_THE_FUTURE,
            Reason::NoSpace => NO_SPACE,
            Reason::ValueTooLong => TOO_LARGE,
            Reason::AnswerTooLong | Reason::TooManyKeys => {
                EtcdError::new(Code::ResourceExhausted, format!("etcdserver: {refusal}"))
            }
            // An earlier copy may have taken effect.
            Reason::SessionExpired | Reason::Superseded => TIMED_OUT,
            Reason::NotANumber
            | Reason::Overflow
            | Reason::Malformed
            | Reason::LimitOutOfBounds
            | Reason::RequestKeyTaken => {
                EtcdError::new(Code::Internal, format!("etcdserver: {refusal}"))
            }
        }
    }
}

impl From<&RequestError> for EtcdError {
    fn from(error: &RequestError) -> EtcdError {
        match error {
            RequestError::NotLeader { leader: None } => NO_LEADER,
            RequestError::Stopped { .. } => STOPPED,
            RequestError::Busy => TOO_MANY_REQUESTS,
            RequestError::TooLarge { .. } => TOO_LARGE,
            RequestError::Diverged { .. } | RequestError::DiskFull => {
                EtcdError::new(Code::Unavailable, format!("etcdserver: {error}"))
            }
            _ => TIMED_OUT,
        }
    }
}

impl From<&ApiError> for EtcdError {
    fn from(error: &ApiError) -> EtcdError {
        match error {
            ApiError::NotServed(error) => error.into(),
            ApiError::Refused { refusal, .. } => refusal.into(),
            // The front has checked everything but the lengths.
            ApiError::Invalid(_) => TOO_LARGE,
            ApiError::RevisionZero => COMPACTED,
        }
    }
}

impl From<&LaneError> for EtcdError {
    fn from(error: &LaneError) -> EtcdError {
        match error {
            LaneError::Busy => TOO_MANY_REQUESTS,
            LaneError::Limit(_) | LaneError::TooLong(_) => TOO_LARGE,
            LaneError::Stopped { .. } => STOPPED,
            LaneError::TimedOut { .. } | LaneError::Forgotten => TIMED_OUT,
        }
    }
}

impl From<&WatchEnd> for EtcdError {
    fn from(end: &WatchEnd) -> EtcdError {
        match end {
            WatchEnd::Refused(refusal) => refusal.into(),
            // Within three election timeouts there is a leader, or the member is cut off.
            WatchEnd::NotServed(RequestError::NotLeader { .. } | RequestError::TimedOut { .. }) => {
                NO_LEADER
            }
            WatchEnd::NotServed(error) => error.into(),
            WatchEnd::BadRequest(words) => EtcdError::invalid(words.clone()),
            WatchEnd::Cancelled => EtcdError::new(Code::Unavailable, "etcdserver: watch canceled"),
        }
    }
}

impl From<&BodyError> for EtcdError {
    fn from(error: &BodyError) -> EtcdError {
        match error.response().status() {
            413 => TOO_LARGE,
            503 => TOO_MANY_REQUESTS,
            _ => EtcdError::invalid(ErrorChain(error).to_string()),
        }
    }
}
