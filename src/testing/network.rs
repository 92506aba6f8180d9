//! [`Network`]: a link for each way from one member to an address of another one.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use super::faults::Faults;
use super::link::Link;
use crate::raft::MemberId;

#[derive(Debug)]
pub(super) struct Network {
    pub(super) faults: Arc<Faults>,
    /// A member that has moved has one for each of its addresses.
    links: Mutex<BTreeMap<(MemberId, MemberId, SocketAddr), Link>>,
}

impl Network {
    /// A network between members that listen on these addresses.
    pub(super) fn new(addrs: &[(MemberId, SocketAddr)]) -> io::Result<Network> {
        let network = Network { faults: Arc::new(Faults::none()), links: Mutex::default() };
        for (at, &(id, addr)) in addrs.iter().enumerate() {
            network.join(id, addr, &addrs[..at])?;
        }
        Ok(network)
    }

    /// A member listens on this address, too. From now on it and the others reach each other.
    pub(super) fn join(
        &self,
        id: MemberId,
        addr: SocketAddr,
        others: &[(MemberId, SocketAddr)],
    ) -> io::Result<()> {
        for &(other, its_addr) in others.iter().filter(|(other, _)| *other != id) {
            self.link(other, id, addr)?;
            self.link(id, other, its_addr)?;
        }
        Ok(())
    }

    fn link(&self, from: MemberId, to: MemberId, addr: SocketAddr) -> io::Result<()> {
        if let Entry::Vacant(vacant) = self.links.lock().entry((from, to, addr)) {
            vacant.insert(Link::new(from, to, addr, self.faults.clone())?);
        }
        Ok(())
    }

    /// The address at which `from` reaches the member `to` that listens on `addr`.
    pub(super) fn seen_by(&self, from: MemberId, to: MemberId, addr: &str) -> Option<String> {
        let addr = addr.parse().ok()?;
        self.links.lock().get(&(from, to, addr)).map(|link| link.addr().to_string())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.faults.end();
    }
}
