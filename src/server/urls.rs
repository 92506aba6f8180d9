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
use crate::members::Members;
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
    pub(super) own: MemberId,
    pub(super) members: Members,
    pub(super) urls: Arc<MemberUrls>,
}

impl MemberRpc for UrlsService {
    fn urls(&self, args: UrlsArgs, done: Done<UrlsReply>) {
        let id = MemberId(args.id);
        // Nobody else says what this member's own are.
        if id != self.own && self.members.addr(id).is_some() {
            self.urls.set(id, args.etcd_urls);
        }
        done.run(UrlsReply { etcd_urls: self.urls.of(self.own) });
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
    stub: MemberRpcStub<Channel>,
    /// When it is asked next.
    due: Arc<Mutex<Instant>>,
}

impl UrlsExchange {
    /// Asks the members at their addresses in `peers`, and says what `urls` has of this one.
    pub(super) fn start(
        own: MemberId,
        peers: &Members,
        urls: Arc<MemberUrls>,
    ) -> io::Result<UrlsExchange> {
        let connect = |(id, addr): (MemberId, &str)| Other {
            id,
            stub: MemberRpcStub::new(Channel::builder(addr).caller(format!("urls-{own}")).lazy()),
            due: Arc::new(Mutex::new(Instant::now())),
        };
        let others: Vec<Other> = peers.iter().filter(|(id, _)| *id != own).map(connect).collect();
        let (stop, stopped) = bounded(1);
        let thread = thread::Builder::new()
            .name(format!("urls-{own}"))
            .spawn(move || run(own, others, &urls, &stopped))?;
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

fn run(own: MemberId, others: Vec<Other>, urls: &Arc<MemberUrls>, stopped: &Receiver<()>) {
    loop {
        let now = Instant::now();
        others.iter().filter(|other| *other.due.lock() <= now).for_each(|it| it.ask(own, urls));
        // An answer that comes meanwhile puts the next question off. A failure brings it forward,
        // which can wait: a member that was not there says its URLs itself once it is.
        let due = others.iter().map(|other| *other.due.lock()).min();
        match stopped.recv_deadline(due.unwrap_or(now + PAUSE)) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Other {
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
