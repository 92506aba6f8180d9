//! Changes to what a seed says, for a smaller run that fails in the same way.

use std::collections::BTreeSet;
use std::fmt;

use crate::lies::Lie;
use crate::plan::{PARTS, Plan};

/// Same seed and same overrides, same run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Overrides {
    /// Parts of the plan that are switched off.
    pub(crate) without: BTreeSet<&'static str>,
    pub(crate) members: Option<u64>,
    /// How long there are faults.
    pub(crate) safety_ms: Option<u64>,
    /// For the simulator's own tests.
    pub(crate) lie: Option<Lie>,
}

impl Overrides {
    /// From the environment.
    pub(crate) fn from_env() -> Overrides {
        let without = std::env::var("SYNCRAFT_SIM_WITHOUT").unwrap_or_default();
        let part = |name: &str| {
            let known = PARTS.iter().find(|part| **part == name);
            *known.unwrap_or_else(|| panic!("{name} is none of {PARTS:?}"))
        };
        Overrides {
            without: without.split(',').filter(|name| !name.is_empty()).map(part).collect(),
            members: env_number("SYNCRAFT_SIM_MEMBERS"),
            safety_ms: env_number("SYNCRAFT_SIM_SAFETY_MS"),
            lie: None,
        }
    }

    pub(crate) fn plan(&self, seed: u64) -> Plan {
        let mut plan = Plan::draw(seed);
        self.without.iter().for_each(|part| plan.switch_off(part));
        plan.members = self.members.unwrap_or(plan.members).min(plan.members);
        plan.safety_us = self.safety_ms.map_or(plan.safety_us, |safety_ms| safety_ms * 1_000);
        plan.lie = self.lie;
        plan
    }
}

/// As variables in front of a command.
impl fmt::Display for Overrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.without.is_empty() {
            let names: Vec<&str> = self.without.iter().copied().collect();
            write!(f, " SYNCRAFT_SIM_WITHOUT={}", names.join(","))?;
        }
        if let Some(members) = self.members {
            write!(f, " SYNCRAFT_SIM_MEMBERS={members}")?;
        }
        self.safety_ms.map_or(Ok(()), |safety_ms| write!(f, " SYNCRAFT_SIM_SAFETY_MS={safety_ms}"))
    }
}

pub(crate) fn env_number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}
