//! Calls that are retried over real connections that fail, and to servers that are full, late or
//! silent.

use std::ops::RangeInclusive;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use syncraft::rpc::{
    CallError, CallOptions, Channel, Deadline, Invoke, Method, Payload, Retry, Retrying, StatusCode,
};
use syncraft::testing::Port;

use crate::peers::*;
use crate::raw::*;
use crate::relay::Relay;
use crate::support::*;

/// At once, and as often as the deadline allows.
const AT_ONCE: Retry = Retry::Fixed { pause: Duration::ZERO, attempts_max: u32::MAX };

fn invoke(invoker: &impl Invoke, method: &Method, deadline: Instant) -> Result<Echo, CallError> {
    invoker.invoke(method, &CallOptions::default(), &echo("x"), deadline)
}

/// A channel, and what each attempt over it returned.
struct Watched {
    channel: Channel,
    attempts: Mutex<Vec<Attempt>>,
}

struct Attempt {
    began: Instant,
    ended: Instant,
    error: Option<(StatusCode, Option<Duration>)>,
}

impl Watched {
    fn new(channel: Channel) -> Watched {
        Watched { channel, attempts: Mutex::default() }
    }
}

impl Invoke for &Watched {
    fn invoke<A: Payload, R: Payload>(
        &self,
        method: &Method,
        options: &CallOptions,
        args: &A,
        deadline: Instant,
    ) -> Result<R, CallError> {
        let began = Instant::now();
        let result = self.channel.invoke(method, options, args, deadline);
        let error = match &result {
            Err(CallError::Refused { status, .. }) => Some((status.code, status.retry_after)),
            _ => None,
        };
        self.attempts.lock().push(Attempt { began, ended: Instant::now(), error });
        result
    }
}

#[test]
fn a_full_server_is_asked_again_when_it_said_and_serves_when_there_is_room() {
    let (server, service) = serve_with(|builder| builder.handlers(1).queue(1));
    let channel = channel(server.local_addr()).lazy();
    let running = pending(&channel, "Block", "", soon());
    service.wait_running();
    let queued = pending(&channel, "Echo", "queued", soon());
    wait_until("one waits", || server.stats().queue_len == 1);
    let watched = Watched::new(channel);
    thread::scope(|scope| {
        let third = scope
            .spawn(|| invoke(&Retrying::new(&watched, AT_ONCE), &method("Echo"), soon()).unwrap());
        wait_until("it is refused a few times", || watched.attempts.lock().len() >= 4);
        service.release();
        assert_eq!(third.join().unwrap(), echo("x"));
    });
    assert_eq!(running.wait().unwrap(), echo("unblocked"));
    assert_eq!(queued.wait().unwrap(), echo("queued"));
    let attempts = watched.attempts.lock();
    for pair in attempts.windows(2) {
        let (code, hint) = pair[0].error.expect("refused, all but the last");
        let (hint, waited) = (hint.expect("busy comes with a hint"), pair[1].began - pair[0].ended);
        assert_eq!(code, StatusCode::Busy);
        assert!(waited >= hint && !hint.is_zero(), "{hint:?} was said, {waited:?} was waited");
    }
    assert!(attempts.last().unwrap().error.is_none());
    assert_eq!(service.calls(), 3);
}

#[test]
fn an_idempotent_call_is_repeated_after_a_cut_and_keeps_its_id() {
    let (server, service) = serve_inline();
    let relay = Relay::to(server.local_addr());
    let retrying = Retrying::new(channel(relay.addr()).lazy(), AT_ONCE);
    thread::scope(|scope| {
        let called = scope.spawn(|| invoke(&retrying, &method("Hold").idempotent(), soon()));
        for attempt in 1..=3 {
            service.wait_held(attempt);
            if attempt < 3 {
                relay.cut();
            }
        }
        let mut held = service.take_held();
        let ids: Vec<_> = held.iter().map(|(_, call)| call.request().unwrap().clone()).collect();
        for (attempt, id) in ids.iter().enumerate() {
            assert_eq!((&id.client, id.number), (&ids[0].client, 1));
            assert_eq!((id.attempt, id.client.len()), (attempt as u32, 16));
        }
        let (args, call) = held.pop().unwrap();
        call.typed().run(args);
        assert_eq!(called.join().unwrap().unwrap(), echo("x"));
    });
    // The next call has the next number.
    thread::scope(|scope| {
        let next = scope.spawn(|| invoke(&retrying, &method("Hold"), soon()).unwrap());
        service.wait_held(1);
        let (args, call) = service.take_held().pop().unwrap();
        let id = call.request().unwrap();
        assert_eq!((id.number, id.attempt), (2, 0));
        call.typed().run(args);
        assert_eq!(next.join().unwrap(), echo("x"));
    });
    assert_eq!(relay.accepted(), 3);
}

#[test]
fn a_call_that_is_not_idempotent_is_not_repeated_after_a_cut() {
    let (server, service) = serve_inline();
    let relay = Relay::to(server.local_addr());
    let retrying = Retrying::new(channel(relay.addr()).lazy(), AT_ONCE);
    let error = thread::scope(|scope| {
        let called = scope.spawn(|| invoke(&retrying, &method("Hold"), soon()).unwrap_err());
        service.wait_held(1);
        relay.cut();
        called.join().unwrap()
    });
    assert!(is_lost(&error), "{error}");
    assert_eq!(service.calls(), 1);
}

/// The first attempt reached the server and the later ones did not. The call may still have run.
#[test]
fn a_call_that_may_have_run_before_the_server_went_is_said_to() {
    let (server, service) = serve_inline();
    let retrying = Retrying::new(
        channel(server.local_addr()).lazy(),
        Retry::Fixed { pause: Duration::from_millis(1), attempts_max: 5 },
    );
    let error = thread::scope(|scope| {
        let called =
            scope.spawn(|| invoke(&retrying, &method("Hold").idempotent(), soon()).unwrap_err());
        service.wait_held(1);
        server.stop();
        called.join().unwrap()
    });
    assert!(is_lost(&error), "{error}");
}

#[test]
fn a_server_that_starts_late_is_reached_within_the_deadline() {
    let port = Port::free().unwrap();
    let retrying = Retrying::new(channel(port.addr()).lazy(), Retry::default());
    thread::scope(|scope| {
        let called = scope.spawn(|| invoke(&retrying, &method("Echo"), soon()));
        let began = Instant::now();
        wait_until("a few attempts were refused", || began.elapsed() > Duration::from_millis(150));
        let service = std::sync::Arc::<TestService>::default();
        let _server = syncraft::rpc::Server::builder()
            .service(Published(service.clone()))
            .listener(port.listen().unwrap())
            .build()
            .unwrap()
            .start();
        assert_eq!(called.join().unwrap().unwrap(), echo("x"));
        assert_eq!(service.calls(), 1);
    });
}

#[test]
fn a_server_that_is_not_there_ends_the_call_with_its_deadline() {
    let port = Port::free().unwrap();
    let retrying = Retrying::new(channel(port.addr()).lazy(), Retry::default());
    let began = Instant::now();
    let error = invoke(&retrying, &method("Echo"), within(300)).unwrap_err();
    // The deadline may pass while it tries to connect.
    let is_not_sent =
        matches!(error, CallError::NotSent { .. } | CallError::TimedOut { sent: false, .. });
    assert!(is_not_sent && !error.may_have_run(), "{error}");
    assert!(began.elapsed() < LONG / 2, "{:?}", began.elapsed());
}

#[test]
fn an_answer_that_does_not_come_ends_an_attempt_or_the_call_and_the_error_says_which() {
    let (server, service) = serve_inline();
    let relay = Relay::to(server.local_addr());
    let channel = channel(relay.addr()).connect(soon()).unwrap();
    relay.freeze();
    let watched = Watched::new(channel);
    let timeout = Duration::from_secs(1);
    let retrying = |retry| Retrying::new(&watched, retry).attempt_timeout(timeout);
    let check = |retry,
                 method: &Method,
                 deadline: Instant,
                 which: Deadline,
                 attempts: RangeInclusive<usize>,
                 expected: Duration| {
        let error = invoke(&retrying(retry), method, deadline).unwrap_err();
        let CallError::TimedOut { which: found, sent: true, waited, .. } = &error else {
            panic!("{}", syncraft::ErrorChain(&error))
        };
        let made = watched.attempts.lock().len();
        assert!(*found == which && attempts.contains(&made), "{made} attempts: {error}");
        // From the call to its deadline: less than requested if the thread was held up in between,
        // never more.
        assert!(*waited <= expected && *waited > expected / 2, "{error}");
        assert!(error.may_have_run());
        watched.attempts.lock().clear();
    };
    let twice = Retry::Fixed { pause: Duration::ZERO, attempts_max: 2 };
    // In turn: not retried, as it may have run; retried as often as allowed; retried until the
    // call's deadline, with which the third attempt ends, or the second if the first was held up.
    check(AT_ONCE, &method("Echo"), soon(), Deadline::Attempt, 1..=1, timeout);
    check(twice, &method("Echo").idempotent(), soon(), Deadline::Attempt, 2..=2, timeout);
    let deadline = Instant::now() + 3 * timeout;
    check(AT_ONCE, &method("Echo").idempotent(), deadline, Deadline::Call, 2..=3, 3 * timeout);
    assert_eq!(service.calls(), 0);
}

#[test]
fn an_attempt_may_have_all_the_time_there_is() {
    let (server, _) = serve_inline();
    let channel = channel(server.local_addr()).lazy();
    let retrying = Retrying::new(channel, AT_ONCE).attempt_timeout(Duration::MAX);
    assert_eq!(invoke(&retrying, &method("Echo"), soon()).unwrap(), echo("x"));
}

#[test]
fn many_callers_that_lose_one_connection_make_one_new_one() {
    const CALLERS: usize = 32;
    let (server, service) = serve_inline();
    let relay = Relay::to(server.local_addr());
    let retrying = Retrying::new(channel(relay.addr()).lazy(), Retry::default());
    thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                let retrying = retrying.clone();
                scope.spawn(move || invoke(&retrying, &method("Hold").idempotent(), soon()))
            })
            .collect();
        service.wait_held(CALLERS);
        relay.cut();
        service.wait_held(2 * CALLERS);
        service.take_held().into_iter().for_each(|(args, call)| call.typed().run(args));
        for caller in callers {
            assert_eq!(caller.join().unwrap().unwrap(), echo("x"));
        }
    });
    assert_eq!((relay.accepted(), service.calls()), (2, 2 * CALLERS as u64));
}

#[test]
fn a_channel_that_is_closed_ends_the_retries_over_it() {
    let port = Port::free().unwrap();
    let channel = channel(port.addr()).lazy();
    let retrying = Retrying::new(channel.clone(), Retry::default());
    let began = Instant::now();
    let error = thread::scope(|scope| {
        let called = scope.spawn(|| invoke(&retrying, &method("Echo"), soon()).unwrap_err());
        channel.close();
        called.join().unwrap()
    });
    assert!(matches!(error, CallError::NotSent { .. }), "{error}");
    assert!(began.elapsed() < LONG / 2, "{:?}", began.elapsed());
}
