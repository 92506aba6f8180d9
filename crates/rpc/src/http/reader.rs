//! The thread of one connection: reads requests, and runs the handler.

use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connection::{Asked, Connection, Phase, Shared};
use super::head::{Framing, Head, Method, Scan, empty_lines};
use super::input::Input;
use super::{Answer, Body, Handler, Refusal, Request};
use crate::net::{after, time_left};
use crate::outbox::Outbox;
use crate::port::{Connection as _, Leaves, Protocol, linger_up_to};
use crate::transport::{Received, Transport};

/// How long a thread waits at a time for what may become a stream, and how soon it leaves one.
const TICK: Duration = Duration::from_millis(100);

/// How many empty lines a client may send before a request (RFC 9112 §2.2).
const EMPTY_LINES_MAX: usize = 8;

/// HTTP, as what a port carries.
#[derive(Clone)]
pub(super) struct Http {
    pub(super) shared: Arc<Shared>,
    pub(super) handler: Arc<dyn Handler>,
}

impl Protocol for Http {
    type Connection = Connection;

    fn connection(&self, socket: Transport, peer: SocketAddr) -> Arc<Connection> {
        // Nobody takes the end of an HTTP connection for an answer.
        socket.set_reset_on_close(false);
        let room = self.shared.limits.stream_unsent_max_bytes;
        let name = format!("http-send-{}", peer.port());
        let outbox = Outbox::with_room(socket, name, usize::MAX, room);
        Connection::new(peer, outbox, Arc::clone(&self.shared))
    }

    fn serve(&self, connection: Arc<Connection>) -> Leaves {
        Reader::new(connection, &*self.handler).run()
    }

    fn write_timeout(&self) -> Duration {
        self.shared.limits.write_timeout
    }
}

/// Why a thread leaves its connection.
enum End {
    /// Nothing more is to be said.
    Over,
    /// After what was sent.
    Closed,
    Refused(Refusal),
    Io(io::Error),
    /// An answer is a stream, which needs no thread.
    Parked,
}

struct Reader<'h> {
    connection: Arc<Connection>,
    handler: &'h dyn Handler,
    input: Input,
    scan: Scan,
    /// How many empty lines came before the head that is arriving.
    empty_lines: usize,
    /// When the head that is arriving has to be there.
    head_by: Option<Instant>,
    /// When the client has been silent for too long.
    idle_by: Instant,
    /// Whether the client is not among those that ask one request after the other: then the next
    /// read may have a timeout of its own, which costs a system call.
    is_patient: bool,
    is_admitted: bool,
    /// When the client ended its side, if it did.
    half_closed: Option<Instant>,
}

impl<'h> Reader<'h> {
    fn new(connection: Arc<Connection>, handler: &'h dyn Handler) -> Self {
        let idle_by = after(Instant::now(), connection.shared.limits.idle_timeout);
        let input = connection.resume();
        Reader {
            connection,
            handler,
            input,
            scan: Scan::default(),
            empty_lines: 0,
            head_by: None,
            idle_by,
            is_patient: false,
            is_admitted: false,
            half_closed: None,
        }
    }

    fn run(mut self) -> Leaves {
        let end = loop {
            match self.next() {
                Ok(head) => self.serve(&head),
                // The answers before it come first.
                Err(End::Refused(refusal)) => match self.settle() {
                    Ok(()) => break End::Refused(refusal),
                    Err(end) => break end,
                },
                Err(end) => break end,
            }
        };
        match end {
            End::Parked => {
                self.connection.park(self.input);
                return Leaves::Parked;
            }
            End::Over => {}
            End::Closed => self.linger(),
            End::Refused(refusal) => {
                if !self.connection.phase().1 {
                    self.connection.send_refusal(refusal);
                }
                self.linger();
            }
            // Broken connections are common, so this is only a debug line.
            End::Io(error) => {
                log::debug!("http: connection from {} broke: {error}", self.connection.peer());
            }
        }
        self.connection.finish();
        Leaves::Ended
    }

    /// The client has the time to read what it was sent, as long as it reads, and to notice that
    /// the rest of its body is not wanted.
    fn linger(&self) {
        let outbox = self.connection.outbox();
        outbox.wait_until_below(0, None);
        linger_up_to(outbox, self.connection.shared.limits.body_timeout);
    }

    /// The next request, once the last one is answered and most of that answer has left.
    fn next(&mut self) -> Result<Head, End> {
        let head_len_max = self.connection.shared.limits.head_len_max_bytes;
        loop {
            self.check_last()?;
            if self.scan.is_new() {
                self.skip_empty_lines()?;
            }
            let found = self.scan.end(self.input.bytes(), head_len_max).map_err(End::Refused)?;
            if let Some(len) = found {
                let head = Head::parse(&self.input.bytes()[..len]).map_err(End::Refused)?;
                self.settle()?;
                self.wait_for_room();
                self.check_last()?;
                self.input.consume(len);
                (self.scan, self.empty_lines, self.head_by) = (Scan::default(), 0, None);
                return Ok(head);
            }
            self.read()?;
        }
    }

    /// Whether the connection goes on after the last request.
    fn check_last(&mut self) -> Result<(), End> {
        if self.connection.phase().1 {
            // There is no next request to read.
            self.settle()?;
            return Err(End::Closed);
        }
        let (phase, _) = self.connection.phase();
        let is_draining = self.connection.shared.port.is_draining();
        match self.connection.is_cut() {
            true => Err(End::Over),
            false if phase == Phase::Idle && is_draining && self.input.is_empty() => {
                Err(End::Closed)
            }
            false => Ok(()),
        }
    }

    /// Waits until the last request is answered. A stream is not waited for.
    fn settle(&self) -> Result<(), End> {
        loop {
            self.connection.wait_for_answer(TICK);
            match self.connection.phase().0 {
                _ if self.connection.is_cut() => return Err(End::Over),
                Phase::Idle => return Ok(()),
                Phase::Pending => {}
                Phase::Streaming => return Err(End::Parked),
            }
        }
    }

    /// Waits while too much of earlier answers is unsent. Otherwise a client that asks and does not
    /// read would fill the memory with answers. The write timeout cuts it.
    fn wait_for_room(&self) {
        let unsent_max_bytes = self.connection.shared.limits.stream_unsent_max_bytes;
        self.connection.outbox().wait_until_below(unsent_max_bytes, None);
    }

    fn skip_empty_lines(&mut self) -> Result<(), End> {
        let len = empty_lines(self.input.bytes());
        self.input.consume(len);
        if len > 0 && self.input.is_empty() {
            self.connection.set_begun(false);
            self.head_by = None;
        }
        self.empty_lines += len / b"\r\n".len();
        match self.empty_lines > EMPTY_LINES_MAX {
            true => Err(End::Refused(Refusal::EmptyLines)),
            false => Ok(()),
        }
    }

    /// Reads once, for as long as the client may take.
    fn read(&mut self) -> Result<(), End> {
        let limits = &self.connection.shared.limits;
        let is_in_head = !self.input.is_empty();
        if is_in_head && self.head_by.is_none() {
            self.head_by = Some(after(Instant::now(), limits.head_timeout));
        }
        if let Some(since) = self.half_closed {
            return self.wait_half_closed(since);
        }
        let (phase, _) = self.connection.phase();
        if phase != Phase::Idle {
            // Whoever waits for an answer is not silent.
            self.idle_by = after(Instant::now(), limits.idle_timeout);
        }
        let timeout = match self.head_by {
            Some(by) => time_left(by).ok_or(End::Refused(Refusal::TooSlow))?,
            None if phase == Phase::Idle => {
                let left = time_left(self.idle_by).ok_or_else(|| {
                    self.connection.shared.port.count_idle();
                    End::Closed
                })?;
                if self.is_patient { left } else { TICK }
            }
            None => TICK,
        };
        match self.input.fill(self.connection.outbox().transport(), Some(timeout)) {
            Ok(Received::Bytes(_)) => {
                self.connection.set_spoken();
                self.connection.set_begun(true);
                self.is_patient = false;
                Ok(())
            }
            Ok(Received::TimedOut) if self.connection.phase().0 == Phase::Streaming => {
                Err(End::Parked)
            }
            Ok(Received::TimedOut | Received::ReadAgain) => {
                self.is_patient = true;
                Ok(())
            }
            Ok(Received::End) if self.connection.is_cut() => Err(End::Over),
            Ok(Received::End) if is_in_head => Err(End::Refused(Refusal::Truncated)),
            Ok(Received::End) => {
                self.half_closed = Some(Instant::now());
                self.connection.end_of_client();
                Ok(())
            }
            Err(_) if self.connection.is_cut() => Err(End::Over),
            Err(error) => Err(End::Io(error)),
        }
    }

    /// The client has ended its side: it waits for its answer, or is gone. The receiver of a stream
    /// counts as gone.
    fn wait_half_closed(&self, since: Instant) -> Result<(), End> {
        let until = after(since, self.connection.shared.limits.half_close_timeout);
        match self.connection.phase().0 {
            Phase::Idle => Err(End::Closed),
            Phase::Streaming => Err(End::Over),
            Phase::Pending if time_left(until).is_none() => Err(End::Over),
            Phase::Pending => {
                self.connection.wait_for_answer(TICK);
                Ok(())
            }
        }
    }

    fn serve(&mut self, head: &Head) {
        let connection = Arc::clone(&self.connection);
        if !self.is_admitted && connection.admit().is_err() {
            return connection.close_after_answer();
        }
        self.is_admitted = true;
        let has_body = head.framing != Framing::Length(0);
        connection.begin_request(!head.keeps_alive, head.expects_continue && has_body);
        let is_head = head.method == Method::Head;
        let asked = Asked { is_head, is_http_1_0: head.is_http_1_0 };
        let answer = Answer::new(Arc::clone(&connection), asked);
        let body = Body::new(&connection, &mut self.input, head.framing);
        let mut request = Request { head, peer: connection.peer(), body };
        if let Err(refusal) = request.body.check_len() {
            connection.close_after_answer();
            answer.refuse(refusal);
        } else {
            // The panic hook reports a panic, and the answer that it drops is sent.
            let handle = || self.handler.handle(&mut request, answer);
            let _ = catch_unwind(AssertUnwindSafe(handle));
        }
        if !request.body.discard() {
            connection.close_after_answer();
        }
        self.idle_by = after(Instant::now(), connection.shared.limits.idle_timeout);
        connection.set_begun(!self.input.is_empty());
    }
}
