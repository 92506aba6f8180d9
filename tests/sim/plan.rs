//! What a seed decides before anything runs.
//!
//! Each kind of fault is off in about half of all seeds: runs with few kinds of faults find bugs
//! that all of them together would hide. Tiny limits are drawn as often as normal ones.

use std::ops::Range;

use syncraft::kv::SessionLimits;
use syncraft::raft::{Config, MemberId};

use crate::commands::Kinds;
use crate::lies::Lie;

/// One tick of a member's clock at normal speed.
pub(crate) const TICK_US: u64 = 10_000;

/// How often, in virtual time, faults are drawn.
pub(crate) const FAULTS_EVERY_US: u64 = 20_000;

/// The names of the parts that can be switched off.
pub(crate) const PARTS: [&str; 30] = [
    "drop",
    "duplicate",
    "replay",
    "delay",
    "partition",
    "crash",
    "crash_all",
    "pause",
    "disconnect",
    "transfer",
    "depose",
    "wipe",
    "lease",
    "disk_stall",
    "disk_full",
    "sync_failure",
    "snapshot",
    "skew",
    "reorder",
    "batch",
    "clerks",
    "transactions",
    "limits",
    "compaction",
    "clock_jump",
    "leases",
    "requests",
    "campaign",
    "changes",
    "upgrade",
];

/// How many members may join the first ones.
pub(crate) const NEWCOMERS_MAX: u64 = 8;

/// Probabilities of faults: of the network's per message, of the others per draw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) drop: f64,
    pub(crate) duplicate: f64,
    pub(crate) replay: f64,
    pub(crate) delay_long: f64,
    pub(crate) partition: f64,
    pub(crate) crash: f64,
    pub(crate) crash_all: f64,
    pub(crate) pause: f64,
    pub(crate) false_disconnect: f64,
    /// A member is told to hand its leadership over.
    pub(crate) transfer: f64,
    /// A member is told to stand for election.
    pub(crate) campaign: f64,
    /// A clock jumps, or a machine has slept.
    pub(crate) clock_jump: f64,
    /// A leader under a lease is cut off from the others, who elect another one.
    pub(crate) depose: f64,
    /// A member loses its data.
    pub(crate) wipe: f64,
    pub(crate) disk_stall: f64,
    pub(crate) disk_full: f64,
    /// A sync fails, and its member stops.
    pub(crate) sync_failure: f64,
    /// An operator changes the members.
    pub(crate) change: f64,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) members: u64,
    pub(crate) faults: Faults,
    /// Messages of one link arrive in the order in which they were sent.
    pub(crate) is_fifo: bool,
    /// The peers notice a crash or a cut, as a closed socket.
    pub(crate) are_sockets_noticed: bool,
    pub(crate) delay_us: Range<u64>,
    pub(crate) disk_us: Range<u64>,
    pub(crate) apply_us: Range<u64>,
    /// How long a member gathers events before it steps them. Zero: each event alone.
    pub(crate) batch_us: u64,
    pub(crate) tick_us: Vec<u64>,
    pub(crate) safety_us: u64,
    pub(crate) request_every_us: u64,
    pub(crate) requests_at_once: Range<u64>,
    pub(crate) value_len: Range<usize>,
    pub(crate) clerks: Clerks,
    /// What a store remembers of clients.
    pub(crate) session_limits: SessionLimits,
    /// The probability of a snapshot each time that something was applied.
    pub(crate) snapshot: f64,
    /// The minimum length of a transfer's pieces.
    pub(crate) chunk_len_bytes: u64,
    pub(crate) segment_len_bytes: u64,
    /// Reads are served under leases.
    pub(crate) lease: bool,
    limits: Limits,
    /// The cluster is of a version without configurations, and all members know of them from this
    /// moment on.
    pub(crate) upgraded_at_us: Option<u64>,
    pub(crate) lie: Option<Lie>,
}

/// What clerks do.
#[derive(Clone, Debug)]
pub(crate) struct Clerks {
    pub(crate) count: usize,
    pub(crate) kinds: Kinds,
    /// Between two calls of one clerk.
    pub(crate) think_us: Range<u64>,
    /// How long a call may take, and one attempt of it.
    pub(crate) call_timeout_us: u64,
    pub(crate) attempt_timeout_us: u64,
}

#[derive(Clone, Debug)]
struct Limits {
    /// Heartbeat, shortest and longest election timeout: short ones make more elections.
    ticks: (u32, u32, u32),
    append_bytes_max: usize,
    window_messages_max: usize,
    window_bytes_max: usize,
    append_gather: (usize, usize),
    uncommitted_entries_max: u64,
    uncommitted_bytes_max: usize,
    reads_max: usize,
    apply_bytes_max: usize,
    log_tail_bytes_max: usize,
    log_catch_up_bytes_max: usize,
}

impl Plan {
    /// Whether all members know of configurations by now.
    pub(crate) fn is_upgraded(&self, now_us: u64) -> bool {
        self.upgraded_at_us.is_none_or(|at_us| now_us >= at_us)
    }

    pub(crate) fn draw(seed: u64) -> Plan {
        let rng = &mut fastrand::Rng::with_seed(seed);
        let members = pick(rng, &[1, 2, 3, 3, 3, 3, 4, 5, 5, 5, 6, 7]);
        let is_skewed = rng.u8(0..4) == 0;
        let lease = rng.u8(0..3) == 0;
        let at_once_max = pick(rng, &[1, 1, 4, 20]);
        let mut plan = Plan {
            seed,
            members,
            faults: Faults::draw(rng),
            is_fifo: rng.bool(),
            are_sockets_noticed: rng.bool(),
            delay_us: 100..pick(rng, &[1_000, 5_000, 20_000, 60_000]),
            disk_us: 50..pick(rng, &[100, 2_000, 10_000, 50_000, 200_000]),
            apply_us: 1..pick(rng, &[2, 1_000, 50_000]),
            batch_us: pick(rng, &[0, 0, 50, 2_000, 10_000]),
            tick_us: (0..members).map(|_| draw_tick_us(rng, is_skewed, lease)).collect(),
            lease,
            safety_us: rng.u64(4_000_000..20_000_000),
            request_every_us: at_once_max * pick(rng, &[10_000, 20_000, 50_000, 200_000]),
            requests_at_once: 1..at_once_max + 1,
            value_len: 0..pick(rng, &[1, 100, 1_000]),
            limits: Limits::draw(rng),
            clerks: Clerks::draw(rng),
            session_limits: SessionLimits {
                sessions_max: pick(rng, &[2, 3, 5, 100]),
                ..SessionLimits::default()
            },
            snapshot: pick(rng, &[0.0, 0.005, 0.02, 0.3]),
            chunk_len_bytes: pick(rng, &[100, 1_000, 1 << 20]),
            segment_len_bytes: pick(rng, &[4_096, 4_096, 8_192, 65_536]),
            upgraded_at_us: None,
            lie: None,
        };
        // Drawn last, so that the rest of a seed's plan stays as it was.
        plan.faults.depose = sometimes(rng, &[0.005, 0.02]);
        let limits = &mut plan.session_limits;
        limits.answer_kept_max = pick(rng, &[100, 400, 1 << 20]);
        limits.answers_kept_max = pick(rng, &[400, 1_000, 32 << 20]);
        plan.clerks.kinds.draw(rng);
        plan.faults.clock_jump = sometimes(rng, &[0.005, 0.03]);
        plan.session_limits.requests_max = pick(rng, &[1, 3, 100]);
        plan.clerks.kinds.has_requests = rng.u8(0..3) == 0;
        plan.faults.campaign = sometimes(rng, &[0.01, 0.1]);
        plan.limits.log_catch_up_bytes_max = pick(rng, &[0, 300, 3_000, 256 << 20]);
        plan.faults.change = sometimes(rng, &[0.02, 0.1, 0.3]);
        plan.upgraded_at_us = (rng.u8(0..6) == 0).then(|| rng.u64(0..4_000_000));
        plan.tick_us.extend((0..NEWCOMERS_MAX).map(|_| draw_tick_us(rng, is_skewed, lease)));
        plan
    }

    /// Switches off one of the [`PARTS`].
    pub(crate) fn switch_off(&mut self, part: &str) {
        let faults = &mut self.faults;
        match part {
            "drop" => faults.drop = 0.0,
            "duplicate" => faults.duplicate = 0.0,
            "replay" => faults.replay = 0.0,
            "delay" => faults.delay_long = 0.0,
            "partition" => faults.partition = 0.0,
            "crash" => faults.crash = 0.0,
            "crash_all" => faults.crash_all = 0.0,
            "pause" => faults.pause = 0.0,
            "disconnect" => faults.false_disconnect = 0.0,
            "transfer" => faults.transfer = 0.0,
            "campaign" => faults.campaign = 0.0,
            "clock_jump" => faults.clock_jump = 0.0,
            "depose" => faults.depose = 0.0,
            "wipe" => faults.wipe = 0.0,
            "lease" => self.lease = false,
            "disk_stall" => faults.disk_stall = 0.0,
            "disk_full" => faults.disk_full = 0.0,
            "sync_failure" => faults.sync_failure = 0.0,
            "snapshot" => self.snapshot = 0.0,
            "skew" => self.tick_us.fill(TICK_US),
            "reorder" => self.is_fifo = true,
            "batch" => self.batch_us = 0,
            "clerks" => self.clerks.count = 0,
            "transactions" => self.clerks.kinds.are_all = false,
            "limits" => self.clerks.kinds.has_limits = false,
            "compaction" => self.clerks.kinds.has_compaction = false,
            "requests" => self.clerks.kinds.has_requests = false,
            "leases" => self.clerks.kinds.has_leases = false,
            "changes" => faults.change = 0.0,
            "upgrade" => self.upgraded_at_us = None,
            _ => panic!("{part} is no part of a plan"),
        }
    }

    /// How many times as fast as the simulation's time the fastest clock runs.
    pub(crate) fn clock_rate_max(&self) -> f64 {
        let fastest_us = self.tick_us.iter().min().expect("there are members");
        TICK_US as f64 / *fastest_us as f64
    }

    /// The members with which the cluster begins.
    pub(crate) fn first_members(&self) -> Vec<MemberId> {
        (1..=self.members).map(MemberId).collect()
    }

    /// The configuration of one life of a member that is started with this list.
    pub(crate) fn config(&self, id: MemberId, life: u64, list: &[MemberId]) -> Config {
        let mut config = Config::new(id, list.iter().copied());
        (config.heartbeat_ticks, config.election_ticks_min, config.election_ticks_max) =
            self.limits.ticks;
        let rare = (2 * config.heartbeat_ticks).min(config.election_ticks_min / 3);
        config.rare_heartbeat_ticks = rare.max(config.heartbeat_ticks);
        config.append_bytes_max = self.limits.append_bytes_max;
        config.window_messages_max = self.limits.window_messages_max;
        config.window_bytes_max = self.limits.window_bytes_max;
        (config.append_gather_from, config.append_gather_bytes) = self.limits.append_gather;
        config.uncommitted_entries_max = self.limits.uncommitted_entries_max;
        config.uncommitted_bytes_max = self.limits.uncommitted_bytes_max;
        config.reads_max = self.limits.reads_max;
        config.apply_bytes_max = self.limits.apply_bytes_max;
        config.log_tail_bytes_max = self.limits.log_tail_bytes_max;
        config.log_catch_up_bytes_max = self.limits.log_catch_up_bytes_max;
        (config.lease, config.tick_us) = (self.lease, TICK_US);
        config.seed = self.seed ^ (life << 32);
        config
    }
}

impl Faults {
    fn draw(rng: &mut fastrand::Rng) -> Faults {
        Faults {
            drop: sometimes(rng, &[0.001, 0.02, 0.1, 0.3]),
            duplicate: sometimes(rng, &[0.01, 0.1, 0.5]),
            replay: sometimes(rng, &[0.001, 0.02, 0.1]),
            delay_long: sometimes(rng, &[0.001, 0.02, 0.1]),
            partition: sometimes(rng, &[0.005, 0.02, 0.05]),
            crash: sometimes(rng, &[0.002, 0.01, 0.05]),
            crash_all: sometimes(rng, &[0.001, 0.005]),
            pause: sometimes(rng, &[0.002, 0.01, 0.03]),
            false_disconnect: sometimes(rng, &[0.005, 0.05]),
            transfer: sometimes(rng, &[0.005, 0.05]),
            wipe: sometimes(rng, &[0.002, 0.01]),
            disk_stall: sometimes(rng, &[0.005, 0.03]),
            disk_full: sometimes(rng, &[0.002, 0.01]),
            sync_failure: sometimes(rng, &[0.001, 0.005]),
            clock_jump: 0.0,
            campaign: 0.0,
            depose: 0.0,
            change: 0.0,
        }
    }
}

impl Clerks {
    fn draw(rng: &mut fastrand::Rng) -> Clerks {
        Clerks {
            count: rng.usize(1..=5),
            kinds: Kinds::of_keys(rng.usize(1..=3)),
            think_us: 1_000..pick(rng, &[2_000, 50_000, 500_000]),
            call_timeout_us: pick(rng, &[300_000, 1_000_000, 5_000_000]),
            attempt_timeout_us: pick(rng, &[50_000, 200_000, 1_000_000]),
        }
    }
}

impl Limits {
    fn draw(rng: &mut fastrand::Rng) -> Limits {
        Limits {
            ticks: pick(rng, &[(5, 30, 60), (5, 30, 60), (2, 10, 20)]),
            append_gather: pick(rng, &[(1, 64 << 10), (1, 300), (2, 1000), (usize::MAX, 1)]),
            append_bytes_max: pick(rng, &[1, 200, 1 << 20, 1 << 20]),
            window_messages_max: pick(rng, &[1, 2, 64, 64]),
            window_bytes_max: pick(rng, &[1, 500, 8 << 20, 8 << 20]),
            uncommitted_entries_max: pick(rng, &[1, 4, 1 << 16, 1 << 16]),
            uncommitted_bytes_max: pick(rng, &[100, 1_000, 64 << 20, 64 << 20]),
            reads_max: pick(rng, &[1, 3, 1 << 16, 1 << 16]),
            apply_bytes_max: pick(rng, &[1, 300, 16 << 20, 16 << 20]),
            log_tail_bytes_max: pick(rng, &[0, 0, 200, 2_000, 16 << 20]),
            log_catch_up_bytes_max: 0,
        }
    }
}

/// Leases tolerate clocks that differ by at most a tenth.
fn draw_tick_us(rng: &mut fastrand::Rng, is_skewed: bool, lease: bool) -> u64 {
    match (is_skewed, lease) {
        (false, _) => TICK_US,
        (true, false) => rng.u64(TICK_US * 2 / 3..TICK_US * 4 / 3),
        (true, true) => rng.u64(TICK_US * 956 / 1_000..TICK_US * 1_050 / 1_000),
    }
}

fn pick<T: Copy>(rng: &mut fastrand::Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())]
}

fn sometimes(rng: &mut fastrand::Rng, from: &[f64]) -> f64 {
    if rng.bool() { pick(rng, from) } else { 0.0 }
}
