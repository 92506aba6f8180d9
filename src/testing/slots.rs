//! [`Slots`]: who there is: the ports of each member, and the member itself while it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::cluster::ClusterError;
use super::options::Options;
use super::port::Port;
use crate::raft::MemberId;
use crate::server::Member;

/// All that were started in this cluster. Those who have left stay here: a test may start them
/// again.
#[derive(Debug, Default)]
pub(super) struct Slots(RwLock<BTreeMap<MemberId, Arc<Slot>>>);

/// One of them.
#[derive(Debug)]
pub(super) struct Slot {
    /// The last one is in use. The ones before stay reserved, so that nobody answers there.
    ports: Mutex<Vec<Port>>,
    pub(super) http: Option<Port>,
    pub(super) etcd: Option<Port>,
    /// `None` while it is down.
    pub(super) member: Mutex<Option<Member>>,
    /// It began no cluster, and was added.
    pub(super) is_newcomer: bool,
    place: Mutex<Place>,
}

/// Whether it belongs to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It waits to be added.
    Outside,
    Member,
    /// It was removed.
    Left,
}

impl Slots {
    /// Those with which a cluster starts.
    pub(super) fn of(slots: BTreeMap<MemberId, Slot>) -> Slots {
        Slots(RwLock::new(slots.into_iter().map(|(id, slot)| (id, Arc::new(slot))).collect()))
    }

    /// # Panics
    /// If there is none.
    pub(super) fn get(&self, id: MemberId) -> Arc<Slot> {
        let slot = self.0.read().get(&id).cloned();
        slot.unwrap_or_else(|| panic!("there is no member {id} in this cluster"))
    }

    pub(super) fn add(&self, id: MemberId, slot: Slot) {
        self.0.write().insert(id, Arc::new(slot));
    }

    /// Forgets one that was never a member.
    pub(super) fn forget(&self, id: MemberId) {
        self.0.write().remove(&id);
    }

    /// The members, in order of their ids.
    pub(super) fn members(&self) -> Vec<(MemberId, Arc<Slot>)> {
        let mut all = self.all();
        all.retain(|(_, slot)| slot.place() == Place::Member);
        all
    }

    pub(super) fn all(&self) -> Vec<(MemberId, Arc<Slot>)> {
        self.0.read().iter().map(|(&id, slot)| (id, Arc::clone(slot))).collect()
    }
}

impl Slot {
    pub(super) fn addr(&self) -> SocketAddr {
        self.with_port(Port::addr)
    }

    /// Does something with the port in use.
    pub(super) fn with_port<R>(&self, act: impl FnOnce(&Port) -> R) -> R {
        act(self.ports.lock().last().expect("a slot has at least one port"))
    }

    pub(super) fn move_to(&self, port: Port) {
        self.ports.lock().push(port);
    }

    pub(super) fn place(&self) -> Place {
        *self.place.lock()
    }

    pub(super) fn set_place(&self, place: Place) {
        *self.place.lock() = place;
    }
}

/// The slots with which a cluster starts. Ports that were asked for come first: no free one may be
/// one of them. Members after the first `size` have free ones.
pub(super) fn reserve(
    ids: &[MemberId],
    size: usize,
    options: &Options,
) -> Result<BTreeMap<MemberId, Slot>, ClusterError> {
    let mut ports = Ports::default();
    let mut kinds = [Some(options.port), options.http_port, options.etcd_port].map(|first| {
        let reserved: BTreeMap<MemberId, Port> = BTreeMap::new();
        (first, reserved)
    });
    for is_asked_for in [true, false] {
        for (first, reserved) in &mut kinds {
            let Some(first) = *first else { continue };
            for &id in ids {
                let base = if id.0 <= size as u64 { first } else { 0 };
                if (base != 0) == is_asked_for {
                    reserved.insert(id, ports.reserve_for(id, base)?);
                }
            }
        }
    }
    let [(_, mut rpc), (_, mut http), (_, mut etcd)] = kinds;
    let slot = |&id: &MemberId| {
        let port = rpc.remove(&id).expect("each member has a port");
        let (is_newcomer, place) = (id.0 > size as u64, Place::Member);
        (id, Slot::new(port, http.remove(&id), etcd.remove(&id), is_newcomer, place))
    };
    Ok(ids.iter().map(slot).collect())
}

impl Slot {
    fn new(
        port: Port,
        http: Option<Port>,
        etcd: Option<Port>,
        is_newcomer: bool,
        place: Place,
    ) -> Slot {
        let (ports, member, place) = (Mutex::new(vec![port]), Mutex::default(), Mutex::new(place));
        Slot { ports, http, etcd, member, is_newcomer, place }
    }

    /// That of a newcomer, with free ports.
    pub(super) fn of_newcomer(options: &Options) -> io::Result<Slot> {
        let http = options.http_port.map(|_| Port::free()).transpose()?;
        let etcd = options.etcd_port.map(|_| Port::free()).transpose()?;
        Ok(Slot::new(Port::free()?, http, etcd, true, Place::Outside))
    }
}

/// The ports that are reserved already: the system would let this process reserve one twice.
#[derive(Default)]
struct Ports(BTreeSet<SocketAddr>);

impl Ports {
    /// The port of member `id`, if that of member 1 is `first`; if that is 0, any free one.
    fn reserve_for(&mut self, id: MemberId, first: u16) -> Result<Port, ClusterError> {
        let wanted = if first == 0 { 0 } else { u64::from(first) + id.0 - 1 };
        let Ok(wanted) = u16::try_from(wanted) else {
            let why = "there are not enough ports behind it";
            let source = io::Error::new(io::ErrorKind::InvalidInput, why);
            return Err(ClusterError::Port { port: first, source });
        };
        let failed = |source| ClusterError::Port { port: wanted, source };
        let port = Port::at(wanted).map_err(failed)?;
        let is_new = self.0.insert(port.addr());
        is_new.then_some(port).ok_or_else(|| failed(io::ErrorKind::AddrInUse.into()))
    }
}
