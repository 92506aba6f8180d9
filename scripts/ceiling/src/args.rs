//! The command line.

use std::env;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::REQUEST_HEADER_BYTES;
use crate::error::Error;
use crate::log::LOG_BYTES;

const USAGE: &str = "usage: ceiling put|get --dir DIR [--clients N] [--conns N] \
                     [--value-size BYTES] [--seconds N] [--warm-up-ms N]";

/// What this process does.
pub(crate) enum Command {
    Measure(Args),
    // The servers that a measurement starts.
    Follow { log: PathBuf },
    Lead { log: PathBuf, entry_bytes: usize, followers: Vec<SocketAddr> },
    Echo { request_bytes: usize, reply_bytes: usize },
}

pub(crate) struct Args {
    pub(crate) operation: Operation,
    /// For the logs, on the disk to measure. They stay, and the next run uses them again.
    pub(crate) dir: PathBuf,
    /// Requests under way.
    pub(crate) clients: usize,
    /// Connections that carry them, at most one for each client.
    pub(crate) connections: usize,
    pub(crate) value_bytes: usize,
    pub(crate) length: Duration,
    /// How long the load runs before the measurement begins.
    pub(crate) warm_up: Duration,
}

#[derive(Clone, Copy)]
pub(crate) enum Operation {
    Put,
    Get,
}

pub(crate) fn parse() -> Result<Command, Error> {
    let words: Result<Vec<String>, _> = env::args_os().skip(1).map(|it| it.into_string()).collect();
    let words = words.map_err(|word| Error::Usage(format!("{word:?} is not UTF-8")))?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match *words {
        ["put", ref options @ ..] => measure(Operation::Put, options),
        ["get", ref options @ ..] => measure(Operation::Get, options),
        ["follow", log] => Ok(Command::Follow { log: log.into() }),
        ["lead", log, entry_bytes, ref followers @ ..] => Ok(Command::Lead {
            log: log.into(),
            entry_bytes: value("lead", entry_bytes)?,
            followers: followers.iter().map(|it| value("lead", it)).collect::<Result<_, _>>()?,
        }),
        ["echo", request_bytes, reply_bytes] => Ok(Command::Echo {
            request_bytes: value("echo", request_bytes)?,
            reply_bytes: value("echo", reply_bytes)?,
        }),
        _ => Err(Error::Usage(USAGE.to_owned())),
    }
}

fn measure(operation: Operation, options: &[&str]) -> Result<Command, Error> {
    let mut args = Args {
        operation,
        dir: PathBuf::new(),
        clients: 64,
        connections: usize::MAX,
        value_bytes: 256,
        length: Duration::from_secs(10),
        warm_up: Duration::from_secs(2),
    };
    for option in options.chunks(2) {
        let [name, word] = *option else {
            return Err(Error::Usage(format!("{} needs a value; {USAGE}", option[0])));
        };
        match name {
            "--dir" => args.dir = word.into(),
            "--clients" => args.clients = value(name, word)?,
            "--conns" => args.connections = value(name, word)?,
            "--value-size" => args.value_bytes = value(name, word)?,
            "--seconds" => args.length = Duration::from_secs(value(name, word)?),
            "--warm-up-ms" => args.warm_up = Duration::from_millis(value(name, word)?),
            _ => return Err(Error::Usage(format!("unknown option {name:?}; {USAGE}"))),
        }
    }
    args.connections = args.connections.min(args.clients);
    check(&args)?;
    Ok(Command::Measure(args))
}

fn check(args: &Args) -> Result<(), Error> {
    let all_requests_bytes =
        (REQUEST_HEADER_BYTES.saturating_add(args.value_bytes)).saturating_mul(args.clients) as u64;
    let problem = if args.dir.as_os_str().is_empty() {
        "--dir is missing"
    } else if args.connections == 0 {
        "--clients and --conns must be at least 1"
    } else if args.length.is_zero() {
        "--seconds must be at least 1"
    } else if all_requests_bytes > LOG_BYTES / 2 {
        "the requests of all clients must fit in half of the log"
    } else {
        return Ok(());
    };
    Err(Error::Usage(format!("{problem}; {USAGE}")))
}

fn value<T: FromStr>(name: &str, word: &str) -> Result<T, Error> {
    word.parse().map_err(|_| Error::Usage(format!("{name} {word:?} is not valid; {USAGE}")))
}
