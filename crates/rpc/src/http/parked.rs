//! The thread that looks after connections without a thread: those whose answer is a stream. It
//! waits for all of them at once, ends those whose clients have gone, and gives those whose streams
//! have ended a thread again.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::connection::{Connection, Phase};
use super::reader::Http;
use crate::port::{Connection as _, ConnectionId, Protocol, Registry};
use crate::transport::Peeked;

/// What comes within this time is looked at together: looking at ten thousand connections takes a
/// millisecond.
const GATHER: Duration = Duration::from_millis(5);

/// The pause after an error of `poll`, such as a lack of memory.
const PAUSE: Duration = Duration::from_millis(100);

/// That the client has ended its side, though bytes before that are unread.
#[cfg(target_os = "linux")]
const ENDED: PollFlags = PollFlags::RDHUP;
#[cfg(not(target_os = "linux"))]
const ENDED: PollFlags = PollFlags::empty();

/// How connections get to the thread.
pub(super) struct Parking {
    added: Mutex<Vec<(ConnectionId, Arc<Connection>)>>,
    is_stopped: AtomicBool,
    bell: UnixStream,
    /// Whether it was rung and not heard yet.
    is_rung: AtomicBool,
    /// The thread's end of `bell`.
    ear: UnixStream,
}

impl Parking {
    pub(super) fn new() -> io::Result<Parking> {
        let (bell, ear) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        ear.set_nonblocking(true)?;
        Ok(Parking {
            added: Mutex::default(),
            is_stopped: AtomicBool::new(false),
            bell,
            is_rung: AtomicBool::new(false),
            ear,
        })
    }

    /// Hands over a connection that its thread has left.
    pub(super) fn add(&self, id: ConnectionId, connection: Arc<Connection>) {
        self.added.lock().push((id, connection));
        self.wake();
    }

    /// A connection was added, or its stream has ended.
    pub(super) fn wake(&self) {
        if !self.is_rung.swap(true, Ordering::SeqCst) {
            // If it is full, it was rung.
            let _ = (&self.bell).write(&[0]);
        }
    }

    /// Ends the thread. All connections have ended before.
    pub(super) fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        self.wake();
    }

    fn hear(&self) {
        let mut space = [0; 64];
        while matches!((&self.ear).read(&mut space), Ok(1..)) {}
        // Before it looks: what comes after that rings again.
        self.is_rung.store(false, Ordering::SeqCst);
    }
}

struct Parked {
    id: ConnectionId,
    connection: Arc<Connection>,
    /// The client has sent more. That is read once the stream has ended.
    is_deaf: bool,
}

/// The thread.
pub(super) struct Attendant {
    pub(super) http: Http,
    pub(super) registry: Arc<Registry<Connection>>,
}

impl Attendant {
    pub(super) fn run(self) {
        let parking = &self.http.shared.parking;
        let mut parked: Vec<Parked> = Vec::new();
        while !parking.is_stopped.load(Ordering::SeqCst) {
            let ready = match wait(parking, &parked) {
                Ok(ready) => ready,
                Err(error) => {
                    self.http.shared.port.warn(&format!("cannot wait for clients: {error}"));
                    std::thread::sleep(PAUSE);
                    continue;
                }
            };
            for at in ready {
                parked[at].look();
            }
            parking.hear();
            let added = std::mem::take(&mut *parking.added.lock());
            let added = added.into_iter();
            parked.extend(added.map(|(id, connection)| Parked { id, connection, is_deaf: false }));
            parked.retain(|it| !self.leave(it));
            std::thread::sleep(GATHER);
        }
    }

    /// Lets a connection go whose client is gone, or whose stream has ended. Returns whether it
    /// did.
    fn leave(&self, Parked { id, connection, .. }: &Parked) -> bool {
        if connection.is_cut() {
            connection.finish();
            self.registry.end(*id);
            return true;
        }
        if connection.phase().0 != Phase::Idle {
            return false;
        }
        let (http, own) = (self.http.clone(), Arc::clone(connection));
        let name = format!("http-conn-{}", connection.peer().port());
        if let Err(error) = self.registry.resume(name, *id, move || http.serve(own)) {
            let peer = connection.peer();
            self.http.shared.port.warn(&format!("connection from {peer} dropped: {error}"));
            connection.finish();
            self.registry.end(*id);
        }
        true
    }
}

impl Parked {
    /// What is waited for.
    fn fd(&self) -> PollFd<'_> {
        let flags = if self.is_deaf { ENDED } else { PollFlags::IN | ENDED };
        PollFd::new(self.connection.outbox().transport(), flags)
    }

    fn look(&mut self) {
        match self.connection.outbox().transport().peek() {
            Peeked::Nothing => {}
            Peeked::Bytes => self.is_deaf = true,
            Peeked::End => self.connection.cut("the client has gone"),
        }
    }
}

/// Waits until something happens. Returns where clients have sent something.
fn wait(parking: &Parking, parked: &[Parked]) -> io::Result<Vec<usize>> {
    let mut fds = vec![PollFd::new(&parking.ear, PollFlags::IN)];
    fds.extend(parked.iter().map(Parked::fd));
    match poll(&mut fds, None) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let ended = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL | ENDED;
    let mut ready = Vec::new();
    for (at, fd) in fds[1..].iter().enumerate().filter(|(_, fd)| !fd.revents().is_empty()) {
        if fd.revents().intersects(ended) {
            parked[at].connection.cut("the client has gone");
        } else {
            ready.push(at);
        }
    }
    Ok(ready)
}
