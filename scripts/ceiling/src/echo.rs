//! The echo: for each request that arrives, a reply as long as a value.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use crate::error::Error;
use crate::server;

/// How much a connection's thread takes from its socket at a time.
const READ_BYTES: usize = 16 << 10;

pub(crate) fn serve(request_bytes: usize, reply_bytes: usize) -> Result<(), Error> {
    let (listener, addr) = server::listen()?;
    // As many as one read can complete.
    let requests_max = READ_BYTES / request_bytes + 1;
    let replies = Arc::new(vec![b'r'; requests_max * reply_bytes]);
    let serve = move |stream| echo(stream, request_bytes, reply_bytes, &replies);
    server::spawn_vital("accepting connections", move || server::accept_all(&listener, serve))?;
    server::announce(addr)
}

fn echo(
    mut stream: TcpStream,
    request_bytes: usize,
    reply_bytes: usize,
    replies: &[u8],
) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    let mut held_bytes = 0;
    loop {
        let received_bytes = stream.read(&mut buffer)?;
        if received_bytes == 0 {
            return Ok(());
        }
        held_bytes += received_bytes;
        let requests = held_bytes / request_bytes;
        held_bytes %= request_bytes;
        stream.write_all(&replies[..requests * reply_bytes])?;
    }
}
