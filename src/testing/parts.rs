//! [`Parts`]: what a cluster consists of, and how a member starts in it. [`Attendant`]: starts those
//! again that ask for it.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::cluster::ClusterError;
use super::data::Data;
use super::network::Network;
use super::options::Options;
use super::port::Port;
use super::slots::{Place, Slot, Slots};
use crate::ErrorChain;
use crate::members::Members;
use crate::node::{Detour, NodeFailure};
use crate::raft::MemberId;
use crate::server::{Config, Member, Surroundings};

/// The pause between two looks at the members.
const PAUSE: Duration = Duration::from_millis(5);

/// What a cluster consists of. Dropped in this order: members, their network, their data.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) slots: Slots,
    pub(super) network: Arc<Network>,
    pub(super) data: Data,
    pub(super) options: Options,
}

impl Parts {
    /// `may_have_promised`: a leader to which the member has promised a lease may run.
    pub(super) fn start_member(
        &self,
        id: MemberId,
        listener: TcpListener,
        may_have_promised: bool,
    ) -> Result<Member, ClusterError> {
        let slot = self.slots.get(id);
        let mut addrs = addrs_of(&self.slots.members());
        if slot.place() == Place::Left {
            addrs.push((id, slot.addr()));
        }
        let config = Config {
            joins: slot.is_newcomer,
            advertise: Some(slot.addr().to_string()),
            timing: self.options.timing,
            snapshot_log_bytes: self.options.snapshot_log_bytes,
            read_mode: self.options.read_mode,
            http: slot.http.as_ref().map(|port| port.addr().to_string()),
            etcd: slot.etcd.as_ref().map(|port| port.addr().to_string()),
            ..Config::new(id, members_of(&addrs), self.data.of(id))
        };
        let network = Arc::clone(&self.network);
        let surroundings = Surroundings {
            detour: Detour::new(move |peer, addr| network.seen_by(id, peer, addr)),
            list_id: self.data.cluster_id(),
            may_have_promised,
        };
        let started = Member::start_in_test(listener, config, surroundings);
        started.map_err(|source| ClusterError::Start { id, source })
    }
}

pub(super) fn addrs_of(slots: &[(MemberId, Arc<Slot>)]) -> Vec<(MemberId, SocketAddr)> {
    slots.iter().map(|(id, slot)| (*id, slot.addr())).collect()
}

pub(super) fn members_of(addrs: &[(MemberId, SocketAddr)]) -> Members {
    let addrs = addrs.iter().map(|(id, addr)| (*id, addr.to_string()));
    Members::new(addrs).expect("from 1 to 15 members, each with an id and a port of its own")
}

/// A member without data ends when it has learned which cluster it belongs to. `syncraft server`
/// starts it again, and so does this thread.
#[derive(Debug)]
pub(super) struct Attendant {
    /// Dropping it ends the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Attendant {
    pub(super) fn start(parts: Arc<Parts>) -> std::io::Result<Attendant> {
        let (stop, stopped) = bounded(0);
        let attend = move || attend(&parts, &stopped);
        let thread = thread::Builder::new().name("attendant".to_owned()).spawn(attend)?;
        Ok(Attendant { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Attendant {
    fn drop(&mut self) {
        self.stop = None;
        // The panic hook has reported a panic.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn attend(parts: &Parts, stopped: &Receiver<()>) {
    while stopped.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
        for (id, slot) in parts.slots.all() {
            start_again(parts, id, &slot);
        }
    }
}

/// Starts the member again if it has just joined a cluster.
fn start_again(parts: &Parts, id: MemberId, slot: &Slot) {
    // Whoever holds it starts or ends the member.
    let Some(mut member) = slot.member.try_lock() else { return };
    let asks = |it: &mut Member| matches!(it.failure(), Some(NodeFailure::ClusterTaken(_)));
    let Some(joined) = member.take_if(asks) else { return };
    joined.stop();
    let listening = slot.with_port(Port::listen).map_err(ClusterError::Setup);
    match listening.and_then(|listener| parts.start_member(id, listener, true)) {
        Ok(started) => *member = Some(started),
        Err(error) => log::error!("{}", ErrorChain(&error)),
    }
}
