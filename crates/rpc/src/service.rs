//! What a server publishes and how a call is answered: [`Service`], [`Call`], [`Done`].

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use bytes::Bytes;

use super::payload::CODEC_PROTOBUF;
use super::stream::{Over, Stream};
use super::{ErrorChain, Incoming, Outgoing, Payload, RequestId, Status, StatusCode};

/// A set of methods under one name. The generated `...Service` types implement it; a hand-written
/// one may, too.
pub trait Service: Send + Sync + 'static {
    /// The name on the wire: "kvServerRpc".
    fn name(&self) -> &'static str;

    /// The package that its .proto declares, such as "syncraft.kv". Default: empty, for a service
    /// without one. Our own wire does not carry it, but protocols that name a service in full need
    /// it.
    fn package(&self) -> &'static str {
        ""
    }

    /// The names of its methods on the wire. The position of a name is the number that
    /// [`call`](Service::call) gets.
    fn methods(&self) -> &'static [&'static str];

    /// Runs method number `method` with its serialized `args`, on a handler's thread or on the
    /// connection's own (see [`ServerBuilder`](super::ServerBuilder)). On the latter no other call
    /// of that connection begins meanwhile. The answer may also be given later, by whoever holds
    /// `call` then.
    fn call(&self, method: usize, args: Bytes, call: Call);

    /// The serialization of its arguments and replies: the [`CODEC`](Payload::CODEC) of their
    /// types. Default: protobuf.
    fn codec(&self) -> u32 {
        CODEC_PROTOBUF
    }

    /// The version that it publishes. Callers that were made for another one are refused. Default
    /// 0: all are served.
    fn version(&self) -> u32 {
        0
    }

    /// Whether method number `method` streams. Then [`call`](Service::call) gets calls that carry a
    /// stream: see [`Call::open_stream`], [`Call::open_upload`] and [`Call::open_duplex`]. A method
    /// that does not stream gets none of these. Default: it does not.
    fn is_stream(&self, method: usize) -> bool {
        let _ = method;
        false
    }

    /// Runs after the last of several calls of this method that had arrived together, on the same
    /// thread, before that thread waits for anything. For methods that collect calls and then do
    /// one piece of work for all of them.
    fn flush(&self, method: usize) {
        let _ = method;
    }
}

/// Where an answer goes: a serialized reply, or a status.
pub(super) trait Answer: Send {
    /// Called exactly once, never blocks.
    fn answer(self: Box<Self>, outcome: Result<Reply<'_>, Status>);

    /// The method begins.
    fn begin(&mut self, now: Instant) {
        let _ = now;
    }

    /// Whether an answer could still reach anybody.
    fn is_wanted(&self) -> bool {
        true
    }

    /// The address that the call came from, if it came over a connection.
    fn peer(&self) -> Option<SocketAddr> {
        None
    }

    /// The stream that the call carries, if it does.
    fn stream(&self) -> Option<Arc<Stream>> {
        None
    }
}

/// Bytes that are not serialized yet: their number, and how to write them. So they are written only
/// once, into their frame.
pub(super) struct Reply<'a> {
    pub(super) len: usize,
    pub(super) write: &'a dyn Fn(&mut Vec<u8>),
}

/// One call to answer, before the type of its reply is known. If it is dropped without an answer,
/// it answers [`StatusCode::Unanswered`] ([`StatusCode::Internal`] during a panic).
pub struct Call {
    answer: Option<Box<dyn Answer>>,
    about: About,
}

/// What is known about a call beside its arguments.
#[derive(Clone, Debug, Default)]
pub(super) struct About {
    pub(super) deadline: Option<Instant>,
    pub(super) is_documented: bool,
    pub(super) caller: Bytes,
    /// What few calls have.
    pub(super) more: Option<Box<More>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct More {
    pub(super) request: Option<RequestId>,
    pub(super) trace: Bytes,
}

impl About {
    pub(super) fn trace(&self) -> &Bytes {
        static NONE: Bytes = Bytes::new();
        self.more.as_ref().map_or(&NONE, |more| &more.trace)
    }
}

impl Call {
    pub(super) fn new(answer: Box<dyn Answer>, about: About) -> Self {
        Call { answer: Some(answer), about }
    }

    /// A call without a connection; `on_answer` gets the serialized reply. It runs a service in
    /// place, for example in a test.
    pub fn local(on_answer: impl FnOnce(Result<Bytes, Status>) + Send + 'static) -> Self {
        Call::new(Box::new(Local(on_answer)), About::default())
    }

    /// The same call, which is answered with an `R`.
    pub fn typed<R: Payload>(self) -> Done<R> {
        Done { call: self, reply: PhantomData }
    }

    /// Decodes the arguments and types the answer. If the arguments do not decode, it answers that
    /// and returns `None`.
    pub fn open<A: Payload, R: Payload>(self, args: Bytes) -> Option<(A, Done<R>)> {
        match A::read(args) {
            Ok(args) => Some((args, self.typed())),
            Err(error) => {
                let words = ErrorChain(&error).to_string();
                self.fail(Status::new(StatusCode::BadArguments, words));
                None
            }
        }
    }

    /// For a method with one request that streams its replies: decodes the request, and gives the
    /// half to send through. If the caller has not opened such a stream, or the request does not
    /// decode, it answers that and returns `None`.
    pub fn open_stream<A: Payload, R: Payload>(mut self, args: Bytes) -> Option<(A, Outgoing<R>)> {
        let stream = self.as_stream(true, &args)?;
        match A::read(args) {
            Ok(args) => Some((args, self.outgoing(stream))),
            Err(error) => {
                let words = ErrorChain(&error).to_string();
                stream.finish(Over::Refused(Status::new(StatusCode::BadArguments, words)), true);
                None
            }
        }
    }

    /// For a method that takes a stream of items and gives one reply: the items, and what answers.
    /// If the caller has not opened such a stream, it answers that and returns `None`.
    pub fn open_upload<A: Payload, R: Payload>(
        mut self,
        args: Bytes,
    ) -> Option<(Incoming<A, Status>, Done<R>)> {
        let stream = self.as_stream(false, &args)?;
        Some((Incoming::of_server(stream), self.typed()))
    }

    /// For a method that takes a stream and gives one: both halves. If the caller has not opened
    /// such a stream, it answers that and returns `None`.
    pub fn open_duplex<A: Payload, R: Payload>(
        mut self,
        args: Bytes,
    ) -> Option<(Incoming<A, Status>, Outgoing<R>)> {
        let stream = self.as_stream(false, &args)?;
        Some((Incoming::of_server(Arc::clone(&stream)), self.outgoing(stream)))
    }

    /// The stream that this call carries. If there is none, or it has another shape, the call is
    /// answered.
    fn as_stream(&mut self, has_one_request: bool, args: &Bytes) -> Option<Arc<Stream>> {
        let stream = self.answer.as_ref().and_then(|answer| answer.stream());
        let is_as_wanted = |it: &Arc<Stream>| {
            it.has_peer_ended() == has_one_request && (has_one_request || args.is_empty())
        };
        match stream {
            Some(stream) if is_as_wanted(&stream) => Some(stream),
            Some(stream) => {
                let words = match has_one_request {
                    true => "the method takes one request, not a stream of items",
                    false => "the method takes a stream of items, not one request",
                };
                stream.finish(Over::Refused(Status::new(StatusCode::UnknownMethod, words)), true);
                None
            }
            None => {
                let words = "the method streams, and was called without a stream";
                self.finish(Err(Status::new(StatusCode::UnknownMethod, words)));
                None
            }
        }
    }

    fn outgoing<R: Payload>(mut self, stream: Arc<Stream>) -> Outgoing<R> {
        // From now on the other half ends the stream.
        let peer = self.answer.take().and_then(|answer| answer.peer());
        Outgoing::new(stream, std::mem::take(&mut self.about), peer)
    }

    /// Answers with a status instead of a reply. A method that has had an effect must not use a
    /// code that denies it, such as [`Busy`](StatusCode::Busy), because callers may then repeat the
    /// call ([`StatusCode::may_have_run`]).
    pub fn fail(mut self, status: Status) {
        self.finish(Err(status));
    }

    /// When the caller stops waiting, if it said so.
    pub fn deadline(&self) -> Option<Instant> {
        self.about.deadline
    }

    /// Whether it is a call of the documented format. Then only the bare reply can be sent, and a
    /// status closes the connection.
    pub fn is_documented(&self) -> bool {
        self.about.is_documented
    }

    /// The caller's name, as the caller gave it; empty if it gave none.
    pub fn caller(&self) -> &[u8] {
        &self.about.caller
    }

    /// The address at the other end of the connection: the caller's, or that of a proxy between.
    /// `None` for a [local](Call::local) call.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.answer.as_ref()?.peer()
    }

    /// What it is known by if it is repeated; `None` where the caller will not repeat it.
    pub fn request(&self) -> Option<&RequestId> {
        self.about.more.as_ref()?.request.as_ref()
    }

    /// The caller's mark; empty if it gave none.
    pub fn trace(&self) -> &[u8] {
        self.about.trace()
    }

    /// The method begins.
    pub(super) fn begin(&mut self, now: Instant) {
        if let Some(answer) = &mut self.answer {
            answer.begin(now);
        }
    }

    /// Whether an answer could still reach the caller.
    pub(super) fn is_wanted(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| answer.is_wanted())
    }

    fn finish(&mut self, outcome: Result<Reply<'_>, Status>) {
        if let Some(answer) = self.answer.take() {
            answer.answer(outcome);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.answer.is_some() {
            let status = match thread::panicking() {
                true => Status::new(StatusCode::Internal, "the method panicked"),
                false => Status::new(
                    StatusCode::Unanswered,
                    "the method gave the call up without an answer",
                ),
            };
            self.finish(Err(status));
        }
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Call { answer, about } = self;
        f.debug_struct("Call")
            .field("is_answered", &answer.is_none())
            .field("about", about)
            .finish()
    }
}

/// The right to answer a call: exactly once, now or later, from any thread. Answering never blocks:
/// what the client does not take at once waits in a bounded buffer. If it is dropped, it answers
/// [`StatusCode::Unanswered`].
#[derive(Debug)]
pub struct Done<R> {
    call: Call,
    reply: PhantomData<fn(R)>,
}

impl<R: Payload> Done<R> {
    /// Answers with `reply`.
    pub fn run(mut self, reply: R) {
        let write = |out: &mut Vec<u8>| reply.write(out);
        match reply.measure() {
            Ok(len) => self.call.finish(Ok(Reply { len, write: &write })),
            Err(error) => self.call.finish(Err(Status::new(
                StatusCode::Internal,
                format!("the reply cannot be serialized: {}", crate::ErrorChain(&error)),
            ))),
        }
    }

    /// Answers with a status instead of a reply: see [`Call::fail`]. If the call is of the
    /// documented format, its connection is closed.
    pub fn fail(self, status: Status) {
        self.call.fail(status);
    }

    /// When the caller stops waiting, if it said so. Work on the call after that is in vain.
    pub fn deadline(&self) -> Option<Instant> {
        self.call.deadline()
    }

    /// Whether it is a call of the documented format: see [`Call::is_documented`].
    pub fn is_documented(&self) -> bool {
        self.call.is_documented()
    }

    /// The caller's name, as the caller gave it; empty if it gave none.
    pub fn caller(&self) -> &[u8] {
        self.call.caller()
    }

    /// The address at the other end of the connection: see [`Call::peer`].
    pub fn peer(&self) -> Option<SocketAddr> {
        self.call.peer()
    }

    /// The call's identity if it may be repeated; `None` if the caller will not repeat it.
    pub fn request(&self) -> Option<&RequestId> {
        self.call.request()
    }

    /// The caller's mark; empty if it gave none.
    pub fn trace(&self) -> &[u8] {
        self.call.trace()
    }
}

struct Local<F>(F);

impl<F: FnOnce(Result<Bytes, Status>) + Send> Answer for Local<F> {
    fn answer(self: Box<Self>, outcome: Result<Reply<'_>, Status>) {
        (self.0)(outcome.map(|reply| {
            let mut buf = Vec::with_capacity(reply.len);
            (reply.write)(&mut buf);
            Bytes::from(buf)
        }));
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::mpsc::{Receiver, channel};

    use prost::Message;

    use super::*;

    fn call() -> (Call, Receiver<Result<Bytes, Status>>) {
        let (tx, rx) = channel();
        (Call::local(move |outcome| tx.send(outcome).unwrap()), rx)
    }

    fn check_code(answers: &Receiver<Result<Bytes, Status>>, code: StatusCode) {
        assert_eq!(answers.recv().unwrap().unwrap_err().code, code);
        assert!(answers.recv().is_err(), "answered twice");
    }

    #[test]
    fn a_reply_is_answered_once() {
        let (call, answers) = call();
        call.typed::<String>().run("hi".to_owned());
        assert_eq!(answers.recv().unwrap().unwrap(), "hi".to_owned().encode_to_vec());
        assert!(answers.recv().is_err());
    }

    #[test]
    fn a_dropped_done_is_answered_with_a_status() {
        let (call, answers) = call();
        drop(call.typed::<String>());
        check_code(&answers, StatusCode::Unanswered);
    }

    #[test]
    fn a_panic_that_holds_the_done_is_answered_with_a_status() {
        let (call, answers) = call();
        let done = call.typed::<String>();
        let _ = catch_unwind(AssertUnwindSafe(move || {
            let _done = done;
            panic!("on purpose");
        }));
        check_code(&answers, StatusCode::Internal);
    }

    #[test]
    fn arguments_that_do_not_decode_are_answered() {
        let (call, answers) = call();
        assert!(call.open::<String, String>(Bytes::from_static(&[0x0a, 0x05, b'x'])).is_none());
        check_code(&answers, StatusCode::BadArguments);
    }
}
