//! The side that serves.

use std::net::{SocketAddr, TcpListener};

use super::{Limits, ServerError, Service};

/// Serves calls on one port until it is stopped or dropped.
#[derive(Debug)]
pub struct Server {}

impl Server {
    /// A server without services yet.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        todo!()
    }

    /// Stops: joins every thread, in bounded time.
    pub fn stop(&self) {
        todo!()
    }

    /// Connections that are open now.
    pub fn connections(&self) -> usize {
        todo!()
    }

    /// Connections refused so far because [`Limits::connections_max`] were open.
    pub fn connections_refused(&self) -> u64 {
        todo!()
    }
}

/// Settings of a [`Server`].
#[derive(Default)]
pub struct ServerBuilder {
    services: Vec<Box<dyn Service>>,
    limits: Limits,
}

impl ServerBuilder {
    /// Publishes one more service.
    pub fn service(mut self, service: impl Service) -> Self {
        self.services.push(Box::new(service));
        self
    }

    /// Bounds other than the defaults.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Starts to serve on `listener`.
    pub fn serve(self, _listener: TcpListener) -> Result<Server, ServerError> {
        todo!()
    }

    /// Listens on `addr` ("host:port"; port 0: any free one) and starts to serve.
    pub fn bind(self, _addr: &str) -> Result<Server, ServerError> {
        todo!()
    }
}
