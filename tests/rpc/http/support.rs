//! A server whose handler does one thing for each path, and a client that sees every byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use syncraft::rpc::http::{Answer, Limits, Method, Request, Response, Server, Stream};

use crate::raw::LONG;

/// Answers and streams that the test has taken over.
#[derive(Default)]
pub(super) struct Held {
    state: Mutex<HeldState>,
    changed: Condvar,
}

#[derive(Default)]
struct HeldState {
    answers: Vec<Answer>,
    streams: Vec<Stream>,
    over: usize,
    gone: usize,
}

impl Held {
    fn change(&self, change: impl FnOnce(&mut HeldState)) {
        change(&mut self.state.lock());
        self.changed.notify_all();
    }

    fn wait<T>(&self, what: impl Fn(&mut HeldState) -> Option<T>) -> T {
        let mut state = self.state.lock();
        loop {
            if let Some(found) = what(&mut state) {
                return found;
            }
            assert!(!self.changed.wait_for(&mut state, LONG).timed_out(), "it did not come");
        }
    }

    /// The answer to the oldest request of `/hold`.
    pub(super) fn answer(&self) -> Answer {
        self.wait(|state| (!state.answers.is_empty()).then(|| state.answers.remove(0)))
    }

    /// The oldest stream of `/stream`.
    pub(super) fn stream(&self) -> Stream {
        self.wait(|state| (!state.streams.is_empty()).then(|| state.streams.remove(0)))
    }

    pub(super) fn wait_streams(&self, count: usize) {
        self.wait(|state| (state.streams.len() >= count).then_some(()));
    }

    /// Waits until so many clients have gone that waited for an answer.
    pub(super) fn wait_gone(&self, count: usize) {
        self.wait(|state| (state.gone >= count).then_some(()));
    }

    pub(super) fn gone(&self) -> usize {
        self.state.lock().gone
    }

    /// Waits until so many streams are over.
    pub(super) fn wait_over(&self, count: usize) {
        self.wait(|state| (state.over >= count).then_some(()));
    }
}

pub(super) fn serve() -> (Server, Arc<Held>) {
    serve_with(Limits::default())
}

pub(super) fn serve_with(limits: Limits) -> (Server, Arc<Held>) {
    let held = Arc::new(Held::default());
    let own = held.clone();
    let handler = move |request: &mut Request<'_>, answer: Answer| handle(&own, request, answer);
    let server = Server::builder(handler).bind("127.0.0.1:0").limits(limits).start().unwrap();
    (server, held)
}

fn handle(held: &Arc<Held>, request: &mut Request<'_>, answer: Answer) {
    match &*request.path() {
        // Says what came.
        b"/show" => answer.send(Response::text(200, shown(request))),
        b"/host" => {
            answer.send(Response::text(200, request.host().unwrap_or("none").to_owned()));
        }
        b"/stats" => {
            answer.send(Response::text(200, format!("{:?}", request.server_stats())));
        }
        // Sends the body back.
        b"/echo" => match request.body().read_all(1 << 20) {
            Ok(body) => answer.send(Response::new(200).body(body)),
            Err(error) => answer.send(error.response()),
        },
        b"/parts" => {
            let (mut space, mut all) = ([0; 7], Vec::new());
            loop {
                match request.body().read(&mut space) {
                    Ok(0) => return answer.send(Response::new(200).body(all)),
                    Ok(len) => all.extend_from_slice(&space[..len]),
                    Err(error) => return answer.send(error.response()),
                }
            }
        }
        b"/hold" => {
            let own = held.clone();
            answer.when_gone(move || own.change(|state| state.gone += 1));
            held.change(|state| state.answers.push(answer));
        }
        b"/stream" => {
            let stream = answer.stream(Response::text(200, "begin,"));
            let own = held.clone();
            stream.when_over(move || own.change(|state| state.over += 1));
            held.change(|state| state.streams.push(stream));
        }
        b"/drop" => drop(answer),
        b"/panic" => panic!("a test of a handler that panics"),
        b"/big" => answer.send(Response::new(200).body(vec![b'x'; 8 << 20])),
        b"/empty" => answer.send(Response::new(204)),
        b"/inject" => {
            answer.send(Response::text(200, "x").header("X-Echo", "a\r\nX-Bad: 1\r\n\r\nbody"));
        }
        _ => answer.send(Response::text(404, "nothing\n")),
    }
}

fn shown(request: &Request<'_>) -> String {
    let query: Vec<_> = request
        .query()
        .map(|(name, value)| format!("{}={}", name.escape_ascii(), value.escape_ascii()))
        .collect();
    let method = match request.method() {
        Method::Get => "get",
        Method::Head => "head",
        Method::Post => "post",
        Method::Put => "put",
        Method::Patch => "patch",
        Method::Delete => "delete",
        Method::Options => "options",
        _ => "other",
    };
    let header = request.header("x-test").unwrap_or_default().escape_ascii();
    format!("{method} {} [{}] {header}", request.raw_path(), query.join(" "))
}

/// A client that sends and gets bytes.
pub(super) struct Client {
    stream: TcpStream,
    /// What has come and was not looked at.
    unread: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Got {
    pub(super) status: u16,
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Got {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| &value[..])
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Client {
    pub(super) fn connect(addr: SocketAddr) -> Client {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, unread: Vec::new() }
    }

    pub(super) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Sends what the server may not want any more.
    pub(super) fn try_send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    pub(super) fn end(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Sends a request without a body, and returns its answer.
    pub(super) fn get(&mut self, path: &str) -> Got {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        self.answer()
    }

    /// The next answer, with its whole body.
    pub(super) fn answer(&mut self) -> Got {
        let mut got = self.head();
        got.body = match (got.field("content-length"), got.field("transfer-encoding")) {
            (Some(len), None) => {
                let len = len.parse().unwrap();
                self.bytes(len)
            }
            (None, Some("chunked")) => self.chunks(),
            (None, None) if got.status == 204 => Vec::new(),
            (None, None) => self.rest(),
            other => panic!("{other:?}"),
        };
        got
    }

    /// The next answer, without its body.
    pub(super) fn head(&mut self) -> Got {
        let mut lines = vec![self.line()];
        while !lines.last().unwrap().is_empty() {
            lines.push(self.line());
        }
        let status = lines[0].strip_prefix("HTTP/1.1 ").unwrap_or_else(|| panic!("{lines:?}"));
        let status = status.split(' ').next().unwrap().parse().unwrap();
        let fields = lines[1..lines.len() - 1].iter().map(|line| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_owned(), value.to_owned())
        });
        Got { status, fields: fields.collect(), body: Vec::new() }
    }

    /// The next chunk of a stream; empty: the last one.
    pub(super) fn chunk(&mut self) -> Vec<u8> {
        let len = usize::from_str_radix(&self.line(), 16).unwrap();
        let chunk = self.bytes(len);
        assert_eq!(self.line(), "");
        chunk
    }

    fn chunks(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let chunk = self.chunk();
            if chunk.is_empty() {
                return all;
            }
            all.extend(chunk);
        }
    }

    pub(super) fn line(&mut self) -> String {
        loop {
            if let Some(at) = self.unread.windows(2).position(|it| it == b"\r\n") {
                let line: Vec<u8> = self.unread.drain(..at + 2).collect();
                return String::from_utf8(line[..at].to_vec()).unwrap();
            }
            assert!(self.read() > 0, "the connection ended in {:?}", self.unread.escape_ascii());
        }
    }

    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        while self.unread.len() < len {
            assert!(self.read() > 0, "the connection ended after {} of {len}", self.unread.len());
        }
        self.unread.drain(..len).collect()
    }

    /// Everything up to the end of the connection.
    pub(super) fn rest(&mut self) -> Vec<u8> {
        while self.read() > 0 {}
        std::mem::take(&mut self.unread)
    }

    /// The connection ends in order, without another byte.
    pub(super) fn expect_end(&mut self) {
        assert_eq!(self.rest().escape_ascii().to_string(), "");
    }

    /// The connection is over, by a reset if what was sent had not been read.
    pub(super) fn expect_gone(&mut self) {
        match self.stream.read(&mut [0]) {
            Ok(0) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("it goes on: {other:?}"),
        }
    }

    pub(super) fn is_silent_for(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).unwrap();
        let is_silent = self.unread.is_empty()
            && matches!(self.stream.peek(&mut [0]), Err(error) if is_timeout(&error));
        self.stream.set_read_timeout(Some(LONG)).unwrap();
        is_silent
    }

    fn read(&mut self) -> usize {
        let mut space = [0; 4096];
        let len = self.stream.read(&mut space).unwrap();
        self.unread.extend_from_slice(&space[..len]);
        len
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
