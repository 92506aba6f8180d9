//! The start of a member, step by step: check the configuration, listen, open the data, start the
//! node, publish its services.

use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::admin::Admin;
use super::config::Config;
use super::error::StartError;
use super::etcd_admin::EtcdAdmin;
use super::members::{MemberChanges, OwnAddress};
use super::pages::{EtcdPages, Pages};
use super::proto::AdminRpcService;
use super::rebuild;
use super::urls::proto::MemberRpcService;
use super::urls::{UrlsExchange, UrlsService};
use crate::front::etcd::{EtcdFront, MemberUrls};
use crate::front::http::HttpFront;
use crate::front::rpc::{KvService, StoreService};
use crate::kv::api::Api;
use crate::kv::lane_proto::LaneRpcService;
use crate::kv::proto::KvServerRpcService;
use crate::kv::{LaneService, Lanes, Store};
use crate::members::Members;
use crate::node::{Detour, Node, NodeConfig, NodeError, NodeHandle};
use crate::raft::Standing;
use crate::rpc::{Server, Service, http, resolve};
use crate::storage::{DataDir, Identity, StorageError};

/// How long a member waits for its address to become free.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(2);

/// The pause between two attempts to listen.
const LISTEN_PAUSE: Duration = Duration::from_millis(20);

/// Stands for the hash of the list of a newcomer, whose cluster has begun with another one. 0 would
/// stand for a version whose members name none.
const NO_LIST: u64 = 1;

/// The parts of a member that runs.
pub(super) struct Started {
    pub(super) http: Option<http::Server>,
    pub(super) etcd: Option<EtcdParts>,
    pub(super) server: Server,
    pub(super) lanes: Arc<Lanes>,
    pub(super) node: Node<Store>,
    pub(super) api: Api,
    pub(super) changes: Arc<MemberChanges>,
}

/// What serves etcd's clients.
pub(super) struct EtcdParts {
    pub(super) server: http::Server,
    pub(super) front: EtcdFront,
    pub(super) exchange: UrlsExchange,
}

/// How each service of a member gets onto its server. A hook for tests, which put a gate in front.
pub(super) trait Publish {
    /// What is published in place of `service`, which is in front of `node`.
    fn publish<S: Service>(service: S, node: NodeHandle<Store>) -> impl Service;

    /// What answers the requests of the HTTP port in place of `handler`.
    fn serve<H: http::Handler>(handler: H, node: NodeHandle<Store>) -> impl http::Handler;
}

/// Publishes each service as it is.
pub(super) struct Directly;

impl Publish for Directly {
    fn publish<S: Service>(service: S, _node: NodeHandle<Store>) -> impl Service {
        service
    }

    fn serve<H: http::Handler>(handler: H, _node: NodeHandle<Store>) -> impl http::Handler {
        handler
    }
}

/// What a start depends on beside the configuration. Only a test chooses it.
#[derive(Debug)]
pub(crate) struct Surroundings {
    /// Where the member reaches the others instead of at their configured addresses.
    pub(crate) detour: Detour,
    /// The hash of the list of members, for a member without data.
    pub(crate) list_id: u64,
    /// As [`NodeConfig::may_have_promised`].
    pub(crate) may_have_promised: bool,
}

impl Surroundings {
    /// Those of a member that nobody tests.
    pub(super) fn usual(members: &Members) -> Surroundings {
        let (detour, list_id) = (Detour::default(), list_id(members));
        Surroundings { detour, list_id, may_have_promised: true }
    }
}

/// Starts a member on this listener.
pub(super) fn start<P: Publish>(
    listener: TcpListener,
    config: Config,
    surroundings: Surroundings,
) -> Result<Started, StartError> {
    config.check()?;
    let Surroundings { detour, list_id, may_have_promised } = surroundings;
    let (id, members, limits) = (config.id, config.members.clone(), config.limits);
    let (timing, read_mode, snapshot_log_bytes) =
        (config.timing, config.read_mode, config.snapshot_log_bytes);
    let data_dir = config.data_dir.clone();
    let http_listener = config.http.as_deref().map(listen).transpose()?;
    let etcd_listener = config.etcd.as_deref().map(listen).transpose()?;
    let list_id = if config.joins { NO_LIST } else { list_id };
    let identity = Identity { cluster_id: 0, list_id, member_id: id };
    let data_dir = open_data(data_dir, identity, &config)?;
    let (directory, instance) = (data_dir.directory(), fastrand::u64(1..));
    let node_config = NodeConfig {
        id,
        members: members.clone(),
        detour,
        timing,
        snapshot_log_bytes,
        read_mode,
        may_have_promised,
        is_first_list: !config.joins && is_of_first_list(&data_dir, &config.members),
        level_max: None,
    };
    let node = Node::start(node_config, data_dir, Store::new())?;

    let handle = node.handle();
    warn_of_lone_list(&handle, &config);
    let addr = config.own_addr()?.to_owned();
    let changes =
        MemberChanges::start(handle.clone(), id, OwnAddress { addr, instance, listed: members });
    let changes = Arc::new(changes.map_err(|source| StartError::Node(NodeError::Thread(source)))?);
    let urls = Arc::new(MemberUrls::default());
    if let Some(listener) = &etcd_listener {
        urls.set(id, vec![own_url(&config, listener)]);
    }
    let told = UrlsService { node: handle.clone(), urls: Arc::clone(&urls) };
    let told = MemberRpcService::new(Arc::new(told));
    let api = Api::new(handle.clone());
    let admin = Admin {
        node: handle.clone(),
        api: api.clone(),
        read_mode,
        directory,
        instance,
        changes: changes.clone(),
    };
    let admin = AdminRpcService::new(Arc::new(admin));
    let kv = KvServerRpcService::new(Arc::new(KvService::new(api.clone())));
    let store = StoreService::new(api.clone()).published();
    let lanes = Lanes::start(handle.clone());
    let lanes = Arc::new(lanes.map_err(|source| StartError::Node(NodeError::Thread(source)))?);
    let forwarded = LaneRpcService::new(Arc::new(LaneService::new(handle.clone())));
    let server = Server::builder()
        .service(P::publish(kv, handle.clone()))
        .service(P::publish(store, handle.clone()))
        .reserved_service(P::publish(node.service(), handle.clone()))
        .service(P::publish(admin, handle.clone()))
        .reserved_service(P::publish(forwarded, handle.clone()))
        .reserved_service(P::publish(told, handle.clone()))
        .limits(limits)
        .listener(listener)
        .build()?
        .start();
    let front = HttpFront::new(api.clone(), Arc::clone(&lanes));
    let serve = |listener| {
        let pages = Pages { node: handle.clone(), front, api: api.clone() };
        let pages = P::serve(pages, handle.clone());
        http::Server::builder(pages).limits(config.http_limits).listener(listener).start()
    };
    let http = http_listener.map(serve).transpose()?;
    let serve = |listener| {
        let thread = |source| StartError::Node(NodeError::Thread(source));
        let front = EtcdFront::start(
            api.clone(),
            Arc::clone(&lanes),
            Arc::clone(&urls),
            Arc::new(EtcdAdmin::new(handle.clone())),
        )
        .map_err(thread)?;
        let pages = EtcdPages { node: handle.clone(), front: front.clone(), api: api.clone() };
        let pages = P::serve(pages, handle.clone());
        let server = http::Server::builder(pages).limits(config.etcd_limits).listener(listener);
        let server = server.start()?;
        let exchange = UrlsExchange::start(handle.clone(), urls).map_err(thread)?;
        Ok::<_, StartError>(EtcdParts { server, front, exchange })
    };
    let etcd = etcd_listener.map(serve).transpose()?;
    Ok(Started { http, etcd, server, lanes, node, api, changes })
}

/// A member that is started with a list of itself alone, and without its data, begins a cluster. Its
/// operator had better change the list once the cluster has grown.
fn warn_of_lone_list(node: &NodeHandle<Store>, config: &Config) {
    let Some(latest) = node.members().latest else { return };
    let others = latest.membership.iter().filter(|id| *id != config.id).count();
    if others > 0 && !config.joins && config.members.len() == 1 {
        log::warn!(
            "member {} was started with a list of itself alone, and its cluster has {others} other \
             members: if it lost its data, it would begin another cluster; name the others in its \
             list",
            config.id
        );
    }
}

/// Where etcd's clients reach this member: what the configuration says, or else the address that it
/// listens on.
fn own_url(config: &Config, listener: &TcpListener) -> String {
    let addr = || match (config.etcd.as_deref(), listener.local_addr()) {
        // Whatever port was free.
        (Some(addr), Ok(local)) if addr.ends_with(":0") => local.to_string(),
        (Some(addr), _) => addr.to_owned(),
        (None, _) => String::new(),
    };
    config.advertise_etcd.clone().unwrap_or_else(|| format!("http://{}", addr()))
}

/// Listens on `addr`. A process that had the address and was killed a moment ago keeps its sockets
/// until its memory has been freed, which takes a while if there was much of it.
pub(super) fn listen(addr: &str) -> Result<TcpListener, StartError> {
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

/// A hash of the list of members with which a cluster begins. The upper half is a hash of the
/// members' ids, the lower half one of their ids and addresses.
///
/// A data directory keeps the hash of its first start. Messages between members carry it, and until
/// the cluster has an id, a member that was started with another list is refused.
pub fn list_id(members: &Members) -> u64 {
    let addrs = crc32c::crc32c(members.to_string().as_bytes());
    u64::from(ids_hash(members)) << 32 | u64::from(addrs)
}

fn ids_hash(members: &Members) -> u32 {
    let ids: Vec<String> = members.iter().map(|(id, _)| id.to_string()).collect();
    crc32c::crc32c(ids.join(",").as_bytes())
}

/// Opens the data directory. With `rebuild`, discards its data once the other members have
/// answered, unless it is that of another member or cluster.
fn open_data(path: PathBuf, identity: Identity, config: &Config) -> Result<DataDir, StartError> {
    let (members, rebuild) = (&config.members, config.rebuild);
    let new = if config.joins { Standing::Newcomer } else { Standing::New };
    let cluster_id = match DataDir::open(&path, identity, new) {
        Ok(data_dir) => {
            if !config.joins {
                check_members(&data_dir, members)?;
            }
            if !rebuild || data_dir.standing() == Standing::Rebuilding {
                return Ok(data_dir);
            }
            let is_certain = data_dir.standing() == Standing::Voter;
            is_certain.then_some(data_dir.identity().cluster_id)
        }
        Err(StorageError::MetaDamaged { .. }) if rebuild => None,
        Err(error) => return Err(error.into()),
    };
    rebuild::check_others(identity.member_id, members, cluster_id)?;
    log::warn!("the data in {} is discarded, to be rebuilt from the other members", path.display());
    Ok(DataDir::open_emptied(path, identity)?)
}

/// Checks that the data belongs to a cluster of these members. While they are not recorded in the
/// log, other members would form other majorities, and two majorities could decide at the same
/// time.
fn check_members(data_dir: &DataDir, members: &Members) -> Result<(), StartError> {
    if is_of_first_list(data_dir, members) || data_dir.is_cluster_recorded() {
        return Ok(());
    }
    let (dir, members) = (data_dir.path().to_owned(), members.clone());
    Err(StartError::OtherMembers { dir, members })
}

/// Whether the cluster began with these members, wherever they are now.
fn is_of_first_list(data_dir: &DataDir, members: &Members) -> bool {
    data_dir.identity().list_id >> 32 == u64::from(ids_hash(members))
}
