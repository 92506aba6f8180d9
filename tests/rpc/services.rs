//! What a server publishes: services in other serializations, with versions, several side by side,
//! and the list of them.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel as queue};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use serde::{Deserialize, Serialize};
use syncraft::rpc::builtin::{ListServicesArgs, RpcStub, ServiceInfo};
use syncraft::rpc::{
    Bincode, Call, CallError, CallOptions, Channel, Invoke, Limits, Method, Payload, RequestId,
    Retry, Retrying, Server, Service, StatusCode,
};

use crate::raw::*;
use crate::support::*;

// ---- bincode ----

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Order {
    customer: String,
    items: BTreeMap<String, u32>,
    note: Option<Box<Order>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Receipt {
    Nothing,
    Items { count: u64, of: Order },
}

/// A service without a .proto, written by hand.
struct Orders;

const PLACE: Method = Method::new("orders", "Place");
const BROKEN: Method = Method::new("orders", "Broken");

/// It serializes to nothing.
#[derive(Deserialize)]
struct Unserializable;

impl Serialize for Unserializable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("no words for it"))
    }
}

impl Service for Orders {
    fn name(&self) -> &'static str {
        "orders"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["Place", "Broken"]
    }

    fn codec(&self) -> u32 {
        <Bincode<Order> as Payload>::CODEC
    }

    fn call(&self, method: usize, args: Bytes, call: Call) {
        if method == 1 {
            return call.typed().run(Bincode(Unserializable));
        }
        if let Some((Bincode(of), done)) = call.open::<Bincode<Order>, Bincode<Receipt>>(args) {
            let count = of.items.values().map(|count| u64::from(*count)).sum();
            let is_empty = of.items.is_empty();
            done.run(Bincode(if is_empty {
                Receipt::Nothing
            } else {
                Receipt::Items { count, of }
            }));
        }
    }
}

fn serve_orders(handlers: usize) -> Server {
    let (server, _) = serve_with(|builder| builder.service(Orders).handlers(handlers));
    server
}

fn place(channel: &Channel, order: &Order) -> Result<Receipt, CallError> {
    channel.call::<_, Bincode<Receipt>>(&PLACE, &Bincode(order.clone()), soon()).map(|it| it.0)
}

fn order() -> Order {
    let items: BTreeMap<_, _> = [("pear".to_owned(), 3), ("plum".to_owned(), 40)].into();
    let note = Order { customer: "nobody".to_owned(), ..Order::default() };
    Order { customer: "you".to_owned(), items, note: Some(Box::new(note)) }
}

fn code(error: &CallError) -> Option<StatusCode> {
    match error {
        CallError::Refused { status, .. } => Some(status.code),
        _ => None,
    }
}

#[test]
fn values_of_pure_rust_go_there_and_back() {
    for handlers in [0, 2] {
        let server = serve_orders(handlers);
        let channel = channel(server.local_addr()).lazy();
        let receipt = place(&channel, &order()).unwrap();
        assert_eq!(receipt, Receipt::Items { count: 43, of: order() });
        assert_eq!(place(&channel, &Order::default()).unwrap(), Receipt::Nothing);
        // Both kinds of service share a connection.
        assert_eq!(call(&channel, "Echo", "protobuf").unwrap(), "protobuf");
        assert_eq!(server.stats().connections_accepted, 1);
    }
}

#[test]
fn the_wrong_serialization_is_named_and_costs_the_call_only() {
    let server = serve_orders(1);
    let channel = channel(server.local_addr()).lazy();
    let error = channel.call::<_, Echo>(&PLACE, &echo("protobuf"), soon()).unwrap_err();
    assert_eq!(code(&error), Some(StatusCode::UnsupportedCodec), "{error}");
    assert!(error.to_string().contains("codec 0: service \"orders\" takes 1"), "{error}");
    let method = Method::new("testRpc", "Echo");
    let error = channel
        .call::<_, Bincode<Receipt>>(&method, &Bincode(Order::default()), soon())
        .unwrap_err();
    assert_eq!(code(&error), Some(StatusCode::UnsupportedCodec), "{error}");
    assert!(error.to_string().contains("codec 1: service \"testRpc\" takes 0"), "{error}");
    assert!(!error.may_have_run());
    assert_eq!(place(&channel, &Order::default()).unwrap(), Receipt::Nothing);
    assert_eq!(server.stats().connections_accepted, 1);
    // Clients that only know protobuf see the end of their connection.
    let mut documented = Raw::connect(server.local_addr());
    documented.send(&frame(&Head { service: "orders".into(), ..head("Place", 0, 0) }, b""));
    documented.expect_closed();
}

#[test]
fn bytes_that_are_no_such_value_are_bad_arguments() {
    let server = serve_orders(1);
    let mut raw = Raw::connect(server.local_addr());
    let mut good = Vec::new();
    Bincode(order()).write(&mut good);
    let cut = &good[..good.len() - 1];
    let longer = [&good[..], b"x"].concat();
    // A length of 2^64 - 1, nothing at all, and an invalid string.
    let cases = [cut, &longer, &[0xff; 8], b"", &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]];
    for (args, call_id) in cases.into_iter().zip(1..) {
        let head = head("Place", call_id, args.len());
        raw.send(&frame(&Head { service: "orders".into(), codec: 1, ..head }, args));
        raw.expect_status(call_id, StatusCode::BadArguments);
    }
    raw.send(&frame(
        &Head { service: "orders".into(), codec: 1, ..head("Place", 99, good.len()) },
        &good,
    ));
    assert_eq!(raw.reply().0.status, 0);
}

#[test]
fn a_reply_that_cannot_be_serialized_is_an_internal_error_with_its_reason() {
    let server = serve_orders(1);
    let channel = channel(server.local_addr()).lazy();
    let error = channel
        .call::<_, Bincode<Receipt>>(&BROKEN, &Bincode(Order::default()), soon())
        .unwrap_err();
    assert_eq!(code(&error), Some(StatusCode::Internal), "{error}");
    assert!(error.to_string().contains("no words for it"), "{error}");
    // Such arguments are not sent either.
    let error =
        channel.call::<_, Bincode<Receipt>>(&PLACE, &Bincode(Unserializable), soon()).unwrap_err();
    assert!(matches!(error, CallError::NotSent { .. }) && !error.may_have_run(), "{error}");
    assert_eq!(place(&channel, &Order::default()).unwrap(), Receipt::Nothing);
}

// ---- versions, and what else a call is about ----

/// What a call said about itself.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    caller: Bytes,
    trace: Bytes,
    request: Option<RequestId>,
}

/// A service with a version. It reports what its calls say about themselves, and refuses each
/// request twice.
struct Versioned {
    name: &'static str,
    version: u32,
    told: Mutex<Sender<Told>>,
}

impl Service for Versioned {
    fn name(&self) -> &'static str {
        self.name
    }

    fn methods(&self) -> &'static [&'static str] {
        &["Ask", "AskAgain"]
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn call(&self, method: usize, args: Bytes, call: Call) {
        let [caller, trace] = [call.caller(), call.trace()].map(Bytes::copy_from_slice);
        let request = call.request().cloned();
        let attempt = request.as_ref().map_or(0, |request| request.attempt);
        self.told.lock().send(Told { caller, trace, request }).unwrap();
        match method {
            1 if attempt < 2 => {
                let after = std::time::Duration::from_millis(1);
                call.fail(syncraft::rpc::Status::busy("not yet", after));
            }
            _ => call.typed().run(Echo::decode(args).unwrap()),
        }
    }
}

/// A service "any" for all versions, and a service "two" of version 2.
fn serve_versions() -> (Server, Receiver<Told>) {
    let (tx, told) = queue();
    let service = |name, version| Versioned { name, version, told: Mutex::new(Sender::clone(&tx)) };
    let server = Server::builder()
        .service(service("any", 0))
        .service(service("two", 2))
        .handlers(1)
        .bind("127.0.0.1:0")
        .build()
        .unwrap()
        .start();
    (server, told)
}

fn ask(channel: &Channel, service: &'static str, version: u32) -> Result<Echo, CallError> {
    let options = CallOptions::default().version(version);
    channel.invoke(&Method::new(service, "Ask"), &options, &echo("x"), soon())
}

#[test]
fn a_version_that_does_not_fit_is_refused_and_both_are_named() {
    let (server, told) = serve_versions();
    let channel = channel(server.local_addr()).lazy();
    for (service, version) in [("any", 0), ("any", 1), ("any", u32::MAX), ("two", 0), ("two", 2)] {
        assert_eq!(ask(&channel, service, version).unwrap(), echo("x"), "{service} {version}");
    }
    for version in [1, 3, u32::MAX] {
        let error = ask(&channel, "two", version).unwrap_err();
        assert_eq!(code(&error), Some(StatusCode::VersionMismatch), "{error}");
        assert!(!error.may_have_run());
        let words = error.to_string();
        for part in ["\"two\"", &format!("version {version} "), "version 2"] {
            assert!(words.contains(part), "{part} is not in {words}");
        }
    }
    assert_eq!(ask(&channel, "two", 2).unwrap(), echo("x"));
    assert_eq!(told.try_iter().count(), 6);
    assert_eq!(server.stats().connections_accepted, 1);
    // Existing clients know no versions.
    let mut documented = Raw::connect(server.local_addr());
    let args = echo("x").encode_to_vec();
    let head = Head { service: "two".into(), ..head("Ask", 0, args.len()) };
    documented.send(&frame(&head, &args));
    documented.expect_bare("x");
}

#[test]
fn a_service_is_told_who_calls_for_what_and_how_often() {
    let (server, told) = serve_versions();
    let addr = server.local_addr();
    let plain = channel(addr).lazy();
    ask(&plain, "any", 0).unwrap();
    let nothing = Told { caller: Bytes::new(), trace: Bytes::new(), request: None };
    assert_eq!(told.try_recv().unwrap(), nothing);

    let named = channel(addr).caller("who").lazy();
    let options = CallOptions::default().trace("for what");
    let _: Echo = named.invoke(&Method::new("any", "Ask"), &options, &echo("x"), soon()).unwrap();
    let expected = Told { caller: "who".into(), trace: "for what".into(), request: None };
    assert_eq!(told.try_recv().unwrap(), expected);

    // A retried call keeps its name.
    let retrying = Retrying::new(named, Retry::default());
    for number in 1..=2 {
        let method = Method::new("any", "AskAgain");
        let _: Echo = retrying.invoke(&method, &options, &echo("x"), soon()).unwrap();
        let told: Vec<_> = told.try_iter().collect();
        let requests: Vec<_> = told.iter().map(|told| told.request.clone().unwrap()).collect();
        let attempts: Vec<_> = requests.iter().map(|it| (it.number, it.attempt)).collect();
        assert_eq!(attempts, [(number, 0), (number, 1), (number, 2)]);
        assert!(requests.iter().all(|it| it.client.len() == 16 && it.client == requests[0].client));
        assert!(told.iter().all(|it| it.caller == "who" && it.trace == "for what"));
    }
    // A long mark is cut in the header.
    let options = CallOptions::default().trace("t".repeat(1000));
    let _: Echo = plain.invoke(&Method::new("any", "Ask"), &options, &echo("x"), soon()).unwrap();
    assert_eq!(told.try_recv().unwrap().trace, "t".repeat(128));
    // Documented calls carry none of this.
    let mut documented = Raw::connect(addr);
    documented.send(&frame(&Head { service: "any".into(), ..head("Ask", 0, 0) }, b""));
    wait_until("it has come", || told.try_recv().is_ok_and(|told| told == nothing));
}

/// Passes its calls on without an answer.
struct Keeper(Mutex<Sender<Call>>);

impl Service for Keeper {
    fn name(&self) -> &'static str {
        "keeper"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["Keep"]
    }

    fn call(&self, _method: usize, _args: Bytes, call: Call) {
        self.0.lock().send(call).unwrap();
    }
}

/// For calls of either format, on either kind of thread, and after their connection has ended.
#[test]
fn a_call_knows_the_address_that_it_came_from() {
    assert_eq!(Call::local(drop).peer(), None);
    for (handlers, call_id) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let (tx, calls) = queue();
        let builder = Server::builder().handlers(handlers).service(Keeper(Mutex::new(tx)));
        let server = builder.bind("127.0.0.1:0").build().unwrap().start();
        let mut client = TcpStream::connect(server.local_addr()).unwrap();
        let addr = client.local_addr().unwrap();
        let head = Head { service: "keeper".into(), ..head("Keep", call_id, 0) };
        client.write_all(&frame(&head, b"")).unwrap();
        let call = calls.recv_timeout(soon() - Instant::now()).unwrap();
        assert_eq!(call.peer(), Some(addr), "{handlers} handlers, call {call_id}");
        server.stop();
        assert_eq!(call.typed::<Echo>().peer(), Some(addr));
    }
}

// ---- several services, and the list of them ----

#[test]
fn services_do_not_know_each_other_s_methods() {
    let server = serve_orders(1);
    let channel = channel(server.local_addr()).lazy();
    let check = |method: Method, expected| {
        let error = channel.call::<_, Echo>(&method, &echo("x"), soon()).unwrap_err();
        assert_eq!(code(&error), Some(expected), "{error}");
        assert!(!error.may_have_run());
    };
    check(Method::new("testRpc", "Place"), StatusCode::UnknownMethod);
    check(Method::new("orders", "Echo"), StatusCode::UnknownMethod);
    check(Method::new("order", "Place"), StatusCode::UnknownService);
    check(Method::new("rpc", "Pong"), StatusCode::UnknownMethod);
    assert_eq!(server.stats().unknown_calls, 4);
    assert_eq!(call(&channel, "Echo", "x").unwrap(), "x");
}

#[test]
fn a_server_lists_what_it_serves() {
    let (tx, _told) = queue();
    let two = Versioned { name: "two", version: 2, told: Mutex::new(tx) };
    let (server, _) = serve_with(|builder| {
        builder.inline_service(Orders).reserved_service(two).handlers(1).limits(Limits::default())
    });
    let stub = RpcStub::new(channel(server.local_addr()).lazy());
    let services = stub.list_services(&ListServicesArgs {}, soon()).unwrap().services;
    let info = |name: &str, version, codec, methods: &[&str]| ServiceInfo {
        name: name.to_owned(),
        version,
        codec,
        methods: methods.iter().map(|method| (*method).to_owned()).collect(),
    };
    let of_test = ["Echo", "Hold", "Drop", "Panic", "Fail", "Big", "Block", "Caller"];
    let expected = [
        info("orders", 0, 1, &["Place", "Broken"]),
        info("rpc", 0, 0, &["Ping", "ListServices"]),
        info("testRpc", 0, 0, &of_test),
        info("two", 2, 0, &["Ask", "AskAgain"]),
    ];
    assert_eq!(services, expected);
    // Its bytes too, because other clients decode them.
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&frame(&Head { service: "rpc".into(), ..head("ListServices", 1, 0) }, b""));
    let (_, body) = raw.reply();
    let golden = b"\x0a\x19\x0a\x06orders\x18\x01\x22\x05Place\x22\x06Broken";
    assert_eq!(&body[..golden.len()], golden, "{}", body.escape_ascii());
}

#[test]
fn a_stub_of_another_service_on_the_same_channel_shares_the_connection() {
    let server = serve_orders(1);
    let channel = channel(server.local_addr()).lazy();
    let stub = RpcStub::new(channel.clone());
    for _ in 0..3 {
        stub.list_services(&ListServicesArgs {}, soon()).unwrap();
        assert_eq!(place(&channel, &Order::default()).unwrap(), Receipt::Nothing);
    }
    assert_eq!(server.stats().connections_accepted, 1);
}
