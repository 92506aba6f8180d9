//! The leader: it collects entries in batches, replicates them and replies.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::mem;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use crate::REPLY_HEADER_BYTES;
use crate::error::{Context, Error};
use crate::follower::NUMBER_BYTES;
use crate::log::Log;
use crate::server;

/// How much a connection's thread takes from its socket at a time, at least one entry.
const READ_BYTES: usize = 64 << 10;
/// The leader's own place among the members.
const LEADER: usize = 0;

pub(crate) fn serve(log: &Path, entry_bytes: usize, followers: &[SocketAddr]) -> Result<(), Error> {
    let log = Log::open(log)?;
    let (listener, addr) = server::listen()?;
    let followers = connect(followers).context(|| "connecting to the followers".to_owned())?;
    let buffer_bytes = READ_BYTES.max(entry_bytes);
    let inbox = Arc::new(Inbox::default());
    let commits = Arc::new(Commits::new(buffer_bytes / entry_bytes));
    for (at, follower) in followers.iter().enumerate() {
        let follower = Arc::clone(follower);
        let commits = Arc::clone(&commits);
        server::spawn_vital("hearing from a follower", move || {
            hear(&follower, LEADER + 1 + at, &commits)
        })?;
    }
    server::spawn_vital("replicating", {
        let inbox = Arc::clone(&inbox);
        move || replicate(&inbox, &commits, &followers, log)
    })?;
    let receive = move |stream| receive(&Arc::new(stream), entry_bytes, buffer_bytes, &inbox);
    server::spawn_vital("accepting connections", move || server::accept_all(&listener, receive))?;
    server::announce(addr)
}

fn connect(followers: &[SocketAddr]) -> io::Result<Vec<Arc<TcpStream>>> {
    let connect = |addr| {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        Ok(Arc::new(stream))
    };
    followers.iter().map(connect).collect()
}

/// The next batch, while it grows.
#[derive(Default)]
struct Inbox {
    batch: Mutex<Batch>,
    filled: Condvar,
}

struct Batch {
    /// Room for the length, then the entries.
    bytes: Vec<u8>,
    callers: Vec<Caller>,
}

/// Who waits for replies to entries of one batch, and to how many.
struct Caller {
    stream: Arc<TcpStream>,
    requests: usize,
}

impl Default for Batch {
    fn default() -> Batch {
        Batch { bytes: vec![0; NUMBER_BYTES], callers: Vec::new() }
    }
}

impl Inbox {
    fn add(&self, entries: &[u8], caller: Caller) {
        let mut batch = self.batch.lock().expect("no thread panics with it");
        batch.bytes.extend_from_slice(entries);
        batch.callers.push(caller);
        let is_first = batch.callers.len() == 1;
        drop(batch);
        if is_first {
            self.filled.notify_one();
        }
    }

    /// Waits until the next batch has an entry, and takes it. `empty` takes its place.
    fn take(&self, empty: Batch) -> Batch {
        let batch = self.batch.lock().expect("no thread panics with it");
        let mut batch = self
            .filled
            .wait_while(batch, |batch| batch.callers.is_empty())
            .expect("no thread panics with it");
        mem::replace(&mut *batch, empty)
    }
}

/// A connection's thread.
fn receive(
    stream: &Arc<TcpStream>,
    entry_bytes: usize,
    buffer_bytes: usize,
    inbox: &Inbox,
) -> io::Result<()> {
    let mut buffer = vec![0; buffer_bytes];
    let mut held_bytes = 0;
    loop {
        let received_bytes = (&**stream).read(&mut buffer[held_bytes..])?;
        if received_bytes == 0 {
            return Ok(());
        }
        held_bytes += received_bytes;
        let requests = held_bytes / entry_bytes;
        if requests > 0 {
            let whole_bytes = requests * entry_bytes;
            inbox.add(&buffer[..whole_bytes], Caller { stream: Arc::clone(stream), requests });
            buffer.copy_within(whole_bytes..held_bytes, 0);
            held_bytes -= whole_bytes;
        }
    }
}

/// The thread that makes batches durable, one after the other.
fn replicate(
    inbox: &Inbox,
    commits: &Commits,
    followers: &[Arc<TcpStream>],
    mut log: Log,
) -> io::Result<()> {
    let mut batch = Batch::default();
    for number in 1.. {
        batch.bytes.truncate(NUMBER_BYTES);
        batch = inbox.take(batch);
        let len_bytes = batch.bytes.len() as u64;
        batch.bytes[..NUMBER_BYTES].copy_from_slice(&len_bytes.to_le_bytes());
        commits.begin(number, mem::take(&mut batch.callers));
        for follower in followers {
            (&**follower).write_all(&batch.bytes)?;
        }
        log.append(&batch.bytes)?;
        commits.on_disk(LEADER, number);
    }
    Ok(())
}

/// The thread that reads a follower's acknowledgements.
fn hear(mut follower: &TcpStream, member: usize, commits: &Commits) -> io::Result<()> {
    let mut number = [0; NUMBER_BYTES];
    loop {
        follower.read_exact(&mut number)?;
        commits.on_disk(member, u64::from_le_bytes(number));
    }
}

/// Which batches are on which disks, and who waits for them.
struct Commits {
    progress: Mutex<Progress>,
    /// Replies to as many requests as one caller has in a batch. All replies are alike.
    replies: Vec<u8>,
}

#[derive(Default)]
struct Progress {
    /// The last batch on each member's disk.
    on_disk: [u64; 3],
    /// Batches that are not committed, with their numbers.
    waiting: VecDeque<(u64, Vec<Caller>)>,
}

impl Commits {
    fn new(requests_max: usize) -> Commits {
        let replies = vec![b'r'; requests_max * REPLY_HEADER_BYTES];
        Commits { progress: Mutex::default(), replies }
    }

    /// The batch `number` is about to be replicated.
    fn begin(&self, number: u64, callers: Vec<Caller>) {
        let mut progress = self.progress.lock().expect("no thread panics with it");
        progress.waiting.push_back((number, callers));
    }

    /// All batches up to `number` are on the member's disk. Replies to those that this commits.
    fn on_disk(&self, member: usize, number: u64) {
        let committed = {
            let mut progress = self.progress.lock().expect("no thread panics with it");
            progress.on_disk[member] = number;
            progress.take_committed()
        };
        for (_, callers) in committed {
            for Caller { stream, requests } in callers {
                // Whoever has closed the connection needs no reply.
                let _ = (&*stream).write_all(&self.replies[..requests * REPLY_HEADER_BYTES]);
            }
        }
    }
}

impl Progress {
    fn take_committed(&mut self) -> Vec<(u64, Vec<Caller>)> {
        let mut on_disk = self.on_disk;
        on_disk.sort_unstable();
        // The middle of three: two members have it.
        let committed = on_disk[1];
        let count = self.waiting.partition_point(|(number, _)| *number <= committed);
        self.waiting.drain(..count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_committed_on_two_disks() {
        let mut progress = Progress::default();
        progress.waiting.extend([1, 2, 3].map(|number| (number, Vec::new())));
        let mut committed_by = |member: usize, number| {
            progress.on_disk[member] = number;
            progress.take_committed().iter().map(|(number, _)| *number).collect::<Vec<u64>>()
        };

        assert!(committed_by(LEADER, 2).is_empty());
        assert_eq!(committed_by(2, 1), [1]);
        assert_eq!(committed_by(1, 3), [2]);
        assert!(committed_by(2, 2).is_empty());
        assert_eq!(committed_by(LEADER, 3), [3]);
    }
}
