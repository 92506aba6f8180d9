//! The listening socket of a port.

use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::ops::RangeInclusive;

use socket2::SockRef;

use crate::ServerError;
use crate::net::resolve;

/// At least this many connections may wait to be accepted.
const LISTEN_QUEUE_MIN: usize = 1024;

/// Listens on `addr`, or on the first of these ports at its host that is free.
pub(crate) fn bind(
    addr: String,
    ports: Option<RangeInclusive<u16>>,
) -> Result<TcpListener, ServerError> {
    let Some(ports) = ports else {
        return listen(&addr).map_err(|source| ServerError::Bind { addr, source });
    };
    let host = addr.rsplit_once(':').map_or(&addr[..], |(host, _)| host);
    let mut result = Err(io::Error::new(ErrorKind::InvalidInput, "no ports to try"));
    for port in ports.clone() {
        result = listen(&format!("{host}:{port}"));
        if !matches!(&result, Err(error) if error.kind() == ErrorKind::AddrInUse) {
            break;
        }
    }
    result.map_err(|source| ServerError::Bind { addr: format!("{host}:{ports:?}"), source })
}

fn listen(addr: &str) -> io::Result<TcpListener> {
    TcpListener::bind(&resolve(addr)?[..])
}

/// Makes a listener ready for the acceptor.
pub(super) fn prepare(listener: &TcpListener, connections_max: usize) -> io::Result<()> {
    // A nonblocking listener would turn the acceptor into a busy loop.
    listener.set_nonblocking(false)?;
    // The standard library's queue of 128 overflows when a few hundred clients come at once, and a
    // client that finds no place tries again only after a second. The queue is long even where few
    // connections may be open, so that those too many can be told.
    let backlog = i32::try_from(connections_max.max(LISTEN_QUEUE_MIN)).unwrap_or(i32::MAX);
    SockRef::from(listener).listen(backlog)
}
