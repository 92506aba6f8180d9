//! A server in a process of its own, and what all servers share.

use std::env;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{self, Child, Stdio};
use std::thread;

use crate::error::{self, Context, Error};

/// For threads that only copy bytes: there may be a thousand.
const STACK_BYTES: usize = 128 << 10;

/// A process of this program, for as long as this lives.
pub(crate) struct Server {
    child: Child,
    pub(crate) addr: SocketAddr,
}

impl Server {
    /// Starts this program with other arguments, and waits until it listens.
    pub(crate) fn start(role: &str, args: &[&str]) -> Result<Server, Error> {
        let starting = || format!("starting the server \"{role}\"");
        let program = env::current_exe().context(starting)?;
        let mut child = process::Command::new(program)
            .arg(role)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context(starting)?;
        let addr = read_addr(&mut child);
        if addr.is_err() {
            end(&mut child);
        }
        Ok(Server { addr: addr.context(starting)?, child })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    // An error means that it has ended already.
    let _ = child.kill();
    let _ = child.wait();
}

/// The first line of a server is its address; there is none if it fails.
fn read_addr(child: &mut Child) -> io::Result<SocketAddr> {
    let stdout = child.stdout.take().expect("it is piped");
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    line.trim().parse().map_err(|_| io::Error::other("it ended before it listened"))
}

pub(crate) fn listen() -> Result<(TcpListener, SocketAddr), Error> {
    let listening = || "listening on 127.0.0.1".to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").context(listening)?;
    let addr = listener.local_addr().context(listening)?;
    Ok((listener, addr))
}

/// Tells the program that started this server where it listens, and returns when that program ends.
pub(crate) fn announce(addr: SocketAddr) -> Result<(), Error> {
    println!("{addr}");
    io::stdin().read(&mut [0]).context(|| "waiting for the end".to_owned())?;
    Ok(())
}

/// Runs `serve` for each connection on a thread of its own. Does not return while all is well.
pub(crate) fn accept_all<S>(listener: &TcpListener, serve: S) -> io::Result<()>
where
    S: Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static,
{
    for stream in listener.incoming() {
        let stream = stream?;
        stream.set_nodelay(true)?;
        let serve = serve.clone();
        // An error of a connection is its end: the load that has the other end reports it.
        spawn(move || drop(serve(stream)))?;
    }
    Ok(())
}

/// Starts a thread that only copies bytes.
pub(crate) fn spawn<T: Send + 'static>(
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<thread::JoinHandle<T>> {
    thread::Builder::new().stack_size(STACK_BYTES).spawn(run)
}

/// Starts a thread that the server cannot do without: an error ends the process.
pub(crate) fn spawn_vital(
    doing: &'static str,
    run: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> Result<(), Error> {
    let run = move || {
        if let Err(error) = run().context(|| doing.to_owned()) {
            eprintln!("ceiling: {}", error::in_words(&error));
            process::exit(1);
        }
    };
    spawn(run).context(|| doing.to_owned())?;
    Ok(())
}
