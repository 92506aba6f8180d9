//! Captured bytes of real clients, replayed: the server answers as the documents say, byte for
//! byte.
//!
//! `tests/wire/vectors.jsonl` has exchanges captured between programs of the documented C++ system,
//! one per line. The `clerk` lines go to a small store with the documented rules. The `peer` lines
//! only have to parse. Where the captured server and the documents differ, the documents win:
//! `documented_reply` lists each of these lines with its reason.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use syncraft::rpc::{CallError, Channel, Done, Framing, Server, Status, StatusCode};

use crate::raw::*;
use crate::support::*;

/// Compiled from the product's own .proto, as any crate would.
#[allow(unreachable_pub, reason = "generated")]
mod kv {
    syncraft::rpc::include_proto!("syncraft.kv");
}

use kv::{
    GetArgs, GetReply, KvServerRpc, KvServerRpcService, KvServerRpcStub, PutAppendArgs,
    PutAppendReply,
};

/// The documented rules in one thread: `Append` appends and creates; a repeated request id changes
/// nothing.
#[derive(Default)]
struct Store {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    values: HashMap<Bytes, Vec<u8>>,
    newest: HashMap<Bytes, i64>,
    is_follower: bool,
}

const OK: Bytes = Bytes::from_static(b"OK");
const ERR_NO_KEY: Bytes = Bytes::from_static(b"ErrNoKey");
const ERR_WRONG_LEADER: Bytes = Bytes::from_static(b"ErrWrongLeader");

impl KvServerRpc for Store {
    fn put_append(&self, args: PutAppendArgs, done: Done<PutAppendReply>) {
        let mut state = self.state.lock();
        if state.is_follower {
            return done.run(PutAppendReply { err: ERR_WRONG_LEADER, ..PutAppendReply::default() });
        }
        if !matches!(&args.op[..], b"Put" | b"Append") {
            return done.fail(Status::new(StatusCode::BadArguments, "neither Put nor Append"));
        }
        let newest = state.newest.entry(args.client_id).or_default();
        if args.request_id > *newest {
            *newest = args.request_id;
            match &args.op[..] {
                b"Put" => drop(state.values.insert(args.key, args.value.to_vec())),
                b"Append" => {
                    state.values.entry(args.key).or_default().extend_from_slice(&args.value)
                }
                _ => unreachable!("refused above"),
            }
        }
        done.run(PutAppendReply { err: OK, ..PutAppendReply::default() });
    }

    fn get(&self, args: GetArgs, done: Done<GetReply>) {
        let state = self.state.lock();
        let (err, value) = match (state.is_follower, state.values.get(&args.key)) {
            (true, _) => (ERR_WRONG_LEADER, Bytes::new()),
            (false, None) => (ERR_NO_KEY, Bytes::new()),
            (false, Some(value)) => (OK, Bytes::from(value.clone())),
        };
        done.run(GetReply { err, value, leader: None, age_ms: None });
    }
}

fn serve_store() -> (Server, Arc<Store>) {
    let store = Arc::new(Store::default());
    let server = Server::builder()
        .service(KvServerRpcService::new(store.clone()))
        .bind("127.0.0.1:0")
        .build()
        .unwrap()
        .start();
    (server, store)
}

/// One captured exchange.
struct Vector {
    /// Its line in the file, counted from 1.
    line: usize,
    varint: bool,
    from_clerk: bool,
    request: Vec<u8>,
    reply: Vec<u8>,
}

fn vectors() -> Vec<Vector> {
    let hex = |text: &str| -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
            .collect()
    };
    let text = include_str!("../wire/vectors.jsonl");
    let vectors: Vec<_> = text
        .lines()
        .enumerate()
        .map(|(i, line)| {
            let fields: HashMap<String, String> = serde_json::from_str(line).unwrap();
            Vector {
                line: i + 1,
                varint: fields["head_size"] == "varint",
                from_clerk: fields["from"] == "clerk",
                request: hex(&fields["request"]),
                reply: hex(&fields["reply"]),
            }
        })
        .collect();
    assert_eq!(vectors.len(), 133);
    vectors
}

/// Decodes a captured request with code of its own, written from the documented format.
fn split(vector: &Vector) -> Vec<(String, String, Vec<u8>)> {
    let (mut rest, mut calls) = (&vector.request[..], Vec::new());
    while !rest.is_empty() {
        let (at, len) = match vector.varint {
            true => (1, rest[0] as usize),
            false => (4, u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize),
        };
        let head = Head::decode(&rest[at..at + len]).unwrap();
        let end = at + len + head.args_size as usize;
        let name = |name: &Bytes| String::from_utf8(name.to_vec()).unwrap();
        calls.push((name(&head.service), name(&head.method), rest[at + len..end].to_vec()));
        rest = &rest[end..];
    }
    calls
}

/// Whether the store has a reply to it.
fn is_for_store(vector: &Vector) -> bool {
    let is_kv = split(vector).iter().all(|(service, _, _)| service == "kvServerRpc");
    vector.from_clerk && is_kv && !UNKNOWN_OP_LINES.contains(&vector.line)
}

/// `Op` is "Del". The captured server answered OK. The documents have only Put and Append, so ours
/// does not claim success.
const UNKNOWN_OP_LINES: [usize; 2] = [40, 106];

/// What the store must answer: the captured bytes, except for the lines where the documents differ.
fn documented_reply(vector: &Vector) -> Vec<u8> {
    let get = |value: &str| {
        GetReply { err: OK, value: Bytes::from(value.to_owned()), leader: None, age_ms: None }
            .encode_to_vec()
    };
    let put = PutAppendReply { err: OK, ..PutAppendReply::default() }.encode_to_vec();
    match vector.line {
        // The captured server replaced the value ("_world"). The documents say that Append appends.
        13 | 79 => get("hello_world"),
        // Two calls arrived in one segment, and the captured server ran only the first. The
        // documents say that each is answered.
        42 | 108 => [put.clone(), put].concat(),
        // So the second call's key exists.
        44 | 110 => get("2"),
        // Captured around other clients' writes that are not in the file and that the store never
        // saw.
        51 | 57 | 117 | 123 => get("1"),
        58 => GetReply { err: ERR_NO_KEY, ..GetReply::default() }.encode_to_vec(),
        // The captured server had lost its data when it was killed. Ours has not.
        133 => get("seeded"),
        _ => vector.reply.clone(),
    }
}

fn is_wrong_leader(vector: &Vector) -> bool {
    GetReply::decode(&vector.reply[..]).is_ok_and(|reply| reply.err == ERR_WRONG_LEADER)
}

/// How the bytes of a request reach the server.
type Sending = fn(&mut Raw, &[u8]);

/// Replays the exchanges. Each generation has a store of its own and one connection, as its clients
/// did.
fn check(varint: bool, send: Sending) {
    let (server, store) = serve_store();
    let mut raw = Raw::connect(server.local_addr());
    let (mut count, mut replayed) = (0, vectors());
    replayed.retain(|vector| vector.varint == varint && is_for_store(vector));
    for vector in replayed {
        store.state.lock().is_follower = is_wrong_leader(&vector);
        let expected = documented_reply(&vector);
        send(&mut raw, &vector.request);
        assert_eq!(hex(&raw.read(expected.len())), hex(&expected), "line {}", vector.line);
        count += 1;
    }
    assert!(count > 35, "{count} exchanges");
    // Nothing came after the replies.
    raw.0.shutdown(std::net::Shutdown::Write).unwrap();
    raw.expect_closed();
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn captured_exchanges_are_answered_byte_for_byte() {
    for varint in [false, true] {
        check(varint, |raw, request| raw.send(request));
    }
}

#[test]
fn captured_exchanges_are_answered_when_they_come_a_byte_at_a_time() {
    for varint in [false, true] {
        check(varint, |raw, request| request.chunks(1).for_each(|byte| raw.send(byte)));
    }
}

#[test]
fn captured_requests_cut_at_every_byte_are_answered() {
    let is_short = |vector: &Vector| {
        is_for_store(vector) && !is_wrong_leader(vector) && vector.request.len() < 90
    };
    for varint in [false, true] {
        let (server, _) = serve_store();
        for vector in vectors().iter().filter(|v| v.varint == varint && is_short(v)) {
            // The replies depend on what was sent before: every cut must give the same result as
            // the whole.
            let mut raw = Raw::connect(server.local_addr());
            raw.send(&vector.request);
            raw.0.shutdown(std::net::Shutdown::Write).unwrap();
            let expected = raw.rest();
            let mut raw = Raw::connect(server.local_addr());
            for cut in 1..vector.request.len() {
                raw.send(&vector.request[..cut]);
                raw.send(&vector.request[cut..]);
                assert_eq!(raw.read(expected.len()), expected, "line {} cut at {cut}", vector.line);
            }
        }
    }
}

#[test]
fn captured_requests_glued_in_one_segment_are_answered_in_order() {
    for varint in [false, true] {
        let (server, _) = serve_store();
        let all: Vec<_> = vectors()
            .into_iter()
            .filter(|v| v.varint == varint && is_for_store(v) && !is_wrong_leader(v))
            .collect();
        let requests: Vec<u8> = all.iter().flat_map(|vector| vector.request.clone()).collect();
        let expected: Vec<u8> = all.iter().flat_map(documented_reply).collect();
        let mut raw = Raw::connect(server.local_addr());
        raw.send(&requests);
        raw.0.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(hex(&raw.rest()), hex(&expected));
    }
}

#[test]
fn a_captured_call_with_an_unknown_op_is_not_answered_ok() {
    let (server, _) = serve_store();
    for vector in vectors().iter().filter(|vector| UNKNOWN_OP_LINES.contains(&vector.line)) {
        let mut raw = Raw::connect(server.local_addr());
        raw.send(&vector.request);
        raw.expect_closed();
    }
}

#[test]
fn captured_requests_between_peers_parse() {
    let mut methods: Vec<_> = vectors()
        .iter()
        .flat_map(split)
        .filter(|(service, _, _)| service == "raftRpc")
        .map(|(_, method, _)| method)
        .collect();
    methods.sort();
    methods.dedup();
    assert_eq!(methods, ["AppendEntries", "InstallSnapshot", "RequestVote"]);
}

/// Calls through our own stub in the documented format: what our server receives is what an
/// existing client sends.
fn check_stub(framing: Framing, addr: SocketAddr) {
    let stub = KvServerRpcStub::new(Channel::builder(addr.to_string()).framing(framing).lazy());
    let put = |op, value, request_id| {
        let (key, client_id) = (Bytes::from("key"), Bytes::from(format!("{framing:?}")));
        stub.put_append(
            &PutAppendArgs { key, value, op, client_id, request_id, seen_index: 0 },
            soon(),
        )
        .unwrap()
        .err
    };
    assert_eq!(put(Bytes::from("Put"), Bytes::from(vec![b'v'; 200_000]), 1), OK);
    assert_eq!(put(Bytes::from("Append"), Bytes::from("end"), 2), OK);
    let get = GetArgs { key: Bytes::from("key"), ..GetArgs::default() };
    let reply = stub.get(&get, soon()).unwrap();
    assert_eq!((reply.err, reply.value.len()), (OK, 200_003));
    // Many threads take turns on the one connection.
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (stub, get) = (stub.clone(), get.clone());
            std::thread::spawn(move || {
                (0..50)
                    .for_each(|_| assert_eq!(stub.get(&get, soon()).unwrap().value.len(), 200_003))
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn our_stubs_speak_the_documented_format() {
    let (server, _) = serve_store();
    check_stub(Framing::Documented, server.local_addr());
    check_stub(Framing::DocumentedVarint, server.local_addr());
    check_stub(Framing::Extended, server.local_addr());
}

#[test]
fn what_our_stubs_send_is_what_the_captured_clients_sent() {
    for vector in vectors().iter().filter(|vector| is_for_store(vector)) {
        let framing = if vector.varint { Framing::DocumentedVarint } else { Framing::Documented };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stub =
            KvServerRpcStub::new(channel(listener.local_addr().unwrap()).framing(framing).lazy());
        let calls = split(vector);
        for (_, method, args) in &calls {
            let args = &args[..];
            // Nobody waits for the replies: only the sent bytes count here.
            match &method[..] {
                "Get" => stub.get_then(&GetArgs::decode(args).unwrap(), soon(), |_| {}),
                _ => stub.put_append_then(&PutAppendArgs::decode(args).unwrap(), soon(), |_| {}),
            }
        }
        let mut server = Raw(listener.accept().unwrap().0);
        let first = if calls.len() == 1 { vector.request.len() } else { vector.request.len() / 2 };
        assert_eq!(hex(&server.read(first)), hex(&vector.request[..first]), "line {}", vector.line);
    }
}

/// A server of the documented system, as far as a client can tell.
fn documented_server(listener: &std::net::TcpListener) -> Raw {
    let raw = Raw(listener.accept().unwrap().0);
    raw.0.set_read_timeout(Some(LONG)).unwrap();
    raw
}

#[test]
fn a_bare_reply_in_parts_is_put_together() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stub = KvServerRpcStub::new(
        channel(listener.local_addr().unwrap()).framing(Framing::Documented).lazy(),
    );
    let call = std::thread::spawn(move || (stub.get(&GetArgs::default(), soon()).unwrap(), stub));
    let mut server = documented_server(&listener);
    let head_len = server.read(4)[0];
    server.read(head_len.into());
    let reply = GetReply { err: OK, value: Bytes::from("value"), leader: None, age_ms: None };
    let bytes = reply.encode_to_vec();
    // Cut within a field, so that the first part alone does not decode.
    server.send(&bytes[..7]);
    server.send(&bytes[7..]);
    assert_eq!(call.join().unwrap().0, reply);
}

#[test]
fn stray_bytes_and_timed_out_replies_cost_a_documented_connection() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let channel = channel(listener.local_addr().unwrap())
        .framing(Framing::Documented)
        .connect(soon())
        .unwrap();
    let stub = KvServerRpcStub::new(channel.clone());
    let short = std::time::Instant::now() + Duration::from_secs(1);
    let error = stub.get(&GetArgs::default(), short).unwrap_err();
    assert!(matches!(error, CallError::TimedOut { sent: true, .. }), "{error}");
    let mut server = documented_server(&listener);
    let mut sent = Vec::new();
    let _ = std::io::Read::read_to_end(&mut server.0, &mut sent);
    wait_until("the connection is given up", || !channel.is_connected());
    // Bytes that nobody asked for, on the next connection.
    let waiting = std::thread::spawn(move || stub.invoker().connect_now(soon()).unwrap());
    let mut server = documented_server(&listener);
    waiting.join().unwrap();
    server.send(b"stray");
    wait_until("the connection is given up", || !channel.is_connected());
}
