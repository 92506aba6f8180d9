//! The query of a request: each parameter once, and none that is not known.

use std::collections::BTreeMap;
use std::time::Duration;

use super::told;
use crate::duration;
use crate::raft::MemberId;
use crate::rpc::http::{Request, Response};

/// The longest delay: more is a partition.
const DELAY_MAX: Duration = Duration::from_secs(60);

/// A member as a request names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Id(MemberId),
    Leader,
}

/// The parameters that were not asked for yet.
#[derive(Debug)]
pub(super) struct Params(BTreeMap<String, String>);

impl Params {
    pub(super) fn read(request: &Request<'_>) -> Result<Params, Response> {
        let mut params = BTreeMap::new();
        for (name, value) in request.query() {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let name = text(&name);
            if params.insert(name.clone(), text(&value)).is_some() {
                return Err(told::invalid(format!("?{name} is there twice")));
            }
        }
        Ok(Params(params))
    }

    /// Checks that nothing is left. `known`: what this request may have.
    pub(super) fn end(self, known: &[&str]) -> Result<(), Response> {
        let Some(name) = self.0.keys().next() else { return Ok(()) };
        let known = match known {
            [] => "there are none".to_owned(),
            known => format!("there are {}", known.join(", ")),
        };
        Err(told::invalid(format!("{name:?} is no parameter here: {known}")))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A parameter that must be there.
    pub(super) fn wanted<T>(
        &mut self,
        name: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, Response> {
        let missing = || told::invalid(format!("?{name} is missing"));
        self.optional(name, read)?.ok_or_else(missing)
    }

    pub(super) fn optional<T>(
        &mut self,
        name: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Response> {
        let value = self.0.remove(name).map(|text| read(&text)).transpose();
        value.map_err(|why| told::invalid(format!("?{name}: {why}")))
    }
}

/// An id, or `leader`.
pub(super) fn who(text: &str) -> Result<Who, String> {
    match text {
        "leader" => Ok(Who::Leader),
        id => match id.parse() {
            Ok(id) => Ok(Who::Id(MemberId(id))),
            Err(_) => Err(format!("{id:?} is neither the id of a member nor \"leader\"")),
        },
    }
}

/// Several of them, with commas.
pub(super) fn several(text: &str) -> Result<Vec<Who>, String> {
    text.split(',').map(who).collect()
}

/// A time; it may be zero.
pub(super) fn delay(text: &str) -> Result<Duration, String> {
    match text {
        "0" | "0s" | "0ms" => Ok(Duration::ZERO),
        text => match duration::parse(text)? {
            delay if delay <= DELAY_MAX => Ok(delay),
            _ => Err(format!("at most {DELAY_MAX:?}")),
        },
    }
}

/// Whether something is wanted: the name alone, or `true` or `false`.
pub(super) fn flag(text: &str) -> Result<bool, String> {
    match text {
        "" | "true" => Ok(true),
        "false" => Ok(false),
        other => Err(format!("{other:?} is neither \"true\" nor \"false\"")),
    }
}

/// A share from 0 to 1.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "a share from 0 to 1 is wanted".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_have_ids_or_lead() {
        let id = |id| Who::Id(MemberId(id));
        assert_eq!(several("1,leader,3"), Ok(vec![id(1), Who::Leader, id(3)]));
        for wrong in ["", "1,", "1;2", "Leader", "-1", "1 ", "18446744073709551616"] {
            assert!(several(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn delays_and_shares_have_bounds() {
        assert_eq!(delay("0"), Ok(Duration::ZERO));
        assert_eq!(delay("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(delay("1m"), Ok(DELAY_MAX));
        for wrong in ["", "10", "61s", "-1s", "1h"] {
            assert!(delay(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!((share("0"), share("0.25"), share("1")), (Ok(0.0), Ok(0.25), Ok(1.0)));
        for wrong in ["", "1.01", "-0.1", "nan", "inf", "10%"] {
            assert!(share(wrong).is_err(), "{wrong:?}");
        }
    }
}
