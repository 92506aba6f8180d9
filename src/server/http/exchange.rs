//! One connection: it reads a request, writes the answer, and then reads until the client has
//! closed its end. Nothing here waits.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

/// The longest request head.
const HEAD_LEN_MAX_BYTES: usize = 8 << 10;

/// How long a request may take to arrive, and an answer to be sent.
const PHASE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the client may take to close its end. If we closed ours while bytes were unread, the
/// connection would be reset and the answer lost.
const DRAIN_TIME: Duration = Duration::from_secs(1);

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) path: String,
    /// A HEAD request: the answer has no body.
    pub(super) is_head: bool,
}

pub(super) struct Exchange {
    stream: TcpStream,
    phase: Phase,
    /// When the time for this phase is over.
    deadline: Instant,
}

#[derive(Debug)]
enum Phase {
    /// The part of the request that has arrived.
    Reading(Vec<u8>),
    /// The part of the answer that has not been sent.
    Writing(Vec<u8>),
    Draining,
}

impl Exchange {
    pub(super) fn new(stream: TcpStream) -> io::Result<Exchange> {
        stream.set_nonblocking(true)?;
        let deadline = Instant::now() + PHASE_TIMEOUT;
        Ok(Exchange { stream, phase: Phase::Reading(Vec::new()), deadline })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What the connection waits for.
    pub(super) fn flags(&self) -> PollFlags {
        match self.phase {
            Phase::Reading(_) | Phase::Draining => PollFlags::IN,
            Phase::Writing(_) => PollFlags::OUT,
        }
    }

    /// How much is lost if this connection is closed to make room for another.
    pub(super) fn worth(&self) -> u8 {
        match self.phase {
            Phase::Draining => 0,
            Phase::Reading(_) => 1,
            Phase::Writing(_) => 2,
        }
    }

    /// Does what can be done without waiting. Returns whether there is more to do later. `answer`
    /// gets the request, or `None` for one that is not understood.
    pub(super) fn go_on(
        &mut self,
        answer: impl FnOnce(Option<Request>) -> Vec<u8>,
    ) -> io::Result<bool> {
        if let Phase::Reading(head) = &mut self.phase {
            let Some(request) = read(&self.stream, head)? else { return Ok(true) };
            self.enter(Phase::Writing(answer(request)), PHASE_TIMEOUT);
        }
        if let Phase::Writing(rest) = &mut self.phase {
            if !write(&self.stream, rest)? {
                return Ok(true);
            }
            self.stream.shutdown(Shutdown::Write)?;
            self.enter(Phase::Draining, DRAIN_TIME);
        }
        drain(&self.stream)
    }

    fn enter(&mut self, phase: Phase, time: Duration) {
        (self.phase, self.deadline) = (phase, Instant::now() + time);
    }
}

/// Reads more of the request. `None`: it is not complete. `Some(None)`: it is not understood.
fn read(mut stream: &TcpStream, head: &mut Vec<u8>) -> io::Result<Option<Option<Request>>> {
    let mut buf = [0; 1024];
    loop {
        let len = match stream.read(&mut buf) {
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        head.extend_from_slice(&buf[..len]);
        if head.windows(4).any(|end| end == b"\r\n\r\n") {
            return Ok(Some(parse(head)));
        }
        if len == 0 && head.is_empty() {
            // The client only looked whether somebody listens.
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if len == 0 || head.len() > HEAD_LEN_MAX_BYTES || !is_text(&buf[..len]) {
            return Ok(Some(None));
        }
    }
}

/// Whether this may be a part of a request's head. A frame of our RPC is not, and neither is a TLS
/// hello: a client that sends one learns at once what this port speaks.
fn is_text(bytes: &[u8]) -> bool {
    !bytes.iter().any(|byte| byte.is_ascii_control() && !b"\t\r\n".contains(byte))
}

/// Parses a GET or HEAD request. `None`: it is something else.
fn parse(head: &[u8]) -> Option<Request> {
    let line = head.split(|&b| b == b'\r').next().unwrap_or_default();
    let mut words = std::str::from_utf8(line).unwrap_or_default().split(' ');
    let is_head = match words.next()? {
        "GET" => false,
        "HEAD" => true,
        _ => return None,
    };
    let path = words.next()?.split('?').next().unwrap_or_default().to_owned();
    Some(Request { path, is_head })
}

/// Writes more of `rest`, and keeps what is left there. Returns whether all has been written.
fn write(mut stream: &TcpStream, rest: &mut Vec<u8>) -> io::Result<bool> {
    while !rest.is_empty() {
        match stream.write(rest) {
            Ok(len) => drop(rest.drain(..len)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Reads and drops what has arrived. Returns whether more may come.
fn drain(mut stream: &TcpStream) -> io::Result<bool> {
    let mut sink = [0; 4096];
    match stream.read(&mut sink) {
        Ok(0) => Ok(false),
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(head: &str, expected: Option<(&str, bool)>) {
        let expected = expected.map(|(path, is_head)| Request { path: path.to_owned(), is_head });
        assert_eq!(parse(head.as_bytes()), expected, "{head:?}");
    }

    #[test]
    fn two_methods_are_understood_and_queries_are_ignored() {
        check("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", Some(("/livez", false)));
        check("HEAD /readyz?verbose=1 HTTP/1.0\r\n\r\n", Some(("/readyz", true)));
        check("POST /livez HTTP/1.1\r\n\r\n", None);
        check("get /livez HTTP/1.1\r\n\r\n", None);
        check("GET\r\n\r\n", None);
        check("\r\n\r\n", None);
    }
}
