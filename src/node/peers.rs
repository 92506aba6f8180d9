//! The peers of a node: a link and a thread for each, which come and go with the configuration.
//!
//! - A peer of the configuration in force, or of the newest committed one, has a link. So has
//!   everybody of whom a member without data has heard. Before there is a configuration, the list
//!   with which the member was started is used.
//! - A peer that has left keeps its link for [`FAREWELL_MIN`], so that it hears of it.
//! - A peer whose address has changed gets a new link. If the list with which this member was
//!   started has another address for a peer, both are tried in turn.
//!
//! Threads are started on the thread that steps the core, and end by themselves. They are joined
//! when the node ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Mutex, RwLock};

use super::config::{Detour, NodeConfig, Timing};
use super::mailbox::Mailbox;
use super::peer::{Link, Peer};
use super::pipeline::Pipeline;
use super::shared::{PanicGuard, Shared};
use super::state_machine::StateMachine;
use crate::members::Members;
use crate::raft::{Configuration, Configured, MemberId};
use crate::storage::Snapshots;

/// How long a peer that has left keeps its link, at least. The leader tells it of its removal for
/// two election timeouts.
const FAREWELL_MIN: Duration = Duration::from_secs(3);

/// The links to all peers, for those who send.
pub(super) type Links = RwLock<BTreeMap<MemberId, Arc<Link>>>;

pub(super) struct Peers<S: StateMachine> {
    own: MemberId,
    /// The list with which this member was started.
    listed: Members,
    detour: Detour,
    timing: Timing,
    pipeline: Arc<Pipeline<S>>,
    shared: Arc<Shared>,
    snapshots: Snapshots,
    links: Arc<Links>,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    threads: BTreeMap<MemberId, PeerThread>,
    /// The addresses of those whose thread could not be started. It is tried again.
    waiting: BTreeMap<MemberId, Vec<String>>,
    /// Threads that have been told to end.
    ending: Vec<JoinHandle<()>>,
    is_stopped: bool,
}

struct PeerThread {
    addrs: Vec<String>,
    /// Dropping it ends the thread.
    stop: Sender<()>,
    thread: JoinHandle<()>,
    /// Since when it is no peer any more.
    left: Option<Instant>,
}

impl<S: StateMachine> Peers<S> {
    pub(super) fn new(
        config: &NodeConfig,
        pipeline: Arc<Pipeline<S>>,
        shared: Arc<Shared>,
        snapshots: Snapshots,
        links: Arc<Links>,
    ) -> Peers<S> {
        Peers {
            own: config.id,
            listed: config.members.clone(),
            detour: config.detour.clone(),
            timing: config.timing,
            pipeline,
            shared,
            snapshots,
            links,
            running: Mutex::default(),
        }
    }

    /// The members are those of the list.
    pub(super) fn meet_listed(&self) {
        let addrs = self.listed.iter().map(|(id, addr)| (id, vec![addr.to_owned()])).collect();
        self.meet(addrs, Instant::now());
    }

    /// The members are those of these configurations, and nobody else.
    pub(super) fn meet_configured(&self, Configured { latest, committed, .. }: &Configured) {
        let Some(latest) = latest else { return self.meet_listed() };
        let mut addrs = self.addrs_of(latest);
        for (id, more) in committed.iter().flat_map(|it| self.addrs_of(it)) {
            addrs.entry(id).or_insert(more);
        }
        self.meet(addrs, Instant::now());
    }

    /// There are these members, too.
    pub(super) fn meet_more(&self, configuration: &Configuration) {
        let running = &mut *self.running.lock();
        let addrs = self.addrs_of(configuration);
        addrs.into_iter().for_each(|(id, addrs)| self.meet_one(running, id, addrs));
    }

    fn addrs_of(&self, configuration: &Configuration) -> BTreeMap<MemberId, Vec<String>> {
        let with_listed = |(id, addr): (MemberId, &str)| {
            let listed = self.listed.addr(id).filter(|listed| *listed != addr);
            (id, std::iter::once(addr).chain(listed).map(str::to_owned).collect())
        };
        configuration.addrs().map(with_listed).collect()
    }

    fn meet(&self, addrs: BTreeMap<MemberId, Vec<String>>, now: Instant) {
        let running = &mut *self.running.lock();
        for (id, peer) in &mut running.threads {
            match addrs.contains_key(id) {
                true => peer.left = None,
                false => peer.left = peer.left.or(Some(now)),
            }
        }
        running.waiting.retain(|id, _| addrs.contains_key(id));
        addrs.into_iter().for_each(|(id, addrs)| self.meet_one(running, id, addrs));
    }

    fn meet_one(&self, running: &mut Running, id: MemberId, told: Vec<String>) {
        let addrs: Vec<String> = told.iter().map(|addr| self.detour.of(id, addr)).collect();
        let is_met = running.threads.get(&id).is_some_and(|peer| peer.addrs == addrs);
        if is_met || id == self.own || running.is_stopped {
            return;
        }
        if let Some(before) = running.threads.remove(&id) {
            before.end(&mut running.ending);
        }
        match self.start(id, &addrs) {
            Ok(peer) => {
                running.waiting.remove(&id);
                running.threads.insert(id, peer);
            }
            // Until there is one, everything sent to this peer is lost.
            Err(error) => {
                if running.waiting.insert(id, told).is_none() {
                    log::error!("cannot start the thread of member {id}, trying on: {error}");
                }
            }
        }
    }

    fn start(&self, id: MemberId, addrs: &[String]) -> std::io::Result<PeerThread> {
        let mailbox: Arc<dyn Mailbox> = self.pipeline.clone();
        let (link, orders) = Link::new(id, addrs, self.timing, mailbox, self.shared.clone());
        let link = Arc::new(link);
        let peer = Peer::new(link.clone(), orders, self.snapshots.clone());
        let (stop, stopped): (Sender<()>, Receiver<()>) = bounded(0);
        let pipeline = self.pipeline.clone();
        let run = move || {
            let _guard = PanicGuard(|failure| pipeline.fail(failure));
            peer.run(stopped);
        };
        let name = format!("peer-{}-{id}", self.own);
        let thread = thread::Builder::new().name(name).spawn(run)?;
        self.links.write().insert(id, link);
        Ok(PeerThread { addrs: addrs.to_vec(), stop, thread, left: None })
    }

    /// Parts with the peers that have left, and tries again what has failed.
    pub(super) fn sweep(&self, now: Instant) {
        let running = &mut *self.running.lock();
        for (id, addrs) in running.waiting.clone() {
            self.meet_one(running, id, addrs);
        }
        let farewell = FAREWELL_MIN.max(4 * self.timing.election_max);
        let is_gone = |peer: &PeerThread| peer.left.is_some_and(|left| now >= left + farewell);
        for (id, peer) in running.threads.extract_if(.., |_, peer| is_gone(peer)) {
            self.links.write().remove(&id);
            peer.end(&mut running.ending);
        }
        for thread in running.ending.extract_if(.., |thread| thread.is_finished()) {
            // Its guard has reported a panic.
            let _ = thread.join();
        }
    }

    /// Ends all threads.
    pub(super) fn stop(&self) {
        let mut running = self.running.lock();
        running.is_stopped = true;
        let Running { threads, mut ending, .. } = std::mem::take(&mut *running);
        running.is_stopped = true;
        drop(running);
        self.links.write().clear();
        threads.into_values().for_each(|peer| peer.end(&mut ending));
        for thread in ending {
            // Its guard has reported a panic.
            let _ = thread.join();
        }
    }
}

impl PeerThread {
    fn end(self, ending: &mut Vec<JoinHandle<()>>) {
        drop(self.stop);
        ending.push(self.thread);
    }
}
