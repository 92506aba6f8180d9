//! A member: a data directory, a node that replicates the store in it, and a server that publishes
//! it on one port.
//!
//! [`Member::start`] either serves or says in one line why it cannot: it listens before it touches
//! the data, and it locks and reads the data before it serves. [`Member::stop`] ends every thread
//! and closes the log.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::ErrorChain;
use crate::kv::proto::KvServerRpcService;
use crate::kv::{KvService, Store};
use crate::members::{Members, MembersError, check_addr};
use crate::node::{
    FRAME_LEN_MIN, Gate, Node, NodeConfig, NodeError, NodeFailure, NodeHandle, ReadMode, Timing,
};
use crate::raft::{Index, MemberId, RoleName, Standing};
use crate::rpc::{
    Call, Channel, Done, Limits, Server, ServerError, Service, Status, StatusCode, resolve,
};
use crate::storage::{DataDir, Identity, StorageError};

mod http;

/// The messages and the service of `proto/admin_rpc.proto`, generated.
pub mod proto {
    crate::rpc::include_proto!("syncraft.admin");
}

use http::Http;
use proto::{
    AdminRpc, AdminRpcService, AdminRpcStub, SnapshotArgs, SnapshotReply, StatusArgs, StatusReply,
    TransferArgs, TransferReply,
};

/// What `disk` says of a disk that does its work.
pub const DISK_OK: &str = "ok";

/// `StatusReply.Durability`: there is no other mode.
const DURABILITY: &str = "fdatasync on a majority of the members before a write is acknowledged";

/// How long a member waits for its address, ...
const LISTEN_TIMEOUT: Duration = Duration::from_secs(2);
/// ... and between attempts.
const LISTEN_PAUSE: Duration = Duration::from_millis(20);
/// How long a member that stops tries to hand its leadership over.
pub const HAND_OVER_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the other members may take to answer before one is rebuilt.
const OTHERS_TIMEOUT: Duration = Duration::from_secs(3);
/// The pause between two checks whether it has.
const HAND_OVER_POLL: Duration = Duration::from_millis(1);
/// `StatusReply.State` of a member whose state is, as far as it knows, that of the others.
pub const STATE_OK: &str = "ok";
/// `StatusReply.State` of a member whose state is not that of a majority: it does not serve.
pub const STATE_DIVERGED: &str = "diverged";

/// Configuration of a member.
#[derive(Clone, Debug)]
pub struct Config {
    /// The id of this member.
    pub id: MemberId,
    /// All members of the cluster. Clients and the others reach this member at its address in the
    /// list. It also listens there, unless `listen` says otherwise.
    pub members: Members,
    /// The address to listen on, `HOST:PORT`, if it differs from the address in the list: in a
    /// container, behind NAT, or where a name means another address on this machine than on the
    /// others. Default `None`.
    pub listen: Option<String>,
    /// The data directory, created if absent. A directory serves one member only, for ever.
    pub data_dir: PathBuf,
    /// Heartbeats and elections; the defaults suit one machine and one data centre.
    pub timing: Timing,
    /// Bounds on connections, frames and calls.
    pub limits: Limits,
    /// A snapshot is taken when the log holds about this many bytes behind the last one: see
    /// [`NodeConfig`]. Default 64 MiB.
    pub snapshot_log_bytes: u64,
    /// How a leader makes sure that it may answer a read. Default [`ReadMode::ReadIndex`].
    pub read_mode: ReadMode,
    /// Discard the data in the data directory and copy that of the other members, for example
    /// because it is damaged. All others must be up, and none may have lost its data as well. A
    /// member that is already being rebuilt continues. Default false.
    pub rebuild: bool,
    /// The address that serves operators' tools over HTTP (`/livez`, `/readyz`, `/status`,
    /// `/metrics`), if any.
    pub http: Option<String>,
}

impl Config {
    /// The defaults for member `id` of `members`.
    pub fn new(id: MemberId, members: Members, data_dir: impl Into<PathBuf>) -> Config {
        Config {
            id,
            members,
            listen: None,
            data_dir: data_dir.into(),
            timing: Timing::default(),
            limits: Limits::default(),
            snapshot_log_bytes: NodeConfig::SNAPSHOT_LOG_BYTES,
            read_mode: ReadMode::default(),
            rebuild: false,
            http: None,
        }
    }
}

/// Why a member does not start: one line for an operator, with [`ErrorChain`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The id is not in the list of members.
    #[error("member {id} is not in the list of members: {members}")]
    NotAMember {
        /// The id.
        id: MemberId,
        /// The list.
        members: Members,
    },
    /// The address to listen on is invalid.
    #[error("bad address to listen on")]
    BadListen(#[source] MembersError),
    /// The data belongs to a cluster with other members.
    #[error(
        "data directory {} belongs to a cluster with other members than {members}: the ids of members are fixed at the first start",
        dir.display()
    )]
    OtherMembers {
        /// The data directory.
        dir: PathBuf,
        /// The list that was given.
        members: Members,
    },
    /// The only member of a cluster cannot be rebuilt.
    #[error("member {id} cannot be rebuilt: there is no other member to copy the data from")]
    NobodyToRebuildFrom {
        /// The id.
        id: MemberId,
    },
    /// A rebuild needs all other members, and one does not answer. Nothing was discarded.
    #[error(
        "cannot rebuild, so no data was discarded: all other members must be up, and member {id} is not at {addr}: {reason}"
    )]
    OtherAway {
        /// The member that does not answer.
        id: MemberId,
        /// The address at which it was asked.
        addr: String,
        /// The reason.
        reason: String,
    },
    /// The times contradict each other.
    #[error("{0}")]
    Timing(String),
    /// Frames would be too short for what members send each other.
    #[error(
        "the frame limit of {len_bytes} bytes is too low for the longest entry: at least {least_bytes} are needed"
    )]
    FrameLimit {
        /// `limits.frame.body_len_max_bytes`.
        len_bytes: usize,
        /// The lowest limit allowed.
        least_bytes: usize,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}")]
    Listen {
        /// The member's own address, or that for HTTP.
        addr: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The node does not start.
    #[error(transparent)]
    Node(NodeError),
    /// The server does not start.
    #[error(transparent)]
    Server(#[from] ServerError),
}

impl From<NodeError> for StartError {
    fn from(error: NodeError) -> StartError {
        match error {
            NodeError::Storage(error) => StartError::Storage(error),
            error => StartError::Node(error),
        }
    }
}

/// A running member. Dropping it stops it.
pub struct Member {
    http: Option<Http>,
    server: Server,
    node: Option<Node<Store>>,
    has_peers: bool,
    handle: NodeHandle<Store>,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("status", &self.handle.status()).finish_non_exhaustive()
    }
}

impl Member {
    /// Listens where the member should, and starts it.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running, and no data is changed by a member that may not have it.
    pub fn start(config: Config) -> Result<Member, StartError> {
        let addr = listen_addr(&config)?.to_owned();
        Member::start_on(listen(&addr)?, config)
    }

    /// Starts on a socket that already listens: one whose port was free to choose, say.
    ///
    /// # Errors
    /// As for [`start`](Member::start).
    pub fn start_on(listener: TcpListener, config: Config) -> Result<Member, StartError> {
        let peers = config.members.clone();
        Member::start_among(listener, config, peers)
    }

    /// Starts with ways of its own to the others: clients are still told of `config.members`. For
    /// tests, which put a network with faults between members.
    pub(crate) fn start_among(
        listener: TcpListener,
        config: Config,
        peers: Members,
    ) -> Result<Member, StartError> {
        own_addr(&config)?;
        config.timing.check().map_err(StartError::Timing)?;
        check_frames(&config.limits)?;
        let Config { id, members, timing, limits, snapshot_log_bytes, read_mode, .. } = config;
        let (data_dir, http) = (config.data_dir, config.http);
        if config.rebuild && members.len() == 1 {
            return Err(StartError::NobodyToRebuildFrom { id });
        }
        let http = http.map(|addr| Ok::<_, StartError>((listen(&addr)?, addr))).transpose()?;
        let identity = Identity { cluster_id: cluster_id(&members), member_id: id };
        let data_dir = open_data(data_dir, identity, &members, config.rebuild)?;
        let node_config = NodeConfig {
            id,
            members: peers,
            timing,
            snapshot_log_bytes,
            read_mode,
            list_id: Some(cluster_id(&members)),
        };
        let cluster_id = data_dir.identity().cluster_id;
        let node = Node::start(node_config, data_dir, Store::new())?;
        let (handle, has_peers) = (node.handle(), members.len() > 1);
        let admin = Admin { node: handle.clone(), members: members.clone(), read_mode, cluster_id };
        let kv = KvServerRpcService::new(Arc::new(KvService::new(handle.clone(), members)));
        let admin = AdminRpcService::new(Arc::new(admin));
        let server = Server::builder()
            .service(Gated::new(kv, &handle))
            .reserved_service(Gated::new(node.service(), &handle))
            .service(Gated::new(admin, &handle))
            .limits(limits)
            .listener(listener)
            .build()?
            .start();
        let serve = |(listener, addr)| {
            Http::serve(listener, id, handle.clone())
                .map_err(|source| StartError::Listen { addr, source })
        };
        let http = http.map(serve).transpose()?;
        Ok(Member { http, server, node: Some(node), has_peers, handle })
    }

    /// The address it serves on.
    pub fn addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// Its node: where it stands, and proposals and reads without a socket.
    pub fn node(&self) -> NodeHandle<Store> {
        self.handle.clone()
    }

    /// As SIGSTOP would: its sockets stay open and what comes waits, but it does nothing until it
    /// is resumed, killed or stopped. For tests.
    #[cfg(feature = "testing")]
    pub(crate) fn pause(&self) {
        self.handle.gate().close();
    }

    /// As SIGCONT would.
    #[cfg(feature = "testing")]
    pub(crate) fn resume(&self) {
        self.handle.gate().open();
    }

    /// Why it stopped serving by itself, if it did: then it should be stopped and looked at. After
    /// [`NodeFailure::ClusterTaken`] it should be stopped and started again, with the same
    /// configuration.
    pub fn failure(&self) -> Option<NodeFailure> {
        self.handle.failure()
    }

    /// Hands the leadership over, if this member has it and another can take it; then as
    /// [`stop`](Member::stop). Clients notice a few milliseconds. Gives up after
    /// [`HAND_OVER_TIMEOUT`].
    pub fn hand_over_and_stop(self) {
        let deadline = Instant::now() + HAND_OVER_TIMEOUT;
        let leads = || self.has_peers && self.handle.status().role.role == RoleName::Leader;
        if leads() {
            self.handle.transfer(None);
        }
        while leads() && Instant::now() < deadline {
            thread::sleep(HAND_OVER_POLL);
        }
        self.stop();
    }

    /// Stops serving, ends every thread and closes the log.
    pub fn stop(mut self) {
        self.shut_down();
    }

    /// Ends it as a crash would: nothing that waits is written or answered. For tests.
    #[cfg(feature = "testing")]
    pub(crate) fn kill(mut self) {
        if let Some(node) = self.node.take() {
            node.silence();
            self.server.stop();
            node.kill();
        }
    }

    /// The node first. The other way round a leader would still send heartbeats after its sockets
    /// have told the followers that it is gone: they would take its word for it, and wait out an
    /// election timeout. What waits is ended by the node, and what still comes is refused by it,
    /// while the server can carry the answers.
    fn shut_down(&mut self) {
        self.http = None;
        if let Some(node) = self.node.take() {
            node.stop();
        }
        self.server.stop();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.shut_down();
    }
}

fn own_addr(config: &Config) -> Result<&str, StartError> {
    let Config { id, members, .. } = config;
    members.addr(*id).ok_or_else(|| StartError::NotAMember { id: *id, members: members.clone() })
}

fn listen_addr(config: &Config) -> Result<&str, StartError> {
    let own = own_addr(config)?;
    let Some(addr) = config.listen.as_deref() else { return Ok(own) };
    check_addr(addr, addr).map_err(StartError::BadListen)?;
    Ok(addr)
}

fn check_frames(limits: &Limits) -> Result<(), StartError> {
    let (len_bytes, least_bytes) = (limits.frame.body_len_max_bytes, FRAME_LEN_MIN);
    if len_bytes < least_bytes {
        return Err(StartError::FrameLimit { len_bytes, least_bytes });
    }
    Ok(())
}

/// The process that had the address before may have been killed a moment ago: its sockets close
/// when its memory has been given back, which takes a while if there was much of it.
fn listen(addr: &str) -> Result<TcpListener, StartError> {
    let deadline = Instant::now() + LISTEN_TIMEOUT;
    loop {
        match resolve(addr).and_then(|addrs| TcpListener::bind(&addrs[..])) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(LISTEN_PAUSE);
            }
            result => {
                return result
                    .map_err(|source| StartError::Listen { addr: addr.to_owned(), source });
            }
        }
    }
}

/// Told apart from other clusters by its members: the upper half stands for their ids, the lower
/// for ids and addresses. A data directory keeps what it was first given, and every message between
/// members carries it: so a member that is pointed at another cluster is refused there, and
/// addresses may change later, but never who the members are. A member without data takes the id
/// that all others have ([`NodeConfig::list_id`]): its own list need not be the one that they began
/// with.
pub fn cluster_id(members: &Members) -> u64 {
    let addrs = crc32c::crc32c(members.to_string().as_bytes());
    u64::from(ids_hash(members)) << 32 | u64::from(addrs)
}

fn ids_hash(members: &Members) -> u32 {
    let ids: Vec<String> = members.iter().map(|(id, _)| id.to_string()).collect();
    crc32c::crc32c(ids.join(",").as_bytes())
}

/// Nothing is discarded before it is known to be this member's.
fn open_data(
    path: PathBuf,
    identity: Identity,
    members: &Members,
    rebuild: bool,
) -> Result<DataDir, StartError> {
    let cluster_id = match DataDir::open(&path, identity) {
        Ok(data_dir) => {
            check_members(&data_dir, members)?;
            if !rebuild || data_dir.standing() == Standing::Rebuilding {
                return Ok(data_dir);
            }
            let is_certain = data_dir.standing() == Standing::Voter;
            is_certain.then_some(data_dir.identity().cluster_id)
        }
        Err(StorageError::MetaDamaged { .. }) if rebuild => None,
        Err(error) => return Err(error.into()),
    };
    check_others_answer(identity.member_id, members, cluster_id)?;
    log::warn!("the data in {} is discarded, to be rebuilt from the other members", path.display());
    Ok(DataDir::open_emptied(path, identity)?)
}

/// A member that is rebuilt waits for all others: better to say before it has given up its data who
/// is not there, or is not at the address that the list says. `cluster_id` is that of the data, if
/// it is known.
fn check_others_answer(
    own: MemberId,
    members: &Members,
    cluster_id: Option<u64>,
) -> Result<(), StartError> {
    let deadline = Instant::now() + OTHERS_TIMEOUT;
    for (id, addr) in members.iter().filter(|(id, _)| *id != own) {
        let channel = Channel::builder(addr).connect_timeout(OTHERS_TIMEOUT).lazy();
        let reason = match AdminRpcStub::new(channel).status(&StatusArgs {}, deadline) {
            Ok(StatusReply { cluster_id: found, .. })
                if found != 0 && cluster_id.is_some_and(|expected| found != expected) =>
            {
                format!("the member there is of cluster {found:016x}, this data is not")
            }
            Ok(reply) if reply.id == id.0 => continue,
            Ok(reply) => format!("the member there is {}", reply.id),
            Err(error) => ErrorChain(&error).to_string(),
        };
        return Err(StartError::OtherAway { id, addr: addr.to_owned(), reason });
    }
    Ok(())
}

/// With other members there would be other majorities, and two of them could decide at the same
/// time.
fn check_members(data_dir: &DataDir, members: &Members) -> Result<(), StartError> {
    if data_dir.identity().cluster_id >> 32 == u64::from(ids_hash(members)) {
        return Ok(());
    }
    let (dir, members) = (data_dir.path().to_owned(), members.clone());
    Err(StartError::OtherMembers { dir, members })
}

/// The last entry that the store holds, and its digest there: the two belong together.
fn applied(node: &NodeHandle<Store>) -> (Index, u64) {
    node.digest().unwrap_or((node.applied_index(), 0))
}

/// Whether the disk does its work, in a word.
fn disk(node: &NodeHandle<Store>) -> &'static str {
    match (node.is_disk_full(), node.status().is_disk_stalled) {
        (true, _) => "full",
        (false, true) => "stalled",
        (false, false) => DISK_OK,
    }
}

/// A service whose calls wait while the member is paused, on their connections' threads: what comes
/// behind them waits in the sockets.
struct Gated<S> {
    service: S,
    gate: Arc<Gate>,
}

impl<S> Gated<S> {
    fn new(service: S, node: &NodeHandle<Store>) -> Gated<S> {
        Gated { service, gate: node.gate().clone() }
    }
}

impl<S: Service> Service for Gated<S> {
    fn name(&self) -> &'static str {
        self.service.name()
    }

    fn package(&self) -> &'static str {
        self.service.package()
    }

    fn methods(&self) -> &'static [&'static str] {
        self.service.methods()
    }

    fn call(&self, method: usize, args: Bytes, call: Call) {
        self.gate.pass();
        self.service.call(method, args, call);
    }

    fn codec(&self) -> u32 {
        self.service.codec()
    }

    fn version(&self) -> u32 {
        self.service.version()
    }

    fn flush(&self, method: usize) {
        self.service.flush(method);
    }
}

struct Admin {
    node: NodeHandle<Store>,
    members: Members,
    read_mode: ReadMode,
    cluster_id: u64,
}

impl AdminRpc for Admin {
    fn status(&self, _args: StatusArgs, done: Done<StatusReply>) {
        let status = self.node.status();
        let (applied_index, digest) = applied(&self.node);
        let state = if self.node.divergence().is_some() { STATE_DIVERGED } else { STATE_OK };
        done.run(StatusReply {
            id: status.id.0,
            role: status.role.role.as_str().to_owned(),
            term: status.role.term.0,
            leader: status.role.leader.map_or(0, |leader| leader.0),
            last_index: status.last_index.0,
            commit_index: status.commit_index.0,
            applied_index: applied_index.0,
            snapshot_index: status.snapshot_index.0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            digest,
            state: state.to_owned(),
            different_members: self.node.different_members().iter().map(|id| id.0).collect(),
            is_joining: status.is_joining,
            disk: disk(&self.node).to_owned(),
            members: self.members.len() as u32,
            durability: DURABILITY.to_owned(),
            read_mode: self.read_mode.as_str().to_owned(),
            joining_words: self.node.joining_words().unwrap_or_default(),
            // While it joins nobody may have confirmed it.
            cluster_id: if status.is_joining { 0 } else { self.cluster_id },
            pid: std::process::id(),
        });
    }

    fn transfer(&self, args: TransferArgs, done: Done<TransferReply>) {
        let to = MemberId(args.to);
        if self.members.addr(to).is_none() {
            let members = &self.members;
            let words = format!("there is no member {to}; the members are {members}");
            return done.fail(Status::new(StatusCode::BadArguments, words));
        }
        let is_leader = self.node.status().role.role == RoleName::Leader;
        self.node.transfer(Some(to));
        done.run(TransferReply { is_leader });
    }

    fn snapshot(&self, _args: SnapshotArgs, done: Done<SnapshotReply>) {
        let index = self.node.applied_index().0;
        self.node.take_snapshot();
        done.run(SnapshotReply { index });
    }
}
