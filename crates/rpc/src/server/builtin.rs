//! The service `rpc`, which every server has: pings, and the list of services.
//!
//! It runs inline, so it answers however many calls wait for handlers.

use std::sync::{Arc, OnceLock};

use super::table::Published;
use crate::Done;
use crate::builtin::{
    ListServicesArgs, ListServicesReply, PingArgs, PingReply, Rpc, RpcService, ServiceInfo,
};

struct Builtin {
    services: OnceLock<Vec<ServiceInfo>>,
}

/// Adds it to the services to publish. If there is one with this name already, it is then found to
/// be published twice.
pub(super) fn add_to(mut services: Vec<Published>) -> Vec<Published> {
    let builtin = Arc::new(Builtin { services: OnceLock::new() });
    let service = Arc::new(RpcService::new(Arc::clone(&builtin)));
    services.push(Published { service, is_reserved: false, is_inline: true });
    let mut infos: Vec<ServiceInfo> = services.iter().map(info).collect();
    infos.sort_by(|one, other| one.name.cmp(&other.name));
    builtin.services.set(infos).expect("it is set here only");
    services
}

fn info(published: &Published) -> ServiceInfo {
    let service = &published.service;
    ServiceInfo {
        name: service.name().to_owned(),
        version: service.version(),
        codec: service.codec(),
        methods: service.methods().iter().map(|method| (*method).to_owned()).collect(),
    }
}

impl Rpc for Builtin {
    fn ping(&self, _: PingArgs, done: Done<PingReply>) {
        done.run(PingReply {});
    }

    fn list_services(&self, _: ListServicesArgs, done: Done<ListServicesReply>) {
        let services = self.services.get().expect("set before any call").clone();
        done.run(ListServicesReply { services });
    }
}
