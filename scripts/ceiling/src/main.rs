//! The most that this machine can do, for `scripts/bench.sh` to put beside syncraft's results.
//!
//! Syncraft spends a thread on each connection, and so do both programs measured here. They do the
//! least work that such a server needs, and nothing else.
//!
//! `ceiling put` measures a bare replicated log of three processes on loopback:
//!
//! ```text
//!           requests                batches of entries
//!    load ────────────▶  leader  ────────────────────────▶  two followers
//!         ◀────────────          ◀────────────────────────
//!            replies                 batches on disk
//! ```
//!
//! - A thread for each connection receives entries and adds them to the next batch.
//! - One thread takes the next batch, sends it to the followers, writes it to the leader's log and
//!   calls fdatasync. Entries that arrive meanwhile form the batch after it (group commit).
//! - Each follower writes what has arrived to its own log, calls fdatasync, and says how many
//!   batches it holds.
//! - A batch is committed once it is on two of the three disks. The thread that finds this out
//!   sends the replies.
//!
//! `ceiling get` measures a bare echo: a thread for each connection reads a request as long as
//! that of a get, and writes a reply as long as a value.
//!
//! Both are ceilings because syncraft cannot leave out any of these steps: the same bytes cross the
//! same sockets and reach the same disks. Everything else is left out: elections, terms, checksums,
//! repeated requests, the stored map, what makes reads linearizable, faults. The figures are
//! measurements, not proofs: a server with fewer threads than connections can be faster.
//!
//! The load has one thread for each connection, and `--clients / --conns` requests under way on it.
//! The thread reads the replies that have arrived, and sends as many new requests in one write.
//!
//! Prints one JSON object with the names that `syncraft bench --json` uses.
//!
//! The servers are processes of this same program. They end with the program that started them.

mod args;
mod echo;
mod error;
mod follower;
mod leader;
mod load;
mod log;
mod report;
mod server;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use crate::args::{Args, Command, Operation};
use crate::error::{Context, Error};
use crate::load::Load;
use crate::report::Report;
use crate::server::Server;

/// The bytes of a request beside its value: a frame's header, a key, and the client's numbers.
const REQUEST_HEADER_BYTES: usize = 44;
/// The bytes of a reply beside its value.
const REPLY_HEADER_BYTES: usize = 32;

fn main() -> ExitCode {
    match args::parse().and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ceiling: {}", error::in_words(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Measure(args) => measure(&args),
        Command::Follow { log } => follower::serve(&log),
        Command::Lead { log, entry_bytes, followers } => {
            leader::serve(&log, entry_bytes, &followers)
        }
        Command::Echo { request_bytes, reply_bytes } => echo::serve(request_bytes, reply_bytes),
    }
}

fn measure(args: &Args) -> Result<(), Error> {
    let latencies_us = match args.operation {
        Operation::Put => measure_put(args)?,
        Operation::Get => measure_get(args)?,
    };
    println!("{}", Report::new(args, latencies_us));
    Ok(())
}

fn measure_put(args: &Args) -> Result<Vec<u32>, Error> {
    fs::create_dir_all(&args.dir).context(|| format!("creating {}", args.dir.display()))?;
    let log = |name: &str| args.dir.join(name);
    let request_bytes = REQUEST_HEADER_BYTES + args.value_bytes;
    let follower = |name: &str| Server::start("follow", &[&path_word(&log(name))]);
    // Dropped in the opposite order: the leader must not see its followers end.
    let followers = [follower("follower-1.log")?, follower("follower-2.log")?];
    let leader = Server::start(
        "lead",
        &[
            &path_word(&log("leader.log")),
            &request_bytes.to_string(),
            &followers[0].addr.to_string(),
            &followers[1].addr.to_string(),
        ],
    )?;
    Load::new(args, leader.addr, request_bytes, REPLY_HEADER_BYTES).run()
}

fn measure_get(args: &Args) -> Result<Vec<u32>, Error> {
    let reply_bytes = REPLY_HEADER_BYTES + args.value_bytes;
    let sizes = [&*REQUEST_HEADER_BYTES.to_string(), &*reply_bytes.to_string()];
    let server = Server::start("echo", &sizes)?;
    Load::new(args, server.addr, REQUEST_HEADER_BYTES, reply_bytes).run()
}

/// Paths come from arguments that are UTF-8.
fn path_word(path: &Path) -> String {
    path.display().to_string()
}
