//! The load: on each connection, a new request for each reply.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::iter;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::error::{Context, Error};
use crate::server;

/// A server that replies to nothing for this long has failed.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct Load {
    addr: SocketAddr,
    clients: usize,
    connections: usize,
    request_bytes: usize,
    reply_bytes: usize,
    warm_up: Duration,
    length: Duration,
}

/// What one connection's thread needs.
struct Connection {
    stream: TcpStream,
    /// All requests that it has under way, one behind the other.
    requests: Vec<u8>,
    in_flight: usize,
    reply_bytes: usize,
    /// Replies count from here ...
    from: Instant,
    /// ... to here.
    until: Instant,
}

impl Load {
    pub(crate) fn new(
        args: &Args,
        addr: SocketAddr,
        request_bytes: usize,
        reply_bytes: usize,
    ) -> Load {
        let &Args { clients, connections, warm_up, length, .. } = args;
        Load { addr, clients, connections, request_bytes, reply_bytes, warm_up, length }
    }

    /// Runs the load, and returns the latencies of all requests that count.
    pub(crate) fn run(&self) -> Result<Vec<u32>, Error> {
        let running = || "running the load".to_owned();
        let streams: io::Result<Vec<TcpStream>> =
            (0..self.connections).map(|_| connect(self.addr)).collect();
        let streams = streams.context(|| format!("connecting to {}", self.addr))?;
        let from = Instant::now() + self.warm_up;
        let mut threads = Vec::new();
        for (number, stream) in streams.into_iter().enumerate() {
            let connection = self.connection(number, stream, from);
            threads.push(server::spawn(|| connection.run()).context(running)?);
        }
        let mut latencies_us = Vec::new();
        for thread in threads {
            latencies_us.extend(thread.join().expect("it does not panic").context(running)?);
        }
        Ok(latencies_us)
    }

    fn connection(&self, number: usize, stream: TcpStream, from: Instant) -> Connection {
        // The first connections carry the clients that do not divide evenly.
        let is_longer = number < self.clients % self.connections;
        let in_flight = self.clients / self.connections + usize::from(is_longer);
        let mut request = vec![b'v'; self.request_bytes];
        // So that the log tells connections apart.
        request[..8].copy_from_slice(&(number as u64).to_le_bytes());
        Connection {
            stream,
            requests: request.repeat(in_flight),
            in_flight,
            reply_bytes: self.reply_bytes,
            from,
            until: from + self.length,
        }
    }
}

fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
    stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
    Ok(stream)
}

impl Connection {
    fn run(mut self) -> io::Result<Vec<u32>> {
        let request_bytes = self.requests.len() / self.in_flight;
        let mut replies = vec![0; self.in_flight * self.reply_bytes];
        let mut latencies_us = Vec::new();
        let mut held_bytes = 0;
        // When each request under way was sent.
        let mut sent = VecDeque::from(vec![Instant::now(); self.in_flight]);
        self.stream.write_all(&self.requests)?;
        loop {
            let received_bytes = self.stream.read(&mut replies[held_bytes..])?;
            if received_bytes == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            held_bytes += received_bytes;
            let answered = held_bytes / self.reply_bytes;
            held_bytes %= self.reply_bytes;
            let now = Instant::now();
            let taken = sent.drain(..answered).map(|at| (now - at).as_micros() as u32);
            if now < self.from {
                drop(taken);
            } else if now < self.until {
                latencies_us.extend(taken);
            } else {
                return Ok(latencies_us);
            }
            sent.extend(iter::repeat_n(now, answered));
            self.stream.write_all(&self.requests[..answered * request_bytes])?;
        }
    }
}
