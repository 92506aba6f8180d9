//! `dev`: a whole cluster in this process, for tests in any language.
//!
//! ```text
//! args ─> Cluster::start ─> Control::start ─┬─ COMMAND: run it, with Reach in its environment
//!                                           └─ none: print Reach, wait for a signal
//! ```
//!
//! # Invariants
//! - Nothing is printed before every member serves and one leads.
//! - However it ends, but by SIGKILL or a second signal, members are stopped and their temporary
//!   data is removed.

mod reach;

use std::io;
use std::sync::Arc;

use syncraft::ErrorChain;
use syncraft::testing::control::Control;
use syncraft::testing::{Cluster, ClusterError, Options, Port};

use super::args::{Common, DevArgs};
use super::child::{self, Runner};
use super::output::print;
use super::room::raise_open_files;
use super::{Exit, Failure, Outcome};
use reach::Reach;

pub(super) fn run(common: &Common, args: DevArgs) -> Outcome {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("error")).init();
    raise_open_files();
    let runner = Runner::new()?;
    // From here on, there is something to remove before the end.
    runner.holding();
    let port = control_port(&args)?;
    let cluster = start(common, &args)?;
    // Dropped before the cluster.
    let control = control(&cluster, &port)?;
    let reach = Reach::of(&cluster, &control);
    if args.command.is_empty() {
        let printed = if args.json { reach.json() } else { reach.lines() };
        print(&[printed.as_bytes()])?;
        runner.wait_for_end();
        return Ok(Exit::Done);
    }
    if let Some(signal) = runner.signal() {
        return Ok(Exit::Command(child::code_of_signal(signal)));
    }
    let mut command = child::command(&reach.members, &args.command);
    command.envs(reach.variables());
    Ok(Exit::Command(runner.run(command, None, || true)?.status))
}

/// The port for faults: the one behind those of the members' HTTP, or any free one.
fn control_port(args: &DevArgs) -> Result<Port, Failure> {
    let wanted = args.http.map_or(Some(0), |first| first.checked_add(u16::from(args.nodes)));
    let Some(wanted) = wanted else {
        let words = "--http: there are not enough ports behind it: the last one is 65535";
        return Err(Failure::usage(words));
    };
    Port::at(wanted).map_err(|source| cannot_start(&ClusterError::Port { port: wanted, source }))
}

fn start(common: &Common, args: &DevArgs) -> Result<Arc<Cluster>, Failure> {
    let mut options = Options::default();
    options.leader_timeout = common.timeout();
    options.port = args.port.unwrap_or(0);
    options.http_port = Some(args.http.unwrap_or(0));
    options.etcd_port = Some(args.etcd.unwrap_or(0));
    options.data_dir.clone_from(&args.data_dir);
    let started = Cluster::start_with(usize::from(args.nodes), options);
    started.map(Arc::new).map_err(|error| cannot_start(&error))
}

fn control(cluster: &Arc<Cluster>, port: &Port) -> Result<Control, Failure> {
    let listener = port.listen().map_err(|error| cannot_listen(port, error))?;
    Control::start(Arc::clone(cluster), listener)
        .map_err(|error| Failure::not_applied(format!("cannot start: {}", ErrorChain(&error))))
}

fn cannot_listen(port: &Port, source: io::Error) -> Failure {
    cannot_start(&ClusterError::Port { port: port.addr().port(), source })
}

fn cannot_start(error: &ClusterError) -> Failure {
    Failure::not_applied(format!("cannot start: {}", ErrorChain(error)))
}
