//! [`Network`]: a link for each ordered pair of members.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::faults::{Faults, Way};
use super::link::Link;
use crate::members::Members;
use crate::raft::MemberId;

#[derive(Debug)]
pub(super) struct Network {
    pub(super) faults: Arc<Faults>,
    links: BTreeMap<Way, Link>,
}

impl Network {
    /// A network between members that listen on these addresses.
    pub(super) fn new(addrs: &BTreeMap<MemberId, SocketAddr>) -> io::Result<Network> {
        let mut network = Network { faults: Arc::new(Faults::none()), links: BTreeMap::new() };
        for &from in addrs.keys() {
            for (&to, &addr) in addrs.iter().filter(|&(&to, _)| to != from) {
                let link = Link::new(from, to, addr, network.faults.clone())?;
                network.links.insert((from, to), link);
            }
        }
        Ok(network)
    }

    /// The addresses at which `from` reaches the others.
    pub(super) fn seen_by(&self, from: MemberId, members: &Members) -> Members {
        let seen = members.iter().map(|(to, addr)| match self.links.get(&(from, to)) {
            Some(link) => (to, link.addr().to_string()),
            None => (to, addr.to_owned()),
        });
        Members::new(seen).expect("the same ids, and each link has a port of its own")
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.faults.end();
    }
}
