//! How a connection ends: for each reason, what its client is told.

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::connection::{ClientProtocol, Connection};
use crate::frame::{FrameError, OtherProtocol};
use crate::net::after;
use crate::outbox::Ending;
use crate::port::{Connection as _, linger};
use crate::transport::TLS_REFUSAL;
use crate::{ErrorChain, Status, StatusCode};

const HTTP_ANSWER: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 43\r\n\
    Connection: close\r\n\r\nThis port speaks syncraft's RPC, not HTTP.\n";

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// The client closed it between frames.
    #[error("closed by the client")]
    Eof,
    /// Nothing was asked for long.
    #[error("idle")]
    Idle,
    /// Another thread has cut it, and the outbox knows why.
    #[error("cut")]
    Cut,
    #[error("the connection broke")]
    Io(#[source] io::Error),
    #[error("the client closed it within a frame")]
    Truncated,
    #[error("a frame was not complete after {0:?}")]
    Slow(Duration),
    #[error(transparent)]
    Frame(FrameError),
    /// A documented call that cannot be run. Its client understands no status.
    #[error("{0}")]
    Refused(Status),
    /// A connection too many, as its first call has shown. The client has been told.
    #[error("{0}")]
    TooMany(Status),
    /// Arguments too far over the limit to be skipped. The client has been told.
    #[error("arguments of {0} bytes")]
    TooLong(usize),
}

impl End {
    /// Tells the client, gives it time to read that, and cuts the connection.
    pub(super) fn finish(&self, connection: &Connection) {
        match self {
            End::Cut => log::debug!(
                "rpc: connection from {} was cut: {:?}",
                connection.peer,
                connection.outbox.cut_reason()
            ),
            End::Eof => {
                // The client waits for its answers and the end of the stream, or is gone.
                connection.outbox.set_ending(Ending::InOrder);
                let timeout = connection.shared.limits.half_close_timeout;
                connection.drain(after(Instant::now(), timeout));
            }
            // Broken connections are common, so this is only a debug line.
            End::Io(error) => {
                log::debug!("rpc: connection from {} broke: {error}", connection.peer)
            }
            End::Idle => {
                connection.announce_close(StatusCode::Closing, "nothing was asked for long");
                connection.shared.port.count_idle();
                linger(&connection.outbox);
            }
            End::Truncated | End::Slow(_) => self.warn(connection),
            End::TooLong(_) | End::TooMany(_) => linger(&connection.outbox),
            End::Refused(_) => {
                self.warn(connection);
                linger(&connection.outbox);
            }
            End::Frame(error) => {
                self.warn(connection);
                explain(connection, error);
                linger(&connection.outbox);
            }
        }
        connection.cut("closed");
    }

    fn warn(&self, connection: &Connection) {
        let words = ErrorChain(self);
        let line = format!("connection from {} closed: {words}", connection.peer);
        connection.shared.port.warn(&line);
    }
}

/// Tells the client what is wrong, in the protocol that it speaks.
fn explain(connection: &Connection, error: &FrameError) {
    let answer = match error {
        FrameError::OtherProtocol(OtherProtocol::Http) => HTTP_ANSWER,
        FrameError::OtherProtocol(OtherProtocol::Tls) => TLS_REFUSAL,
        _ => {
            if let ClientProtocol::Extended(head_size) = connection.protocol() {
                let status = Status::new(StatusCode::BadHeader, ErrorChain(error).to_string());
                connection.send_close_notice(head_size, &status);
            }
            return;
        }
    };
    connection.outbox.set_ending(Ending::InOrder);
    // What cannot be sent at once is not worth waiting for.
    let _ = connection.outbox.send(&Bytes::from_static(answer));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_words::{check_all, every_variant};

    #[test]
    fn every_end_says_its_own_part_only() {
        let refused = || Status::new(StatusCode::UnknownMethod, "there is no such method");
        check_all(&every_variant!(End:
            Eof {},
            Idle {},
            Cut {},
            Io(io::Error::other("no such thing")),
            Truncated {},
            Slow(Duration::from_secs(10)),
            Frame(FrameError::EmptyHead),
            Refused(refused()),
            TooMany(refused()),
            TooLong(7),
        ));
    }
}
