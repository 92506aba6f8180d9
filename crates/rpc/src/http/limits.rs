//! The bounds of an HTTP server: [`Limits`].

use std::time::Duration;

use crate::ServerError;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// The most header fields of a request, and the most trailers of a chunked body.
pub(super) const FIELDS_MAX: usize = 100;

/// Bounds of an HTTP [`Server`](super::Server). The parent's page says what a client sees that goes
/// over one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections over which a request has come; default 1,024. Each costs a thread, unless its
    /// answer is an open stream. One more ends the one that has been idle longest, or is refused if
    /// none is idle. Too small: clients are refused. Too large: memory.
    pub connections_max: usize,
    /// The longest head of a request, with its target and header fields; default 16 KiB. Too small:
    /// long targets are refused. Too large: memory, for each client that is slow.
    pub head_len_max_bytes: usize,
    /// The longest body of a request; default 16 MiB. A handler may take less.
    pub body_len_max_bytes: usize,
    /// The bytes of bodies that have arrived and are not answered, over all connections; default
    /// 256 MiB. A body that finds no room is refused. Too small: clients are refused. Too large:
    /// memory.
    pub bodies_max_bytes: usize,
    /// How long a head may take to arrive, from its first byte; default 10 s. Too short: clients
    /// over bad links are refused. Too long: half-sent heads hold threads.
    pub head_timeout: Duration,
    /// How long a body may take to arrive; default 10 s, and one second more for each 256 KiB of it
    /// that have arrived. A client that sends a body which is refused may go on for this long
    /// before the connection is closed.
    pub body_timeout: Duration,
    /// How long a client may be silent, or send only empty lines, between two requests, and before
    /// its first one; default 60 s.
    pub idle_timeout: Duration,
    /// How long a client may take to accept a part of what it is sent; default 10 s.
    pub write_timeout: Duration,
    /// How long a client that has ended its side of the connection waits for its answers; default
    /// 30 s.
    pub half_close_timeout: Duration,
    /// While more than this waits to be sent on a stream, it takes no chunk; and while more than
    /// this waits on a connection, its next request does not begin; default 256 KiB. Too small:
    /// fast streams wait for their senders. Too large: memory, for each slow client.
    pub stream_unsent_max_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections_max: 1024,
            head_len_max_bytes: 16 * KIB,
            body_len_max_bytes: 16 * MIB,
            bodies_max_bytes: 256 * MIB,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(10),
            half_close_timeout: Duration::from_secs(30),
            stream_unsent_max_bytes: 256 * KIB,
        }
    }
}

impl Limits {
    /// Refuses limits under which no request could be served.
    pub(super) fn check(&self) -> Result<(), ServerError> {
        let at_least = [
            ("connections_max", self.connections_max, 1),
            ("head_len_max_bytes", self.head_len_max_bytes, 256),
            ("bodies_max_bytes", self.bodies_max_bytes, self.body_len_max_bytes),
            ("stream_unsent_max_bytes", self.stream_unsent_max_bytes, 1),
        ];
        let times = [
            ("head_timeout", self.head_timeout),
            ("body_timeout", self.body_timeout),
            ("idle_timeout", self.idle_timeout),
            ("write_timeout", self.write_timeout),
        ];
        let too_low = at_least.iter().find(|(_, value, least)| value < least);
        let zero = times.iter().find(|(_, time)| time.is_zero());
        let reason = match (too_low, zero) {
            (Some((name, value, least)), _) => {
                format!("{name} is {value} and must be at least {least}")
            }
            (None, Some((name, _))) => format!("{name} is zero"),
            (None, None) => return Ok(()),
        };
        Err(ServerError::BadLimits { reason })
    }
}
