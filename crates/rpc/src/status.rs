//! The answer to a call that gets no reply: [`Status`].

use std::fmt;
use std::time::Duration;

use super::header::RpcReplyHeader;

/// The middle of a longer message is left out, so that its header stays under the limit.
const MESSAGE_LEN_MAX_BYTES: usize = 512;

/// Why a call gets no reply: a code for programs, and words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What went wrong, for a program.
    pub code: StatusCode,
    /// What went wrong, for a person. If it is longer than 512 bytes, its middle is not sent,
    /// because its beginning says what was tried, and its end why that failed.
    pub message: String,
    /// After what time to try again: with [`StatusCode::Busy`], and with
    /// [`StatusCode::Unanswered`] if the reply found no room.
    pub retry_after: Option<Duration>,
}

impl Status {
    /// A status that does not say when to try again.
    pub fn new(code: StatusCode, message: impl Into<String>) -> Self {
        Status { code, message: message.into(), retry_after: None }
    }

    /// [`StatusCode::Busy`]: the call was not run. Try again after `retry_after`.
    pub fn busy(message: impl Into<String>, retry_after: Duration) -> Self {
        Status { code: StatusCode::Busy, message: message.into(), retry_after: Some(retry_after) }
    }

    /// The header that tells a caller, for the call with this id.
    pub(super) fn to_head(&self, call_id: u64) -> RpcReplyHeader {
        let retry_after_ms =
            self.retry_after.map_or(0, |after| after.as_millis().try_into().unwrap_or(u32::MAX));
        let message = cut_middle(&self.message, MESSAGE_LEN_MAX_BYTES);
        let status = self.code.number();
        RpcReplyHeader { call_id, status, message, retry_after_ms, ..RpcReplyHeader::default() }
    }

    /// The status that a header tells.
    pub(super) fn of_head(head: &RpcReplyHeader) -> Status {
        let retry_after =
            (head.retry_after_ms > 0).then(|| Duration::from_millis(head.retry_after_ms.into()));
        Status {
            code: StatusCode::from_number(head.status),
            message: head.message.clone(),
            retry_after,
        }
    }
}

/// What [`cut_middle`] writes in place of the text that it takes out.
const CUT: &str = " ... ";

/// `text` with its middle taken out, so that at most `len_max` bytes are left. There must be room
/// for [`CUT`] in them.
fn cut_middle(text: &str, len_max: usize) -> String {
    if text.len() <= len_max {
        return text.to_owned();
    }
    let kept = len_max - CUT.len();
    let head = &text[..text.floor_char_boundary(kept / 2)];
    let tail = &text[text.ceil_char_boundary(text.len() - (kept - head.len()))..];
    [head, CUT, tail].concat()
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// The codes of [`Status`]. Their numbers are part of the wire format and never change their
/// meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StatusCode {
    /// 1: the method failed, for example by a panic. It may have had an effect.
    Internal,
    /// 2: this port serves no such service. Not run.
    UnknownService,
    /// 3: the service has no such method. Not run.
    UnknownMethod,
    /// 4: the arguments do not decode. Not run.
    BadArguments,
    /// 5: the arguments are longer than the server takes. Not run.
    FrameTooLarge,
    /// 6: the header does not decode, so the connection cannot go on. Not run.
    BadHeader,
    /// 7: too much is in flight; try again after [`Status::retry_after`]. Not run.
    Busy,
    /// 8: the caller's deadline had passed before the method began. Not run.
    DeadlineExceeded,
    /// 9: arguments in a serialization that the server does not know. Not run.
    UnsupportedCodec,
    /// 10: the server is stopping. Not run.
    ShuttingDown,
    /// 11: the method dropped its `Done` without an answer. Or the reply found no room behind those
    /// that the client has not read yet; then [`Status::retry_after`] is set: read them, and call
    /// again. It may have had an effect.
    Unanswered,
    /// 12: the caller was made for another version of the service; the message names both. Not run.
    VersionMismatch,
    /// 13: the server was closing the connection, because no call had come over it for long. Not
    /// run.
    Closing,
    /// 14: the stream was given up, by its caller or because its connection was lost. It may have
    /// had an effect.
    Cancelled,
    /// 15: a frame breaks the rules of streams, for example an item for which there was no credit.
    /// It may have had an effect.
    BadStream,
    /// A number that this version does not know. It may have had an effect.
    Other(u32),
}

impl StatusCode {
    /// Every code that has a name, with its number and its words.
    const KNOWN: [(StatusCode, u32, &str); 15] = [
        (StatusCode::Internal, 1, "internal error"),
        (StatusCode::UnknownService, 2, "unknown service"),
        (StatusCode::UnknownMethod, 3, "unknown method"),
        (StatusCode::BadArguments, 4, "bad arguments"),
        (StatusCode::FrameTooLarge, 5, "frame too large"),
        (StatusCode::BadHeader, 6, "bad header"),
        (StatusCode::Busy, 7, "busy"),
        (StatusCode::DeadlineExceeded, 8, "deadline exceeded"),
        (StatusCode::UnsupportedCodec, 9, "unsupported codec"),
        (StatusCode::ShuttingDown, 10, "shutting down"),
        (StatusCode::Unanswered, 11, "unanswered"),
        (StatusCode::VersionMismatch, 12, "version mismatch"),
        (StatusCode::Closing, 13, "connection closed"),
        (StatusCode::Cancelled, 14, "cancelled"),
        (StatusCode::BadStream, 15, "bad stream"),
    ];

    /// The code of a number on the wire. 0 (OK) is not an error and has no code: it becomes
    /// `Other(0)`.
    pub fn from_number(number: u32) -> Self {
        Self::KNOWN
            .iter()
            .find(|(_, n, _)| *n == number)
            .map_or(StatusCode::Other(number), |(code, _, _)| *code)
    }

    /// The number on the wire.
    pub fn number(self) -> u32 {
        match self {
            StatusCode::Other(number) => number,
            code => {
                Self::KNOWN.iter().find(|(c, _, _)| *c == code).map_or(0, |(_, number, _)| *number)
            }
        }
    }

    /// Whether a call that was refused with this code may have had an effect.
    pub fn may_have_run(self) -> bool {
        use StatusCode::{BadStream, Cancelled, Internal, Other, Unanswered};
        matches!(self, Internal | Unanswered | Cancelled | BadStream | Other(_))
    }
}

impl fmt::Display for StatusCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::KNOWN.iter().find(|(code, _, _)| code == self) {
            Some((_, _, words)) => f.write_str(words),
            None => write!(f, "status {}", self.number()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip_and_unknown_ones_are_kept() {
        for number in 1..40 {
            assert_eq!(StatusCode::from_number(number).number(), number);
        }
        assert_eq!(StatusCode::from_number(7), StatusCode::Busy);
        assert_eq!(StatusCode::from_number(4_000_000_000), StatusCode::Other(4_000_000_000));
    }

    #[test]
    fn a_long_message_keeps_its_beginning_and_its_end() {
        let check = |text: &str, expected: &str| {
            let cut = cut_middle(text, 21);
            assert!(cut.len() <= 21, "{cut}");
            assert_eq!(cut, expected);
        };
        check("", "");
        check("exactly 21 bytes long", "exactly 21 bytes long");
        check("cannot open /a/b/c/d: no space", "cannot o ... no space");
        // A character of several bytes is never cut in two.
        check(&"\u{1F980}".repeat(9), "\u{1F980}\u{1F980} ... \u{1F980}\u{1F980}");
        check(&format!("{}zw\u{20AC}", "a".repeat(30)), "aaaaaaaa ... aaazw\u{20AC}");
    }

    #[test]
    fn displays_words_for_people() {
        assert_eq!(
            Status::new(StatusCode::UnknownService, "\"x\"").to_string(),
            "unknown service: \"x\""
        );
        assert_eq!(StatusCode::Other(77).to_string(), "status 77");
    }
}
