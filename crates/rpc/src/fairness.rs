//! The settings of a fair call queue: how callers are told apart, and what the greedy ones are left with.

use std::time::Duration;

use bytes::Bytes;

use super::ServerError;

/// Levels of a fair queue; 0 is the best, 3 the worst.
pub(super) const LEVELS: usize = 4;

/// Settings of a fair call queue: a caller's level follows from its share of what all callers have cost lately, and calls
/// are taken from the four levels in turns.
///
/// Who costs most is held back only while others wait: alone, it has the whole server.
#[derive(Clone, Debug, PartialEq)]
pub struct Fairness {
    /// How often a part of what callers have cost is forgotten; default 5 s, and not zero. Too short: who comes in bursts
    /// is a light caller again between them. Too long: who was greedy once stays in a bad level long after.
    pub sweep_every: Duration,
    /// What is left of a cost each time, from 0 to below 1; default 0.5. Too small or too large: as `sweep_every` too short
    /// or too long.
    pub decay: f64,
    /// The shares of the recent cost from which on a caller is in level 1, 2 and 3; default 0.125, 0.25, 0.5; ascending,
    /// within 0 and 1. Too low: few callers, each with an ordinary share, meet the greedy one in the last level. Too high:
    /// the greedy one stays among the others.
    pub thresholds: [f64; LEVELS - 1],
    /// Calls taken from each level before it is the next one's turn; default 8, 4, 2, 1; at least 1, so that no level
    /// starves. Too even: the greedy are hardly held back. Too uneven: they hardly get on while anybody else calls.
    pub weights: [u32; LEVELS],
    /// Callers whose cost is remembered, each on its own; default 1,024, at least 1. Those beyond it share one entry, and
    /// thereby one level. Too small: light callers share it with a greedy one. Too large: memory (a caller's name, up to
    /// 1 KiB, and some 50 bytes), and a longer halt at each sweep.
    pub callers_max: usize,
    /// Callers that are always in level 0, and whose cost counts in nobody's share; default none. For what must get through,
    /// such as the operators' own tools. Too many: level 0 fills with them. Nothing proves a caller's name: whoever knows
    /// one of these may use it.
    pub exempt: Vec<Bytes>,
}

impl Default for Fairness {
    fn default() -> Self {
        Fairness {
            sweep_every: Duration::from_secs(5),
            decay: 0.5,
            thresholds: [0.125, 0.25, 0.5],
            weights: [8, 4, 2, 1],
            callers_max: 1024,
            exempt: Vec::new(),
        }
    }
}

impl Fairness {
    /// Refuses settings under which a level could starve, or a share has no meaning.
    pub(super) fn check(&self) -> Result<(), ServerError> {
        let Fairness { sweep_every, decay, thresholds, weights, callers_max, .. } = self;
        let reason = if sweep_every.is_zero() {
            "sweep_every is zero".to_owned()
        } else if !(0.0..1.0).contains(decay) {
            format!("decay is {decay} and must be at least 0 and below 1")
        } else if !thresholds.iter().all(|share| (0.0..=1.0).contains(share))
            || !thresholds.is_sorted_by(|lower, higher| lower < higher)
        {
            format!("thresholds are {thresholds:?} and must ascend within 0 and 1")
        } else if weights.contains(&0) {
            format!("weights are {weights:?} and must each be at least 1")
        } else if *callers_max == 0 {
            "callers_max is 0 and must be at least 1".to_owned()
        } else {
            return Ok(());
        };
        Err(ServerError::BadLimits { reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_pass() {
        Fairness::default().check().unwrap();
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let check = |change: fn(&mut Fairness), word: &str| {
            let mut fairness = Fairness::default();
            change(&mut fairness);
            let error = fairness.check().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        };
        check(|fairness| fairness.sweep_every = Duration::ZERO, "sweep_every");
        check(|fairness| fairness.decay = 1.0, "decay");
        check(|fairness| fairness.decay = -0.1, "decay");
        check(|fairness| fairness.decay = f64::NAN, "decay");
        check(|fairness| fairness.thresholds = [0.1, 0.1, 0.5], "thresholds");
        check(|fairness| fairness.thresholds = [0.5, 0.2, 0.7], "thresholds");
        check(|fairness| fairness.thresholds = [0.1, 0.2, 1.1], "thresholds");
        check(|fairness| fairness.thresholds = [0.1, f64::NAN, 0.5], "thresholds");
        check(|fairness| fairness.weights = [8, 4, 0, 1], "weights");
        check(|fairness| fairness.callers_max = 0, "callers_max");
    }
}
