//! The bounds of a server and of a channel: what each is, its default, and what goes wrong when it
//! is off.

use std::time::Duration;

use super::ServerError;

/// A header longer than this is refused. Not a setting: telling the two framings apart depends on
/// it (see `frame`).
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

/// Bounds of a [`Server`](super::Server). What is beyond one of them is refused in words, never
/// queued without end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Frame lengths.
    pub frame: FrameLimits,
    /// Connections at a time over which a call has come; default 1,024. One more is told that the
    /// server is busy, and closed; up to 32 more are for
    /// [reserved services](super::ServerBuilder::reserved_service). Those over which nothing has
    /// come yet make room when there are so many and 40 more. Each costs a thread and 16 KiB, and a
    /// second thread while its client is slow to read. Too small: clients are refused. Too large:
    /// threads and descriptors run out, and new connections are dropped unless others over which
    /// nothing is asked can be closed.
    pub connections_max: usize,
    /// Calls begun and not yet answered, for one connection; default 1,024. One more is answered
    /// "busy". Too small: a busy channel's calls are refused. Too large: one client can fill what
    /// is in front of consensus.
    pub calls_per_connection_max: usize,
    /// Calls begun and not yet answered, over all connections; default 16,384. Reserved services
    /// have as many again.
    pub calls_max: usize,
    /// Bytes of arguments received or being received for calls not yet answered, for one
    /// connection; default 64 MiB. At least one longest frame.
    pub bytes_per_connection_max: usize,
    /// The same over all connections; default 256 MiB, and as much again for reserved services. Too
    /// small: large values are answered "busy". Too large: memory.
    pub bytes_max: usize,
    /// Bytes of replies that one client has not yet taken from us; default 64 MiB. Past a sixteenth
    /// of it no new call of that connection begins; an answer of 4 KiB or more that would go past
    /// it is replaced by a status that says so. At least one longest frame. Too small: large values
    /// that are read at once have to be asked for again. Too large: memory.
    pub unsent_bytes_max: usize,
    /// A connection over which nothing is asked for this long, and no call is open, is closed;
    /// default 2 minutes. Not one over which a documented or a reserved call has come: those
    /// clients keep theirs. Too small: callers connect again and again. Too large: clients that are
    /// gone, or say nothing, take up connections.
    pub idle_timeout: Duration,
    /// A call that is answered later than this after it came is counted as slow and logged; default
    /// 5 s.
    pub slow_call: Duration,
    /// A frame that has begun must be complete after this time, plus one second for each 256 KiB of
    /// its body that has arrived; default 10 s: one that is announced and does not come holds its
    /// room for no longer. Too small: slow networks are cut off. Too large: a client that trickles
    /// holds a connection for longer.
    pub frame_timeout: Duration,
    /// A client that takes none of its replies for this long loses its connection; default 10 s.
    pub write_timeout: Duration,
    /// How long a client that has closed its sending side (or is gone: the two look alike) is given
    /// the answers to its outstanding calls; default 30 s.
    pub half_close_timeout: Duration,
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
        }
    }
}

impl Limits {
    /// Refuses limits under which some call could never be served.
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
    }
}
