//! A member's disk: the real one, and a model of what the member was told is durable.
//!
//! Writes take effect in order and share flushes: writes submitted during a flush are written by
//! the next one. A flush takes effect when it is done. Before that nobody is told of it, and a
//! crash interrupts it anywhere.
//!
//! A start checks what the real storage has recovered: everything reported, and of the rest a
//! prefix, in this order: the hard state, the reset and the entries of each write.
//!
//! The model keeps the log from its first entry on, even where the member has forgotten it, so that
//! it can be checked.

use std::collections::VecDeque;

use syncraft::node::StateView;
use syncraft::raft::{
    Configuration, Entry, HardState, Index, Message, Persist, PersistId, SnapshotMeta, Standing,
    Term,
};
use syncraft::storage::{Identity, Snapshot, Snapshots, StorageError, Wal};

use crate::device::{Device, Found, Loss, Open};
use crate::durable::Durable;

pub(crate) struct Disk {
    device: Device,
    open: Option<Open>,
    /// What was reported.
    durable: Durable,
    /// The same, as it was before the data was lost.
    lost: Durable,
    /// Submitted writes, each with the time at which it will be durable.
    pending: VecDeque<(u64, Write)>,
    /// Writes that were handed to the log and failed because the disk was full.
    unsynced: Vec<Persist>,
    is_full: bool,
    is_recorded: bool,
    /// Writes that the last life had submitted and that were never reported to it.
    unsure: Vec<Persist>,
    /// The newest flush: from when to when.
    flush_us: (u64, u64),
}

/// What to do to the log.
pub(crate) enum Write {
    Persist(Persist),
    /// A snapshot holds everything up to here.
    Release(Index),
    /// The member has all its data.
    Joined,
    /// The member, which has no data, belongs to this cluster.
    TakeCluster {
        cluster_id: u64,
        list_id: u64,
        standing: Standing,
    },
    /// The cluster has an id.
    RecordCluster(u64),
}

/// What may be reported now.
#[derive(Default)]
pub(crate) struct Flushed {
    pub(crate) last: Option<PersistId>,
    pub(crate) then: Vec<Message>,
    /// A segment was released, and will be used again.
    pub(crate) has_recycled: bool,
    pub(crate) has_joined: bool,
    /// It belongs to another cluster than it was started for, and begins anew.
    pub(crate) has_taken_cluster: bool,
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    PowerCut,
    Kill,
    /// In good order, if the disk allows.
    Stop,
}

/// What a start found.
pub(crate) struct Started {
    pub(crate) standing: Standing,
    pub(crate) hard_state: HardState,
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) is_torn: bool,
    /// The log had to begin anew after the snapshot.
    pub(crate) is_reset: bool,
    /// The snapshot's term was not on the disk before.
    pub(crate) is_term_news: bool,
    /// Some submitted write is not there.
    pub(crate) is_loss: bool,
}

impl Disk {
    pub(crate) fn new(
        identity: Identity,
        standing: Standing,
        segment_len_bytes: u64,
        seed: u64,
    ) -> Disk {
        Disk {
            device: Device::new(identity, standing, segment_len_bytes, seed),
            open: None,
            durable: Durable::default(),
            lost: Durable::default(),
            pending: VecDeque::new(),
            unsynced: Vec::new(),
            is_full: false,
            is_recorded: false,
            unsure: Vec::new(),
            flush_us: (0, 0),
        }
    }

    /// `committed` is everything that was ever committed, in order.
    ///
    /// # Errors
    ///
    /// The disk is full, or the process stops as arranged.
    ///
    /// # Panics
    ///
    /// If something is missing, or if something is there that nobody wrote.
    pub(crate) fn start(&mut self, committed: &[Entry]) -> Result<Started, StorageError> {
        assert!(self.open.is_none(), "only who is down can start");
        let (open, Found { snapshot, recovered }) = self.device.open()?;
        let base = snapshot.as_ref().map(Snapshot::meta);
        if let Some(base) = base {
            self.durable.store_snapshot(base, committed);
        }
        assert_eq!(self.durable.snapshot(), base, "the newest snapshot is there");
        let found = (recovered.hard_state, &recovered.entries[..]);
        let mut written = self.durable.clone();
        let mut is_found = written.recovered() == found;
        for persist in &self.unsure {
            written.write_by_records(persist, |written| is_found |= written.recovered() == found);
        }
        assert!(
            is_found,
            "what was durable: {:?}, then submitted: {:?}, found: {base:?}, {found:?}",
            self.durable, self.unsure
        );
        let is_loss = !self.unsure.is_empty() && written.recovered() != found;
        let (is_reset, is_term_news) = self.durable.recover(found);
        self.unsure.clear();
        let standing = open.dir.standing();
        self.open = Some(open);
        Ok(Started {
            standing,
            hard_state: recovered.hard_state,
            snapshot,
            entries: recovered.entries,
            is_torn: recovered.torn.is_some(),
            is_reset,
            is_term_news,
            is_loss,
        })
    }

    /// Begins a start that dies after this many operations, if it takes as many.
    pub(crate) fn start_in_vain(&mut self, ops: u64, is_power_lost: bool) {
        self.device.stop_after(ops);
        drop(self.device.open());
        self.device.restart(is_power_lost);
    }

    /// Queues a write. A flush that begins for it takes `duration_us`. Returns when it will be
    /// durable.
    pub(crate) fn submit(&mut self, write: Write, now_us: u64, duration_us: u64) -> u64 {
        let (start_us, done_us) = self.flush_us;
        let is_joined = now_us <= start_us && !self.pending.is_empty();
        if !is_joined {
            let start_us = done_us.max(now_us);
            self.flush_us = (start_us, start_us + duration_us);
        }
        self.pending.push_back((self.flush_us.1, write));
        self.flush_us.1
    }

    /// The device does nothing else for `duration_us`.
    pub(crate) fn stall(&mut self, now_us: u64, duration_us: u64) {
        let (start_us, done_us) = self.flush_us;
        self.flush_us = (start_us, done_us.max(now_us + duration_us));
    }

    /// Writes everything that is due, as a node's log thread does.
    ///
    /// # Errors
    ///
    /// The disk is full: the rest waits for another attempt. Any other error ends this life.
    pub(crate) fn flush(&mut self, now_us: u64, flushed: &mut Flushed) -> Result<(), StorageError> {
        let result = self.try_flush(now_us, flushed);
        self.is_full = matches!(&result, Err(error) if error.is_full());
        result
    }

    fn try_flush(&mut self, now_us: u64, flushed: &mut Flushed) -> Result<(), StorageError> {
        self.sync(flushed)?;
        while self.pending.front().is_some_and(|(done_us, _)| *done_us <= now_us) {
            let Some((_, write)) = self.pending.front() else { break };
            let open = self.open.as_mut().expect("a running member's disk is open");
            match write {
                Write::Release(_) => {}
                // What was written before is durable first.
                Write::TakeCluster { .. } | Write::RecordCluster(_)
                    if !self.unsynced.is_empty() =>
                {
                    self.sync(flushed)?;
                    continue;
                }
                Write::Joined => open.dir.mark_joined()?,
                Write::RecordCluster(cluster_id) => {
                    open.dir.record_cluster(*cluster_id)?;
                    self.is_recorded = true;
                }
                &Write::TakeCluster { cluster_id, list_id, standing } => {
                    open.dir.take_cluster(cluster_id, list_id, standing)?;
                    self.is_recorded = cluster_id != list_id || standing == Standing::Voter;
                }
                // Earlier writes are synced first: see there.
                Write::Persist(persist) if persist.reset.is_none() || self.unsynced.is_empty() => {
                    append(&mut open.wal, persist)?;
                }
                Write::Persist(_) => {
                    self.sync(flushed)?;
                    continue;
                }
            }
            match self.pending.pop_front() {
                Some((_, Write::Persist(persist))) => self.unsynced.push(persist),
                Some((_, Write::Release(index))) => {
                    self.sync(flushed)?;
                    self.release(index, flushed)?;
                }
                Some((_, Write::Joined)) => flushed.has_joined = true,
                Some((_, Write::TakeCluster { .. })) => flushed.has_taken_cluster = true,
                Some((_, Write::RecordCluster(_))) | None => {}
            }
        }
        self.sync(flushed)
    }

    fn sync(&mut self, flushed: &mut Flushed) -> Result<(), StorageError> {
        if self.unsynced.is_empty() {
            return Ok(());
        }
        self.open.as_mut().expect("a running member's disk is open").wal.sync()?;
        for persist in self.unsynced.drain(..) {
            self.durable.write_by_records(&persist, |_| ());
            flushed.last = Some(persist.id);
            flushed.then.extend(persist.then);
        }
        Ok(())
    }

    /// A full disk is no reason to fail here.
    fn release(&mut self, index: Index, flushed: &mut Flushed) -> Result<(), StorageError> {
        let wal = &mut self.open.as_mut().expect("a running member's disk is open").wal;
        match wal.release_through(index) {
            Err(error) if !error.is_full() => return Err(error),
            _ => {}
        }
        flushed.has_recycled |= self.device.has_recycled();
        Ok(())
    }

    /// A life ends. The flush under way gets as far as it may; the writes behind it may follow.
    pub(crate) fn die(&mut self, death: Death, rng: &mut fastrand::Rng) {
        let pending = self.pending.drain(..).filter_map(|(_, write)| match write {
            Write::Persist(persist) => Some(persist),
            _ => None,
        });
        let pending: Vec<Persist> = pending.collect();
        if let Some(Open { mut wal, snapshots, .. }) = self.open.take() {
            if death != Death::Stop {
                let ops = if rng.bool() { 0 } else { rng.u64(1..8 + 4 * pending.len() as u64) };
                self.device.stop_after(ops);
            }
            // Nobody is told of a failure here.
            let _ = write_all(&mut wal, &pending);
            match death {
                Death::Stop => wal.close(),
                Death::Kill | Death::PowerCut => self.device.stop_after(0),
            }
            drop(snapshots);
        }
        self.unsure.extend(self.unsynced.drain(..).chain(pending));
        (self.flush_us, self.is_full) = ((0, 0), false);
    }

    /// Everything that the last life had open is gone.
    pub(crate) fn bury(&mut self, death: Death) {
        self.device.restart(death == Death::PowerCut);
    }

    /// Everything is gone, or about to be discarded by the next start.
    pub(crate) fn lose_data(&mut self, loss: Loss, seed: u64) {
        self.lost = std::mem::take(&mut self.durable);
        self.unsure.clear();
        self.is_recorded &= loss == Loss::Known;
        self.device.lose_data(loss, seed);
    }

    /// Whether the member has all its data, as far as the disk knows.
    pub(crate) fn is_voter(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.dir.standing() == Standing::Voter)
    }

    /// Whose data the directory holds, if the member is running.
    pub(crate) fn identity(&self) -> Option<Identity> {
        self.open.as_ref().map(|open| open.dir.identity())
    }

    /// Whether it is recorded that the log or a snapshot says who the members are. A directory of
    /// an older version knows its cluster without that, and cannot be made here.
    pub(crate) fn is_cluster_recorded(&self) -> bool {
        self.is_recorded
    }

    /// The random number of the directory, if the member is running.
    pub(crate) fn directory(&self) -> Option<u64> {
        self.open.as_ref().map(|open| open.dir.directory())
    }

    /// Whether the entry was there, and acknowledged, before the data was lost.
    pub(crate) fn had(&self, index: Index, term: Term) -> bool {
        self.lost.term_at(index) == Some(term)
    }

    pub(crate) fn device(&mut self) -> &mut Device {
        &mut self.device
    }

    /// Whether a write waits for space.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full
    }

    /// # Errors
    ///
    /// Those of storage. They cost this snapshot, unless the process stops.
    pub(crate) fn write_snapshot(
        &self,
        meta: SnapshotMeta,
        configuration: Option<&Configuration>,
        view: &impl StateView,
    ) -> Result<(), StorageError> {
        let Some(snapshots) = self.snapshots() else { return Ok(()) };
        let mut writer = snapshots.create(meta, configuration)?;
        // The error that the view meets is the writer's own, and it returns it again.
        let _ = view.write(&mut writer);
        writer.finish().map(drop)
    }

    pub(crate) fn snapshots(&self) -> Option<&Snapshots> {
        self.open.as_ref().map(|open| &open.snapshots)
    }

    /// The newest snapshot on the disk is known to be at least this one.
    pub(crate) fn stored_snapshot(&mut self, snapshot: SnapshotMeta, committed: &[Entry]) {
        self.durable.store_snapshot(snapshot, committed);
    }

    pub(crate) fn snapshot_index(&self) -> Index {
        self.durable.snapshot_index()
    }

    pub(crate) fn snapshot(&self) -> Option<SnapshotMeta> {
        self.durable.snapshot()
    }

    pub(crate) fn hard_state(&self) -> HardState {
        self.durable.hard_state()
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        self.durable.entries()
    }

    /// As a start would find it.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        self.durable.term_at(index)
    }
}

/// As a node does it: the hard state is durable before the log begins anew. After a full disk, all
/// of it may be repeated.
fn append(wal: &mut Wal, persist: &Persist) -> Result<(), StorageError> {
    if let Some(snapshot) = persist.reset {
        wal.append(persist.hard_state, &[])?;
        wal.sync()?;
        wal.reset(snapshot)?;
    }
    wal.append(persist.hard_state, &persist.entries)
}

fn write_all(wal: &mut Wal, pending: &[Persist]) -> Result<(), StorageError> {
    wal.sync()?;
    for persist in pending {
        append(wal, persist)?;
        wal.sync()?;
    }
    Ok(())
}
