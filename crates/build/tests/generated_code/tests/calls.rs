//! Calls through generated code with names that could clash.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use generated_code::explicit::args::Inner;
use generated_code::explicit::{self, Explicit, ExplicitStub};
use generated_code::issues::{
    Names, NamesStub, NothingStub, OnlyStreams, OnlyStreamsStub, Send, Ten, TenService, TenStub,
};
use generated_code::plain::{self, Plain, PlainService};
use generated_code::r#type::{Clock, ClockStub, Every};
use syncraft::rpc::prost_types::{self, Timestamp};
use syncraft::rpc::{
    CallError, Channel, Done, Incoming, Method, Outgoing, Server, Service, Status, StatusCode,
};

/// Answers with the arguments and the method's name.
struct Here;

fn answer(method: &str, args: Send, done: Done<Send>) {
    done.run(Send { text: format!("{method}: {}", args.text) });
}

macro_rules! answer {
    ($($name:ident)*) => {
        $(fn $name(&self, args: Send, done: Done<Send>) {
            answer(stringify!($name), args, done);
        })*
    };
}

impl Names for Here {
    answer! { new_ clone get get_async get_then }
}

impl Ten for Here {
    answer! { one two three four six seven eight nine ten }

    fn watch(&self, args: Send, replies: Outgoing<Send>) {
        for number in 1..=3 {
            replies.try_send(&send(&format!("{} {number}", args.text))).unwrap();
        }
        replies.end();
    }
}

impl OnlyStreams for Here {
    fn up(&self, items: Incoming<Send, Status>, done: Done<Send>) {
        let (mut done, mut all) = (Some(done), String::new());
        items.on_item(move |item| match item {
            Ok(Some(item)) => all.push_str(&item.text),
            Ok(None) => done.take().unwrap().run(send(&all)),
            Err(status) => done.take().unwrap().fail(status),
        });
    }

    fn both(&self, items: Incoming<Send, Status>, replies: Outgoing<Send>) {
        let mut replies = Some(replies);
        items.on_item(move |item| match item {
            Ok(Some(item)) => replies.as_ref().unwrap().try_send(&item).unwrap(),
            Ok(None) => replies.take().unwrap().end(),
            Err(status) => replies.take().unwrap().fail(status),
        });
    }
}

impl Plain for Here {
    fn call(&self, args: plain::Args, done: Done<plain::Args>) {
        done.run(args);
    }
}

impl Explicit for Here {
    fn call(&self, args: explicit::Args, done: Done<explicit::Args>) {
        done.run(args);
    }
}

impl Clock for Here {
    fn now(&self, (): (), done: Done<Timestamp>) {
        done.run(Timestamp { seconds: 1, nanos: 2 });
    }

    fn later(&self, args: prost_types::Duration, done: Done<Timestamp>) {
        done.run(Timestamp { seconds: args.seconds, nanos: args.nanos });
    }

    fn say(&self, args: String, done: Done<String>) {
        done.run(args);
    }

    fn reflect(&self, args: Every, done: Done<Every>) {
        done.run(args);
    }
}

fn serve(service: impl Service) -> (Server, Channel) {
    let server = Server::builder().service(service).bind("127.0.0.1:0").build().unwrap().start();
    let channel = Channel::builder(server.local_addr().to_string()).lazy();
    (server, channel)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn send(text: &str) -> Send {
    Send { text: text.to_owned() }
}

#[test]
fn each_method_is_called_by_its_own_name() {
    let (_server, channel) = serve(Names::into_service(Here));
    let stub = NamesStub::new(channel);
    assert_eq!(stub.new_(&send("a"), soon()).unwrap(), send("new_: a"));
    assert_eq!(stub.clone(&send("b"), soon()).unwrap(), send("clone: b"));
    assert_eq!(stub.get_async(&send("c"), soon()).unwrap(), send("get_async: c"));
    assert_eq!(stub.get_then(&send("d"), soon()).unwrap(), send("get_then: d"));
    // Without waiting.
    assert_eq!(stub.get_async_(&send("e"), soon()).wait().unwrap(), send("get: e"));
    assert_eq!(stub.get_async_async(&send("f"), soon()).wait().unwrap(), send("get_async: f"));
    let (tx, rx) = mpsc::channel();
    stub.get_then_(&send("g"), soon(), move |result| tx.send(result).unwrap());
    assert_eq!(rx.recv().unwrap().unwrap(), send("get: g"));
    assert_eq!(NamesStub::<Channel>::NEW.name, "New");
}

#[test]
fn each_shape_of_stream_has_its_method() {
    let (_server, channel) = serve(Ten::into_service(Here));
    let items = TenStub::new(channel.clone()).watch(&send("x"), Some(soon()));
    let items: Result<Vec<Send>, CallError> = items.collect();
    assert_eq!(items.unwrap(), [send("x 1"), send("x 2"), send("x 3")]);
    assert_eq!(TenStub::<Channel>::WATCH.name, "Watch");

    let (_server, channel) = serve(OnlyStreams::into_service(Here));
    let stub = OnlyStreamsStub::new(channel);
    let (sender, reply) = stub.up(None);
    for text in ["a", "b", "c"] {
        sender.send(&send(text), soon()).unwrap();
    }
    sender.finish().unwrap();
    assert_eq!(reply.wait().unwrap(), send("abc"));
    let (sender, mut items) = stub.both(None);
    sender.send(&send("there and back"), soon()).unwrap();
    assert_eq!(items.next().unwrap().unwrap(), send("there and back"));
    sender.finish().unwrap();
    assert!(items.next().is_none());
}

#[test]
fn a_method_with_a_stream_costs_the_others_nothing() {
    let (_server, channel) = serve(Ten::into_service(Here).version(3));
    let stub = TenStub::new(channel.clone());
    for (call, name) in [(TenStub::one as fn(&_, &_, _) -> _, "one"), (TenStub::ten, "ten")] {
        let reply: Result<Send, CallError> = call(&stub, &send("x"), soon());
        assert_eq!(reply.unwrap(), send(&format!("{name}: x")));
    }
    let watch = Method::new("Ten", "Watch");
    let error = channel.call::<_, Send>(&watch, &send("x"), soon()).unwrap_err();
    let CallError::Refused { status, .. } = &error else { panic!("{error}") };
    assert_eq!(status.code, StatusCode::UnknownMethod);
    let methods = Service::methods(&TenService::new(Arc::new(Here)));
    assert_eq!(methods.len(), 10);
}

#[test]
fn services_without_methods_are_services() {
    let (_server, channel) = serve(OnlyStreams::into_service(Here));
    NothingStub::new(channel).invoker().ping(soon()).unwrap();
}

#[test]
fn well_known_types_travel() {
    let (_server, channel) = serve(Clock::into_service(Here));
    let stub = ClockStub::new(channel);
    assert_eq!(stub.now(&(), soon()).unwrap(), Timestamp { seconds: 1, nanos: 2 });
    let three = prost_types::Duration { seconds: 3, nanos: 0 };
    assert_eq!(stub.later(&three, soon()).unwrap().seconds, 3);
    assert_eq!(stub.say(&"hello".to_owned(), soon()).unwrap(), "hello");
    let every = Every {
        timestamp: Some(Timestamp { seconds: -1, nanos: 999_999_999 }),
        empty: Some(()),
        bytes: Some(b"bytes".to_vec()),
        number: Some(u64::MAX),
        ..Every::default()
    };
    assert_eq!(stub.reflect(&every, soon()).unwrap(), every);
}

#[test]
fn a_service_knows_the_package_of_its_proto() {
    let ten = TenService::new(Arc::new(Here));
    assert_eq!((Service::package(&ten), Service::name(&ten)), ("issues", "Ten"));
    let plain = PlainService::new(Arc::new(Here));
    assert_eq!((Service::package(&plain), Service::name(&plain)), ("", "Plain"));
}

#[test]
fn code_for_a_runtime_that_is_named_works_without_the_macro() {
    let (_server, channel) = serve(Explicit::into_service(Here));
    let at = Some(Timestamp { seconds: 5, nanos: 6 });
    let args = explicit::Args { which: Some(explicit::args::Which::Inner(Inner { at })) };
    assert_eq!(ExplicitStub::new(channel).call(&args, soon()).unwrap(), args);
}
