//! How a connection ends whose client is to read a last answer.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use crate::net::{after, time_left};
use crate::outbox::{Ending, Outbox};
use crate::transport::Received;

/// After the last answer to a client, its bytes are still read until none has come for this long:
/// closing with bytes unread would destroy that answer.
const LINGER: Duration = Duration::from_secs(1);

/// Lets the client read its last answer: sends the end of the stream, and reads what still comes
/// for a moment. A client that is reset was sent no last answer.
pub(crate) fn linger(outbox: &Outbox) {
    linger_up_to(outbox, LINGER);
}

/// The same for a client that may be in the middle of a long body: as long as its bytes keep
/// coming, at most for `linger_max`.
pub(crate) fn linger_up_to(outbox: &Outbox, linger_max: Duration) {
    let deadline = after(Instant::now(), linger_max.max(LINGER));
    outbox.wait_until_below(0, Some(deadline));
    if outbox.ending() == Ending::Reset {
        return;
    }
    let transport = outbox.transport();
    transport.shutdown(Shutdown::Write);
    let mut sink = [0; 4096];
    while let Some(left) = time_left(deadline) {
        match transport.read(&mut sink, Some(left.min(LINGER))) {
            Ok(Received::Bytes(_) | Received::ReadAgain) => {}
            Ok(Received::TimedOut | Received::End) | Err(_) => return,
        }
    }
}
