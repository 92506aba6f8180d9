//! Whether the peer's TCP has acknowledged everything that was sent to it.
//!
//! A reset destroys what is not acknowledged, so a server asks before it resets. Linux answers in
//! `/proc/net/tcp`: each line names a socket by its inode and counts the bytes that the socket has
//! sent and the peer has not acknowledged. The table has a line for each socket of the machine, and
//! a server that stops asks for all of its connections at once. So one thread reads the table for
//! all threads that ask at the same time.
//!
//! # Left out
//!
//! Other systems. There the answer is always "not known".

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::net::time_left;

/// Pauses between looks. Most peers have acknowledged before the first look. The others mostly do
/// within 40 ms, when their TCP stops waiting for data to send along.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Waits until everything that was sent over `stream` is acknowledged, or `deadline`. True also if
/// the peer is gone. False also where the system does not say.
pub(super) fn wait(stream: &TcpStream, deadline: Instant) -> bool {
    let Ok(inode) = inode(stream) else { return false };
    let mut pause = PAUSE_MIN;
    loop {
        if stream.peer_addr().is_err() {
            return true;
        }
        let Ok(table) = table(Instant::now()) else { return false };
        // If sockets come and go while the kernel writes the table, it may miss one. Then look
        // again.
        if table.get(&inode) == Some(&0) {
            return true;
        }
        let Some(left) = time_left(deadline) else { return false };
        thread::sleep(pause.min(left));
        pause = (2 * pause).min(PAUSE_MAX);
    }
}

/// Unacknowledged bytes, by the inode of the socket.
type Table = HashMap<u64, u64>;

struct Look {
    began: Instant,
    table: Arc<Table>,
}

static LAST: Mutex<Option<Look>> = Mutex::new(None);

/// The table as it was at `since` or later.
fn table(since: Instant) -> io::Result<Arc<Table>> {
    let mut last = LAST.lock();
    if let Some(look) = last.as_ref().filter(|look| look.began >= since) {
        return Ok(Arc::clone(&look.table));
    }
    let began = Instant::now();
    let v4 = parse(&fs::read_to_string("/proc/thread-self/net/tcp")?);
    // Absent where the kernel has no IPv6.
    let v6 = fs::read_to_string("/proc/thread-self/net/tcp6").unwrap_or_default();
    let table: Arc<Table> = Arc::new(v4.into_iter().chain(parse(&v6)).collect());
    *last = Some(Look { began, table: Arc::clone(&table) });
    Ok(table)
}

/// Each line is
/// `sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode ...`,
/// with the numbers of bytes in hexadecimal.
fn parse(text: &str) -> Table {
    let row = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (sent, _) = words.nth(4)?.split_once(':')?;
        Some((words.nth(4)?.parse().ok()?, u64::from_str_radix(sent, 16).ok()?))
    };
    text.lines().skip(1).filter_map(row).collect()
}

fn inode(stream: &TcpStream) -> io::Result<u64> {
    Ok(File::from(OwnedFd::from(stream.try_clone()?)).metadata()?.ino())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use socket2::SockRef;

    use super::*;

    const SOON: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(120);

    #[test]
    fn lines_of_the_table_are_understood() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 123 1 0000 100 0\n   \
            1: 0100007F:1F90 0100007F:8000 01 000000FF:00000010 01:00000014 00000000  1000        0 456 2 0000 20 4\n\
            nonsense\n";
        assert_eq!(parse(text), Table::from([(123, 0), (456, 255)]));
    }

    fn pair(host: &str) -> Option<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind((host, 0)).ok()?;
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        Some((listener.accept().unwrap().0, peer))
    }

    #[test]
    fn what_the_peer_has_no_room_for_is_not_acknowledged_until_it_reads() {
        for host in ["127.0.0.1", "::1"] {
            let Some((mut stream, mut peer)) = pair(host) else {
                eprintln!("no {host} on this machine");
                continue;
            };
            assert!(wait(&stream, Instant::now() + LONG), "nothing was sent");
            stream.write_all(b"x").unwrap();
            assert!(wait(&stream, Instant::now() + LONG), "its TCP takes it, read or not");
            stream.set_write_timeout(Some(SOON)).unwrap();
            while stream.write_all(&[0; 1 << 16]).is_ok() {}
            assert!(!wait(&stream, Instant::now() + SOON));
            let reader = thread::spawn(move || peer.read_to_end(&mut Vec::new()).unwrap());
            assert!(wait(&stream, Instant::now() + LONG));
            drop(stream);
            reader.join().unwrap();
        }
    }

    #[test]
    fn a_peer_that_is_gone_is_not_waited_for() {
        let (mut stream, peer) = pair("127.0.0.1").unwrap();
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        let _ = stream.write_all(b"x");
        let began = Instant::now();
        assert!(wait(&stream, Instant::now() + LONG));
        assert!(began.elapsed() < LONG);
    }
}
