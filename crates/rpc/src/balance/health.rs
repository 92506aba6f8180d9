//! The health of one endpoint: in use, ejected, or being probed. The page of `balance` has the
//! diagram. Nothing here reads a clock: the caller passes the time.

use std::time::{Duration, Instant};

/// When an endpoint is ejected, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthPolicy {
    /// Losses and timeouts in a row after which an endpoint is ejected; default 3. At most 1
    /// means after the first. Too small: one call with a short deadline keeps all others away. Too
    /// large: a server that hangs costs that many calls.
    pub losses_max: u32,
    /// The first cool-down; default 1 s. Each failed probe doubles it. Too short: calls waste time
    /// on an endpoint that is gone. Too long: an endpoint that is back gets no work.
    pub cool_down_min: Duration,
    /// The longest cool-down; default 30 s.
    pub cool_down_max: Duration,
}

impl Default for HealthPolicy {
    fn default() -> HealthPolicy {
        HealthPolicy {
            losses_max: 3,
            cool_down_min: Duration::from_secs(1),
            cool_down_max: Duration::from_secs(30),
        }
    }
}

/// What the end of a call says about the health of its endpoint. [`HealthSignal::of`] reads it off
/// an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthSignal {
    /// The endpoint answered, perhaps with a refusal. It is in use from now on.
    Answered,
    /// The endpoint cannot serve: it cannot be connected to, or it says that it is stopping. One
    /// such signal is enough to eject it.
    Unavailable,
    /// The connection was lost, or no answer came in time. [`HealthPolicy::losses_max`] such
    /// signals in a row are enough.
    Silent,
    /// Nothing: the call failed before it reached the endpoint.
    Unknown,
}

/// Why a call was routed to its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallKind {
    /// The endpoint is in use.
    Normal,
    /// The endpoint's cool-down is over, and this call finds out whether the endpoint is back.
    Probe,
    /// The endpoint is ejected or being probed, and there was no better one.
    Early,
}

/// Whether the endpoint may get a call now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Availability {
    /// Yes. If it was ejected, this call is the probe.
    Available,
    /// Not before `until`.
    CoolingDown { until: Instant },
    /// Not before its probe has ended.
    BeingProbed,
}

/// A change of health that is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HealthChange {
    Ejected(Duration),
    ProbeFailed(Duration),
    Recovered,
}

#[derive(Debug)]
pub(super) struct Health {
    state: State,
}

/// `is_silent`: the newest signal was [`HealthSignal::Silent`], so a call there would wait in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    InUse { losses: u32 },
    Ejected { until: Instant, cool_down: Duration, is_silent: bool },
    BeingProbed { cool_down: Duration, is_silent: bool },
}

impl Default for Health {
    fn default() -> Self {
        Health { state: State::InUse { losses: 0 } }
    }
}

impl Health {
    pub(super) fn availability(&self, now: Instant) -> Availability {
        match self.state {
            State::Ejected { until, .. } if now < until => Availability::CoolingDown { until },
            State::InUse { .. } | State::Ejected { .. } => Availability::Available,
            State::BeingProbed { .. } => Availability::BeingProbed,
        }
    }

    pub(super) fn is_in_use(&self) -> bool {
        matches!(self.state, State::InUse { .. })
    }

    /// Whether the endpoint should get no call now because its calls have waited in vain. Where it
    /// merely refuses, a call there costs no time.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        match self.state {
            State::InUse { .. } => false,
            State::Ejected { until, is_silent, .. } => is_silent && now < until,
            State::BeingProbed { is_silent, .. } => is_silent,
        }
    }

    /// A call begins.
    pub(super) fn begin(&mut self, now: Instant) -> CallKind {
        match self.state {
            State::InUse { .. } => CallKind::Normal,
            State::Ejected { until, cool_down, is_silent } if until <= now => {
                self.state = State::BeingProbed { cool_down, is_silent };
                CallKind::Probe
            }
            State::Ejected { .. } | State::BeingProbed { .. } => CallKind::Early,
        }
    }

    /// A call has ended.
    pub(super) fn end(
        &mut self,
        kind: CallKind,
        signal: HealthSignal,
        now: Instant,
        policy: &HealthPolicy,
    ) -> Option<HealthChange> {
        let is_newly_silent = signal == HealthSignal::Silent;
        match (&mut self.state, signal) {
            (State::InUse { losses }, HealthSignal::Answered) => {
                *losses = 0;
                None
            }
            (_, HealthSignal::Answered) => {
                self.state = State::InUse { losses: 0 };
                Some(HealthChange::Recovered)
            }
            // The probe has found nothing out, so the next call probes.
            (State::BeingProbed { cool_down, is_silent }, HealthSignal::Unknown)
                if kind == CallKind::Probe =>
            {
                let (cool_down, is_silent) = (*cool_down, *is_silent);
                self.state = State::Ejected { until: now, cool_down, is_silent };
                None
            }
            (_, HealthSignal::Unknown) => None,
            (State::BeingProbed { cool_down, .. }, _) if kind == CallKind::Probe => {
                let cool_down = cool_down.saturating_mul(2).min(policy.cool_down_max);
                self.eject(now, cool_down, is_newly_silent);
                Some(HealthChange::ProbeFailed(cool_down))
            }
            (State::InUse { losses }, HealthSignal::Silent)
                if losses.saturating_add(1) < policy.losses_max =>
            {
                *losses += 1;
                None
            }
            (State::InUse { .. }, _) => {
                let cool_down = policy.cool_down_min.min(policy.cool_down_max);
                self.eject(now, cool_down, is_newly_silent);
                Some(HealthChange::Ejected(cool_down))
            }
            // An early call, or one that began before the endpoint was ejected: the cool-down
            // stays as it is.
            (
                State::Ejected { is_silent, .. } | State::BeingProbed { is_silent, .. },
                HealthSignal::Unavailable | HealthSignal::Silent,
            ) => {
                *is_silent = is_newly_silent;
                None
            }
        }
    }

    fn eject(&mut self, now: Instant, cool_down: Duration, is_silent: bool) {
        self.state = State::Ejected { until: now + cool_down, cool_down, is_silent };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// An endpoint's health, with a clock that only the test moves.
    struct Endpoint {
        health: Health,
        policy: HealthPolicy,
        now: Instant,
    }

    impl Endpoint {
        fn new() -> Self {
            let (health, policy) = (Health::default(), HealthPolicy::default());
            Endpoint { health, policy, now: Instant::now() }
        }

        fn end(&mut self, kind: CallKind, signal: HealthSignal) -> Option<HealthChange> {
            self.health.end(kind, signal, self.now, &self.policy)
        }

        /// A call that ends at once.
        fn call(&mut self, kind: CallKind, signal: HealthSignal) -> Option<HealthChange> {
            assert_eq!(self.health.begin(self.now), kind);
            self.end(kind, signal)
        }

        fn availability(&self) -> Availability {
            self.health.availability(self.now)
        }
    }

    #[test]
    fn one_failure_to_connect_is_enough() {
        let mut endpoint = Endpoint::new();
        let change = endpoint.call(CallKind::Normal, HealthSignal::Unavailable);
        assert_eq!(change, Some(HealthChange::Ejected(SECOND)));
        assert_eq!(
            endpoint.availability(),
            Availability::CoolingDown { until: endpoint.now + SECOND }
        );
    }

    #[test]
    fn three_losses_in_a_row_are_enough_and_an_answer_resets_the_count() {
        let mut endpoint = Endpoint::new();
        for signal in [
            HealthSignal::Silent,
            HealthSignal::Silent,
            HealthSignal::Answered,
            HealthSignal::Silent,
            HealthSignal::Unknown,
            HealthSignal::Silent,
        ] {
            assert_eq!(endpoint.call(CallKind::Normal, signal), None);
            assert_eq!(endpoint.availability(), Availability::Available);
        }
        let change = endpoint.call(CallKind::Normal, HealthSignal::Silent);
        assert_eq!(change, Some(HealthChange::Ejected(SECOND)));
    }

    #[test]
    fn after_the_cool_down_one_call_probes_and_no_other_goes_there() {
        let mut endpoint = Endpoint::new();
        endpoint.call(CallKind::Normal, HealthSignal::Unavailable);
        endpoint.now += SECOND;
        assert_eq!(endpoint.availability(), Availability::Available);
        assert_eq!(endpoint.health.begin(endpoint.now), CallKind::Probe);
        assert_eq!(endpoint.availability(), Availability::BeingProbed);
        assert_eq!(
            endpoint.end(CallKind::Probe, HealthSignal::Answered),
            Some(HealthChange::Recovered)
        );
        assert_eq!(endpoint.availability(), Availability::Available);
        assert_eq!(endpoint.health.begin(endpoint.now), CallKind::Normal);
    }

    #[test]
    fn the_cool_down_doubles_with_each_failed_probe_up_to_the_longest() {
        let mut endpoint = Endpoint::new();
        endpoint.call(CallKind::Normal, HealthSignal::Unavailable);
        let mut cool_down = SECOND;
        for (signal, seconds) in [
            (HealthSignal::Unavailable, 2),
            (HealthSignal::Silent, 4),
            (HealthSignal::Unavailable, 8),
            (HealthSignal::Unavailable, 16),
            (HealthSignal::Unavailable, 30),
        ] {
            endpoint.now += cool_down;
            cool_down = Duration::from_secs(seconds);
            let change = endpoint.call(CallKind::Probe, signal);
            assert_eq!(change, Some(HealthChange::ProbeFailed(cool_down)));
        }
        // Once it has recovered, the shortest comes first again.
        endpoint.now += cool_down;
        assert_eq!(
            endpoint.call(CallKind::Probe, HealthSignal::Answered),
            Some(HealthChange::Recovered)
        );
        assert_eq!(
            endpoint.call(CallKind::Normal, HealthSignal::Unavailable),
            Some(HealthChange::Ejected(SECOND))
        );
    }

    #[test]
    fn after_a_probe_that_finds_nothing_out_the_next_call_probes() {
        let mut endpoint = Endpoint::new();
        endpoint.call(CallKind::Normal, HealthSignal::Unavailable);
        endpoint.now += SECOND;
        assert_eq!(endpoint.call(CallKind::Probe, HealthSignal::Unknown), None);
        assert_eq!(endpoint.availability(), Availability::Available);
        assert_eq!(endpoint.health.begin(endpoint.now), CallKind::Probe);
    }

    #[test]
    fn failures_of_early_calls_and_of_earlier_calls_change_no_cool_down() {
        let mut endpoint = Endpoint::new();
        endpoint.call(CallKind::Normal, HealthSignal::Unavailable);
        let until = endpoint.now + SECOND;
        endpoint.now += SECOND / 2;
        for signal in [HealthSignal::Unavailable, HealthSignal::Silent, HealthSignal::Unknown] {
            assert_eq!(endpoint.call(CallKind::Early, signal), None);
            assert_eq!(endpoint.end(CallKind::Normal, signal), None);
            assert_eq!(endpoint.availability(), Availability::CoolingDown { until });
        }
        endpoint.now = until;
        assert_eq!(endpoint.health.begin(endpoint.now), CallKind::Probe);
        assert_eq!(endpoint.call(CallKind::Early, HealthSignal::Unavailable), None);
        assert_eq!(endpoint.availability(), Availability::BeingProbed);
    }

    #[test]
    fn any_answer_restores_health() {
        let mut endpoint = Endpoint::new();
        endpoint.call(CallKind::Normal, HealthSignal::Unavailable);
        assert_eq!(
            endpoint.call(CallKind::Early, HealthSignal::Answered),
            Some(HealthChange::Recovered)
        );
        assert_eq!(endpoint.availability(), Availability::Available);
    }

    #[test]
    fn only_an_endpoint_whose_calls_waited_in_vain_is_silent() {
        let mut endpoint = Endpoint::new();
        endpoint.policy.losses_max = 1;
        assert!(!endpoint.health.is_silent(endpoint.now));
        endpoint.call(CallKind::Normal, HealthSignal::Silent);
        assert!(endpoint.health.is_silent(endpoint.now));
        // The newest signal counts.
        endpoint.call(CallKind::Early, HealthSignal::Unavailable);
        assert!(!endpoint.health.is_silent(endpoint.now));
        endpoint.call(CallKind::Early, HealthSignal::Silent);
        assert!(endpoint.health.is_silent(endpoint.now));
        // Once the cool-down is over, one call may wait there, and no other.
        endpoint.now += SECOND;
        assert!(!endpoint.health.is_silent(endpoint.now));
        assert_eq!(endpoint.health.begin(endpoint.now), CallKind::Probe);
        assert!(endpoint.health.is_silent(endpoint.now));
        endpoint.end(CallKind::Probe, HealthSignal::Answered);
        assert!(!endpoint.health.is_silent(endpoint.now));
    }
}
