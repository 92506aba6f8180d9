//! The thread of a channel's connection: resolves, connects, reads answers until the connection is lost.

use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::core::Core;
use super::errors::Loss;
use super::{Config, Framing};
use crate::rpc::frame::{Decoder, Frame};
use crate::rpc::header::RpcReplyHeader;
use crate::rpc::net::{time_left, tune};
use crate::rpc::outbox::Outbox;
use crate::rpc::{Status, StatusCode};

/// A server that takes nothing of what it is sent for this long loses the connection.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bare replies are read this much at a time: a reply that is written at once is then read at once, as far as possible.
const BARE_READ_BYTES: usize = 64 * 1024;

pub(super) fn run(core: &Arc<Core>) {
    loop {
        let outbox = match connect(&core.config) {
            Ok(outbox) => outbox,
            Err(error) => return core.connect_failed(&error),
        };
        if !core.established(&outbox) {
            return outbox.close();
        }
        let why = match core.config.framing {
            Framing::Extended => read_frames(core, &outbox),
            Framing::Documented | Framing::DocumentedVarint => read_bare(core, &outbox),
        };
        // A loss that we brought about has a better reason than what the read says.
        let why = match (why, outbox.cut_reason()) {
            (Loss::Broken(_), Some(reason)) => {
                Loss::Broken(io::Error::new(ErrorKind::ConnectionAborted, reason))
            }
            (why, _) => why,
        };
        outbox.cut("lost");
        let connect_again = core.lost(&why);
        outbox.close();
        if !connect_again {
            return;
        }
    }
}

/// Tries every address of the server, each with its share of the time.
fn connect(config: &Config) -> io::Result<Arc<Outbox>> {
    let deadline = Instant::now() + config.connect_timeout;
    let addrs: Vec<SocketAddr> = config.addr.to_socket_addrs()?.collect();
    let mut last_error = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for (i, addr) in addrs.iter().enumerate() {
        let Some(left) = time_left(deadline) else { break };
        match connect_to(addr, left / (addrs.len() - i) as u32) {
            Ok(stream) => {
                let writer_name = format!("rpc-send-{}", config.port());
                return Outbox::new(stream, writer_name, config.unsent_bytes_max(), WRITE_TIMEOUT);
            }
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

fn connect_to(addr: &SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(addr, timeout)?;
    // A port that nobody listens on may be picked as our own end: TCP then connects the socket to itself.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(ErrorKind::ConnectionRefused.into());
    }
    tune(&stream)?;
    Ok(stream)
}

/// Reads the answers to extended calls.
fn read_frames(core: &Core, outbox: &Outbox) -> Loss {
    let mut decoder = Decoder::of(core.head_size(), core.config.limits);
    let mut answers = Answers { core, next: None, any: false };
    loop {
        loop {
            match decoder.next() {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    if let Err(loss) = answers.take(frame) {
                        return loss;
                    }
                }
                Err(error) => {
                    return Loss::Broken(io::Error::new(ErrorKind::InvalidData, error.to_string()));
                }
            }
        }
        match read(outbox, decoder.space()) {
            Ok(count) => decoder.filled(count),
            Err(error) => return Loss::Broken(error),
        }
    }
}

/// Where the answers of one connection go.
struct Answers<'a> {
    core: &'a Core,
    /// The header whose reply comes next.
    next: Option<RpcReplyHeader>,
    any: bool,
}

impl Answers<'_> {
    fn take(&mut self, frame: Frame<RpcReplyHeader>) -> Result<(), Loss> {
        match frame {
            Frame::Head(head) if head.call_id == 0 => return Err(self.about_connection(head)),
            Frame::Head(head) => self.next = Some(head),
            Frame::Body(reply) => {
                let head = self.next.take().expect("the decoder gives a body only after a head");
                let outcome = match head.status {
                    0 => Ok(reply),
                    _ => Err(self.core.refused(status(&head))),
                };
                self.core.answer(head.call_id, outcome);
            }
            Frame::TooLong(head) => {
                let limit = self.core.config.limits.body_len_max_bytes;
                let reason =
                    format!("a reply of {} bytes: at most {limit} are taken", head.reply_size);
                self.core.answer(head.call_id, Err(self.core.bad_reply(reason)));
            }
            Frame::Skipped => {}
        }
        self.any = true;
        Ok(())
    }

    /// The server says why it ends the connection. Said before anything else it means that no call was run.
    fn about_connection(&self, head: RpcReplyHeader) -> Loss {
        let status = status(&head);
        match status.code {
            StatusCode::Busy if !self.any => Loss::Refused(status),
            _ => Loss::Broken(io::Error::new(
                ErrorKind::ConnectionAborted,
                format!("the server says: {status}"),
            )),
        }
    }
}

fn status(head: &RpcReplyHeader) -> Status {
    let retry_after =
        (head.retry_after_ms > 0).then(|| Duration::from_millis(head.retry_after_ms.into()));
    Status {
        code: StatusCode::from_number(head.status),
        message: head.message.clone(),
        retry_after,
    }
}

/// Reads bare replies. Where one ends is not told: what decodes is taken for whole (see `Framing::Documented`).
fn read_bare(core: &Core, outbox: &Outbox) -> Loss {
    let mut buf = vec![0; BARE_READ_BYTES];
    let mut reply = Vec::new();
    loop {
        let count = match read(outbox, &mut buf) {
            Ok(count) => count,
            Err(error) => return Loss::Broken(error),
        };
        let Some(decodes) = core.reply_in_line() else {
            return Loss::Broken(io::Error::new(
                ErrorKind::InvalidData,
                "the server sent bytes that nobody waits for",
            ));
        };
        reply.extend_from_slice(&buf[..count]);
        if decodes(&reply) {
            core.answer_in_line(Ok(Bytes::from(std::mem::take(&mut reply))));
        } else if reply.len() > core.config.limits.body_len_max_bytes {
            core.answer_in_line(Err(
                core.bad_reply(format!("{} bytes, and still no reply", reply.len()))
            ));
            return Loss::Broken(io::Error::new(ErrorKind::InvalidData, "a reply over the limit"));
        }
    }
}

fn read(outbox: &Outbox, space: &mut [u8]) -> io::Result<usize> {
    loop {
        match outbox.stream().read(space) {
            Ok(0) => {
                return Err(io::Error::new(
                    ErrorKind::UnexpectedEof,
                    "the server closed the connection",
                ));
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
