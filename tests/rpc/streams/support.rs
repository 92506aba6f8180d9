//! A service whose streams the tests hold, and frames of streams made by hand.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use syncraft::rpc::{
    Call, CallError, CallOptions, Channel, Done, Incoming, Limits, Method, MethodReport, Next,
    Outgoing, SendError, Sender, Server, ServerBuilder, Service, Status, StatusCode, StreamReply,
};

use crate::raw::{Echo, Head, LONG, Raw, ReplyHead, echo, frame, soon};

pub(crate) const LIST: Method = Method::new("streamRpc", "List");
pub(crate) const LOAD: Method = Method::new("streamRpc", "Load");
pub(crate) const TALK: Method = Method::new("streamRpc", "Talk");
pub(crate) const MIRROR: Method = Method::new("streamRpc", "Mirror");
pub(crate) const PANIC: Method = Method::new("streamRpc", "Panic");
pub(crate) const BLOCK: Method = Method::new("streamRpc", "Block");
pub(crate) const PLAIN: Method = Method::new("streamRpc", "Plain");

const METHODS: [&str; 7] = ["List", "Load", "Talk", "Mirror", "Panic", "Block", "Plain"];

/// What a method of the service got.
pub(crate) enum Opened {
    List(Echo, Outgoing<Echo>),
    Load(Incoming<Echo, Status>, Done<Echo>),
    Talk(Incoming<Echo, Status>, Outgoing<Echo>),
}

/// Hands its streams to the test.
pub(crate) struct StreamService {
    opened: Mutex<mpsc::Sender<Opened>>,
}

impl Service for StreamService {
    fn name(&self) -> &'static str {
        "streamRpc"
    }

    fn methods(&self) -> &'static [&'static str] {
        &METHODS
    }

    fn is_stream(&self, method: usize) -> bool {
        METHODS[method] != "Plain"
    }

    fn call(&self, method: usize, args: Bytes, call: Call) {
        let opened = match METHODS[method] {
            "List" => call.open_stream(args).map(|(args, replies)| Opened::List(args, replies)),
            "Load" => call.open_upload(args).map(|(items, done)| Opened::Load(items, done)),
            "Talk" => call.open_duplex(args).map(|(items, replies)| Opened::Talk(items, replies)),
            "Mirror" => return mirror(call, args),
            "Panic" => {
                let _stream = call.open_stream::<Echo, Echo>(args);
                panic!("on purpose");
            }
            "Block" => {
                let (args, replies) = call.open_stream::<Echo, Echo>(args).unwrap();
                while replies.send(&args, soon()).is_ok() {}
                return;
            }
            _ => {
                let Some((args, done)) = call.open::<Echo, Echo>(args) else { return };
                return done.run(args);
            }
        };
        opened.into_iter().for_each(|it| self.opened.lock().send(it).unwrap());
    }
}

/// Gives back each item as it comes, without a thread.
fn mirror(call: Call, args: Bytes) {
    let Some((items, replies)) = call.open_duplex::<Echo, Echo>(args) else { return };
    let mut replies = Some(replies);
    items.on_item(move |item| match item {
        Ok(Some(item)) if &item.data[..] == b"panic" => panic!("on purpose"),
        Ok(Some(item)) => replies.as_ref().unwrap().try_send(&item).unwrap(),
        Ok(None) => replies.take().unwrap().end(),
        Err(status) => replies.take().unwrap().fail(status),
    });
}

/// A server, a channel to it, and the streams that are opened there.
pub(crate) struct Fixture {
    pub(crate) server: Server,
    pub(crate) channel: Channel,
    opened: Mutex<mpsc::Receiver<Opened>>,
}

impl Fixture {
    pub(crate) fn new() -> Fixture {
        Fixture::with(|builder| builder)
    }

    pub(crate) fn limited(limits: Limits) -> Fixture {
        Fixture::with(|builder| builder.limits(limits))
    }

    pub(crate) fn with(settings: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Fixture {
        let (opened_here, opened) = mpsc::channel();
        let service = StreamService { opened: Mutex::new(opened_here) };
        let builder = Server::builder().service(service).bind("127.0.0.1:0");
        let server = settings(builder).build().unwrap().start();
        let channel = channel_to(server.local_addr());
        Fixture { server, channel, opened: Mutex::new(opened) }
    }

    pub(crate) fn list(&self, data: &'static str) -> (Incoming<Echo>, Outgoing<Echo>) {
        let incoming = list(&self.channel, data, None);
        (incoming, self.listed(data))
    }

    pub(crate) fn listed(&self, data: &str) -> Outgoing<Echo> {
        match self.opened.lock().recv_timeout(LONG).unwrap() {
            Opened::List(args, replies) => {
                assert_eq!(args, echo(data.to_owned()));
                replies
            }
            _ => panic!("another stream was opened"),
        }
    }

    pub(crate) fn load(&self) -> (Ours, StreamReply<Echo>, Theirs, Done<Echo>) {
        let (sender, reply) = self.channel.open_upload(&LOAD, &CallOptions::default(), None);
        match self.opened.lock().recv_timeout(LONG).unwrap() {
            Opened::Load(items, done) => (sender, reply, items, done),
            _ => panic!("another stream was opened"),
        }
    }

    pub(crate) fn talk(&self) -> (Ours, Incoming<Echo>, Theirs, Outgoing<Echo>) {
        let (sender, incoming) = self.channel.open_duplex(&TALK, &CallOptions::default(), None);
        let (items, replies) = self.talked();
        (sender, incoming, items, replies)
    }

    pub(crate) fn talked(&self) -> (Theirs, Outgoing<Echo>) {
        match self.opened.lock().recv_timeout(LONG).unwrap() {
            Opened::Talk(items, replies) => (items, replies),
            _ => panic!("another stream was opened"),
        }
    }

    /// The next stream that `Talk` got, if one comes within this time.
    pub(crate) fn try_talked(&self, timeout: Duration) -> Option<(Theirs, Outgoing<Echo>)> {
        match self.opened.lock().recv_timeout(timeout).ok()? {
            Opened::Talk(items, replies) => Some((items, replies)),
            _ => panic!("another stream was opened"),
        }
    }

    pub(crate) fn report(&self, method: &Method) -> MethodReport {
        self.server.stats().methods.remove(&("streamRpc", method.name)).unwrap()
    }

    /// Everything else goes on: calls, and a stream.
    pub(crate) fn check_alive(&self) {
        let args = echo("still here");
        let reply: Echo = self.channel.call(&PLAIN, &args, soon()).unwrap();
        assert_eq!(reply, args);
        let (incoming, replies) = self.list("again");
        replies.try_send(&args).unwrap();
        replies.end();
        assert_eq!(all(incoming).unwrap(), ["still here"]);
    }
}

pub(crate) type Ours = Sender<Echo>;
pub(crate) type Theirs = Incoming<Echo, Status>;

pub(crate) fn channel_to(addr: SocketAddr) -> Channel {
    Channel::builder(addr.to_string()).lazy()
}

pub(crate) fn list(
    channel: &Channel,
    data: &'static str,
    deadline: Option<Instant>,
) -> Incoming<Echo> {
    channel.open_stream(&LIST, &CallOptions::default(), &echo(data), deadline)
}

/// All items as text, and how the stream ended.
pub(crate) fn all<E>(incoming: Incoming<Echo, E>) -> Result<Vec<String>, E> {
    incoming.map(|item| item.map(|item| String::from_utf8(item.data.to_vec()).unwrap())).collect()
}

/// The next item, which must come.
pub(crate) fn next<E: std::fmt::Debug>(incoming: &mut Incoming<Echo, E>) -> Bytes {
    match incoming.next_timeout(LONG) {
        Next::Item(item) => item.data,
        other => panic!("{other:?} instead of an item"),
    }
}

/// How the stream fails, which it must do before any item.
pub(crate) fn failure<E: std::fmt::Debug>(incoming: &mut Incoming<Echo, E>) -> E {
    match incoming.next_timeout(LONG) {
        Next::Failed(error) => error,
        other => panic!("{other:?} instead of an error"),
    }
}

/// The status with which the server has ended an opened stream.
pub(crate) fn ended(error: &CallError) -> StatusCode {
    match error {
        CallError::Ended { status, .. } => status.code,
        other => panic!("{other:?}"),
    }
}

/// The status with which the server has refused to open a stream.
pub(crate) fn refused(error: &CallError) -> StatusCode {
    assert!(!error.may_have_run());
    match error {
        CallError::Refused { status, .. } => status.code,
        other => panic!("{other:?}"),
    }
}

/// The status of a stream that is over.
pub(crate) fn over(error: SendError) -> StatusCode {
    match error {
        SendError::Ended(status) => status.code,
        other => panic!("{other:?}"),
    }
}

/// Runs when the stream of the method is over.
pub(crate) fn when_over(replies: &Outgoing<Echo>) -> mpsc::Receiver<()> {
    let (over, is_over) = mpsc::channel();
    replies.when_over(move || over.send(()).unwrap());
    is_over
}

pub(crate) fn wait(event: &mpsc::Receiver<()>) {
    event.recv_timeout(LONG).expect("it happens");
    assert!(event.recv_timeout(Duration::ZERO).is_err(), "it happened twice");
}

// ---- frames by hand ----

pub(crate) const OPEN: u32 = 1;
pub(crate) const OPEN_ONE: u32 = 2;
pub(crate) const ITEM: u32 = 3;
pub(crate) const CREDIT: u32 = 4;
pub(crate) const END: u32 = 5;
pub(crate) const CANCEL: u32 = 6;

/// Opens a stream with a megabyte of credit for the server.
pub(crate) fn open(method: &Method, call_id: u64) -> Vec<u8> {
    let head = Head {
        service: method.service.into(),
        method: method.name.into(),
        call_id,
        stream: OPEN,
        credit: 1 << 20,
        ..Head::default()
    };
    frame(&head, b"")
}

pub(crate) fn stream_frame(stream: u32, call_id: u64, credit: u64, body: &[u8]) -> Vec<u8> {
    let (service, args_size) = (":".into(), body.len() as u32);
    frame(&Head { service, call_id, stream, credit, args_size, ..Head::default() }, body)
}

pub(crate) fn item_frame(call_id: u64, data: &str) -> Vec<u8> {
    stream_frame(ITEM, call_id, 0, &echo(data.to_owned()).encode_to_vec())
}

/// Expects the end of a stream with this status.
pub(crate) fn expect_end(raw: &mut Raw, call_id: u64, code: StatusCode) {
    let (head, _) = raw.reply();
    let found = (head.call_id, head.stream, head.status);
    assert_eq!(found, (call_id, END, code.number()), "{}", head.message);
}

/// A frame as a server sends it.
pub(crate) fn reply_frame(call_id: u64, stream: u32, credit: u64, body: &[u8]) -> Vec<u8> {
    let reply_size = body.len() as u32;
    let head = ReplyHead { call_id, stream, credit, reply_size, ..ReplyHead::default() };
    frame(&head, body)
}

/// A plain reply, as a server without streams sends it.
pub(crate) fn plain_reply(call_id: u64, body: &[u8]) -> Vec<u8> {
    reply_frame(call_id, 0, 0, body)
}
