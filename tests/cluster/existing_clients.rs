//! Clients of the documented C++ system, reproduced byte by byte, against real members: members
//! understand their requests and they understand the replies.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use prost::Message;
use syncraft::kv::LimitsChange;
use syncraft::kv::proto::{GetArgs, GetReply, PutAppendArgs, PutAppendReply};
use syncraft::raft::MemberId;
use syncraft::testing::Cluster;

/// The header as these clients write it: three fields and no more.
fn header(method: &str, args_len: usize) -> Vec<u8> {
    let mut header = Vec::new();
    for (tag, text) in [(0x0A, "kvServerRpc"), (0x12, method)] {
        header.extend([tag, text.len() as u8]);
        header.extend(text.as_bytes());
    }
    header.push(0x18);
    prost::encoding::encode_varint(args_len as u64, &mut header);
    header
}

#[derive(Clone, Copy, Debug)]
enum HeadSize {
    FourBytes,
    Varint,
}

struct ExistingClient {
    stream: TcpStream,
    head_size: HeadSize,
}

impl ExistingClient {
    fn connect(cluster: &Cluster, id: MemberId, head_size: HeadSize) -> ExistingClient {
        let stream = TcpStream::connect(cluster.members().addr(id).unwrap()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        ExistingClient { stream, head_size }
    }

    fn frame(&self, method: &str, args: &impl Message) -> Vec<u8> {
        let args = args.encode_to_vec();
        let header = header(method, args.len());
        let mut frame = match self.head_size {
            HeadSize::FourBytes => (header.len() as u32).to_le_bytes().to_vec(),
            HeadSize::Varint => vec![header.len() as u8],
        };
        frame.extend(header);
        frame.extend(args);
        frame
    }

    /// Sends a request. Takes the result of one `recv` of at most 1,024 bytes for the reply.
    fn call<R: Message + Default>(&mut self, method: &str, args: &impl Message) -> R {
        let frame = self.frame(method, args);
        self.stream.write_all(&frame).unwrap();
        self.recv()
    }

    fn recv<R: Message + Default>(&mut self) -> R {
        let mut buf = [0; 1024];
        let len = self.stream.read(&mut buf).unwrap();
        assert!(len > 0, "the member closed the connection");
        R::decode(&buf[..len]).unwrap()
    }

    fn write(
        &mut self,
        op: &str,
        key: &str,
        value: &str,
        client_id: &str,
        request_id: i64,
    ) -> String {
        let args = put_append(op, key, value, client_id, request_id);
        let reply: PutAppendReply = self.call("PutAppend", &args);
        String::from_utf8(reply.err.to_vec()).unwrap()
    }

    fn get(&mut self, key: &str) -> (String, String) {
        let args = GetArgs {
            key: key.to_owned().into(),
            client_id: "c".into(),
            request_id: 1,
            ..Default::default()
        };
        let reply: GetReply = self.call("Get", &args);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (text(&reply.err), text(&reply.value))
    }
}

fn put_append(op: &str, key: &str, value: &str, client_id: &str, request_id: i64) -> PutAppendArgs {
    let bytes = |text: &str| text.to_owned().into_bytes().into();
    let (key, value, op, client_id) = (bytes(key), bytes(value), bytes(op), bytes(client_id));
    PutAppendArgs { key, value, op, client_id, request_id, seen_index: 0 }
}

fn pair(err: &str, value: &str) -> (String, String) {
    (err.to_owned(), value.to_owned())
}

#[test]
fn both_generations_write_and_read_through_the_leader() {
    let cluster = Cluster::start(3).unwrap();
    let leader = cluster.leader().unwrap();
    for (client_id, head_size) in [("gen-1", HeadSize::FourBytes), ("gen-2", HeadSize::Varint)] {
        let mut client = ExistingClient::connect(&cluster, leader, head_size);
        let key = format!("k-{client_id}");
        assert_eq!(client.get(&key), pair("ErrNoKey", ""), "{head_size:?}");
        assert_eq!(client.write("Put", &key, "a", client_id, 1), "OK");
        assert_eq!(client.write("Append", &key, "b", client_id, 2), "OK");
        assert_eq!(client.get(&key), pair("OK", "ab"));
        assert_eq!(client.write("Append", &key, "b", client_id, 2), "OK", "a retry");
        assert_eq!(
            client.write("Put", &key, "late", client_id, 1),
            "OK",
            "older than the newest: a repeat"
        );
        assert_eq!(client.get(&key), pair("OK", "ab"), "repeats change nothing");
        assert_eq!(client.write("Put", &format!("empty-{client_id}"), "", client_id, 3), "OK");
        assert_eq!(client.get(&format!("empty-{client_id}")), pair("OK", ""));
        assert_eq!(client.write("Del", &key, "", client_id, 4), "ErrUnknownOp");
        assert_eq!(client.get(&key), pair("OK", "ab"));
    }
}

#[test]
fn they_are_told_that_there_is_no_space() {
    let cluster = Cluster::start(1).unwrap();
    let mut client = ExistingClient::connect(&cluster, MemberId(1), HeadSize::FourBytes);
    assert_eq!(client.write("Put", "k", "123456", "c", 1), "OK");
    let limits = LimitsChange { bytes_max: Some(10), ..Default::default() };
    cluster.clerk().set_limits(limits).unwrap();
    assert_eq!(client.write("Put", "other", "123456", "c", 2), "ErrNoSpace");
    assert_eq!(client.write("Append", "k", "12345", "c", 3), "ErrNoSpace");
    assert_eq!(client.get("k"), pair("OK", "123456"));
    assert_eq!(client.write("Put", "k", "1", "c", 4), "OK");
}

/// Only a write: a follower answers a read as the leader would.
#[test]
fn a_follower_sends_them_on() {
    let cluster = Cluster::start(3).unwrap();
    let leader = cluster.leader().unwrap();
    let follower = cluster.ids().into_iter().find(|&id| id != leader).unwrap();
    let mut client = ExistingClient::connect(&cluster, follower, HeadSize::FourBytes);
    assert_eq!(client.write("Put", "k", "v", "c", 1), "ErrWrongLeader");
    cluster.clerk().put("k", "v").unwrap();
    assert_eq!(client.get("k"), pair("OK", "v"));
    cluster.kill(leader);
    let other = cluster.ids().into_iter().find(|&id| id != leader && id != follower).unwrap();
    cluster.kill(other);
    assert_eq!(client.get("k"), pair("ErrWrongLeader", ""), "nobody leads");
}

#[test]
fn calls_in_one_segment_are_answered_in_order() {
    let cluster = Cluster::start(1).unwrap();
    let mut client = ExistingClient::connect(&cluster, MemberId(1), HeadSize::FourBytes);
    let put = client.frame("PutAppend", &put_append("Put", "k", "v", "c", 1));
    let get = client.frame(
        "Get",
        &GetArgs { key: "k".into(), client_id: "c".into(), request_id: 2, ..Default::default() },
    );
    client.stream.write_all(&[put, get].concat()).unwrap();
    // Bare replies, one after the other: the documented fields and no other.
    let mut replies = [0; 11];
    client.stream.read_exact(&mut replies).unwrap();
    assert_eq!(replies, *b"\x0a\x02OK\x0a\x02OK\x12\x01v");
}

/// One `recv` of at most 1,024 bytes: a longer reply is not complete, and these clients ask again
/// without end.
#[test]
fn the_longest_value_that_they_read_has_1017_bytes() {
    let cluster = Cluster::start(1).unwrap();
    let mut client = ExistingClient::connect(&cluster, MemberId(1), HeadSize::FourBytes);
    for (len, is_whole) in [(1017, true), (1018, false)] {
        let value = "v".repeat(len);
        cluster.clerk().put("k", value.clone()).unwrap();
        let get = GetArgs { key: "k".into(), client_id: "c".into(), ..Default::default() };
        let frame = client.frame("Get", &get);
        client.stream.write_all(&frame).unwrap();
        let mut buf = [0; 1025];
        let mut reply_len = 0;
        while GetReply::decode(&buf[..reply_len]).map_or(true, |reply| reply.value.len() < len) {
            reply_len += client.stream.read(&mut buf[reply_len..]).unwrap();
        }
        assert_eq!(reply_len <= 1024, is_whole, "a value of {len} bytes: {reply_len} bytes");
    }
}

#[test]
fn a_member_of_the_documented_system_cannot_join() {
    let cluster = Cluster::start(3).unwrap();
    let leader = cluster.leader().unwrap();
    let before = cluster.status(leader).unwrap().role;
    let mut stream = TcpStream::connect(cluster.members().addr(leader).unwrap()).unwrap();
    // A captured RequestVote for term 1,000 of a member of the C++ system: term, candidate, last
    // index, last term.
    let args = [0x08, 0xE8, 0x07, 0x10, 0x02, 0x18, 0x7F, 0x20, 0x7F];
    let mut header = Vec::from([0x0A, 7]);
    header.extend(b"raftRpc");
    header.extend([0x12, 11]);
    header.extend(b"RequestVote");
    header.extend([0x18, args.len() as u8]);
    stream.write_all(&(header.len() as u32).to_le_bytes()).unwrap();
    stream.write_all(&[&header[..], &args[..]].concat()).unwrap();
    // A client that takes the end of the stream for a reply must not see the end.
    let end = stream.read(&mut [0; 64]).expect_err("the connection is closed without a vote");
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    assert_eq!(cluster.status(leader).unwrap().role, before);
}
