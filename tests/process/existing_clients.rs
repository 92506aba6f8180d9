//! Clients of the documented C++ system, while members restart and die: none of the clients dies,
//! and their writes are there.
//!
//! The client here does step by step what theirs does. It writes to a socket that may be gone and
//! does not handle SIGPIPE. It takes the result of one `recv` of at most 1,024 bytes for the reply,
//! and the end of the stream for an empty reply. After an empty reply it asks the same server
//! again.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use prost::Message;
use socket2::{Domain, Socket, Type};
use syncraft::kv::proto::{GetArgs, GetReply, PutAppendArgs, PutAppendReply};

use crate::processes::{Processes, TEST_TIMEOUT};

/// A client was killed by SIGPIPE.
#[derive(Debug)]
struct Sigpipe;

/// A call that failed: the client goes on to the next server.
struct Failed;

struct Client {
    servers: Vec<SocketAddr>,
    streams: Vec<Option<TcpStream>>,
    /// Which server it asks first.
    leader: usize,
    id: String,
    request_id: i64,
}

impl Client {
    fn new(servers: &[SocketAddr], number: usize) -> Client {
        let streams = servers.iter().map(|_| None).collect();
        let mut client = Client {
            servers: servers.to_vec(),
            streams,
            leader: 0,
            id: format!("c{number}"),
            request_id: 0,
        };
        // Some clients connect to all servers at once, and are silent on most connections for a
        // long time.
        if number.is_multiple_of(2) {
            (0..servers.len()).for_each(|at| drop(client.connect(at)));
        }
        client
    }

    fn connect(&mut self, at: usize) -> Result<(), Failed> {
        let stream = TcpStream::connect(self.servers[at]).map_err(|_| Failed)?;
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        self.streams[at] = Some(stream);
        Ok(())
    }

    /// As its channel does: sends, connects again as long as that fails, and receives once.
    fn call(
        &mut self,
        at: usize,
        method: &str,
        args: &impl Message,
    ) -> Result<Result<Vec<u8>, Failed>, Sigpipe> {
        let frame = frame(method, args);
        if self.streams[at].is_none() && self.connect(at).is_err() {
            return Ok(Err(Failed));
        }
        loop {
            let mut stream = self.streams[at].as_ref().expect("it is connected");
            match stream.write_all(&frame) {
                Ok(()) => break,
                // Their client neither handles nor blocks the signal.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Err(Sigpipe),
                Err(_) => {
                    self.streams[at] = None;
                    if self.connect(at).is_err() {
                        return Ok(Err(Failed));
                    }
                }
            }
        }
        let mut reply = vec![0; 1024];
        let mut stream = self.streams[at].as_ref().expect("it is connected");
        match stream.read(&mut reply) {
            Ok(len) => {
                reply.truncate(len);
                Ok(Ok(reply))
            }
            Err(error) => {
                assert_ne!(error.kind(), ErrorKind::WouldBlock, "no answer for {TEST_TIMEOUT:?}");
                self.streams[at] = None;
                Ok(Err(Failed))
            }
        }
    }

    /// As its clerk does: asks one server after the other with the same id, until one has done it.
    fn append(&mut self, key: &str, value: &str) -> Result<(), Sigpipe> {
        self.request_id += 1;
        let bytes = |text: &str| text.to_owned().into_bytes().into();
        let args = PutAppendArgs {
            key: bytes(key),
            value: bytes(value),
            op: bytes("Append"),
            client_id: bytes(&self.id),
            request_id: self.request_id,
            seen_index: 0,
        };
        loop {
            let reply = self.call(self.leader, "PutAppend", &args)?;
            match reply.ok().and_then(|reply| PutAppendReply::decode(&reply[..]).ok()) {
                Some(reply) if &reply.err[..] == b"OK" => return Ok(()),
                Some(reply) if &reply.err[..] != b"ErrWrongLeader" => {}
                _ => self.next_server(),
            }
        }
    }

    fn get(&mut self, key: &str) -> Result<String, Sigpipe> {
        self.request_id += 1;
        let (key, client_id) = (key.to_owned().into(), self.id.clone().into());
        let args = GetArgs { key, client_id, request_id: self.request_id, ..Default::default() };
        loop {
            let reply = self.call(self.leader, "Get", &args)?;
            match reply.ok().and_then(|reply| GetReply::decode(&reply[..]).ok()) {
                Some(reply) if &reply.err[..] == b"OK" => {
                    return Ok(String::from_utf8(reply.value.to_vec()).unwrap());
                }
                Some(reply) if &reply.err[..] == b"ErrNoKey" => return Ok(String::new()),
                Some(reply) if &reply.err[..] != b"ErrWrongLeader" => {}
                _ => self.next_server(),
            }
        }
    }

    fn next_server(&mut self) {
        self.leader = (self.leader + 1) % self.servers.len();
        // Theirs does not pause. Eight of them would leave the members no processor time.
        thread::sleep(Duration::from_millis(1));
    }
}

fn frame(method: &str, args: &impl Message) -> Vec<u8> {
    let args = args.encode_to_vec();
    let mut header = Vec::new();
    for (tag, text) in [(0x0A, "kvServerRpc"), (0x12, method)] {
        header.extend([tag, text.len() as u8]);
        header.extend(text.as_bytes());
    }
    header.push(0x18);
    prost::encoding::encode_varint(args.len() as u64, &mut header);
    [&(header.len() as u32).to_le_bytes()[..], &header, &args].concat()
}

/// What one client has done so far, for the test to wait on.
#[derive(Default)]
struct Progress {
    done: AtomicUsize,
}

/// Appends to a key of its own and reads it, until it is told to stop. Now and then it asks another
/// server first.
fn run(mut client: Client, progress: &Progress, stop: &AtomicBool) -> Result<usize, Sigpipe> {
    let key = format!("k-{}", client.id);
    let mut expected = String::new();
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            return Ok(number);
        }
        // Short, so that the reply fits into one `recv`.
        let key = format!("{key}-{}", number / 100);
        if number % 100 == 0 {
            expected.clear();
        }
        let value = format!("{number};");
        client.append(&key, &value)?;
        expected += &value;
        if number % 5 == 0 {
            assert_eq!(client.get(&key)?, expected, "each append took effect once");
            client.next_server();
        }
        progress.done.fetch_add(1, Ordering::SeqCst);
    }
    unreachable!("numbers do not end")
}

/// Waits until each client that is still alive has done a few more calls.
fn wait_for_all(progress: &[Progress], ended: impl Fn(usize) -> bool) {
    let deadline = Instant::now() + TEST_TIMEOUT;
    let done = |at: usize| progress[at].done.load(Ordering::SeqCst);
    let before: Vec<_> = (0..progress.len()).map(done).collect();
    while !(0..progress.len()).all(|at| done(at) >= before[at] + 10 || ended(at)) {
        assert!(Instant::now() < deadline, "a client does not get on");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn eight_of_eight_clients_survive_rolling_restarts_and_a_kill() {
    const CLIENTS: usize = 8;
    let mut processes = Processes::start(3);
    let servers: Vec<_> = processes.ports.iter().map(|port| port.addr()).collect();
    let stop = AtomicBool::new(false);
    let progress: Vec<Progress> = (0..CLIENTS).map(|_| Progress::default()).collect();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let client = Client::new(&servers, number);
                let (progress, stop) = (&progress[number], &stop);
                scope.spawn(move || run(client, progress, stop))
            })
            .collect();
        let ended = |at: usize| clients[at].is_finished();
        wait_for_all(&progress, ended);
        // The leader first, so that a different one stops under load each time.
        for _ in 0..2 {
            for _ in 0..3 {
                let id = processes.leader();
                processes.signal(id, "-TERM");
                processes.children[id - 1].take().unwrap().wait().unwrap();
                wait_for_all(&progress, ended);
                processes.restart(id);
                processes.wait_ready();
                wait_for_all(&progress, ended);
            }
        }
        for _ in 0..2 {
            let id = processes.leader();
            processes.kill(id);
            wait_for_all(&progress, ended);
            processes.restart(id);
            processes.wait_ready();
            wait_for_all(&progress, ended);
        }
        stop.store(true, Ordering::SeqCst);
        let ends: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        assert!(ends.iter().all(Result::is_ok), "{ends:?}");
    });
}

/// A reply longer than these clients read may stay in the member's buffers for long. A client that
/// reads to the end gets all of it.
#[cfg(target_os = "linux")]
#[test]
fn a_long_reply_that_was_given_before_a_kill_arrives() {
    let mut processes = Processes::start(1);
    let value = "v".repeat(300_000);
    processes.clerk().put("k", value.clone()).unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&processes.ports[0].addr().into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    let get = GetArgs { key: "k".into(), client_id: "c".into(), ..Default::default() };
    stream.write_all(&frame("Get", &get)).unwrap();
    // The member hands it to the system in one call.
    stream.peek(&mut [0]).unwrap();
    processes.kill(1);
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    assert_eq!(GetReply::decode(&reply[..]).unwrap().value, value);
}
