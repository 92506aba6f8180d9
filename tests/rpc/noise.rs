//! For a while, bytes that no client of ours would send. The server keeps serving, and nothing
//! stays behind.
//!
//! This lasts five seconds here, or a minute with `SYNCRAFT_NOISE_SECONDS=60`. The test prints its
//! seed; `SYNCRAFT_NOISE_SEED` sends the same bytes again. The bytes of a connection follow from
//! the seed and the connection's number.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use prost::Message;
use syncraft::rpc::{
    CallError, CallOptions, Channel, FrameLimits, Limits, Method, Server, Service, StatusCode,
};

use crate::alone::alone;
use crate::raw::*;
use crate::support::*;

/// Small, so that frames of this length are frequent.
const BODY_LEN_MAX: usize = 8 * 1024;

const CLIENTS: u64 = 4;

const HANDLERS: usize = 2;

fn from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// The same service under a name of its own.
struct Inline(Published);

impl Service for Inline {
    fn name(&self) -> &'static str {
        "inlineRpc"
    }

    fn methods(&self) -> &'static [&'static str] {
        self.0.methods()
    }

    fn call(&self, method: usize, args: bytes::Bytes, call: syncraft::rpc::Call) {
        self.0.call(method, args, call);
    }
}

/// Hides the panics of methods: there would be more of them than anybody reads.
fn silence_services() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !thread::current().name().is_some_and(|name| name.starts_with("rpc-")) {
            usual(panic);
        }
    }));
}

// ---- towards a server ----

#[test]
fn noise_does_no_harm() {
    alone(|| {
        let seconds = from_env("SYNCRAFT_NOISE_SECONDS").unwrap_or(5);
        let seed = from_env("SYNCRAFT_NOISE_SEED").unwrap_or_else(|| Rng::new().u64(..));
        println!("SYNCRAFT_NOISE_SEED={seed}");
        silence_services();
        let (server, service) = serve_noise();
        let check = Raw::connect(server.local_addr());
        wait_until("it is accepted", || server.connections() == 1);
        // A thread has its name once it has started: the acceptor, the handlers, and the
        // connection's thread.
        wait_until("every thread has begun", || threads().len() == HANDLERS + 2);

        let until = Instant::now() + Duration::from_secs(seconds);
        let sent = AtomicU64::new(0);
        thread::scope(|scope| {
            // Some of the noise is valid calls of `Hold`. Most of their connections are gone when
            // they are answered.
            scope.spawn(|| {
                while Instant::now() < until {
                    thread::sleep(Duration::from_millis(10));
                    answer_held(&service);
                }
            });
            for client in 0..CLIENTS {
                let (addr, sent) = (server.local_addr(), &sent);
                scope.spawn(move || {
                    for number in (client..).step_by(CLIENTS as usize) {
                        if Instant::now() >= until {
                            return;
                        }
                        let mut random = Rng::with_seed(seed ^ number.wrapping_mul(0x9E37_79B9));
                        visit(addr, &mut random);
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        println!("{} connections, {} calls", sent.load(Ordering::Relaxed), service.calls());

        is_served(&server, check);
        // A call may have come after the last ones were answered. Its connection may wait for it.
        wait_until("every connection ends", || {
            answer_held(&service);
            server.connections() == 0
        });
        wait_until("every call is answered", || {
            answer_held(&service);
            server.stats().methods.values().all(|method| method.open == 0)
        });
        wait_until("every thread of a connection ends", || threads().len() == HANDLERS + 1);
        assert!(service.calls() > 0 && sent.load(Ordering::Relaxed) > 100);
    });
}

fn answer_held(service: &TestService) {
    service.take_held().into_iter().for_each(|(args, call)| call.typed().run(args));
}

fn serve_noise() -> (Server, Arc<TestService>) {
    let service = Arc::new(TestService::default());
    // A call of `Block` would occupy a handler for good.
    service.release();
    let limits = Limits {
        frame: FrameLimits { body_len_max_bytes: BODY_LEN_MAX },
        bytes_per_connection_max: 4 * BODY_LEN_MAX,
        half_close_timeout: Duration::from_millis(100),
        // Longer than any noise, because one connection is silent all the time.
        idle_timeout: Duration::from_secs(86_400),
        ..Limits::default()
    };
    let server = Server::builder()
        .service(Published(service.clone()))
        .inline_service(Inline(Published(service.clone())))
        .limits(limits)
        .bind("127.0.0.1:0")
        .handlers(HANDLERS)
        .queue(8)
        .build()
        .unwrap()
        .start();
    (server, service)
}

/// A normal client is served as if nothing had happened, and so is the connection that was there
/// all the time.
fn is_served(server: &Server, mut raw: Raw) {
    let channel = channel(server.local_addr()).connect(soon()).unwrap();
    for service in ["testRpc", "inlineRpc"] {
        let method = Method::new(service, "Echo");
        let answer = || channel.call::<_, Echo>(&method, &echo("good"), soon());
        // The last of the noise may still wait for handlers.
        wait_until("a place in the queue", || match answer() {
            Ok(reply) => reply == echo("good"),
            Err(error) => match error {
                CallError::Refused { status, .. } if status.code == StatusCode::Busy => false,
                error => panic!("{error}"),
            },
        });
    }
    raw.send(&request("Echo", 7, "still here"));
    raw.expect_echo(7, "still here");
}

/// What one connection sends.
fn visit(addr: SocketAddr, random: &mut Rng) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    let bytes = match random.u8(..4) {
        0 => noise(random, 0..3000),
        1 => changed(frames(random), random),
        _ => frames(random),
    };
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let (part, after) = rest.split_at(random.usize(1..=rest.len()));
        // The server may have closed it by now.
        if stream.write_all(part).is_err() {
            return;
        }
        rest = after;
    }
    match random.u8(..3) {
        0 => {}
        1 => drop(stream.read(&mut [0; 4096])),
        _ => {
            let _ = stream.shutdown(Shutdown::Write);
            while matches!(stream.read(&mut [0; 4096]), Ok(1..)) {}
        }
    }
}

fn noise(random: &mut Rng, len: Range<usize>) -> Vec<u8> {
    let len = random.usize(len);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

fn changed(mut bytes: Vec<u8>, random: &mut Rng) -> Vec<u8> {
    for _ in 0..random.usize(1..5) {
        let at = random.usize(..bytes.len());
        bytes[at] = random.u8(..);
    }
    bytes
}

/// Several consecutive frames; the last one may be cut.
fn frames(random: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.usize(1..20) {
        bytes.extend(random_frame(random));
    }
    if random.u8(..4) == 0 {
        bytes.truncate(random.usize(1..=bytes.len()));
    }
    bytes
}

/// A head that decodes, with arbitrary fields, and a body whose length may differ from the
/// announced one.
fn random_frame(random: &mut Rng) -> Vec<u8> {
    const METHODS: [&str; 9] =
        ["Echo", "Echo", "Hold", "Drop", "Panic", "Fail", "Block", "Caller", "none"];
    let body = match random.u8(..3) {
        0 => noise(random, 0..200),
        _ => echo(noise(random, 0..200)).encode_to_vec(),
    };
    let args_size = match random.u8(..40) {
        0 => 0,
        1 => BODY_LEN_MAX as u32,
        2 => BODY_LEN_MAX as u32 + 1,
        3 => u32::MAX,
        4 => random.u32(..),
        _ => body.len() as u32,
    };
    let service =
        *random.choice(&["testRpc", "inlineRpc", "inlineRpc", "rpc", "", "nobody"]).unwrap();
    // Panics are printed: fewer of them keep the output readable.
    let method = match *random.choice(&METHODS).unwrap() {
        "Panic" if random.u8(..) > 0 => "Echo",
        method => method,
    };
    let head = Head {
        service: service.into(),
        method: method.into(),
        args_size,
        call_id: *random.choice(&[0, 1, 1, 2, u64::MAX, random.clone().u64(..)]).unwrap(),
        deadline_ms: *random.choice(&[0, 0, 1, 1000, u32::MAX]).unwrap(),
        codec: *random.choice(&[0, 0, 0, 0, 0, 1, u32::MAX]).unwrap(),
        ..Head::default()
    };
    // Sometimes a complete body of the longest length allowed, so that the next bytes begin a frame
    // again.
    let body = match args_size as usize {
        len @ (BODY_LEN_MAX | 8193) if random.bool() => vec![0; len],
        _ => body,
    };
    let whole = frame(&head, &body);
    match random.u8(..60) {
        // A head length of zero, at the limit, just over it, and the largest possible.
        0 => with_head_len(whole, 0),
        1 => with_head_len(whole, 1024),
        2 => with_head_len(whole, 1025),
        3 => with_head_len(whole, u32::MAX),
        _ => whole,
    }
}

fn with_head_len(mut frame: Vec<u8>, len: u32) -> Vec<u8> {
    frame[..4].copy_from_slice(&len.to_le_bytes());
    frame
}

// ---- towards a channel ----

/// A server that answers calls of `Echo`. `write` receives the frames of the replies and sends what
/// it likes.
fn raw_server(write: impl Fn(&mut TcpStream, Vec<Vec<u8>>) + Send + 'static) -> Channel {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut raw = Raw(stream);
        raw.0.set_nodelay(true).unwrap();
        loop {
            let mut replies = Vec::new();
            while replies.len() < BURST {
                // The head says which call it is. The body is echoed.
                let Some((head, args)) = next_call(&mut raw) else { return };
                let reply = ReplyHead {
                    call_id: head.call_id,
                    reply_size: args.len() as u32,
                    ..ReplyHead::default()
                };
                replies.push(frame(&reply, &args));
            }
            write(&mut raw.0, replies);
        }
    });
    channel(addr).lazy()
}

/// How many replies the raw server collects before it sends any.
const BURST: usize = 3;

fn next_call(raw: &mut Raw) -> Option<(Head, Vec<u8>)> {
    let mut len = [0; 4];
    raw.0.read_exact(&mut len).ok()?;
    let head = raw.read(u32::from_le_bytes(len) as usize);
    let head = Head::decode(&head[..]).unwrap();
    let args = raw.read(head.args_size as usize);
    Some((head, args))
}

/// A burst of calls, each from its own thread or all from one. Each call gets its own reply.
fn check_burst(channel: &Channel, round: usize) {
    let method = Method::new("testRpc", "Echo");
    let data = |number: usize| echo(format!("{round}, {number}"));
    if round.is_multiple_of(2) {
        let pending: Vec<_> = (0..BURST)
            .map(|number| {
                let (options, args) = (CallOptions::default(), data(number));
                channel.call_async::<_, Echo>(&method, &options, &args, soon())
            })
            .collect();
        for (number, pending) in pending.into_iter().enumerate() {
            assert_eq!(pending.wait().unwrap(), data(number));
        }
    } else {
        thread::scope(|scope| {
            for number in 0..BURST {
                scope.spawn(move || {
                    let reply = channel.call::<_, Echo>(&method, &data(number), soon());
                    assert_eq!(reply.unwrap(), data(number));
                });
            }
        });
    }
}

#[test]
fn replies_cut_at_every_byte_and_glued_find_their_calls() {
    // Three frames of about 20 bytes, cut at every place, in any order.
    let cut = Arc::new(AtomicU64::new(0));
    let channel = raw_server({
        let cut = cut.clone();
        move |stream, replies| {
            let glued = replies.concat();
            // Every place twice: blocking callers and completions take turns.
            let at = cut.fetch_add(1, Ordering::Relaxed) as usize / 2 % glued.len();
            let (first, second) = glued.split_at(at);
            stream.write_all(first).unwrap();
            // Usually the reader takes the first part alone.
            thread::yield_now();
            stream.write_all(second).unwrap();
        }
    });
    (0..200).for_each(|round| check_burst(&channel, round));
    assert_eq!(cut.load(Ordering::Relaxed), 200);
}

#[test]
fn replies_byte_by_byte_and_in_reverse_find_their_calls() {
    let channel = raw_server(|stream, mut replies| {
        replies.reverse();
        for byte in replies.concat() {
            stream.write_all(&[byte]).unwrap();
        }
    });
    (0..20).for_each(|round| check_burst(&channel, round));
}

/// Bytes that are not a reply: each kind ends the connection with an error, and no caller keeps
/// waiting.
#[test]
fn replies_that_are_none_end_the_connection() {
    let seed = from_env("SYNCRAFT_NOISE_SEED").unwrap_or_else(|| Rng::new().u64(..));
    println!("SYNCRAFT_NOISE_SEED={seed}");
    for number in 0..200 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let channel = channel(listener.local_addr().unwrap()).lazy();
        let server = thread::spawn(move || {
            let mut random = Rng::with_seed(seed ^ number);
            let mut raw = Raw(listener.accept().unwrap().0);
            let (head, args) = next_call(&mut raw).unwrap();
            let reply = ReplyHead {
                call_id: head.call_id,
                reply_size: args.len() as u32,
                ..ReplyHead::default()
            };
            let whole = frame(&reply, &args);
            let bytes = match random.u8(..6) {
                0 => with_head_len(whole, 0),
                1 => with_head_len(whole, 1025),
                2 => with_head_len(whole, u32::MAX),
                3 => frame(&ReplyHead { reply_size: u32::MAX, ..reply }, &args),
                4 => whole[..random.usize(..whole.len())].to_vec(),
                _ => noise(&mut random, 0..200),
            };
            let _ = raw.0.write_all(&bytes);
        });
        let (outcome, began) = (call(&channel, "Echo", "x"), Instant::now());
        assert!(outcome.is_err(), "{number}: {outcome:?}");
        assert!(began.elapsed() < LONG);
        server.join().unwrap();
    }
}
