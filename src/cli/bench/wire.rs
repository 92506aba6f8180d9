//! An operation's request to the leader, and what the reply says of it.

use bytes::Bytes;
use std::time::Instant;
use syncraft::kv::model::proto::{
    self, RangeReply, RangeRequest, StoreRpcStub, TxnReply, TxnRequest, range_reply, txn_reply,
};
use syncraft::kv::model::{Range, Revision, Txn, TxnAnswer};
use syncraft::kv::proto::{GetArgs, GetReply, KvServerRpcStub, PutAppendArgs, PutAppendReply};
use syncraft::rpc::{CallError, Channel};

use super::measured::Failed;
use super::swap::Swap;
use super::work::Operation;

/// `Err` of `kv_server_rpc.proto`: done.
const OK: &[u8] = b"OK";
/// `Err`: the key is absent.
const ERR_NO_KEY: &[u8] = b"ErrNoKey";

/// How much of a stream may be on its way, in bytes.
const WINDOW_BYTES: usize = 8 << 20;

/// The connections, all to the same member.
pub(super) struct Lines {
    pub(super) addr: String,
    pub(super) lines: Vec<Line>,
}

/// One connection. Clones share it.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) kv: KvServerRpcStub,
    pub(super) store: StoreRpcStub,
}

impl Lines {
    pub(super) fn new(addr: String, clients: usize, connections: usize) -> Lines {
        let line = |_| {
            let channel = Channel::builder(addr.as_str()).calls_max(clients);
            let channel = channel.stream_window_bytes(WINDOW_BYTES).lazy();
            Line { kv: KvServerRpcStub::new(channel.clone()), store: StoreRpcStub::new(channel) }
        };
        Lines { lines: (0..connections).map(line).collect(), addr }
    }
}

/// The session of one client: who writes, and what it has seen.
pub(super) struct Session {
    client_id: Bytes,
    request_id: i64,
    seen_index: u64,
}

impl Session {
    pub(super) fn new(rng: &mut fastrand::Rng) -> Session {
        Session { client_id: client_id(rng), request_id: 0, seen_index: 1 }
    }

    /// Begins anew: the cluster may not know the outcome of the last write.
    pub(super) fn restart(&mut self, rng: &mut fastrand::Rng) {
        (self.client_id, self.request_id) = (client_id(rng), 0);
    }

    /// A reply has named this index as applied. 0: it has named none.
    pub(super) fn saw(&mut self, index: u64) {
        self.seen_index = self.seen_index.max(index);
    }

    /// The request for an operation. A write is the session's next one.
    pub(super) fn request(&mut self, operation: &Operation) -> Request {
        match operation {
            Operation::Get { key } => {
                Request::Get(GetArgs { key: key.clone(), ..GetArgs::default() })
            }
            Operation::Write { op, key, value } => {
                self.request_id += 1;
                Request::Write(PutAppendArgs {
                    key: key.clone(),
                    value: value.clone(),
                    op: Bytes::from_static(op),
                    client_id: self.client_id.clone(),
                    request_id: self.request_id,
                    seen_index: self.seen_index,
                })
            }
            Operation::Swap(swap) => Request::Txn(self.transaction(&swap.txn())),
            Operation::Range { keys, .. } => Request::Range(RangeRequest {
                range: Some((&Range::of(keys.clone())).into()),
                staleness: None,
            }),
        }
    }
}

impl Session {
    /// The request for a transaction that writes, as the session's next write.
    pub(super) fn transaction(&mut self, txn: &Txn) -> TxnRequest {
        TxnRequest { identity: Some(self.next_write()), txn: Some(txn.into()), staleness: None }
    }

    /// The identity of the session's next write.
    pub(super) fn next_write(&mut self) -> proto::Identity {
        self.request_id += 1;
        proto::Identity {
            client_id: self.client_id.clone(),
            request_id: self.request_id,
            seen_index: self.seen_index,
        }
    }
}

fn client_id(rng: &mut fastrand::Rng) -> Bytes {
    rng.u128(..).to_string().into()
}

#[derive(Debug)]
pub(super) enum Request {
    Get(GetArgs),
    Write(PutAppendArgs),
    Txn(TxnRequest),
    Range(RangeRequest),
}

pub(super) enum Reply {
    Get(GetReply),
    Write(PutAppendReply),
    Txn(TxnReply),
    Range(RangeReply),
}

impl Line {
    /// Sends a request. `then` runs on the thread that reads the connection.
    pub(super) fn send(
        &self,
        request: &Request,
        deadline: Instant,
        then: impl FnOnce(Result<Reply, CallError>) + Send + 'static,
    ) {
        match request {
            Request::Get(args) => {
                self.kv.get_then(args, deadline, |reply| then(reply.map(Reply::Get)));
            }
            Request::Write(args) => {
                self.kv.put_append_then(args, deadline, |reply| then(reply.map(Reply::Write)));
            }
            Request::Txn(args) => {
                self.store.txn_then(args, deadline, |reply| then(reply.map(Reply::Txn)));
            }
            Request::Range(args) => {
                self.store.range_then(args, deadline, |reply| then(reply.map(Reply::Range)));
            }
        }
    }
}

/// What one attempt has come to. `index`: what the reply named as applied, or 0.
#[derive(Debug)]
pub(super) enum Attempt {
    /// The operation is over.
    Ended { index: u64, result: Result<(), Failed> },
    /// It was not simply answered, so it should be repeated.
    Repeat { index: u64, may_have_run: bool },
}

impl Attempt {
    /// What a reply means for the operation that was sent.
    pub(super) fn of(operation: &Operation, reply: Result<Reply, CallError>) -> Attempt {
        match (operation, reply) {
            (Operation::Get { .. }, Ok(Reply::Get(reply))) => got(&reply),
            (Operation::Write { .. }, Ok(Reply::Write(reply))) => written(&reply),
            (Operation::Swap(swap), Ok(Reply::Txn(reply))) => swapped(swap, reply),
            (Operation::Range { .. }, Ok(Reply::Range(reply))) => ranged(operation, reply),
            (_, Ok(_)) => unreachable!("a stub answers with its method's reply"),
            (Operation::Get { .. } | Operation::Range { .. }, Err(_)) => REPEAT_READ,
            (Operation::Write { .. } | Operation::Swap(_), Err(error)) => {
                Attempt::Repeat { index: 0, may_have_run: error.may_have_run() }
            }
        }
    }
}

/// A read changes nothing.
const REPEAT_READ: Attempt = Attempt::Repeat { index: 0, may_have_run: false };

fn got(reply: &GetReply) -> Attempt {
    match reply.err == OK || reply.err == ERR_NO_KEY {
        true => Attempt::Ended { index: 0, result: Ok(()) },
        false => REPEAT_READ,
    }
}

fn written(reply: &PutAppendReply) -> Attempt {
    match reply.err == OK {
        true => Attempt::Ended { index: reply.index, result: Ok(()) },
        false => Attempt::Repeat { index: reply.index, may_have_run: reply.may_apply },
    }
}

fn swapped(swap: &Swap, reply: TxnReply) -> Attempt {
    let TxnReply { result, revision, index, .. } = reply;
    let may_have_run = match result {
        Some(txn_reply::Result::Answer(answer)) => match TxnAnswer::try_from(answer) {
            Ok(answer) => {
                let result = swap.judge(Revision(revision), &answer, false);
                return Attempt::Ended { index, result };
            }
            Err(_) => true,
        },
        Some(txn_reply::Result::Refusal(_)) => false,
        Some(txn_reply::Result::NotServed(it)) => it.may_apply,
        Some(txn_reply::Result::Forgotten(_)) | None => true,
    };
    Attempt::Repeat { index, may_have_run }
}

fn ranged(operation: &Operation, reply: RangeReply) -> Attempt {
    match reply.result {
        Some(range_reply::Result::Answer(answer)) => {
            let result = operation.check_found(answer.entries.len());
            Attempt::Ended { index: 0, result }
        }
        _ => REPEAT_READ,
    }
}
