//! A network between a client and a server that can stop, slow down, swallow bytes or break.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Accepts connections and relays their bytes.
pub(crate) struct Relay {
    addr: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_frozen: bool,
    is_closed: bool,
    accepted: usize,
    relayed_bytes: usize,
    streams: Vec<TcpStream>,
    /// Bytes of the connections up to this one are swallowed.
    swallowed: usize,
    bytes_per_second: Option<u64>,
}

impl Relay {
    pub(crate) fn to(target: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { target, state: Mutex::default(), changed: Condvar::new() });
        let acceptor = thread::spawn({
            let shared = shared.clone();
            move || shared.accept_all(&listener)
        });
        Relay { addr, shared, acceptor: Some(acceptor) }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on relays nothing, and closes nothing.
    pub(crate) fn freeze(&self) {
        self.shared.state.lock().is_frozen = true;
    }

    /// Relays again, beginning with what was held up.
    pub(crate) fn thaw(&self) {
        self.shared.state.lock().is_frozen = false;
        self.shared.changed.notify_all();
    }

    /// From now on nothing comes through the existing connections, which stay open. New ones work.
    pub(crate) fn blackhole(&self) {
        let mut state = self.shared.state.lock();
        state.swallowed = state.accepted;
    }

    /// From now on each connection carries this many bytes a second in each direction.
    pub(crate) fn slow_down(&self, bytes_per_second: u64) {
        self.shared.state.lock().bytes_per_second = Some(bytes_per_second);
    }

    /// Ends every connection.
    pub(crate) fn cut(&self) {
        let streams = std::mem::take(&mut self.shared.state.lock().streams);
        streams.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
    }

    /// How many bytes it has relayed so far, in both directions.
    #[allow(dead_code, reason = "only the tests of locks count them")]
    pub(crate) fn relayed_bytes(&self) -> usize {
        self.shared.state.lock().relayed_bytes
    }

    /// The number of connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.state.lock().accepted
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.state.lock().is_closed = true;
        self.shared.changed.notify_all();
        self.cut();
        let _ = TcpStream::connect(self.addr);
        let _ = self.acceptor.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn accept_all(self: &Arc<Self>, listener: &TcpListener) {
        let mut pumps = Vec::new();
        for client in listener.incoming() {
            let client = client.unwrap();
            if self.state.lock().is_closed {
                break;
            }
            // Nobody is there: the client sees its connection end.
            let Ok(server) = TcpStream::connect(self.target) else { continue };
            let mut state = self.state.lock();
            if state.is_closed {
                break;
            }
            state.accepted += 1;
            let number = state.accepted;
            for (from, to) in [(&client, &server), (&server, &client)] {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                state.streams.push(from.try_clone().unwrap());
                let shared = Arc::clone(self);
                pumps.push(thread::spawn(move || shared.pump(number, from, to)));
            }
        }
        pumps.into_iter().for_each(|pump| pump.join().unwrap());
    }

    fn pump(&self, number: usize, mut from: TcpStream, mut to: TcpStream) {
        let mut buf = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buf) {
            let mut state = self.state.lock();
            while state.is_frozen && !state.is_closed {
                self.changed.wait(&mut state);
            }
            state.relayed_bytes += count;
            let (is_swallowed, rate) = (number <= state.swallowed, state.bytes_per_second);
            drop(state);
            // A slow network takes its time.
            let took = rate.map(|rate| Duration::from_secs(1) * count as u32 / rate as u32);
            took.into_iter().for_each(thread::sleep);
            if !is_swallowed && to.write_all(&buf[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }
}
