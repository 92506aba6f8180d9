//! What an open stream costs that nothing is sent on. The test needs many descriptors, and measures
//! the memory of its process, so it runs alone.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use syncraft::rpc::http::Limits;

use super::support::*;
use crate::alone::alone;
use crate::support::wait_until;

/// As many as fit: each takes two descriptors in this process, one for each end.
const STREAMS_MAX: usize = 10_000;

/// What one of them may cost of the process's resident memory.
const BYTES_MAX: usize = 4096;

fn descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    limit.maximum.unwrap_or(u64::MAX) as usize
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn an_idle_stream_costs_little_memory_and_no_thread() {
    alone(|| {
        let count = STREAMS_MAX.min((descriptors() - 200) / 2);
        let mut limits = Limits::default();
        limits.connections_max = count + 10;
        let (server, held) = serve_with(limits);
        let open = |count: usize| -> Vec<Client> {
            let clients = (0..count).map(|_| {
                let mut client = Client::connect(server.local_addr());
                client.send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
                client
            });
            clients.collect()
        };
        // What the first threads and buffers take is not counted.
        let mut clients = open(count / 10);
        held.wait_streams(clients.len());
        wait_until("their threads have left", || threads() < 10);
        let (before, first) = (resident_bytes(), clients.len());
        clients.extend(open(count - first));
        held.wait_streams(count);
        wait_until("their threads have left", || threads() < 10);
        let each = resident_bytes().saturating_sub(before) / (count - first);
        println!("{each} bytes for each of {} streams", count - first);
        assert!(each <= BYTES_MAX, "{each} bytes for each of {} streams", count - first);
        // All are served, and all are noticed to go.
        let streams: Vec<_> = (0..count).map(|_| held.stream()).collect();
        for (client, stream) in clients.iter_mut().zip(&streams).step_by(100) {
            assert_eq!(client.head().status, 200);
            stream.try_send(b"more").unwrap();
        }
        drop(clients);
        held.wait_over(count);
        wait_until("they end", || server.stats().connections == 0);
    });
}
