//! Benchmarks whose rows take turns, against servers in processes of their own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

/// The option by which this program starts itself as a server.
const SERVE: &str = "--serve";

/// What the command line says.
pub(crate) struct Args {
    /// How long each row is measured in each turn.
    pub(crate) seconds: f64,
    pub(crate) turns: usize,
    /// Rows whose name contains this.
    pub(crate) only: String,
    /// Whether the rows are left out to which those are compared.
    pub(crate) alone: bool,
    serve: Option<String>,
}

impl Args {
    /// Reads them; without `--turns` there are so many.
    fn parse(turns: usize) -> Args {
        let (only, alone, serve) = (String::new(), false, None);
        let mut args = Args { seconds: 1.0, turns, only, alone, serve };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().unwrap_or_else(|| panic!("{word} needs a value"));
            match &*word {
                "--seconds" => args.seconds = value().parse().expect("seconds"),
                "--turns" => args.turns = value().parse().expect("a number of turns"),
                "--only" => args.only = value(),
                "--alone" => args.alone = true,
                SERVE => args.serve = Some(value()),
                // `cargo bench` says it.
                "--bench" => {}
                _ => panic!("{word}: --seconds S, --turns N, --only TEXT, --alone"),
            }
        }
        assert!(args.turns > 0, "at least one turn");
        args
    }
}

/// The whole program: the benchmark or, where it has started itself, one of its servers.
pub(crate) fn run(turns: usize, bench: fn(&Args), serve_bare: fn(), serve_rpc: fn()) {
    let args = Args::parse(turns);
    match args.serve.as_deref() {
        Some("bare") => serve_bare(),
        Some("rpc") => serve_rpc(),
        Some(other) => panic!("{SERVE} {other}: bare or rpc"),
        None => bench(&args),
    }
}

/// A server in a process of its own, for as long as this lives.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) addr: SocketAddr,
}

impl Process {
    /// Starts this program as a server: "bare" or "rpc".
    pub(crate) fn start(kind: &str) -> Process {
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program)
            .args([SERVE, kind])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("its address");
        Process { child, addr: line.trim().parse().expect("its address") }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It ends with its input, too, if this process is killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// For a server: says where it is, and waits until nobody wants it any more.
pub(crate) fn serve_until_unwanted(addr: SocketAddr) {
    println!("{addr}");
    std::io::stdout().flush().expect("a pipe");
    let _ = std::io::stdin().read(&mut [0]);
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
