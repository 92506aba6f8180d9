//! The settings of a fair call queue: who counts as greedy, and how little greedy callers get.

use std::time::Duration;

use bytes::Bytes;

use super::ServerError;

/// Levels of a fair queue; 0 is the best, 3 the worst.
pub(super) const LEVELS: usize = 4;

/// Settings of a fair call queue. A caller's level follows from its share of the recent cost of all
/// callers, and calls are taken from the four levels in turns.
///
/// A caller that costs much is held back only while others wait. Alone, it has the whole server.
#[derive(Clone, Debug, PartialEq)]
pub struct Fairness {
    /// How often a part of the callers' cost is forgotten; default 5 s, and not zero. Too short: a
    /// caller that comes in bursts counts as light again between them. Too long: a caller that was
    /// greedy once stays in a bad level long after.
    pub sweep_every: Duration,
    /// The part of a cost that is left each time, from 0 to below 1; default 0.5. Too small, too
    /// large: like `sweep_every` too short, too long.
    pub decay: f64,
    /// The shares of the recent cost at which a caller is in level 1, 2 and 3; default 0.125, 0.25,
    /// 0.5; ascending, within 0 and 1. Too low: callers with an ordinary share are in the last
    /// level together with the greedy ones. Too high: the greedy ones stay among the others.
    pub thresholds: [f64; LEVELS - 1],
    /// Calls taken from each level before it is the next one's turn; default 8, 4, 2, 1; each at
    /// least 1, so that no level starves. Too even: greedy callers are hardly held back. Too
    /// uneven: they are hardly served while anybody else calls.
    pub weights: [u32; LEVELS],
    /// Callers whose cost is remembered separately; default 1,024, at least 1. All others share one
    /// entry, and so one level. Too small: light callers share it with greedy ones. Too large:
    /// memory (for each caller its name, up to 1 KiB, and some 50 bytes), and a longer pause at
    /// each sweep.
    pub callers_max: usize,
    /// Callers that are always in level 0, and whose cost counts in nobody's share; default none.
    /// For calls that must get through, such as those of operators' tools. Too many: level 0 fills
    /// with them. Nothing proves a caller's name, so anybody who knows one of these may use it.
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
    /// Refuses settings under which a level could starve or a share has no meaning.
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
