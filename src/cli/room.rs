//! Computes how many connections the system's limits leave room for.
//!
//! A connection takes a descriptor and one or two threads. A member that runs out of either cannot
//! even refuse a client, and a restarted peer cannot reach it. So a member allows only as many
//! connections as fit beside everything else it needs, under each of these limits:
//!
//! | limit | on | counted for |
//! | --- | --- | --- |
//! | `RLIMIT_NOFILE` | descriptors | the process |
//! | `RLIMIT_NPROC` | threads | the user, unless that is root |
//! | `pids.max` | threads | the control group (version 1 or 2) of the process, and each one above |
//!
//! If other processes use up what was free at the start, the server makes room by itself
//! (`rpc::server`).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, getuid, setrlimit};
use syncraft::rpc::{Limits, http};

/// Descriptors of the log, of snapshots, and of HTTP connections that have asked nothing yet.
const DESCRIPTORS_OF_MEMBER: u64 = 78;
/// Connections of reserved services that the server accepts beyond the limit.
const CONNECTIONS_RESERVED: u64 = 72;

/// The threads of a connection: a reader and, while the client is slow to read, a writer.
const THREADS_PER_CONNECTION: u64 = 2;
/// Connections without a call that the server accepts beyond the limit.
const CONNECTIONS_ON_TRIAL: u64 = 8;
/// Threads of the member itself, and of large reads: see ARCHITECTURE.md.
const THREADS_OF_MEMBER: u64 = 40;
/// Connections to a peer: one for entries and snapshots, one for all other messages, three for the
/// lanes if the peer leads, and one to tell it where etcd's clients are served. The server accepts
/// as many from the peer, beyond the limit.
const CONNECTIONS_TO_PEER: u64 = 6;
/// The threads of each: one that reads, one for deadlines and, while the peer is slow to read, a
/// writer.
const THREADS_PER_CONNECTION_TO_PEER: u64 = 3;
/// Connections from a peer. Those of a peer that has just restarted may still be there.
const CONNECTIONS_FROM_PEER: u64 = 2 * CONNECTIONS_TO_PEER;
/// Threads per peer: those of all these connections, one that keeps the connections to it, and one
/// that sends a snapshot.
const THREADS_PER_PEER: u64 = CONNECTIONS_TO_PEER * THREADS_PER_CONNECTION_TO_PEER
    + CONNECTIONS_FROM_PEER * THREADS_PER_CONNECTION
    + 2;

/// Of the connections that fit, each HTTP port may have one in so many.
const SHARE_OF_HTTP: usize = 4;

/// Raises the soft limits to the hard ones, and lowers the limits on connections to what fits
/// beside `peers` other members. `fronts`: the limits of the ports that speak HTTP.
pub(super) fn fit_connections(limits: &mut Limits, fronts: Vec<&mut http::Limits>, peers: usize) {
    let descriptors = raised(Resource::Nofile, "open files").map(|limit| {
        (
            for_descriptors(limit, peers as u64),
            format!("the system allows {limit} open files (ulimit -Hn)"),
        )
    });
    let threads = threads_left().map(|Left { threads, limit }| {
        (
            for_threads(threads, peers as u64),
            format!("there is room for {threads} more threads: {limit}"),
        )
    });
    let tightest = descriptors.into_iter().chain(threads).min_by_key(|(fit, _)| *fit);
    let Some((fit, why)) = tightest else { return };
    let mut left = fit;
    for front in fronts {
        let (rest, fit_http) = shared(left, fit, front.connections_max);
        if fit_http < front.connections_max {
            log::warn!("this member allows at most {fit_http} connections to an HTTP port: {why}");
            front.connections_max = fit_http;
        }
        left = rest;
    }
    let fit = left;
    if fit < limits.connections_max {
        log::warn!("this member allows at most {fit} connections: {why}");
        limits.connections_max = fit;
    }
}

/// Of the connections that are left of those that fit, those that are left then, and those of an
/// HTTP port, which wants this many.
fn shared(left: usize, fit: usize, wanted: usize) -> (usize, usize) {
    let of_http = wanted.min(fit / SHARE_OF_HTTP).max(1);
    (left.saturating_sub(of_http).max(1), of_http)
}

fn for_descriptors(descriptors: u64, peers: u64) -> usize {
    let beyond = CONNECTIONS_RESERVED + CONNECTIONS_ON_TRIAL;
    let kept = DESCRIPTORS_OF_MEMBER + beyond + CONNECTIONS_TO_PEER * peers;
    // Under a tight limit, clients still get a quarter.
    let fit = descriptors.saturating_sub(kept).max(descriptors / 4).max(1);
    fit.try_into().unwrap_or(usize::MAX)
}

fn for_threads(threads: u64, peers: u64) -> usize {
    let on_trial = THREADS_PER_CONNECTION * CONNECTIONS_ON_TRIAL;
    let kept = THREADS_OF_MEMBER + THREADS_PER_PEER * peers + on_trial;
    let fit = threads.saturating_sub(kept).max(threads / 4) / THREADS_PER_CONNECTION;
    fit.max(1).try_into().unwrap_or(usize::MAX)
}

/// Raises the soft limit on open files to the hard one: a cluster in one process has the
/// connections of all its members, at both ends.
pub(super) fn raise_open_files() {
    let _ = raised(Resource::Nofile, "open files");
}

/// Raises a soft limit to the hard one, and returns the resulting limit; `None`: no limit.
fn raised(resource: Resource, what: &str) -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(resource);
    if current != maximum
        && let Err(error) = setrlimit(resource, Rlimit { current: maximum, maximum })
    {
        log::warn!("cannot raise the limit on {what} from {current:?} to {maximum:?}: {error}");
    }
    getrlimit(resource).current
}

/// How many threads may still be started.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    threads: u64,
    /// The limit, as text for the log.
    limit: String,
}

/// The threads left under the tightest limit; `None`: no limit.
fn threads_left() -> Option<Left> {
    // Absent where there are no control groups.
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let groups = groups(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
    let left = groups.iter().filter_map(|group| left_in(group));
    left.chain(left_to_user()).min_by_key(|left| left.threads)
}

fn left_to_user() -> Option<Left> {
    let limit = raised(Resource::Nproc, "processes")?;
    let uid = getuid().as_raw();
    // The limit does not bind root, but it does bind a user who is root only in a user namespace.
    let has_all_users = |map: String| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
    if uid == 0 && fs::read_to_string("/proc/self/uid_map").map_or(true, has_all_users) {
        return None;
    }
    let threads = limit.saturating_sub(threads_of(uid));
    Some(Left { threads, limit: format!("the user may have {limit} (ulimit -Hu)") })
}

/// Counts the threads of this user's processes, as far as `/proc` shows them.
fn threads_of(uid: u32) -> u64 {
    let Ok(entries) = fs::read_dir("/proc") else { return 0 };
    let is_process = |entry: &fs::DirEntry| {
        let is_number = entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit());
        // A process that has ended in the meantime is not counted.
        is_number && entry.metadata().is_ok_and(|metadata| metadata.uid() == uid)
    };
    let processes = entries.filter_map(Result::ok).filter(is_process);
    let threads =
        processes.filter_map(|it| Some(fs::read_dir(it.path().join("task")).ok()?.count()));
    threads.sum::<usize>() as u64
}

/// The control groups that count this process's threads: the innermost ones and all above them.
fn groups(mountinfo: &str, cgroup: &str) -> Vec<PathBuf> {
    let mounts = mountinfo.lines().filter_map(Mount::parse);
    mounts.filter_map(|mount| mount.groups(cgroup)).flatten().collect()
}

/// Where a hierarchy of control groups is mounted.
struct Mount<'a> {
    /// The group that is visible at `at`.
    root: &'a Path,
    at: &'a Path,
    is_v2: bool,
}

impl Mount<'_> {
    /// Parses a line of `/proc/self/mountinfo`:
    /// `id parent device root at options ... - type source super-options`.
    fn parse(line: &str) -> Option<Mount<'_>> {
        let (of_mount, of_filesystem) = line.split_once(" - ")?;
        let mut words = of_mount.split(' ').skip(3);
        let (root, at) = (Path::new(words.next()?), Path::new(words.next()?));
        let mut words = of_filesystem.split(' ');
        let is_v2 = match words.next()? {
            "cgroup2" => true,
            "cgroup" if words.nth(1)?.split(',').any(|it| it == "pids") => false,
            _ => return None,
        };
        Some(Mount { root, at, is_v2 })
    }

    /// This process's group according to `/proc/self/cgroup` (`number:controllers:path`), and the
    /// groups above it.
    fn groups(&self, cgroup: &str) -> Option<Vec<PathBuf>> {
        let own = cgroup.lines().find_map(|line| {
            let mut words = line.splitn(3, ':').skip(1);
            let (controllers, path) = (words.next()?, words.next()?);
            let is_own = match self.is_v2 {
                true => controllers.is_empty(),
                false => controllers.split(',').any(|it| it == "pids"),
            };
            is_own.then_some(path)
        })?;
        // A container may see its own group as the top one.
        let below = Path::new(own).strip_prefix(self.root).unwrap_or(Path::new(""));
        Some(below.ancestors().map(|below| self.at.join(below)).collect())
    }
}

fn left_in(group: &Path) -> Option<Left> {
    let number = |name| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    // "max" means no limit, and the top group has no such files.
    let (limit, current) = (number("pids.max")?, number("pids.current")?);
    let limit_in_words = format!("{} is {limit}", group.join("pids.max").display());
    Some(Left { threads: limit.saturating_sub(current), limit: limit_in_words })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_rest() {
        let cases =
            [(1 << 20, (1 << 20) - 170), (1024, 854), (256, 86), (160, 40), (64, 16), (0, 1)];
        for (descriptors, fit) in cases {
            assert_eq!(for_descriptors(descriptors, 2), fit, "of {descriptors}");
        }
        assert_eq!(for_descriptors(1024, 14), 854 - 12 * 6);
    }

    #[test]
    fn connections_leave_threads_for_the_rest() {
        let cases = [(100_000, 49_928), (1024, 440), (300, 78), (60, 7), (4, 1), (0, 1)];
        for (threads, fit) in cases {
            assert_eq!(for_threads(threads, 2), fit, "of {threads}");
        }
    }

    #[test]
    fn each_http_port_gets_a_quarter_at_most() {
        for (left, fit, wanted, expected) in [
            (1000, 1000, 1024, (750, 250)),
            (750, 1000, 1024, (500, 250)),
            (100_000, 100_000, 1024, (98_976, 1024)),
            (1, 1, 1024, (1, 1)),
        ] {
            assert_eq!(shared(left, fit, wanted), expected, "of {fit}");
        }
    }

    /// `mountinfo` of a hierarchy that is mounted at `at`.
    fn mountinfo(at: &Path, root: &str, filesystem: &str) -> String {
        format!(
            "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw\n\
            39 31 0:36 {root} {} rw,relatime shared:9 - {filesystem}\n",
            at.display()
        )
    }

    fn check(
        root: &str,
        filesystem: &str,
        cgroup: &str,
        limits: &[(&str, &str)],
        left: Option<u64>,
    ) {
        let dir = tempfile::tempdir().unwrap();
        for (group, limit) in limits {
            let group = dir.path().join(group);
            fs::create_dir_all(&group).unwrap();
            fs::write(group.join("pids.max"), limit).unwrap();
            fs::write(group.join("pids.current"), "10\n").unwrap();
        }
        let groups = groups(&mountinfo(dir.path(), root, filesystem), cgroup);
        let found = groups.iter().filter_map(|group| left_in(group)).map(|left| left.threads).min();
        assert_eq!(found, left, "{groups:?}");
    }

    #[test]
    fn limits_of_control_groups_of_both_versions_are_found() {
        let (v1, v2) = ("cgroup cgroup rw,pids", "cgroup2 cgroup2 rw,nsdelegate");
        let (of_v1, of_v2) = ("8:pids:/a/b\n0::/\n", "0::/a/b\n");
        check("/", v1, of_v1, &[("a/b", "300\n")], Some(290));
        check("/", v2, of_v2, &[("a/b", "300\n")], Some(290));
        // That of a group above counts, too.
        check("/", v2, of_v2, &[("a/b", "max\n"), ("a", "100\n")], Some(90));
        check("/", v2, of_v2, &[("a/b", "50\n"), ("a", "100\n")], Some(40));
        // A container that sees its group as the top one, with a namespace of its own and without.
        check("/", v2, "0::/\n", &[("", "300\n")], Some(290));
        check("/docker/1", v1, "8:cpu,pids:/docker/1\n", &[("", "300\n")], Some(290));
        // Used up.
        check("/", v2, of_v2, &[("a/b", "5\n")], Some(0));
        // None of ours, or no limit.
        check("/", v2, of_v2, &[("c", "5\n"), ("a", "max\n")], None);
        check("/", "cgroup cgroup rw,memory", of_v1, &[("a/b", "5\n")], None);
        check("/", v1, of_v2, &[("a/b", "5\n")], None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn threads_of_a_user_are_counted() {
        // Those of this process are among them; it has this test's and its caller's.
        let threads = threads_of(getuid().as_raw());
        assert!(threads >= 2, "{threads}");
    }
}
