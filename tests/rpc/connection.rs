//! What a channel does with its connection: it waits for a server, numbers its calls, leaves when
//! told to, and closes when idle.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use syncraft::rpc::{CallError, CallOptions, Invoke, Limits, Retry, Retrying, Server, StatusCode};
use syncraft::testing::Port;

use crate::peers::*;
use crate::raw::*;
use crate::support::*;

/// A port that takes no more connections and does not say so.
fn black_hole() -> (SocketAddr, impl Sized) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    let fill: Vec<_> =
        (0..3).map(|_| TcpStream::connect_timeout(&addr, Duration::from_millis(50))).collect();
    (addr, (socket, fill))
}

// ---- waiting for a server ----

#[test]
fn a_server_that_starts_late_is_waited_for() {
    let port = Port::free().unwrap();
    let channel = channel(port.addr()).lazy();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| channel.connect_wait(soon()));
        let began = Instant::now();
        wait_until("the first attempts were refused", || {
            began.elapsed() > Duration::from_millis(150)
        });
        assert!(!waiting.is_finished());
        let _server = Server::builder().listener(port.listen().unwrap()).build().unwrap().start();
        waiting.join().unwrap().unwrap();
        assert!(channel.is_connected());
    });
}

/// The port exists before the server does: connections are accepted, and nothing is answered.
#[test]
fn a_server_that_is_bound_is_waited_for_until_it_serves() {
    let service = Arc::<TestService>::default();
    let bound = Server::builder().service(Published(service)).bind("127.0.0.1:0").build().unwrap();
    let channel = channel(bound.local_addr()).lazy();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| channel.connect_wait(soon()));
        wait_until("it is connected", || channel.is_connected());
        assert!(!waiting.is_finished());
        let _server = bound.start();
        waiting.join().unwrap().unwrap();
        assert_eq!(call(&channel, "Echo", "x").unwrap(), "x");
    });
}

#[test]
fn a_server_that_never_answers_is_waited_for_no_longer_than_asked() {
    // The kernel accepts for it.
    let (_listener, addr) = listen();
    let began = Instant::now();
    let error = channel(addr).lazy().connect_wait(within(300)).unwrap_err();
    assert!(matches!(error, CallError::TimedOut { sent: true, .. }), "{error}");
    let waited = began.elapsed();
    assert!(waited > Duration::from_millis(290) && waited < Duration::from_secs(3), "{waited:?}");
}

#[test]
fn a_server_that_is_not_there_is_waited_for_until_the_deadline() {
    let port = Port::free().unwrap();
    let began = Instant::now();
    let error = channel(port.addr()).lazy().connect_wait(within(300)).unwrap_err();
    let waited = began.elapsed();
    let CallError::NotSent { source, .. } = &error else { panic!("{error}") };
    assert_eq!(source.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(waited > Duration::from_millis(280) && waited < Duration::from_secs(3), "{waited:?}");
}

#[test]
fn a_closed_channel_waits_for_no_server() {
    let port = Port::free().unwrap();
    let channel = channel(port.addr()).lazy();
    channel.close();
    let began = Instant::now();
    assert!(channel.connect_wait(soon()).is_err());
    assert!(began.elapsed() < LONG / 2);
}

#[test]
fn to_close_while_connecting_takes_no_longer_than_to_connect() {
    let (addr, _black_hole) = black_hole();
    let channel = channel(addr).connect_timeout(Duration::from_millis(500)).lazy();
    let claim = pending(&channel, "Echo", "x", soon());
    thread::scope(|scope| {
        let blocking = scope.spawn(|| call(&channel, "Echo", "x").unwrap_err());
        let began = Instant::now();
        channel.close();
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        for error in [claim.wait().unwrap_err(), blocking.join().unwrap()] {
            assert!(matches!(error, CallError::NotSent { .. }), "{error}");
        }
    });
}

#[test]
fn an_error_to_connect_says_whether_it_was_the_name_or_the_time() {
    let (_listener, addr) = listen();
    let channel = channel(addr).connect_timeout(Duration::ZERO).lazy();
    let CallError::NotSent { source, .. } = call(&channel, "Echo", "x").unwrap_err() else {
        panic!("it was sent")
    };
    assert_eq!(source.kind(), std::io::ErrorKind::TimedOut, "{source}");
}

// ---- numbers ----

#[test]
fn calls_have_unique_sequential_numbers_on_the_wire() {
    const CALLS: u64 = 400;
    let (listener, addr) = listen();
    let server = thread::spawn(move || {
        let mut server = Raw::accept(&listener);
        (0..CALLS)
            .map(|_| {
                let id = server.next_call().0.call_id;
                server.answer(id, &format!("{id}"));
                id
            })
            .collect::<Vec<_>>()
    });
    let channel = channel(addr).lazy();
    thread::scope(|scope| {
        for t in 0..8 {
            let channel = &channel;
            scope.spawn(move || {
                let mut last = 0;
                for _ in 0..CALLS / 8 {
                    let answer = match t % 2 {
                        0 => call(channel, "Echo", "x").unwrap(),
                        _ => pending(channel, "Echo", "x", soon()).wait().unwrap().data,
                    };
                    let number = std::str::from_utf8(&answer).unwrap().parse::<u64>().unwrap();
                    assert!(number > last, "{number} after {last}");
                    last = number;
                }
            });
        }
    });
    let mut ids = server.join().unwrap();
    ids.sort();
    assert_eq!(ids, (1..=CALLS).collect::<Vec<_>>());
}

// ---- ends ----

#[test]
fn an_idle_connection_that_the_channel_reads_is_closed_and_the_next_call_connects() {
    let (server, service) = serve_inline();
    let channel = channel(server.local_addr()).idle_timeout(Duration::from_millis(50)).lazy();
    for round in 1..=3 {
        assert_eq!(pending(&channel, "Echo", "x", soon()).wait().unwrap(), echo("x"));
        assert_eq!(server.stats().connections_accepted, round);
        wait_until("the idle connection is closed", || server.connections() == 0);
        assert!(!channel.is_connected());
    }
    // Not while a call is under way.
    let held = pending(&channel, "Hold", "held", soon());
    service.wait_held(1);
    let began = Instant::now();
    wait_until("a few times as long", || began.elapsed() > Duration::from_millis(300));
    assert_eq!(server.connections(), 1);
    service.take_held().into_iter().for_each(|(args, call)| call.typed().run(args));
    assert_eq!(held.wait().unwrap(), echo("held"));
    wait_until("the idle connection is closed", || server.connections() == 0);
}

/// A call may cross the server's announcement that it closes. Then the call has not run and is made
/// again.
#[test]
fn the_idle_limit_of_a_server_costs_no_call() {
    const CALLS: u64 = 60;
    let idle_timeout = Duration::from_millis(10);
    let limits = Limits { idle_timeout, ..Limits::default() };
    let (server, service) = serve(limits);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    for reads_itself in [false, true] {
        let mut rng = Rng::with_seed(seed);
        let channel = channel(server.local_addr()).lazy();
        if reads_itself {
            pending(&channel, "Echo", "x", soon()).wait().unwrap();
        }
        let retrying = Retrying::new(channel, Retry::default());
        for i in 0..CALLS {
            let args = echo(format!("{i}"));
            let options = CallOptions::default();
            let reply: Echo = retrying.invoke(&method("Echo"), &options, &args, soon()).unwrap();
            assert_eq!(reply, args);
            // Sometimes exactly as long as the server waits.
            thread::sleep(idle_timeout.mul_f64(rng.f64() * 1.5));
        }
    }
    assert_eq!(service.calls(), 2 * CALLS + 1);
    println!("{:?}", server.stats().connections_accepted);
}

/// What a server does with a call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    Answer,
    Refuse(StatusCode),
    /// Ends the connection with a status instead of an answer ...
    CloseNotice(StatusCode),
    /// ... or right after the answer.
    AnswerAndGoodbye(StatusCode),
    /// Ends it without a word, after an answer ...
    AnswerAndClose,
    /// ... or instead of one.
    Close,
}

impl Act {
    fn random(rng: &mut Rng) -> Act {
        let code = StatusCode::from_number(rng.u32(1..=13));
        match rng.u8(0..10) {
            0..3 => Act::Answer,
            3..6 => Act::Refuse(code),
            6 => Act::CloseNotice(code),
            7 => Act::AnswerAndGoodbye(code),
            8 => Act::AnswerAndClose,
            _ => Act::Close,
        }
    }

    fn ends_connection(self) -> bool {
        !matches!(self, Act::Answer | Act::Refuse(_))
    }

    /// Whether the connection can still be used afterwards.
    fn perform(self, server: &mut Raw) {
        let id = server.next_call().0.call_id;
        match self {
            Act::Answer | Act::AnswerAndClose => server.answer(id, "answer"),
            Act::Refuse(code) => server.refuse(id, code),
            Act::CloseNotice(code) => server.refuse(0, code),
            Act::AnswerAndGoodbye(code) => {
                server.send(&[reply(id, "answer"), refusal(0, code)].concat());
            }
            Act::Close => {}
        }
        if let Act::CloseNotice(_) = self {
            server.expect_closed();
        }
    }
}

/// Serves calls one after the other, each on the expected connection. Returns how many there were.
fn perform_all(listener: &TcpListener, acts: &[Act]) -> usize {
    let (mut connection, mut accepted) = (None, 0);
    for act in acts {
        let server = connection.get_or_insert_with(|| {
            accepted += 1;
            Raw::accept(listener)
        });
        act.perform(server);
        if act.ends_connection() {
            connection = None;
        }
    }
    accepted
}

fn check_outcome(act: Act, is_first: bool, outcome: &Result<Echo, CallError>) {
    match (act, outcome) {
        (Act::Answer | Act::AnswerAndClose | Act::AnswerAndGoodbye(_), Ok(reply)) => {
            assert_eq!(reply, &echo("answer"));
        }
        (Act::Refuse(code), Err(CallError::Refused { status, .. })) => {
            assert_eq!(status.code, code)
        }
        (Act::CloseNotice(code), Err(error)) => {
            let is_certain = match code {
                StatusCode::Busy => is_first,
                code => matches!(code, StatusCode::ShuttingDown | StatusCode::Closing),
            };
            assert_eq!(error.may_have_run(), !is_certain, "{act:?}: {error}");
            assert_eq!(is_lost(error), !is_certain, "{act:?}: {error}");
        }
        (Act::Close, Err(error)) => assert!(is_lost(error), "{error}"),
        (act, outcome) => panic!("{act:?}: {outcome:?}"),
    }
}

/// 128 calls to a server that does at random whatever a server may do.
fn check_random(claims: bool) {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let acts: Arc<[Act]> = (0..128).map(|_| Act::random(&mut rng)).collect();
    let (listener, addr) = listen();
    let server = thread::spawn({
        let acts = acts.clone();
        move || perform_all(&listener, &acts)
    });
    let channel = channel(addr).lazy();
    let (mut expected, mut is_first) = (1, true);
    for (i, &act) in acts.iter().enumerate() {
        let outcome = match claims {
            true => pending(&channel, "Echo", "x", soon()).wait(),
            false => call(&channel, "Echo", "x").map(echo),
        };
        println!("{i}: {act:?}");
        check_outcome(act, is_first, &outcome);
        is_first = act.ends_connection();
        if act.ends_connection() && i + 1 < acts.len() {
            expected += 1;
        }
        // A call may still be sent over a connection that is about to end, and is then lost.
        // Callers that read find the announcement before that, with the answer before it.
        if act == Act::AnswerAndClose || (claims && act.ends_connection()) {
            wait_until("the end is seen", || !channel.is_connected());
        }
    }
    assert_eq!(server.join().unwrap(), expected);
}

#[test]
fn a_connection_is_kept_or_replaced_as_the_server_says_where_callers_read() {
    check_random(false);
}

#[test]
fn a_connection_is_kept_or_replaced_as_the_server_says_where_the_channel_reads() {
    check_random(true);
}
