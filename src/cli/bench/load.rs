//! The clients of a run, and what they measure.
//!
//! A client is not a thread. The thread that reads a connection hands each answer to its client and
//! begins that client's next operation. So the load takes little of the machine, which it shares
//! with the members.
//!
//! If an operation is not simply answered (the leader is gone, or busy), one of a few threads
//! repeats it with a Clerk, which waits for a leader. Its latency keeps counting. Then the client
//! continues with that leader. An append may then have happened twice; nobody reads it.

use std::io::{self, Write};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::{Condvar, Mutex, RwLock};
use syncraft::clerk::{Clerk, ClerkErrorKind};
use syncraft::kv::proto::GetArgs;
use syncraft::rpc::CallError;

use super::super::Failure;
use super::SEARCH_PAUSE;
use super::measured::{Failed, LATENCY_MAX_US, Measured, Shard};
use super::wire::{Attempt, Line, Lines, Reply, Session};
use super::work::{Operation, Work};

/// Threads that repeat operations.
const REPAIRERS: usize = 16;
/// How long an operation waits for its answer before it is repeated, besides the time to transfer
/// the bytes of all operations.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// The transfer speed to allow for, in bytes per second: that of a slow cluster.
const BYTES_PER_SECOND_MIN: f64 = 4e6;
/// The pause between two lines of progress.
const PROGRESS_PAUSE: Duration = Duration::from_millis(500);

/// When a run ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// After this many operations.
    Count(u64),
    /// This long after the warm-up.
    After(Duration),
}

/// A run.
pub(super) struct Load {
    pub(super) work: Work,
    pub(super) end: End,
    /// Operations per second; `None`: as fast as the clients go.
    pub(super) rate: Option<f64>,
    /// The time at the beginning in which nothing is counted.
    pub(super) warm_up: Duration,
    /// How long one operation may take.
    pub(super) timeout: Duration,
    /// Whether the first failure ends it.
    pub(super) ends_at_failure: bool,
    pub(super) shows_progress: bool,
}

/// Finds the member that the clients' requests go to.
pub(super) trait Leader: Send + Sync + 'static {
    /// The address of the member that says it leads, if any.
    fn find(&self) -> Option<String>;
    /// A Clerk for the cluster.
    fn clerk(&self) -> Result<Clerk, Failure>;
}

/// The state that the clients share.
struct Run {
    load: Load,
    leader: Box<dyn Leader>,
    connections: usize,
    clients: usize,
    /// When counting begins.
    start: Instant,
    /// Operations that were begun since then, or since the beginning where a rate is kept.
    begun: AtomicU64,
    done: AtomicU64,
    is_over: AtomicBool,
    lines: RwLock<Lines>,
    answer_timeout: Duration,
    shards: Vec<Mutex<Shard>>,
    pacing: Mutex<Pacing>,
    /// Clients that still have something to do.
    active: Mutex<usize>,
    all_done: Condvar,
    repairs: Sender<Begun>,
}

/// The schedule of an open loop.
#[derive(Default)]
struct Pacing {
    idle: Vec<Client>,
    /// The numbers of operations that should have begun.
    due: Range<u64>,
}

struct Client {
    number: usize,
    rng: fastrand::Rng,
    session: Session,
}

/// An operation of a client.
struct Begun {
    client: Client,
    operation: Operation,
    begin: Instant,
    is_counted: bool,
    may_have_run: bool,
}

impl Load {
    /// Runs this load with the given number of clients and connections.
    pub(super) fn run(
        self,
        leader: impl Leader,
        clients: usize,
        connections: usize,
    ) -> Result<Measured, Failure> {
        let (repairs, to_repair) = unbounded();
        let deadline = Instant::now() + self.timeout;
        let addr = find(&leader, deadline)?;
        let lines = Lines::new(addr, clients, connections);
        lines.lines.iter().try_for_each(|line| check_line(line, deadline))?;
        let bytes = clients as f64 * self.work.operation_len_bytes() as f64;
        let time_of_bytes = Duration::from_secs_f64(bytes / BYTES_PER_SECOND_MIN);
        let repairers = (0..REPAIRERS.min(clients)).map(|_| leader.clerk());
        let repairers = repairers.collect::<Result<Vec<Clerk>, Failure>>()?;
        let run = Arc::new(Run {
            start: Instant::now() + self.warm_up,
            answer_timeout: (ANSWER_TIMEOUT + time_of_bytes).min(self.timeout),
            load: self,
            leader: Box::new(leader),
            connections,
            clients,
            begun: AtomicU64::new(0),
            done: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            lines: RwLock::new(lines),
            shards: (0..connections).map(|_| Mutex::new(Shard::new())).collect(),
            pacing: Mutex::default(),
            active: Mutex::new(clients),
            all_done: Condvar::new(),
            repairs,
        });
        let elapsed = thread::scope(|scope| {
            let ended = EndsRun(&run);
            for (started, clerk) in repairers.into_iter().enumerate() {
                let (run, to_repair) = (&run, to_repair.clone());
                let repairer = move || run.repair_all(&clerk, &to_repair);
                match thread::Builder::new().spawn_scoped(scope, repairer) {
                    Ok(_) => {}
                    // One such thread is enough where there are no more.
                    Err(_) if started > 0 => break,
                    Err(error) => {
                        return Err(Failure::not_applied(format!(
                            "cannot start a thread: {error}"
                        )));
                    }
                }
            }
            if run.load.shows_progress {
                // Without a thread, progress is not shown; the measurement is the same.
                let _ = thread::Builder::new().spawn_scoped(scope, || run.show_progress());
            }
            for number in 0..clients {
                run.begin_next(Client::new(number));
            }
            if run.load.rate.is_some() {
                run.keep_pace();
            }
            let mut active = run.active.lock();
            while *active > 0 {
                run.all_done.wait(&mut active);
            }
            drop(active);
            drop(ended);
            Ok::<_, Failure>(run.start.elapsed())
        })?;
        let measured = run.measured(elapsed);
        let lines = std::mem::take(&mut run.lines.write().lines);
        lines.iter().for_each(|line| line.kv.invoker().close());
        Ok(measured)
    }
}

/// Who leads. An election may be under way.
fn find(leader: &impl Leader, deadline: Instant) -> Result<String, Failure> {
    loop {
        match leader.find() {
            Some(addr) => return Ok(addr),
            None if Instant::now() < deadline => thread::sleep(SEARCH_PAUSE),
            None => return Err(Failure::not_applied("no member leads")),
        }
    }
}

/// Connects and makes one call, so that a channel that gets no thread fails now.
pub(super) fn check_line(line: &Line, deadline: Instant) -> Result<(), Failure> {
    line.kv.invoker().connect_now(deadline)?;
    match line.kv.get_async(&GetArgs::default(), deadline).wait() {
        Err(error @ CallError::NotSent { .. }) => Err(error.into()),
        // Any answer will do.
        _ => Ok(()),
    }
}

/// Ends the additional threads of a run.
struct EndsRun<'a>(&'a Run);

impl Drop for EndsRun<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
        *self.0.active.lock() = 0;
    }
}

impl Client {
    fn new(number: usize) -> Client {
        let mut rng = fastrand::Rng::new();
        let session = Session::new(&mut rng);
        Client { number, rng, session }
    }
}

impl Run {
    /// Connects to the leader, if it has changed.
    fn follow_leader(&self) {
        // If no member leads now, the next operation asks again. No lock is held while asking.
        let Some(addr) = self.leader.find() else { return };
        if self.lines.read().addr != addr {
            let new = Lines::new(addr, self.clients, self.connections);
            let old = std::mem::replace(&mut *self.lines.write(), new);
            drop(old);
        }
    }

    /// Called when the client has ended its last operation.
    fn begin_next(self: &Arc<Self>, client: Client) {
        if self.load.rate.is_none() {
            let begin = Instant::now();
            let number = match begin < self.start {
                true => 0,
                false => self.begun.fetch_add(1, Ordering::Relaxed),
            };
            return match self.is_last(number, begin) || self.is_over.load(Ordering::Relaxed) {
                true => self.leave(),
                false => self.begin(client, number, begin),
            };
        }
        let mut pacing = self.pacing.lock();
        match pacing.due.next() {
            Some(number) => {
                drop(pacing);
                self.begin(client, number, self.due_at(number));
            }
            None if self.is_over.load(Ordering::Relaxed) => {
                drop(pacing);
                self.leave();
            }
            None => pacing.idle.push(client),
        }
    }

    /// Whether the run ends before this operation.
    fn is_last(&self, number: u64, begin: Instant) -> bool {
        match self.load.end {
            End::After(time) => begin >= self.start + time,
            End::Count(count) => number >= count.saturating_add(self.warm_up_count()),
        }
    }

    /// How many operations a rate asks for before counting begins.
    fn warm_up_count(&self) -> u64 {
        let Load { rate, warm_up, .. } = self.load;
        rate.map_or(0, |rate| (warm_up.as_secs_f64() * rate).ceil() as u64)
    }

    /// When operation `number` of an open loop should begin.
    fn due_at(&self, number: u64) -> Instant {
        let Load { rate, warm_up, .. } = self.load;
        self.start - warm_up + Duration::from_secs_f64(number as f64 / rate.unwrap_or(1.0))
    }

    fn is_counted(&self, number: u64, begin: Instant) -> bool {
        match self.load.rate {
            Some(_) => number >= self.warm_up_count(),
            None => begin >= self.start,
        }
    }

    fn leave(&self) {
        let mut active = self.active.lock();
        *active = active.saturating_sub(1);
        if *active == 0 {
            self.all_done.notify_all();
        }
    }

    /// Begins operations when they are due, if a client is free.
    fn keep_pace(self: &Arc<Self>) {
        for number in 0.. {
            let begin = self.due_at(number);
            if self.is_last(number, begin) {
                break;
            }
            thread::sleep(begin.saturating_duration_since(Instant::now()));
            let mut pacing = self.pacing.lock();
            match pacing.idle.pop() {
                Some(client) => {
                    drop(pacing);
                    self.begin(client, number, begin);
                }
                None if pacing.due.is_empty() => pacing.due = number..number + 1,
                None => pacing.due.end = number + 1,
            }
        }
        let mut pacing = self.pacing.lock();
        self.is_over.store(true, Ordering::Relaxed);
        let due = std::mem::take(&mut pacing.due);
        self.shards[0].lock().errors.not_begun += due.end - due.start;
        let idle = std::mem::take(&mut pacing.idle);
        drop(pacing);
        idle.iter().for_each(|_| self.leave());
    }

    fn begin(self: &Arc<Self>, mut client: Client, number: u64, begin: Instant) {
        let operation = self.load.work.operation(number, client.number as u64, &mut client.rng);
        let request = client.session.request(&operation);
        let is_counted = self.is_counted(number, begin);
        let line = self.lines.read().lines[client.number % self.connections].clone();
        let (run, deadline) = (Arc::clone(self), Instant::now() + self.answer_timeout);
        let begun = Begun { client, operation, begin, is_counted, may_have_run: false };
        line.send(&request, deadline, move |reply| run.answered(begun, reply));
    }

    fn answered(self: Arc<Self>, mut begun: Begun, reply: Result<Reply, CallError>) {
        match Attempt::of(&begun.operation, reply) {
            Attempt::Ended { index, result } => {
                begun.client.session.saw(index);
                self.end(begun, Instant::now(), result);
            }
            Attempt::Repeat { index, may_have_run } => {
                let Client { session, rng, .. } = &mut begun.client;
                session.saw(index);
                session.restart(rng);
                begun.may_have_run = may_have_run;
                self.repair(begun);
            }
        }
    }

    fn end(self: &Arc<Self>, begun: Begun, ended: Instant, result: Result<(), Failed>) {
        let Begun { client, begin, is_counted, .. } = begun;
        if result.is_err() && self.load.ends_at_failure {
            self.is_over.store(true, Ordering::Relaxed);
        }
        if is_counted || self.load.ends_at_failure {
            let latency = ended.saturating_duration_since(begin).as_micros();
            let latency = u64::try_from(latency).unwrap_or(LATENCY_MAX_US);
            self.done.fetch_add(1, Ordering::Relaxed);
            self.shards[client.number % self.shards.len()].lock().count(latency, result);
        }
        self.begin_next(client);
    }

    fn repair(&self, begun: Begun) {
        // Its receivers live as long as a client is active.
        drop(self.repairs.send(begun));
    }

    /// Runs one of the threads that repeat operations.
    fn repair_all(self: &Arc<Self>, clerk: &Clerk, to_repair: &Receiver<Begun>) {
        // Has it connect, so that the first repair need not. A failure shows then.
        let _ = clerk.get("bench-0");
        while !self.is_over.load(Ordering::Relaxed) || *self.active.lock() > 0 {
            let Ok(begun) = to_repair.recv_timeout(PROGRESS_PAUSE / 10) else { continue };
            let result = self.run_again(&begun, clerk);
            // Its client has its answer. What follows is for the next operation.
            let ended = Instant::now();
            self.follow_leader();
            self.end(begun, ended, result);
        }
    }

    /// Repeats an operation with the current leader, if there is time left.
    fn run_again(&self, begun: &Begun, clerk: &Clerk) -> Result<(), Failed> {
        let kind = |kind: ClerkErrorKind| match kind {
            ClerkErrorKind::NotApplied if begun.may_have_run => ClerkErrorKind::Unknown,
            kind => kind,
        };
        let left = self.load.timeout.saturating_sub(begun.begin.elapsed());
        if left.is_zero() {
            let words = format!("no answer within {:?}", self.load.timeout);
            return Err(Failed { kind: kind(ClerkErrorKind::NotApplied), words });
        }
        let result = begun.operation.run(&clerk.clone().with_timeout(left), begun.may_have_run);
        result.map_err(|failed| Failed { kind: kind(failed.kind), words: failed.words })
    }

    fn show_progress(&self) {
        let (mut last_done, mut last) = (0, Instant::now());
        while !self.is_over.load(Ordering::Relaxed) {
            thread::sleep(PROGRESS_PAUSE);
            let (done, now) = (self.done.load(Ordering::Relaxed), Instant::now());
            let rate = (done - last_done) as f64 / (now - last).as_secs_f64();
            let seconds = now.saturating_duration_since(self.start).as_secs_f64();
            // Progress is for people who look: a closed terminal needs none.
            let _ = write!(io::stderr(), "\r{seconds:6.1} s  {done:10} done  {rate:9.0}/s ");
            (last_done, last) = (done, now);
        }
        let _ = writeln!(io::stderr());
    }

    fn measured(&self, elapsed: Duration) -> Measured {
        let mut all = Shard::new();
        self.shards.iter().for_each(|shard| all.add(&mut shard.lock()));
        all.measured(1, elapsed)
    }
}
