//! How long a connection has been silent, and when that is too long. There is no clock here: the
//! caller tells the time.
//!
//! ```text
//!   a call waits ──── interval, nothing comes ───> ping ──── interval, nothing comes ───> give up
//!                       any byte from the server starts this anew
//! ```
//!
//! For calls, silence counts only while somebody waits for an answer. It adds up over calls, so
//! callers that each wait briefly notice a dead connection together. Where a loss is to be reported
//! although nobody waits ([`on_disconnect`](super::ChannelBuilder::on_disconnect)), all silence
//! counts, but a ping is due only after [`IDLE_INTERVALS`]: it wakes threads on both sides. A call
//! that is sent meanwhile gives it one interval more.
//!
//! The interval is [`ping_interval`](super::ChannelBuilder::ping_interval) or, if that is shorter,
//! half of the shortest timeout of the calls that wait. So a call that gets no sign of life
//! until its deadline takes the connection with it, and the next call begins over a new one. The
//! interval has a minimum: see [`INTERVAL_MIN`].
//!
//! Arguments have to arrive before the call can be answered. Meanwhile nothing comes, not even the
//! answer to a ping, which is behind them. So there is extra time for the bytes of all calls that
//! wait, as much as the slowest network needs
//! ([`bytes_per_second_min`](super::ChannelBuilder::bytes_per_second_min)). A network may be even
//! slower: when a connection was given up with calls on it, the next one gets twice the time for
//! the same bytes, until something comes.

use std::time::{Duration, Instant};

/// A call with a short deadline makes the interval no shorter than this, because a busy machine
/// answers a ping late.
const INTERVAL_MIN: Duration = Duration::from_millis(250);

/// After how many intervals of silence the server is pinged while nobody waits, ...
const IDLE_INTERVALS: u32 = 3;

/// ... but no later than this, unless the interval itself is longer: servers close connections that
/// are idle.
const IDLE_PING_MAX: Duration = Duration::from_secs(30);

/// How often the time for bytes is doubled at most.
const DOUBLINGS_MAX: u32 = 6;

/// The silence of one connection.
pub(super) struct Silence {
    ping_interval: Duration,
    bytes_per_second_min: u64,
    /// How often the time for bytes was doubled.
    doublings: u32,
    /// When something last came; before that, when the connection was made.
    heard_at: Instant,
    /// Since when somebody waits. Means nothing while nobody does.
    waiting_since: Instant,
    /// Silence before `waiting_since`, while other calls waited.
    earlier: Duration,
    /// The shortest interval of the calls that were sent since something last came.
    interval: Duration,
    /// How long the silence was when the server was pinged.
    pinged_after: Option<Duration>,
}

/// What to do about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Wait,
    /// Ask the server whether it is there.
    Ping,
    /// The connection is useless: it has been silent for this long.
    GiveUp(Duration),
}

impl Silence {
    /// The silence of a connection that was made at `now`.
    pub(super) fn new(ping_interval: Duration, bytes_per_second_min: u64, now: Instant) -> Silence {
        Silence {
            ping_interval,
            bytes_per_second_min,
            doublings: 0,
            heard_at: now,
            waiting_since: now,
            earlier: Duration::ZERO,
            interval: ping_interval,
            pinged_after: None,
        }
    }

    /// The next connection was made at `now`, after this one was given up or lost.
    pub(super) fn begin_anew(&mut self, now: Instant) {
        let doublings = match self.pinged_after {
            Some(_) => (self.doublings + 1).min(DOUBLINGS_MAX),
            None => self.doublings,
        };
        *self = Silence {
            doublings,
            ..Silence::new(self.ping_interval, self.bytes_per_second_min, now)
        };
    }

    /// Something last came at `at`. To be called before any other method.
    pub(super) fn heard(&mut self, at: Instant) {
        if at > self.heard_at {
            self.heard_at = at;
            self.earlier = Duration::ZERO;
            self.interval = self.ping_interval;
            self.pinged_after = None;
            self.doublings = 0;
        }
    }

    /// A call was sent that waits for `time`. `is_first`: nobody waited before.
    pub(super) fn sent(&mut self, now: Instant, is_first: bool, time: Duration) {
        if is_first {
            self.waiting_since = now;
            // A ping while nobody waited has this long from now on.
            self.pinged_after = self.pinged_after.map(|then| then.min(self.earlier));
        }
        self.interval = self.interval.min((time / 2).max(INTERVAL_MIN));
    }

    /// Nobody waits any more: the last call was given up.
    pub(super) fn pause(&mut self, now: Instant) {
        self.earlier = self.lasts(now);
        self.waiting_since = now;
    }

    /// What to do while calls of this many bytes wait; `None`: nobody waits. If the verdict is a
    /// ping, it counts as sent.
    pub(super) fn judge(&mut self, now: Instant, waiting_bytes: Option<usize>) -> Verdict {
        let silence = self.lasts(now);
        let ping_after = match waiting_bytes {
            Some(bytes) => self.interval + self.time_for(bytes),
            None => self.idle_ping_after(),
        };
        match self.pinged_after {
            None if silence >= ping_after => {
                self.pinged_after = Some(silence);
                Verdict::Ping
            }
            Some(then) if silence.saturating_sub(then) >= self.interval => Verdict::GiveUp(silence),
            _ => Verdict::Wait,
        }
    }

    /// After how much silence the server is pinged while nobody waits.
    fn idle_ping_after(&self) -> Duration {
        self.interval.max((self.interval * IDLE_INTERVALS).min(IDLE_PING_MAX))
    }

    /// How long the verdict stays as it is while nobody waits, if nothing comes and nobody calls.
    pub(super) fn until_next(&self, now: Instant) -> Duration {
        let due = match self.pinged_after {
            Some(then) => then + self.interval,
            None => self.idle_ping_after(),
        };
        due.saturating_sub(self.lasts(now))
    }

    /// What to do when a call is given up at its deadline, before it is taken out of the table. If
    /// the server had a part of the interval to answer a ping, and did not, the next call does not
    /// wait for it. The verdict is never a ping.
    pub(super) fn judge_at_deadline(&self, now: Instant) -> Verdict {
        let silence = self.lasts(now);
        match self.pinged_after {
            Some(then) if silence.saturating_sub(then) >= self.interval / 4 => {
                Verdict::GiveUp(silence)
            }
            _ => Verdict::Wait,
        }
    }

    /// The time that a slow network gets for this many bytes.
    pub(super) fn time_for(&self, bytes: usize) -> Duration {
        let ms = (bytes as u64).saturating_mul(1000) / self.bytes_per_second_min;
        Duration::from_millis(ms) * 2u32.pow(self.doublings)
    }

    /// How long nothing has come while somebody waited.
    pub(super) fn lasts(&self, now: Instant) -> Duration {
        self.earlier + now.saturating_duration_since(self.waiting_since.max(self.heard_at))
    }
}

#[cfg(test)]
mod tests {
    use super::Verdict::{GiveUp, Ping, Wait};
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// A connection with a ping interval of 1 s, and a clock that only the test moves.
    struct Connection {
        silence: Silence,
        now: Instant,
        waiting_bytes: usize,
    }

    impl Connection {
        fn new() -> Connection {
            let now = Instant::now();
            let silence = Silence::new(Duration::from_secs(1), 1 << 20, now);
            Connection { silence, now, waiting_bytes: 0 }
        }

        fn after_ms(&mut self, ms: u64) -> Verdict {
            self.now += Duration::from_millis(ms);
            self.silence.judge(self.now, Some(self.waiting_bytes))
        }

        fn after_idle_ms(&mut self, ms: u64) -> Verdict {
            self.now += Duration::from_millis(ms);
            self.silence.judge(self.now, None)
        }

        fn call(&mut self, is_first: bool, time: Duration, len: usize) {
            self.silence.sent(self.now, is_first, time);
            self.waiting_bytes += len;
        }

        fn give_up(&mut self, after_ms: u64) -> Verdict {
            self.now += Duration::from_millis(after_ms);
            let verdict = self.silence.judge_at_deadline(self.now);
            self.silence.pause(self.now);
            verdict
        }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_silent_server_is_asked_then_given_up() {
        let mut connection = Connection::new();
        connection.call(true, LONG, 0);
        assert_eq!(connection.after_ms(999), Wait);
        assert_eq!(connection.after_ms(1), Ping);
        assert_eq!(connection.after_ms(999), Wait, "it is asked once");
        assert_eq!(connection.after_ms(1), GiveUp(ms(2000)));
    }

    #[test]
    fn while_nobody_waits_it_is_asked_later_and_when_to_look_again_is_known() {
        let mut connection = Connection::new();
        assert_eq!(connection.after_idle_ms(300), Wait);
        assert_eq!(connection.silence.until_next(connection.now), ms(2700));
        assert_eq!(connection.after_idle_ms(2699), Wait);
        assert_eq!(connection.after_idle_ms(1), Ping);
        assert_eq!(connection.silence.until_next(connection.now), ms(1000));
        assert_eq!(connection.after_idle_ms(1000), GiveUp(ms(4000)));
    }

    #[test]
    fn a_ping_while_nobody_waited_is_waited_for_by_the_next_call() {
        let mut connection = Connection::new();
        assert_eq!(connection.after_idle_ms(3000), Ping);
        connection.now += ms(500);
        connection.call(true, LONG, 0);
        assert_eq!(connection.after_ms(999), Wait);
        assert_eq!(connection.after_ms(1), GiveUp(ms(1000)));
    }

    #[test]
    fn an_idle_connection_is_pinged_before_the_server_closes_it() {
        let now = Instant::now();
        for (interval_s, expected_s) in [(9, 27), (10, 30), (20, 30), (60, 60)] {
            let silence = Silence::new(Duration::from_secs(interval_s), 1, now);
            assert_eq!(silence.until_next(now), Duration::from_secs(expected_s));
        }
    }

    #[test]
    fn anything_that_comes_starts_it_anew() {
        let mut connection = Connection::new();
        connection.call(true, LONG, 0);
        assert_eq!(connection.after_ms(1000), Ping);
        connection.silence.heard(connection.now + ms(500));
        assert_eq!(connection.after_ms(1499), Wait);
        assert_eq!(connection.after_ms(1), Ping);
    }

    #[test]
    fn time_in_which_nobody_waits_does_not_count() {
        let mut connection = Connection::new();
        connection.call(true, LONG, 0);
        assert_eq!(connection.give_up(900), Wait);
        connection.now += LONG;
        connection.call(true, LONG, 0);
        assert_eq!(connection.after_ms(99), Wait);
        assert_eq!(connection.after_ms(1), Ping, "and what counts adds up");
    }

    #[test]
    fn a_call_without_a_sign_of_life_costs_the_connection() {
        let mut connection = Connection::new();
        connection.call(true, ms(800), 0);
        assert_eq!(connection.after_ms(399), Wait);
        assert_eq!(connection.after_ms(1), Ping);
        assert_eq!(connection.give_up(400), GiveUp(ms(800)));
    }

    #[test]
    fn a_call_that_waits_for_only_a_moment_costs_nothing() {
        let mut connection = Connection::new();
        connection.call(true, ms(20), 0);
        assert_eq!(connection.give_up(20), Wait);
        connection.call(true, ms(20), 0);
        assert_eq!(connection.after_ms(229), Wait);
        assert_eq!(connection.after_ms(1), Ping);
        assert_eq!(connection.give_up(61), Wait, "a moment for the answer");
        connection.call(true, ms(20), 0);
        assert_eq!(connection.give_up(2), GiveUp(ms(313)));
    }

    #[test]
    fn what_was_sent_is_given_time_to_arrive() {
        let mut connection = Connection::new();
        connection.call(true, LONG, 0);
        connection.call(false, LONG, 4 << 20);
        assert_eq!(connection.after_ms(4999), Wait);
        // The answer to the small call says nothing about the large one behind it.
        connection.silence.heard(connection.now);
        assert_eq!(connection.after_ms(4999), Wait);
        assert_eq!(connection.after_ms(1), Ping);
        assert_eq!(connection.after_ms(1000), GiveUp(ms(6000)));
    }

    #[test]
    fn a_network_that_was_too_slow_is_given_twice_the_time() {
        let mut connection = Connection::new();
        connection.call(true, LONG, 4 << 20);
        assert_eq!(connection.after_ms(5000), Ping);
        connection.silence.begin_anew(connection.now);
        assert_eq!(connection.after_ms(8999), Wait);
        assert_eq!(connection.after_ms(1), Ping);
        // Until it is known not to be dead.
        connection.silence.heard(connection.now);
        assert_eq!(connection.after_ms(5000), Ping);
    }

    #[test]
    fn a_new_connection_is_not_silent_for_what_was_before() {
        let mut connection = Connection::new();
        // The call began long before the connection was there.
        connection.silence.sent(connection.now - LONG, true, LONG);
        assert_eq!(connection.after_ms(999), Wait);
        assert_eq!(connection.after_ms(1), Ping);
    }
}
