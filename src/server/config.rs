//! The configuration of a member, and what it must fulfil.

use std::net::IpAddr;
use std::path::PathBuf;

use super::error::StartError;
use crate::front::etcd::BODY_LEN_MAX;
use crate::members::{Members, check_addr};
use crate::node::{FRAME_LEN_MIN, NodeConfig, ReadMode, Timing};
use crate::raft::MemberId;
use crate::rpc::{Limits, http};

/// Configuration of a member.
#[derive(Clone, Debug)]
pub struct Config {
    /// The id of this member.
    pub id: MemberId,
    /// The members with which the cluster begins, this one among them. Clients and the other
    /// members reach this member at its address in the list. It also listens there, unless `listen`
    /// says otherwise. Once the member has started for the first time, the list is only where to
    /// look for the others: who the members are stands in the log.
    pub members: Members,
    /// This member is new in a cluster that exists, and `members` are where to look for that
    /// cluster. It begins no cluster, and waits until it is added. Default false.
    pub joins: bool,
    /// The address at which clients and the other members reach this member, `HOST:PORT`. Default
    /// `None`: the one in the list, or else `listen`.
    pub advertise: Option<String>,
    /// The address to listen on, `HOST:PORT`, if it differs from the address in the list: in a
    /// container, behind NAT, or where a name means another address on this machine than on the
    /// others. Default `None`.
    pub listen: Option<String>,
    /// The data directory, created if absent. A directory serves one member only, for ever.
    pub data_dir: PathBuf,
    /// Heartbeats and elections. The defaults suit one machine or one data centre.
    pub timing: Timing,
    /// Bounds on connections, frames and calls.
    pub limits: Limits,
    /// A snapshot is taken when the log holds about this many bytes after the last one, or a few
    /// times as many if that one was long: see [`NodeConfig`]. Default 64 MiB.
    pub snapshot_log_bytes: u64,
    /// How a leader makes sure that it may answer a read. Default [`ReadMode::ReadIndex`].
    pub read_mode: ReadMode,
    /// Discard the data in the data directory and copy that of the other members, for example
    /// because it is damaged. All others must be up and have their data. A member that is already
    /// being rebuilt continues. Default false.
    pub rebuild: bool,
    /// The address that serves HTTP, if any: the store (`/v1/...`), and pages for operators' tools
    /// (`/livez`, `/readyz`, `/status`, `/metrics`). Default `None`.
    pub http: Option<String>,
    /// Bounds on the connections and requests of that address.
    pub http_limits: http::Limits,
    /// The address that serves etcd's v3 API as JSON over HTTP, if any. Default `None`.
    pub etcd: Option<String>,
    /// The URL at which etcd's clients reach that address: members list it to them. Default `None`:
    /// `http://` and the address, which is wrong where clients cannot reach it as it is.
    pub advertise_etcd: Option<String>,
    /// Bounds on the connections and requests of that address. Bodies of up to
    /// [`BODY_LEN_MAX`](crate::front::etcd::BODY_LEN_MAX) are taken.
    pub etcd_limits: http::Limits,
}

impl Config {
    /// The defaults for member `id` of `members`.
    pub fn new(id: MemberId, members: Members, data_dir: impl Into<PathBuf>) -> Config {
        Config {
            id,
            members,
            joins: false,
            advertise: None,
            listen: None,
            data_dir: data_dir.into(),
            timing: Timing::default(),
            limits: Limits::default(),
            snapshot_log_bytes: NodeConfig::SNAPSHOT_LOG_BYTES,
            read_mode: ReadMode::default(),
            rebuild: false,
            http: None,
            http_limits: http::Limits::default(),
            etcd: None,
            advertise_etcd: None,
            etcd_limits: etcd_limits(),
        }
    }

    /// Checks all that can be checked without the system.
    pub(super) fn check(&self) -> Result<(), StartError> {
        self.own_addr()?;
        if !self.joins && !self.members.contains(self.id) {
            return Err(self.not_a_member());
        }
        self.timing.check().map_err(StartError::Timing)?;
        let (len_bytes, least_bytes) = (self.limits.frame.body_len_max_bytes, FRAME_LEN_MIN);
        if len_bytes < least_bytes {
            return Err(StartError::FrameLimit { len_bytes, least_bytes });
        }
        if let Some(url) = self.advertise_etcd.as_deref().filter(|url| !is_url(url)) {
            return Err(StartError::BadUrl { url: url.to_owned() });
        }
        if let (Some(addr), None) = (&self.etcd, &self.advertise_etcd)
            && is_of_all_interfaces(addr)
        {
            return Err(StartError::NothingToAdvertise { addr: addr.clone() });
        }
        if self.rebuild && self.members.iter().all(|(id, _)| id == self.id) {
            return Err(StartError::NobodyToRebuildFrom { id: self.id });
        }
        Ok(())
    }

    /// The address to listen on.
    pub(super) fn listen_addr(&self) -> Result<&str, StartError> {
        let listed = self.members.addr(self.id);
        let Some(addr) = self.listen.as_deref().or(listed) else { return self.own_addr() };
        check_addr(addr, addr).map_err(StartError::BadListen)?;
        Ok(addr)
    }

    /// The address at which the others reach this member.
    pub(super) fn own_addr(&self) -> Result<&str, StartError> {
        let Config { id, members, advertise, listen, .. } = self;
        let addr = advertise.as_deref().or(members.addr(*id)).or(listen.as_deref());
        let addr = addr.ok_or_else(|| self.not_a_member())?;
        check_addr(addr, addr).map_err(StartError::BadListen)?;
        if is_of_all_interfaces(addr) && !members.contains(*id) {
            return Err(StartError::NoOwnAddr { addr: addr.to_owned() });
        }
        Ok(addr)
    }

    fn not_a_member(&self) -> StartError {
        StartError::NotAMember { id: self.id, members: self.members.clone() }
    }
}

/// Whether a server listens there on all interfaces, so that the address is nobody's to connect to.
pub(super) fn is_of_all_interfaces(addr: &str) -> bool {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.parse::<IpAddr>().is_ok_and(|host| host.is_unspecified())
}

fn etcd_limits() -> http::Limits {
    let mut limits = http::Limits::default();
    limits.body_len_max_bytes = BODY_LEN_MAX;
    limits
}

/// Whether it is `http://HOST:PORT` or `https://HOST:PORT`, perhaps with a path.
fn is_url(url: &str) -> bool {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    rest.is_some_and(|rest| {
        rest.len() <= 500
            && !rest.starts_with('/')
            && rest.bytes().all(|byte| byte.is_ascii_graphic())
    }) && !url.ends_with("://")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_for_all_addresses_is_not_advertised() {
        for addr in ["0.0.0.0:2379", "[::]:2379"] {
            assert!(is_of_all_interfaces(addr), "{addr}");
        }
        for addr in ["127.0.0.1:2379", "[::1]:0", "localhost:2379"] {
            assert!(!is_of_all_interfaces(addr), "{addr}");
        }
    }

    #[test]
    fn an_advertised_url_has_a_scheme_and_a_host() {
        for url in ["http://10.0.0.1:2379", "https://etcd.example:2379/x", "http://a"] {
            assert!(is_url(url), "{url}");
        }
        for url in
            ["", "10.0.0.1:2379", "http://", "http:///x", "ftp://a", "http://a b", "http://ä"]
        {
            assert!(!is_url(url), "{url}");
        }
    }
}
