//! How a server is built: contradicting settings are errors that name them, and the port is bound
//! before the server starts.

use std::net::{Shutdown, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use syncraft::rpc::{Call, Fairness, Limits, Server, ServerBuilder, ServerError, Service};

use crate::raw::*;
use crate::support::*;

/// How long to wait for something that must not happen.
const SOON: Duration = Duration::from_millis(100);

fn published() -> Published {
    Published(Arc::new(TestService::default()))
}

fn builder() -> ServerBuilder {
    Server::builder().service(published()).bind("127.0.0.1:0")
}

/// The error of a builder that is refused; it names what is wrong.
fn check_refused(builder: ServerBuilder, words: &str) -> ServerError {
    let error = builder.build().expect_err(words);
    assert!(error.to_string().contains(words), "\"{error}\" instead of \"{words}\"");
    error
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Two consecutive ports; the first one is taken.
fn taken_and_free() -> (TcpListener, u16) {
    for _ in 0..1000 {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return (taken, port);
        }
    }
    panic!("no two ports");
}

// ---- settings ----

#[test]
fn without_an_address_nothing_is_built() {
    let error = check_refused(Server::builder().service(published()), "no address");
    assert!(matches!(error, ServerError::NoAddress));
    // Ports without a host.
    let port = free_port();
    check_refused(Server::builder().service(published()).ports(port..=port), "no address");
}

#[test]
fn an_address_that_is_none_is_named() {
    for addr in ["127.0.0.1", "127.0.0.1:x", "no such host:1", ""] {
        let error = Server::builder().service(published()).bind(addr).build().unwrap_err();
        assert!(
            matches!(&error, ServerError::Bind { addr: shown, .. } if shown == addr),
            "{error}"
        );
    }
}

#[test]
fn settings_of_a_queue_need_handlers() {
    check_refused(builder().queue(10), "handlers");
    check_refused(builder().fair(Fairness::default()), "handlers");
    check_refused(builder().handlers(0).queue(10), "handlers");
}

#[test]
fn a_queue_has_places_enough() {
    check_refused(builder().handlers(1).queue(0), "0 calls");
    for places in 1..4 {
        check_refused(builder().handlers(1).queue(places).fair(Fairness::default()), "4 levels");
    }
    let fair = |queue| builder().handlers(1).queue(queue).fair(Fairness::default());
    drop(fair(4).build().unwrap());
    let decay = Fairness { decay: 2.0, ..Fairness::default() };
    check_refused(builder().handlers(1).fair(decay), "decay");
}

#[test]
fn a_name_belongs_to_one_service() {
    check_refused(builder().service(published()), "\"testRpc\"");
    check_refused(builder().inline_service(published()), "\"testRpc\"");
    check_refused(builder().reserved_service(published()), "\"testRpc\"");
}

/// A service with this name.
struct Named(&'static str, &'static [&'static str]);

impl Service for Named {
    fn name(&self) -> &'static str {
        self.0
    }

    fn methods(&self) -> &'static [&'static str] {
        self.1
    }

    fn call(&self, _: usize, _: Bytes, call: Call) {
        call.typed().run(echo("named"));
    }
}

#[test]
fn the_name_of_the_service_that_every_server_has_is_taken() {
    let error = check_refused(builder().service(Named("rpc", &["Ping"])), "\"rpc\"");
    assert!(matches!(error, ServerError::DuplicateService { name: "rpc" }));
}

#[test]
fn a_limit_of_no_time_is_refused() {
    let check = |limits, name| {
        let error = check_refused(builder().limits(limits), name);
        assert!(matches!(error, ServerError::BadLimits { .. }));
    };
    let zero = Duration::ZERO;
    check(Limits { idle_timeout: zero, ..Limits::default() }, "idle_timeout");
    check(Limits { frame_timeout: zero, ..Limits::default() }, "frame_timeout");
    check(Limits { write_timeout: zero, ..Limits::default() }, "write_timeout");
}

#[test]
fn limits_of_any_time_are_none() {
    let limits = Limits {
        idle_timeout: Duration::MAX,
        frame_timeout: Duration::MAX,
        write_timeout: Duration::MAX,
        half_close_timeout: Duration::MAX,
        slow_call: Duration::MAX,
        ..Limits::default()
    };
    let (server, service) = serve_with(|builder| builder.limits(limits).handlers(1));
    let mut raw = Raw::connect(server.local_addr());
    let bytes = request("Hold", 1, "x");
    // The server waits for the rest of a frame, ...
    raw.send(&bytes[..20]);
    raw.expect_silence(SOON);
    raw.send(&bytes[20..]);
    service.wait_held(1);
    // ... and it keeps the connection of a client that has closed its sending side and waits for an
    // answer.
    raw.0.shutdown(Shutdown::Write).unwrap();
    raw.expect_silence(SOON);
    let (args, call) = service.take_held().pop().unwrap();
    call.typed().run(args);
    raw.expect_echo(1, "x");
    raw.expect_closed();
    assert!(server.drain(Duration::MAX));
}

// ---- the port ----

#[test]
fn port_0_is_reported_as_what_it_became() {
    let bound = builder().build().unwrap();
    let addr = bound.local_addr();
    assert_ne!(addr.port(), 0);
    let server = bound.start();
    assert_eq!(server.local_addr(), addr);
    let mut raw = Raw::connect(addr);
    raw.send(&request("Echo", 0, "x"));
    raw.expect_bare("x");
}

#[test]
fn a_listener_of_ones_own_is_served_on() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    // A listener in non-blocking mode works as well.
    listener.set_nonblocking(true).unwrap();
    let server = Server::builder().service(published()).listener(listener).build().unwrap().start();
    assert_eq!(server.local_addr(), addr);
    let mut raw = Raw::connect(addr);
    raw.send(&request("Echo", 0, "x"));
    raw.expect_bare("x");
}

#[test]
fn of_several_ports_the_first_free_one_is_taken() {
    let (taken, port) = taken_and_free();
    let bound = builder().ports(port..=port + 1).build().unwrap();
    assert_eq!(bound.local_addr().port(), port + 1);
    // Now both are taken.
    let error = check_refused(builder().ports(port..=port + 1), &format!("{port}..={}", port + 1));
    let ServerError::Bind { source, .. } = error else { panic!("{error}") };
    assert_eq!(source.kind(), std::io::ErrorKind::AddrInUse);
    drop(taken);
    assert_eq!(builder().ports(port..=port + 1).build().unwrap().local_addr().port(), port);
}

#[test]
fn ports_that_are_none_are_refused() {
    #[allow(clippy::reversed_empty_ranges, reason = "that is the point")]
    let none = 2..=1;
    let error = builder().ports(none).build().unwrap_err();
    assert!(matches!(error, ServerError::Bind { .. }), "{error}");
    // A listener brings its own port.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    check_refused(Server::builder().listener(listener).ports(1..=2), "listener");
}

// ---- bound, not started ----

#[test]
fn connections_made_before_the_start_are_served_after_it() {
    let bound = builder().handlers(1).build().unwrap();
    let mut raws: Vec<_> = (0..20).map(|_| Raw::connect(bound.local_addr())).collect();
    raws.iter_mut().for_each(|raw| raw.send(&request("Echo", 1, "early")));
    raws[0].expect_silence(SOON);
    let server = bound.start();
    raws.iter_mut().for_each(|raw| raw.expect_echo(1, "early"));
    assert_eq!(server.stats().connections_accepted, 20);
}

#[test]
fn a_server_that_is_never_started_gives_its_port_back() {
    let bound = builder().handlers(2).build().unwrap();
    let addr = bound.local_addr();
    let mut waiting = Raw::connect(addr);
    in_time(move || drop(bound));
    waiting.expect_closed();
    let server = Server::builder().service(published()).bind(addr.to_string()).build().unwrap();
    assert_eq!(server.local_addr(), addr);
}
