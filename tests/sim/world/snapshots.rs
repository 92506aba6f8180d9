//! Snapshots: when they are taken, and what becomes of received ones.

use syncraft::kv::StoreView;
use syncraft::raft::{
    AppendEntriesReply, Body, Configuration, Effect, Event, Index, Message, Reply, Request,
    SnapshotMeta, Status, Term,
};
use syncraft::storage::Snapshot;

use super::{What, World};
use crate::disk::Started;
use crate::member::Living;

impl World {
    /// Something was applied: perhaps a snapshot of it begins.
    pub(super) fn draw_snapshot(&mut self, at: usize) {
        if self.snapshot_rng.f64() < self.plan.snapshot {
            self.take_snapshot(at);
        }
    }

    /// A snapshot begins, unless one is being written. It is written later, and the state goes on.
    pub(super) fn take_snapshot(&mut self, at: usize) {
        let is_recorded =
            self.members[at].disk.identity().is_some_and(|identity| identity.cluster_id != 0);
        let Some(living) = &mut self.members[at].living else { return };
        // A snapshot names the cluster, by its configuration or as the directory knows it.
        if !is_recorded && living.machine.configuration().is_none() {
            return;
        }
        if std::mem::replace(&mut living.is_snapshotting, true) {
            return;
        }
        let configuration = living.machine.configuration().cloned();
        let (index, view) = living.machine.view();
        let delay_us = self.snapshot_rng.u64(self.plan.disk_us.clone());
        self.after(
            delay_us,
            What::SnapshotTaken(self.who(at), index, configuration, Box::new(view)),
        );
    }

    pub(super) fn snapshot_taken(
        &mut self,
        at: usize,
        index: Index,
        configuration: Option<&Configuration>,
        view: &StoreView,
    ) {
        let snapshot = self.oracle.snapshot_at(index);
        let is_interrupted = self.draw_death(at);
        let result = self.members[at].disk.write_snapshot(snapshot, configuration, view);
        if is_interrupted {
            self.count("crash while a snapshot is written");
            return self.crash(at);
        }
        if let Some(living) = &mut self.members[at].living {
            living.is_snapshotting = false;
        }
        match result {
            Ok(()) => {
                self.count("snapshot taken");
                self.stored(at, snapshot);
                self.post(at, Event::SnapshotTaken(snapshot));
            }
            Err(error) => {
                self.trace_of(at, || format!("has no snapshot {index}: {error}"));
                self.count("snapshot not taken");
            }
        }
    }

    /// If there are crashes at all, some of them interrupt the work on a snapshot's files.
    pub(super) fn draw_death(&mut self, at: usize) -> bool {
        let is_drawn = self.plan.faults.crash > 0.0 && self.snapshot_rng.u8(0..20) == 0;
        if is_drawn {
            self.members[at].disk.device().stop_after(self.snapshot_rng.u64(1..8));
        }
        is_drawn
    }

    fn stored(&mut self, at: usize, snapshot: SnapshotMeta) {
        self.trace_of(at, || format!("stores {snapshot:?}"));
        self.members[at].disk.stored_snapshot(snapshot, self.oracle.all_committed());
    }

    /// All of it is on the disk and verified: the core is told a little later.
    pub(super) fn snapshot_arrived(&mut self, at: usize, message: Message, snapshot: Snapshot) {
        self.stored(at, snapshot.meta());
        self.draw_crash(at);
        let delay_us = self.snapshot_rng.u64(self.plan.disk_us.clone());
        self.after(delay_us, What::SnapshotStored(self.who(at), message, snapshot));
    }

    /// If there are crashes at all, they often fall between a snapshot's arrival and the end of its
    /// consequences.
    fn draw_crash(&mut self, at: usize) {
        if self.plan.faults.crash > 0.0 && self.snapshot_rng.u8(0..4) == 0 {
            let delay_us = self.snapshot_rng.u64(..3 * self.plan.disk_us.end);
            self.after(delay_us, What::Crash(self.who(at)));
        }
    }

    pub(super) fn snapshot_stored(&mut self, at: usize, message: Message, snapshot: Snapshot) {
        if let Some(living) = &mut self.members[at].living {
            living.received.push(snapshot);
        }
        self.post(at, Event::Message(message));
    }

    pub(super) fn install(&mut self, at: usize, meta: SnapshotMeta) {
        self.oracle.installs(&self.members[at], meta);
        let Some(living) = &mut self.members[at].living else { return };
        living.is_anew = true;
        let Living { machine, received, .. } = living;
        let received = received.iter().find(|snapshot| snapshot.meta() == meta);
        machine.load(received.expect("the core installs what has just arrived"));
        self.oracle.loaded(machine);
        self.after(0, What::Applied(self.who(at), meta.last_included_index));
    }

    /// A member has started: it knows as much as before.
    pub(super) fn started(&mut self, at: usize, started: &Started) {
        let member = &self.members[at];
        let Some(living) = &member.living else { return };
        let (id, life, status) = (member.id, member.life, living.status);
        assert!(status.snapshot_index >= member.snapshot_index, "a snapshot index never falls");
        assert_eq!(status.commit_index, status.snapshot_index, "that much is known at a start");
        let is_told = status.snapshot_index == member.snapshot_index;
        if started.snapshot.is_some() {
            self.oracle.loaded(&living.machine);
        }
        self.trace.line(self.now_us, || format!("{id} starts, life {life}"));
        for (is_so, name) in [
            (started.is_loss, "crash lost writes"),
            (started.is_torn, "torn tail cut"),
            (started.snapshot.is_some(), "restart from a snapshot"),
            (started.is_reset, "restart with a log that ends before the snapshot"),
            (started.is_term_news, "restart in the snapshot's term"),
            (!is_told, "snapshot stored by who is not told"),
        ] {
            if is_so {
                self.count(name);
            }
        }
        self.say_time(at);
        let phase_us = self.fault_rng.u64(..self.plan.tick_us[at]);
        self.after(phase_us, What::Tick(self.who(at)));
    }

    /// What became of the snapshots that arrived in a step.
    pub(super) fn count_snapshots(
        &mut self,
        at: usize,
        before: Status,
        snapshots: &[(Term, SnapshotMeta)],
        effects: &[Effect],
    ) {
        let Some(after) = self.members[at].living.as_ref().map(|it| it.status) else { return };
        for (term, snapshot) in snapshots {
            let index = snapshot.last_included_index;
            let is_installed = effects.contains(&Effect::Install(*snapshot));
            self.count(if *term < before.role.term {
                "snapshot refused"
            } else if is_installed {
                "snapshot installed"
            } else if index <= before.commit_index {
                "snapshot that was no news"
            } else if after.commit_index >= index && after.last_index > index {
                "snapshot kept what follows it"
            } else {
                "snapshot that ends the log"
            });
        }
        // A later leader may have replaced entries that matched in an earlier term of the same
        // batch: that answer is late, as any message may be.
        let is_stale = |effect: &Effect| {
            let Effect::Send(Message { term, body: Body::Reply(reply), .. }) = effect else {
                return false;
            };
            *term == after.role.term
                && matches!(reply, Reply::AppendEntries(AppendEntriesReply::Matched { match_index })
                    if *match_index > after.last_index)
        };
        assert!(!effects.iter().any(is_stale), "nobody matches what it has not");
    }
}

/// The snapshots that arrive among `events`, with their leader's term.
pub(super) fn among(events: &[Event]) -> Vec<(Term, SnapshotMeta)> {
    let snapshot = |event: &Event| match event {
        Event::Message(Message {
            term,
            body: Body::Request(Request::InstallSnapshot(snapshot)),
            ..
        }) => Some((*term, snapshot.meta)),
        _ => None,
    };
    events.iter().filter_map(snapshot).collect()
}
