//! Calls spread over several servers. Some of the servers go away, come back, or never answer.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use socket2::{Domain, Socket, Type};
use syncraft::rpc::{
    CallError, CallOptions, Endpoint, FileSource, FixedSource, HashRing, Invoke, LeastConnections,
    Limits, Method, Server, Targets, TargetsBuilder, hash_key,
};

use crate::raw::*;
use crate::support::*;

/// Targets with short times between probes.
fn builder(addrs: &[SocketAddr]) -> TargetsBuilder {
    Targets::builder(FixedSource::new(addrs.iter().copied()))
        .cool_down(Duration::from_millis(20), Duration::from_millis(100))
}

fn call_by(
    targets: &Targets,
    method: &'static str,
    data: &str,
    deadline: Instant,
) -> Result<Bytes, CallError> {
    let args = echo(data.to_owned());
    targets.call::<_, Echo>(&Method::new("testRpc", method), &args, deadline).map(|echo| echo.data)
}

/// A call that must be answered.
fn echo_once(targets: &Targets) {
    assert_eq!(call_by(targets, "Echo", "x", soon()).unwrap(), "x");
}

/// A TCP socket bound to a port of its own.
fn bound() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, addr)
}

/// A socket that accepts no connection: its backlog is full, so the kernel drops new ones.
fn black_hole() -> (Socket, Vec<io::Result<TcpStream>>, SocketAddr) {
    let (socket, addr) = bound();
    socket.listen(0).unwrap();
    let fill = || TcpStream::connect_timeout(&addr, Duration::from_millis(50));
    let fill = (0..3).map(|_| fill()).collect();
    (socket, fill, addr)
}

/// Serves on a port that was served before.
fn serve_again(addr: SocketAddr) -> (Server, Arc<TestService>) {
    let service = Arc::new(TestService::default());
    let server = Server::builder().service(Published(service.clone())).bind(addr.to_string());
    (server.build().unwrap().start(), service)
}

fn is_left_alone(targets: &Targets, addr: SocketAddr) -> bool {
    let status = targets.status();
    let target = status.iter().find(|target| target.endpoint.addr() == addr.to_string());
    target.unwrap().is_left_alone
}

#[test]
fn round_robin_spreads_calls_over_three_servers() {
    let servers: Vec<_> = (0..3).map(|_| serve(Limits::default())).collect();
    let addrs: Vec<_> = servers.iter().map(|(server, _)| server.local_addr()).collect();
    let targets = builder(&addrs).build();
    (0..30).for_each(|_| echo_once(&targets));
    for (server, service) in &servers {
        assert_eq!((service.calls(), server.connections()), (10, 1));
    }
    let status = targets.status();
    assert!(status.iter().all(|target| target.outstanding == 0 && !target.is_left_alone));
    assert!(status.iter().all(|target| !target.response_time.is_zero()));
}

#[test]
fn a_stopped_server_costs_no_call_an_error_and_is_used_again_when_it_is_back() {
    let mut servers: Vec<_> = (0..3).map(|_| serve(Limits::default())).collect();
    let addrs: Vec<_> = servers.iter().map(|(server, _)| server.local_addr()).collect();
    let targets = builder(&addrs).build();
    (0..6).for_each(|_| echo_once(&targets));
    let (stopped, service) = servers.remove(0);
    stopped.stop();
    // Long enough for some failed probes.
    let until = Instant::now() + Duration::from_millis(300);
    while Instant::now() < until {
        echo_once(&targets);
    }
    assert_eq!(service.calls(), 2);
    assert!(is_left_alone(&targets, addrs[0]));
    let (_again, service) = serve_again(addrs[0]);
    wait_until("it is probed and gets its share again", || {
        echo_once(&targets);
        service.calls() >= 10
    });
    assert!(!is_left_alone(&targets, addrs[0]));
}

#[test]
fn with_one_dead_endpoint_no_concurrent_caller_gets_an_error() {
    let servers: Vec<_> = (0..2).map(|_| serve(Limits::default())).collect();
    let mut addrs: Vec<_> = servers.iter().map(|(server, _)| server.local_addr()).collect();
    // Bound, so that nobody else gets the port, but not listening.
    let (_socket, dead) = bound();
    addrs.insert(0, dead);
    let targets = builder(&addrs).balancer(LeastConnections::new()).build();
    let callers: Vec<_> = (0..16)
        .map(|_| {
            let targets = targets.clone();
            thread::spawn(move || (0..200).for_each(|_| echo_once(&targets)))
        })
        .collect();
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    assert_eq!(servers.iter().map(|(_, service)| service.calls()).sum::<u64>(), 16 * 200);
    assert!(is_left_alone(&targets, dead));
}

#[test]
fn an_endpoint_added_to_the_file_gets_calls_and_one_taken_out_gets_no_more() {
    let ((first, old), (second, new)) = (serve(Limits::default()), serve(Limits::default()));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("endpoints");
    fs::write(&path, format!("{} # alone\n", first.local_addr())).unwrap();
    let targets = Targets::builder(FileSource::open(&path).unwrap()).build();
    (0..5).for_each(|_| echo_once(&targets));
    assert_eq!((old.calls(), new.calls()), (5, 0));
    fs::write(&path, format!("{}\n{} 2\n", first.local_addr(), second.local_addr())).unwrap();
    wait_until("the new one is called", || {
        echo_once(&targets);
        new.calls() >= 2
    });
    assert_eq!(targets.status()[1].endpoint.weight(), 2);
    fs::write(&path, format!("{}\n", second.local_addr())).unwrap();
    wait_until("the old one is not connected to any more", || {
        echo_once(&targets);
        first.connections() == 0
    });
    let calls = old.calls();
    (0..5).for_each(|_| echo_once(&targets));
    assert_eq!(old.calls(), calls);
    // Joins the watcher.
    in_time(move || drop(targets));
}

#[test]
fn a_call_at_an_endpoint_that_leaves_is_answered_still() {
    let ((first, old), (second, new)) = (serve(Limits::default()), serve(Limits::default()));
    let source = Arc::new(FixedSource::new([first.local_addr()]));
    let targets = Targets::builder(source.clone()).build();
    let caller = thread::spawn({
        let targets = targets.clone();
        move || call_by(&targets, "Hold", "held", soon())
    });
    old.wait_held(1);
    source.set(vec![second.local_addr().into()]);
    echo_once(&targets);
    assert_eq!((old.calls(), new.calls(), first.connections()), (1, 1, 1));
    for (args, call) in old.take_held() {
        call.typed().run(args);
    }
    assert_eq!(caller.join().unwrap().unwrap(), "held");
    wait_until("its connection is closed then", || first.connections() == 0);
}

#[test]
fn equal_keys_go_to_the_same_server() {
    let servers: Vec<_> = (0..3).map(|_| serve(Limits::default())).collect();
    let addrs: Vec<_> = servers.iter().map(|(server, _)| server.local_addr()).collect();
    let targets = builder(&addrs).balancer(HashRing::new()).build();
    let calls = || servers.iter().map(|(_, service)| service.calls()).collect::<Vec<_>>();
    let mut places = BTreeSet::new();
    for user in 0..40 {
        let key = hash_key(format!("user {user}").as_bytes());
        let before = calls();
        for _ in 0..3 {
            let args = echo("x");
            let options = CallOptions::default().key(key);
            let method = Method::new("testRpc", "Echo");
            targets.invoke::<_, Echo>(&method, &options, &args, soon()).unwrap();
        }
        let place = (0..3).find(|at| calls()[*at] == before[*at] + 3);
        places.insert(place.expect("all three to the same one"));
    }
    assert_eq!(places.len(), 3);
    // Calls without a key are spread.
    let before = calls();
    (0..100).for_each(|_| echo_once(&targets));
    assert!(calls().iter().zip(&before).all(|(after, before)| after > before));
}

#[test]
fn a_black_hole_takes_only_its_share_of_the_time() {
    let (_socket, _fill, hole) = black_hole();
    let (server, service) = serve(Limits::default());
    let targets = builder(&[hole, server.local_addr()]).build();
    for _ in 0..6 {
        let deadline = Instant::now() + Duration::from_secs(3);
        assert_eq!(call_by(&targets, "Echo", "x", deadline).unwrap(), "x");
    }
    assert_eq!(service.calls(), 6);
    assert!(is_left_alone(&targets, hole));
}

#[test]
fn a_server_that_does_not_answer_is_ejected_after_three_calls() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = silent.local_addr().unwrap();
    let (server, service) = serve(Limits::default());
    let long = Duration::from_secs(3600);
    let targets = builder(&[addr, server.local_addr()]).cool_down(long, long).build();
    let mut errors = 0;
    while !is_left_alone(&targets, addr) {
        let deadline = Instant::now() + Duration::from_millis(250);
        if let Err(error) = call_by(&targets, "Echo", "x", deadline) {
            // Silence adds up over several calls; then one of them gives the connection up.
            let is_silence =
                matches!(error, CallError::TimedOut { sent: true, .. } | CallError::Lost { .. });
            assert!(is_silence, "{error}");
            errors += 1;
        }
    }
    // More would mean that the other one did not answer in time.
    assert!(errors >= 3, "{errors}");
    let before = service.calls();
    (0..20).for_each(|_| echo_once(&targets));
    assert_eq!(service.calls(), before + 20);
}

#[test]
fn a_call_that_fails_everywhere_names_all_endpoints_and_has_not_run() {
    let sockets = [bound(), bound(), bound()];
    let addrs = [0, 1, 2].map(|at| sockets[at].1);
    let targets = builder(&addrs).build();
    for _ in 0..5 {
        let error = call_by(&targets, "Echo", "x", soon()).unwrap_err();
        assert!(!error.may_have_run());
        let CallError::NotSent { addr, .. } = &error else { panic!("{error}") };
        assert!(addrs.iter().all(|each| addr.contains(&each.to_string())), "{error}");
    }
    let error = call_by(&targets, "Echo", "x", Instant::now()).unwrap_err();
    assert!(matches!(error, CallError::TimedOut { sent: false, .. }), "{error}");
    let nowhere = Targets::builder(FixedSource::new(Vec::<Endpoint>::new())).build();
    let error = call_by(&nowhere, "Echo", "x", soon()).unwrap_err();
    assert!(matches!(error, CallError::NotSent { .. }), "{error}");
}

#[test]
fn what_a_server_refuses_is_not_tried_elsewhere() {
    let servers: Vec<_> = (0..2).map(|_| serve(Limits::default())).collect();
    let addrs: Vec<_> = servers.iter().map(|(server, _)| server.local_addr()).collect();
    let targets = builder(&addrs).build();
    for _ in 0..10 {
        let error = call_by(&targets, "Fail", "x", soon()).unwrap_err();
        assert!(matches!(error, CallError::Refused { .. }), "{error}");
    }
    assert_eq!(servers.iter().map(|(_, service)| service.calls()).sum::<u64>(), 10);
    // And it is an answer.
    assert!(targets.status().iter().all(|target| !target.is_left_alone));
}
