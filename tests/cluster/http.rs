//! The HTTP port of a member, queried as an operator's tools do.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use syncraft::members::Members;
use syncraft::raft::MemberId;
use syncraft::server::{Config, Member};
use syncraft::testing::Port;

struct Served {
    member: Member,
    http: SocketAddr,
    _ports: [Port; 2],
    _dir: tempfile::TempDir,
}

fn serve(members: u64) -> Served {
    let ports = [Port::free().unwrap(), Port::free().unwrap()];
    let dir = tempfile::tempdir().unwrap();
    // Members past the first do not exist: with two members in the list, nobody can lead.
    let addr = |id| if id == 1 { ports[0].addr().to_string() } else { format!("127.0.0.1:{id}") };
    let list = Members::new((1..=members).map(|id| (MemberId(id), addr(id)))).unwrap();
    let http = ports[1].addr();
    let config =
        Config { http: Some(http.to_string()), ..Config::new(MemberId(1), list, dir.path()) };
    Served { member: Member::start(config).unwrap(), http, _ports: ports, _dir: dir }
}

fn ask(addr: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn request(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
}

fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    let answer = ask(addr, &request("GET", path));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
    assert_eq!(length.parse::<usize>().unwrap(), body.len());
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn wait_for(what: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !what() {
        assert!(Instant::now() < deadline, "it did not come to pass");
        std::thread::yield_now();
    }
}

#[test]
fn a_member_with_a_leader_is_ready() {
    let served = serve(1);
    wait_for(|| get(served.http, "/readyz").0 == 200);
    assert_eq!(get(served.http, "/livez"), (200, "ok\n".to_owned()));
    let status: serde_json::Value =
        serde_json::from_str(&get(served.http, "/status?x=1").1).unwrap();
    assert_eq!((&status["role"], &status["id"]), (&"leader".into(), &1.into()));
    assert!(get(served.http, "/metrics").1.contains("\nsyncraft_is_leader 1\n"));
    assert_eq!(get(served.http, "/nothing").0, 404);
    let refused = ask(served.http, &request("POST", "/livez"));
    assert!(refused.starts_with("HTTP/1.1 405 ") && refused.contains("\r\nAllow: GET, HEAD\r\n"));
}

/// As load balancers ask.
#[test]
fn head_gets_what_get_gets_without_the_body() {
    let served = serve(1);
    wait_for(|| get(served.http, "/readyz").0 == 200);
    for path in ["/livez", "/readyz", "/status", "/metrics", "/nothing"] {
        let ask = |method: &str| {
            let answer = ask(served.http, &request(method, path));
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            let head: Vec<&str> = head.lines().filter(|it| !it.starts_with("Date: ")).collect();
            (head.join("\n"), body.to_owned())
        };
        let (of_get, of_head) = (ask("GET"), ask("HEAD"));
        assert!(of_head.1.is_empty(), "{path}: {of_head:?}");
        if path == "/metrics" {
            // The request itself is counted there.
            continue;
        }
        assert_eq!(of_get.0, of_head.0, "{path}");
        let length = format!("Content-Length: {}", of_get.1.len());
        assert!(of_head.0.contains(&length), "{path}: {of_head:?}");
    }
    let of_two = serve(2);
    assert!(ask(of_two.http, &request("HEAD", "/readyz")).starts_with("HTTP/1.1 503 "));
}

/// No client waits for another.
#[test]
fn a_request_that_has_come_is_answered_whoever_else_is_silent_or_slow() {
    let served = serve(1);
    let silent: Vec<_> = (0..100).map(|_| TcpStream::connect(served.http).unwrap()).collect();
    assert_eq!(get(served.http, "/livez").0, 200);
    let unfinished: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(served.http).unwrap();
            stream.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
            stream
        })
        .collect();
    assert_eq!(get(served.http, "/livez").0, 200);
    // Clients that have their answer and keep the connection.
    let answered: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(served.http).unwrap();
            stream.write_all(b"HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            stream.read_exact(&mut [0; 12]).unwrap();
            stream
        })
        .collect();
    assert_eq!(get(served.http, "/livez").0, 200);
    // Slow clients are answered as well, if there is room for them.
    let mut slow = TcpStream::connect(served.http).unwrap();
    for byte in b"GET /livez HTTP/1.0\r\n\r\n" {
        slow.write_all(&[*byte]).unwrap();
    }
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("ok\n"), "{answer}");
    drop((silent, unfinished, answered));
}

#[test]
fn a_member_without_a_majority_lives_but_is_not_ready() {
    let served = serve(3);
    assert_eq!(get(served.http, "/livez").0, 200);
    assert_eq!(get(served.http, "/readyz"), (503, "no leader is known\n".to_owned()));
}

#[test]
fn nonsense_and_silence_cost_nobody_else_anything() {
    let served = serve(1);
    let silent = TcpStream::connect(served.http).unwrap();
    assert!(ask(served.http, &"x".repeat(20_000)).starts_with("HTTP/1.1 414 "));
    assert_eq!(get(served.http, "/livez").0, 200);
    drop(silent);
    let http = served.http;
    served.member.stop();
    TcpListener::bind(http).expect("a member that has stopped has left its port");
}

/// The member does not listen for long to a client that never stops sending, and stops.
#[test]
fn a_client_that_trickles_does_not_hold_up_the_stop() {
    let Served { member, http, _ports, _dir } = serve(1);
    let mut slow = TcpStream::connect(http).unwrap();
    slow.write_all(b"POST / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    slow.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 400");
    let trickle = std::thread::spawn(move || {
        while slow.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        member.stop();
        let _ = sender.send(());
    });
    receiver.recv_timeout(Duration::from_secs(30)).expect("it stops");
    trickle.join().unwrap();
}

/// Without a majority, the write waits. The member still says what became of it.
#[test]
fn a_member_that_stops_answers_what_it_was_asked() {
    let served = serve(3);
    let mut stream = TcpStream::connect(served.http).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // Together, so that the second has come when the first is answered.
    let put = "PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nv";
    stream.write_all(format!("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n{put}").as_bytes()).unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    served.member.stop();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    let (_, told) = rest.split_once("HTTP/1.1 ").expect("a second answer");
    assert!(told.starts_with("503 ") || told.starts_with("504 "), "{rest}");
}
