//! What a test does to a member in its own process: it pauses, resumes and kills it.
//!
//! The node's threads stop at the node's [`Gate`] by themselves. Here each service, and the HTTP
//! port, is behind the same gate, so that calls wait as well. Members of programs are started
//! without this: see [`Publish`].

use std::net::TcpListener;
use std::sync::Arc;

use bytes::Bytes;

use super::Member;
use super::config::Config;
use super::error::StartError;
use super::start::{self, Publish, Surroundings};
use crate::kv::Store;
use crate::node::{Gate, NodeHandle};
use crate::rpc::{Call, Service, http};

impl Member {
    /// As [`start_on`](Member::start_on), but the member can be paused, and reaches the others at
    /// the addresses in `surroundings`, where a test puts a network with faults. Clients are still
    /// told the addresses in `config.members`.
    pub(crate) fn start_in_test(
        listener: TcpListener,
        config: Config,
        surroundings: Surroundings,
    ) -> Result<Member, StartError> {
        start::start::<BehindGate>(listener, config, surroundings).map(Member::from)
    }

    /// Holds the member as SIGSTOP would, until it is resumed, killed or stopped. Its sockets stay
    /// open, and what arrives waits in them.
    pub(crate) fn pause(&self) {
        self.handle.gate().close();
    }

    /// Lets a paused member go on, as SIGCONT would.
    pub(crate) fn resume(&self) {
        self.handle.gate().open();
    }

    /// Ends the member as a crash would: nothing that waits is written or answered.
    pub(crate) fn kill(mut self) {
        if let Some(node) = self.node.take() {
            node.mark_killed();
            // Its clients see their connections end, and no last answer.
            drop(self.http.take());
            drop(self.etcd.take());
            self.server.stop();
            node.kill();
        }
        self.api.stop();
    }
}

/// Publishes each service behind the node's gate.
struct BehindGate;

impl Publish for BehindGate {
    fn publish<S: Service>(service: S, node: NodeHandle<Store>) -> impl Service {
        Gated { service, gate: Arc::clone(node.gate()) }
    }

    fn serve<H: http::Handler>(handler: H, node: NodeHandle<Store>) -> impl http::Handler {
        let gate = Arc::clone(node.gate());
        move |request: &mut http::Request<'_>, answer: http::Answer| {
            gate.pass();
            handler.handle(request, answer);
        }
    }
}

/// A service whose calls wait at a gate, on the threads of their connections. Later calls of a
/// connection wait in its socket.
struct Gated<S> {
    service: S,
    gate: Arc<Gate>,
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

    fn is_stream(&self, method: usize) -> bool {
        self.service.is_stream(method)
    }

    fn flush(&self, method: usize) {
        self.service.flush(method);
    }
}
