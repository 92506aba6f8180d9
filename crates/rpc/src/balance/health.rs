//! Whether an endpoint is in use, left alone or probed. No clock: the time comes in. The picture stands in the module's doc.

use std::time::{Duration, Instant};

/// When an endpoint is left alone, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    /// So many losses and timeouts in a row.
    pub(super) losses_max: u32,
    /// The first cool-down; it doubles with each failed probe,
    pub(super) cool_down_min: Duration,
    /// up to this.
    pub(super) cool_down_max: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            losses_max: 3,
            cool_down_min: Duration::from_secs(1),
            cool_down_max: Duration::from_secs(30),
        }
    }
}

/// What the end of a call says of the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// It has answered, be it with a refusal.
    Alive,
    /// It cannot be connected to, or says that it is stopping.
    Gone,
    /// The connection was lost, or no answer came in time.
    Silent,
    /// Nothing: the call failed before it got that far.
    None,
}

/// As what a call goes to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Ordinary,
    /// The one that finds out whether the endpoint is back.
    Probe,
    /// It goes to an endpoint that is left alone, as there is no other.
    Early,
}

/// Whether calls should go to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Yes. If it was left alone, the next call is the probe.
    Open,
    /// Not before then.
    Resting(Instant),
    /// Not until the probe has ended.
    Probed,
}

/// A change worth telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    LeftAlone(Duration),
    ProbeFailed(Duration),
    Healed,
}

#[derive(Debug)]
pub(super) struct Health {
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    InUse { losses: u32 },
    LeftAlone { until: Instant, cool_down: Duration },
    Probed { cool_down: Duration },
}

impl Default for Health {
    fn default() -> Self {
        Health { state: State::InUse { losses: 0 } }
    }
}

impl Health {
    pub(super) fn standing(&self, now: Instant) -> Standing {
        match self.state {
            State::LeftAlone { until, .. } if now < until => Standing::Resting(until),
            State::InUse { .. } | State::LeftAlone { .. } => Standing::Open,
            State::Probed { .. } => Standing::Probed,
        }
    }

    pub(super) fn is_in_use(&self) -> bool {
        matches!(self.state, State::InUse { .. })
    }

    /// A call goes there.
    pub(super) fn begin(&mut self, now: Instant) -> Role {
        match self.state {
            State::InUse { .. } => Role::Ordinary,
            State::LeftAlone { until, cool_down } if until <= now => {
                self.state = State::Probed { cool_down };
                Role::Probe
            }
            State::LeftAlone { .. } | State::Probed { .. } => Role::Early,
        }
    }

    /// The call has ended.
    pub(super) fn end(
        &mut self,
        role: Role,
        sign: Sign,
        now: Instant,
        policy: &Policy,
    ) -> Option<Change> {
        match (self.state, sign) {
            (state, Sign::Alive) => {
                self.state = State::InUse { losses: 0 };
                (!matches!(state, State::InUse { .. })).then_some(Change::Healed)
            }
            // It has not found out. The next one will.
            (State::Probed { cool_down }, Sign::None) if role == Role::Probe => {
                self.state = State::LeftAlone { until: now, cool_down };
                None
            }
            (State::Probed { cool_down }, Sign::Gone | Sign::Silent) if role == Role::Probe => {
                let cool_down = cool_down.saturating_mul(2).min(policy.cool_down_max);
                self.leave_alone(now, cool_down);
                Some(Change::ProbeFailed(cool_down))
            }
            (State::InUse { losses }, Sign::Silent) if losses + 1 < policy.losses_max => {
                self.state = State::InUse { losses: losses + 1 };
                None
            }
            (State::InUse { .. }, Sign::Gone | Sign::Silent) => {
                let cool_down = policy.cool_down_min.min(policy.cool_down_max);
                self.leave_alone(now, cool_down);
                Some(Change::LeftAlone(cool_down))
            }
            // A call that began before, or early: it was known already.
            (State::LeftAlone { .. } | State::Probed { .. }, _) | (_, Sign::None) => None,
        }
    }

    fn leave_alone(&mut self, now: Instant, cool_down: Duration) {
        self.state = State::LeftAlone { until: now + cool_down, cool_down };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// An endpoint's health, and a clock that only the test moves.
    struct Patient {
        health: Health,
        policy: Policy,
        now: Instant,
    }

    impl Patient {
        fn new() -> Self {
            let (health, policy) = (Health::default(), Policy::default());
            Patient { health, policy, now: Instant::now() }
        }

        fn end(&mut self, role: Role, sign: Sign) -> Option<Change> {
            self.health.end(role, sign, self.now, &self.policy)
        }

        /// A call that ends at once.
        fn call(&mut self, role: Role, sign: Sign) -> Option<Change> {
            assert_eq!(self.health.begin(self.now), role);
            self.end(role, sign)
        }

        fn standing(&self) -> Standing {
            self.health.standing(self.now)
        }
    }

    #[test]
    fn one_failure_to_connect_is_enough() {
        let mut patient = Patient::new();
        let change = patient.call(Role::Ordinary, Sign::Gone);
        assert_eq!(change, Some(Change::LeftAlone(SECOND)));
        assert_eq!(patient.standing(), Standing::Resting(patient.now + SECOND));
    }

    #[test]
    fn three_losses_in_a_row_are_and_an_answer_between_starts_anew() {
        let mut patient = Patient::new();
        for sign in
            [Sign::Silent, Sign::Silent, Sign::Alive, Sign::Silent, Sign::None, Sign::Silent]
        {
            assert_eq!(patient.call(Role::Ordinary, sign), None);
            assert_eq!(patient.standing(), Standing::Open);
        }
        let change = patient.call(Role::Ordinary, Sign::Silent);
        assert_eq!(change, Some(Change::LeftAlone(SECOND)));
    }

    #[test]
    fn after_the_cool_down_one_call_probes_and_others_stay_away() {
        let mut patient = Patient::new();
        patient.call(Role::Ordinary, Sign::Gone);
        patient.now += SECOND;
        assert_eq!(patient.standing(), Standing::Open);
        assert_eq!(patient.health.begin(patient.now), Role::Probe);
        assert_eq!(patient.standing(), Standing::Probed);
        assert_eq!(patient.end(Role::Probe, Sign::Alive), Some(Change::Healed));
        assert_eq!(patient.standing(), Standing::Open);
        assert_eq!(patient.health.begin(patient.now), Role::Ordinary);
    }

    #[test]
    fn the_cool_down_doubles_with_each_failed_probe_up_to_the_longest() {
        let mut patient = Patient::new();
        patient.call(Role::Ordinary, Sign::Gone);
        let mut cool_down = SECOND;
        for (sign, seconds) in [
            (Sign::Gone, 2),
            (Sign::Silent, 4),
            (Sign::Gone, 8),
            (Sign::Gone, 16),
            (Sign::Gone, 30),
        ] {
            patient.now += cool_down;
            cool_down = Duration::from_secs(seconds);
            let change = patient.call(Role::Probe, sign);
            assert_eq!(change, Some(Change::ProbeFailed(cool_down)));
        }
        // Healed, it begins with the shortest again.
        patient.now += cool_down;
        assert_eq!(patient.call(Role::Probe, Sign::Alive), Some(Change::Healed));
        assert_eq!(patient.call(Role::Ordinary, Sign::Gone), Some(Change::LeftAlone(SECOND)));
    }

    #[test]
    fn a_probe_that_finds_nothing_out_leaves_it_to_the_next_call() {
        let mut patient = Patient::new();
        patient.call(Role::Ordinary, Sign::Gone);
        patient.now += SECOND;
        assert_eq!(patient.call(Role::Probe, Sign::None), None);
        assert_eq!(patient.standing(), Standing::Open);
        assert_eq!(patient.health.begin(patient.now), Role::Probe);
    }

    #[test]
    fn failures_of_calls_that_came_early_or_began_before_make_nothing_worse() {
        let mut patient = Patient::new();
        patient.call(Role::Ordinary, Sign::Gone);
        let until = patient.now + SECOND;
        patient.now += SECOND / 2;
        for sign in [Sign::Gone, Sign::Silent, Sign::None] {
            assert_eq!(patient.call(Role::Early, sign), None);
            assert_eq!(patient.end(Role::Ordinary, sign), None);
            assert_eq!(patient.standing(), Standing::Resting(until));
        }
        patient.now = until;
        assert_eq!(patient.health.begin(patient.now), Role::Probe);
        assert_eq!(patient.call(Role::Early, Sign::Gone), None);
        assert_eq!(patient.standing(), Standing::Probed);
    }

    #[test]
    fn any_answer_heals() {
        let mut patient = Patient::new();
        patient.call(Role::Ordinary, Sign::Gone);
        assert_eq!(patient.call(Role::Early, Sign::Alive), Some(Change::Healed));
        assert_eq!(patient.standing(), Standing::Open);
    }
}
