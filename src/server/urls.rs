//! Members tell each other at which URLs they serve etcd's clients, which ask any of them for the
//! URLs of all.
//!
//! A member asks each other one, and says its own URLs with that, until it is answered, and then
//! every now and then. So it is known everywhere within moments of its start, and what it knows is
//! what each member has said last. A member of an earlier version has no answer, and no URLs.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use crate::front::etcd::MemberUrls;
use crate::kv::Store;
use crate::node::NodeHandle;
use crate::raft::MemberId;
use crate::rpc::{Channel, Done};

/// The messages and the service of `proto/member_rpc.proto`, generated.
pub(super) mod proto {
    #![allow(missing_docs, unreachable_pub, dead_code, reason = "generated")]

    crate::rpc::include_proto!("syncraft.member");
}

use proto::{MemberRpc, MemberRpcStub, UrlsArgs, UrlsReply};

/// How long a member may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// The pause before a member that has not answered is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The pause after an answer. A member that starts with other URLs says so itself.
const PAUSE: Duration = Duration::from_secs(10);

/// `memberRpc` of one member.
pub(super) struct UrlsService {
    pub(super) node: NodeHandle<Store>,
    pub(super) urls: Arc<MemberUrls>,
}

impl MemberRpc for UrlsService {
    fn urls(&self, args: UrlsArgs, done: Done<UrlsReply>) {
        let id = MemberId(args.id);
        // Nobody else says what this member's own are.
        let own = self.node.status().id;
        if id != own && self.node.addresses().contains(id) {
            self.urls.set(id, args.etcd_urls);
        }
        done.run(UrlsReply { etcd_urls: self.urls.of(own) });
    }
}

/// The thread that asks the other members.
pub(super) struct UrlsExchange {
    /// `None` once it was told to end.
    running: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
}

/// Another member.
struct Other {
    id: MemberId,
    addr: String,
    stub: MemberRpcStub<Channel>,
    /// When it is asked next.
    due: Arc<Mutex<Instant>>,
}

impl UrlsExchange {
    /// Asks the other members, whoever they are by then, and says what `urls` has of this one.
    pub(super) fn start(
        node: NodeHandle<Store>,
        urls: Arc<MemberUrls>,
    ) -> io::Result<UrlsExchange> {
        let own = node.status().id;
        let (stop, stopped) = bounded(1);
        let thread = thread::Builder::new()
            .name(format!("urls-{own}"))
            .spawn(move || run(&node, &urls, &stopped))?;
        Ok(UrlsExchange { running: Mutex::new(Some((stop, thread))) })
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        if let Some((stop, thread)) = self.running.lock().take() {
            drop(stop);
            // A panic has been reported.
            let _ = thread.join();
        }
    }
}

impl Drop for UrlsExchange {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(node: &NodeHandle<Store>, urls: &Arc<MemberUrls>, stopped: &Receiver<()>) {
    let own = node.status().id;
    let mut others = Vec::new();
    loop {
        let now = Instant::now();
        meet(&mut others, node, own, now);
        others.iter().filter(|other| *other.due.lock() <= now).for_each(|it| it.ask(own, urls));
        // An answer that comes meanwhile puts the next question off. A failure brings it forward,
        // which can wait: a member that was not there says its URLs itself once it is.
        let due = others.iter().map(|other| *other.due.lock()).min();
        // Newcomers are looked for now and then.
        let due = due.unwrap_or(now + PAUSE).min(now + PAUSE);
        match stopped.recv_deadline(due) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Keeps the others up to date with the members: those who came, left or moved.
fn meet(others: &mut Vec<Other>, node: &NodeHandle<Store>, own: MemberId, now: Instant) {
    let members = node.addresses();
    let reach = |id: MemberId| node.reach(id).filter(|_| members.contains(id));
    others.retain(|other| reach(other.id).is_some_and(|addr| addr == other.addr));
    let is_met = |id: MemberId| others.iter().any(|other| other.id == id);
    let new: Vec<Other> = members
        .iter()
        .filter(|(id, _)| *id != own && !is_met(*id))
        .filter_map(|(id, _)| reach(id).map(|addr| Other::new(id, addr, own, now)))
        .collect();
    others.extend(new);
}

impl Other {
    fn new(id: MemberId, addr: String, own: MemberId, now: Instant) -> Other {
        let channel = Channel::builder(addr.as_str()).caller(format!("urls-{own}")).lazy();
        Other { id, addr, stub: MemberRpcStub::new(channel), due: Arc::new(Mutex::new(now)) }
    }

    fn ask(&self, own: MemberId, urls: &Arc<MemberUrls>) {
        let deadline = Instant::now() + ASK_TIMEOUT;
        *self.due.lock() = deadline + RETRY_PAUSE;
        let (id, due, known) = (self.id, Arc::clone(&self.due), Arc::clone(urls));
        let args = UrlsArgs { id: own.0, etcd_urls: urls.of(own) };
        self.stub.urls_then(&args, deadline, move |result| {
            let pause = match result {
                Ok(UrlsReply { etcd_urls }) => {
                    known.set(id, etcd_urls);
                    PAUSE
                }
                Err(_) => RETRY_PAUSE,
            };
            *due.lock() = Instant::now() + pause;
        });
    }
}
