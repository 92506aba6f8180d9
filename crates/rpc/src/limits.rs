//! The bounds of a server and of a channel: what each one means, its default, and what goes wrong
//! if it is too small or too large.

use std::time::Duration;

use super::ServerError;
use super::stream::{FIRST_CREDIT_BYTES, WINDOW_MAX_BYTES};

/// A longer header is refused. This is not a setting, because telling the two framings apart
/// depends on it (see `frame`).
pub const HEAD_LEN_MAX_BYTES: usize = 1024;

const MIB: usize = 1024 * 1024;

/// How long a frame may be, checked before anything is allocated for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    /// Longest body (arguments or reply) in bytes; default 16 MiB. Too small: large values are
    /// refused. Too large: each connection may make the process hold that much.
    pub body_len_max_bytes: usize,
}

impl Default for FrameLimits {
    fn default() -> Self {
        FrameLimits { body_len_max_bytes: 16 * MIB }
    }
}

/// Bounds of a [`Server`](super::Server). What exceeds one is refused with a reason, never queued
/// without end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Frame lengths.
    pub frame: FrameLimits,
    /// Open connections over which a call has come; default 1,024. One more is told that the server
    /// is busy, and closed. Up to 72 more are for
    /// [reserved services](super::ServerBuilder::reserved_service). Connections over which nothing
    /// has come yet make room when 80 more than this are open. Each costs a thread and 16 KiB, and
    /// a second thread while its client is slow to read. Too small: clients are refused. Too large:
    /// threads and descriptors run out, and new connections are dropped unless idle ones can be
    /// closed.
    pub connections_max: usize,
    /// Calls of one connection that are begun and not answered; default 1,024. One more is answered
    /// "busy". Too small: a busy channel's calls are refused. Too large: one client can take all
    /// of `calls_max`.
    pub calls_per_connection_max: usize,
    /// The same over all connections; default 16,384, and as many again for reserved services.
    pub calls_max: usize,
    /// Bytes of arguments, received or on their way, of calls of one connection that are not
    /// answered; default 64 MiB, and at least one longest frame.
    pub bytes_per_connection_max: usize,
    /// The same over all connections; default 256 MiB, and as much again for reserved services. Too
    /// small: large values are answered "busy". Too large: memory.
    pub bytes_max: usize,
    /// Bytes of replies that one client has not taken yet; default 64 MiB, and at least one longest
    /// frame. Beyond a sixteenth of it, no new call of that connection begins. An answer of 4 KiB
    /// or more that would exceed it is replaced by a status that says so. Too small: clients that
    /// read many large values at once must ask for some again. Too large: memory.
    pub unsent_bytes_max: usize,
    /// A connection without an open call and without a new one for this long is closed; default 2
    /// minutes. This spares connections over which a documented or a reserved call has come; one
    /// over which nothing has come yet has at least `frame_timeout`. Too small: callers connect
    /// again and again. Too large: clients that are gone, or say nothing, take up connections.
    pub idle_timeout: Duration,
    /// A call that takes this long from its arrival to its answer counts as slow and is logged;
    /// default 5 s.
    pub slow_call: Duration,
    /// A frame that has begun must be complete within this time, plus one second for each 256 KiB
    /// of its body that has arrived; default 10 s. Too small: clients behind slow networks are cut
    /// off. Too large: a client that sends a frame slowly, or never completes it, holds its room
    /// for longer.
    pub frame_timeout: Duration,
    /// A client that takes none of its replies for this long loses its connection; default 10 s.
    pub write_timeout: Duration,
    /// How long a client that has closed its sending side still gets the answers to its open calls;
    /// default 30 s. A client that is gone looks the same.
    pub half_close_timeout: Duration,
    /// Open streams of one connection; default 16,384. One more is refused with "busy". Each costs
    /// about a kilobyte, beside the items that wait. Too small: clients need several connections.
    /// Too large: one client can take all of `streams_max`.
    pub streams_per_connection_max: usize,
    /// The same over all connections; default 65,536, and as many again for reserved services.
    pub streams_max: usize,
    /// How many bytes of items a caller may send on a stream before the method has taken them; 64
    /// KiB to 64 MiB, default 256 KiB. Too small: a stream over a long way is slow, because each
    /// window takes a round trip. Too large: memory, while methods take items slowly.
    pub stream_window_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            frame: FrameLimits::default(),
            connections_max: 1024,
            calls_per_connection_max: 1024,
            calls_max: 16 * 1024,
            bytes_per_connection_max: 64 * MIB,
            bytes_max: 256 * MIB,
            unsent_bytes_max: 64 * MIB,
            idle_timeout: Duration::from_secs(120),
            slow_call: Duration::from_secs(5),
            frame_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
            half_close_timeout: Duration::from_secs(30),
            streams_per_connection_max: 16 * 1024,
            streams_max: 64 * 1024,
            stream_window_bytes: 256 * 1024,
        }
    }
}

impl Limits {
    /// Refuses limits under which some calls could never be served.
    pub(super) fn check(&self) -> Result<(), ServerError> {
        let body = self.frame.body_len_max_bytes;
        let at_least = [
            ("connections_max", self.connections_max, 1),
            ("calls_per_connection_max", self.calls_per_connection_max, 1),
            ("calls_max", self.calls_max, 1),
            ("bytes_per_connection_max", self.bytes_per_connection_max, body),
            ("bytes_max", self.bytes_max, body),
            ("unsent_bytes_max", self.unsent_bytes_max, body + 2 * HEAD_LEN_MAX_BYTES),
            ("u32::MAX", u32::MAX as usize, body),
            ("stream_window_bytes", self.stream_window_bytes, FIRST_CREDIT_BYTES),
            ("the largest window", WINDOW_MAX_BYTES, self.stream_window_bytes),
        ];
        let times = [
            ("idle_timeout", self.idle_timeout),
            ("frame_timeout", self.frame_timeout),
            ("write_timeout", self.write_timeout),
        ];
        if let Some((name, _)) = times.iter().find(|(_, time)| time.is_zero()) {
            return Err(ServerError::BadLimits { reason: format!("{name} is zero") });
        }
        match at_least.iter().find(|(_, value, least)| value < least) {
            Some((name, value, least)) => Err(ServerError::BadLimits {
                reason: format!("{name} is {value} and must be at least {least}"),
            }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_agree_with_each_other() {
        Limits::default().check().unwrap();
    }

    #[test]
    fn a_limit_that_no_call_could_pass_is_refused() {
        let check = |limits: Limits, word: &str| {
            let error = limits.check().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        };
        check(Limits { connections_max: 0, ..Limits::default() }, "connections_max");
        check(Limits { bytes_max: 1, ..Limits::default() }, "bytes_max");
        check(Limits { unsent_bytes_max: 16 * MIB, ..Limits::default() }, "unsent_bytes_max");
        check(Limits { stream_window_bytes: 1000, ..Limits::default() }, "stream_window_bytes");
        check(Limits { stream_window_bytes: 65 * MIB, ..Limits::default() }, "largest window");
    }
}
