//! What disks do to members: flushes that take time, space that runs out and comes back, syncs that
//! fail.

use syncraft::raft::{Event, Message, PersistId};

use super::{What, World};
use crate::disk::{Flushed, Write};

/// Between attempts to write to a full disk, or to start on one.
const FULL_DISK_PAUSE_US: u64 = 200_000;

impl World {
    pub(super) fn submit(&mut self, at: usize, write: Write) {
        let duration_us = self.disk_rng.u64(self.plan.disk_us.clone());
        let done_us = self.members[at].disk.submit(write, self.now_us, duration_us);
        self.at(done_us, What::Written(self.who(at)));
    }

    /// A flush is done for all writes that shared it. Or it has to be retried, or it failed and the
    /// member stops.
    pub(super) fn written(&mut self, at: usize) {
        let (mut flushed, was_full) = (Flushed::default(), self.members[at].disk.is_full());
        let result = self.members[at].disk.flush(self.now_us, &mut flushed);
        let Flushed { last, then, has_recycled, has_joined, has_taken_cluster } = flushed;
        if has_recycled {
            self.count("segment recycled");
        }
        if let Some(last) = last {
            self.report(at, last, then);
        }
        if has_joined {
            self.post(at, Event::Joined);
        }
        if has_taken_cluster {
            self.count("cluster taken");
            return self.crash(at);
        }
        match result {
            Ok(()) if was_full => {
                self.count("disk full, then not");
                self.post(at, Event::DiskFull(false));
            }
            Ok(()) => {}
            Err(error) if error.is_full() => {
                if !was_full {
                    self.trace_of(at, || format!("waits: {error}"));
                    self.count("disk full");
                    self.post(at, Event::DiskFull(true));
                }
                self.after(FULL_DISK_PAUSE_US, What::Written(self.who(at)));
            }
            Err(error) => {
                self.trace_of(at, || format!("stops: {error}"));
                self.count("member stopped by its disk");
                self.crash(at);
            }
        }
    }

    fn report(&mut self, at: usize, last: PersistId, then: Vec<Message>) {
        let Some(living) = &mut self.members[at].living else { return };
        if living.is_paused {
            living.outbox.extend(then);
            return living.inbox.push(Event::Persisted(last));
        }
        let is_told_first = self.disk_rng.bool();
        if is_told_first {
            self.post(at, Event::Persisted(last));
        }
        then.into_iter().for_each(|message| self.send(at, message));
        if !is_told_first {
            self.post(at, Event::Persisted(last));
        }
    }

    pub(super) fn start(&mut self, at: usize) {
        if self.members[at].is_gone {
            return;
        }
        if self.plan.faults.crash > 0.0 && !self.is_calm && self.disk_rng.u8(0..8) == 0 {
            let (ops, is_power_lost) = (self.disk_rng.u64(0..30), self.disk_rng.bool());
            self.trace_of(at, || format!("dies while it starts: power lost: {is_power_lost}"));
            self.count("crash in a start");
            self.members[at].disk.start_in_vain(ops, is_power_lost);
        }
        match self.members[at].start(&self.plan, self.now_us, self.oracle.all_committed()) {
            Ok(started) => self.started(at, &started),
            Err(error) if error.is_full() => {
                self.count("start on a full disk");
                self.after(FULL_DISK_PAUSE_US, What::Start(at));
            }
            Err(error) => panic!("member {} does not start: {error}", at + 1),
        }
    }

    pub(super) fn fill_disk(&mut self, at: usize) {
        let (writes, for_us) = (self.fault_rng.u64(1..8), self.fault_rng.u64(50_000..2_000_000));
        self.trace_of(at, || format!("has a full disk after {writes} writes"));
        self.members[at].disk.device().fill(writes);
        self.after(for_us, What::DiskFreed(at));
    }

    /// A failed sync in a start is just a failed start.
    pub(super) fn fail_sync(&mut self, at: usize) {
        if self.members[at].living.is_some() {
            self.trace_of(at, || "has a disk whose next sync fails");
            self.members[at].disk.device().fail_sync();
        }
    }

    pub(super) fn free_disk(&mut self, at: usize) {
        self.trace_of(at, || "has space again");
        self.members[at].disk.device().free();
    }
}
