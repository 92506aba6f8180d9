//! [`Control`]: the faults of a [`Cluster`] over HTTP, for tests that are not written in Rust.
//! `docs/dev.md` is the page for users, with an example of each.
//!
//! ```text
//! request ─> Params ─> Fault::read ─> thread dev-fault: Fault::apply ─> Cluster ─> answer
//! ```
//!
//! | request | parameters | method of the cluster |
//! | --- | --- | --- |
//! | `POST /v1/dev/kill` | `member` | [`kill`](Cluster::kill) |
//! | `POST /v1/dev/stop` | `member` | [`stop`](Cluster::stop) |
//! | `POST /v1/dev/restart` | `member` | [`restart`](Cluster::restart) |
//! | `POST /v1/dev/wipe` | `member` | [`wipe`](Cluster::wipe) |
//! | `POST /v1/dev/pause` | `member` | [`pause`](Cluster::pause) |
//! | `POST /v1/dev/resume` | `member` | [`resume`](Cluster::resume) |
//! | `POST /v1/dev/partition` | `one`, `other` | [`partition`](Cluster::partition) |
//! | `POST /v1/dev/partition` | `from`, `to` | [`partition_one_way`](Cluster::partition_one_way) |
//! | `POST /v1/dev/heal` | | [`heal`](Cluster::heal) |
//! | `POST /v1/dev/blackhole` | `one`, `other` | [`blackhole`](Cluster::blackhole) |
//! | `POST /v1/dev/delay` | `min`, `max` | [`delay`](Cluster::delay) |
//! | `POST /v1/dev/drop` | `rate` | [`drop_rate`](Cluster::drop_rate) |
//! | `POST /v1/dev/add` | `learner` | [`add_member`](Cluster::add_member), [`add_learner`](Cluster::add_learner) |
//! | `POST /v1/dev/promote` | `member` | [`promote_member`](Cluster::promote_member) |
//! | `POST /v1/dev/remove` | `member` | [`remove_member`](Cluster::remove_member) |
//! | `POST /v1/dev/move` | `member` | [`move_member`](Cluster::move_member) |
//! | `GET /v1/dev` | | who leads, who runs, what is wrong with the network |
//!
//! `member` is an id, or `leader`: the member that leads, once one does. The others are lists of
//! them, with commas. Parameters stand in the query.
//!
//! # Answers
//!
//! Each is one JSON object on one line. 200: the fault is there, and the answer names the members.
//! 400: the request is wrong. 404: there is no such member. 409: the member is in no state for it,
//! such as down when it is killed, or the cluster refuses to change its members. 500: the member
//! does not start. 503: nobody leads. In each of the latter cases the cluster is as before.
//!
//! # Invariants
//! - The port belongs to no member, and answers as long as the cluster runs, whatever is wrong with
//!   the members.
//! - No page of another site can cause faults with the help of somebody's browser.
//!
//! # Threads
//! Those of an HTTP server, and `dev-fault` for each request that is under way.
//!
//! # Files
//! `params`: the query. `fault`: what a request asks for, and how it is done. `view`: the answer to
//! `GET /v1/dev`.

mod fault;
mod params;
mod view;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;

use super::Cluster;
use crate::front::http::told::{self, Told};
use crate::rpc::ServerError;
use crate::rpc::http::{Answer, Handler, Method, Request, Response, Server};
use fault::Fault;
use params::Params;
use view::View;

const PATH: &str = "/v1/dev";

/// Serves the faults of a cluster until it is dropped.
#[derive(Debug)]
pub struct Control {
    // Dropped first: no request comes behind it.
    server: Server,
    faults: Arc<Faults>,
}

impl Control {
    /// Serves on a socket that listens.
    ///
    /// # Errors
    /// The system refuses something that the server needs.
    pub fn start(cluster: Arc<Cluster>, listener: TcpListener) -> Result<Control, ServerError> {
        let faults = Arc::new(Faults::new(cluster));
        let server = Server::builder(Requests(Arc::clone(&faults))).listener(listener).start()?;
        Ok(Control { server, faults })
    }

    /// The address that it serves on.
    pub fn addr(&self) -> SocketAddr {
        self.server.local_addr()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.faults.is_over.store(true, Ordering::Relaxed);
        self.server.stop();
        let under_way = std::mem::take(&mut *self.faults.under_way.lock());
        for thread in under_way {
            // Its client sees that its request was not answered.
            let _ = thread.join();
        }
        // The server's threads have ended, and with them all that hold the cluster but us.
    }
}

/// The faults that are asked for.
#[derive(Debug)]
struct Faults {
    cluster: Arc<Cluster>,
    /// Nobody waits for a leader any more.
    is_over: AtomicBool,
    under_way: Mutex<Vec<JoinHandle<()>>>,
}

struct Requests(Arc<Faults>);

impl Handler for Requests {
    fn handle(&self, request: &mut Request<'_>, answer: Answer) {
        match told::check_origin(request).and_then(|()| self.0.task(request)) {
            Ok(task) => self.0.begin(move || answer.send(task())),
            Err(response) => answer.send(response),
        }
    }
}

/// What is left to do for a request once everything in it was found to be right.
type Task = Box<dyn FnOnce() -> Response + Send>;

impl Faults {
    fn new(cluster: Arc<Cluster>) -> Faults {
        Faults { cluster, is_over: AtomicBool::new(false), under_way: Mutex::default() }
    }

    fn task(self: &Arc<Self>, request: &Request<'_>) -> Result<Task, Response> {
        let faults = Arc::clone(self);
        let Some(name) = request.raw_path().strip_prefix(PATH) else {
            return Err(no_such_path());
        };
        if name.is_empty() {
            return match request.method() {
                Method::Get | Method::Head => {
                    Params::read(request)?.end(&[])?;
                    Ok(Box::new(move || told::object(200, &View::of(&faults.cluster))))
                }
                _ => Err(told::not_allowed("GET, HEAD")),
            };
        }
        let kind = name.strip_prefix('/').and_then(fault::Kind::named).ok_or_else(no_such_path)?;
        if request.method() != Method::Post {
            return Err(told::not_allowed("POST"));
        }
        let fault = Fault::read(kind, Params::read(request)?, &self.cluster.ids())?;
        Ok(Box::new(move || {
            match fault.apply(&faults.cluster, || faults.is_over.load(Ordering::Relaxed)) {
                Ok(done) => told::object(200, &done),
                Err(response) => response,
            }
        }))
    }

    /// Runs a task on a thread of its own: a member that starts or ends takes its time. If the
    /// system has no thread, the task's answer says so when it is dropped.
    fn begin(&self, task: impl FnOnce() + Send + 'static) {
        let thread: io::Result<_> = thread::Builder::new().name("dev-fault".to_owned()).spawn(task);
        let mut under_way = self.under_way.lock();
        under_way.retain(|thread| !thread.is_finished());
        under_way.extend(thread);
    }
}

fn no_such_path() -> Response {
    let message = format!("there are {PATH} and {PATH}/FAULT; faults are {}", fault::Kind::names());
    Told::new(404, "no_such_path", message).response()
}
