//! The entries of an [`EndpointTable`](super::EndpointTable): which endpoints there are, and what
//! is known of each. No clock and no I/O: the caller passes the time and the list.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::health::{Availability, CallKind, Health, HealthChange, HealthPolicy, HealthSignal};
use super::response::ResponseTime;
use super::{Balancer, Candidate, Endpoint};

pub(super) struct Entries<T> {
    policy: HealthPolicy,
    /// The generation of the last list, if there was one.
    generation: Option<u64>,
    listed: Vec<Entry<T>>,
    /// Entries that have left the list, kept until their calls have ended.
    leaving: Vec<Entry<T>>,
    next_number: usize,
}

pub(super) struct Entry<T> {
    /// No other entry ever has the same number.
    number: usize,
    pub(super) endpoint: Endpoint,
    pub(super) value: Arc<T>,
    pub(super) outstanding: usize,
    response: ResponseTime,
    health: Health,
}

/// The entry that a call goes to.
#[derive(Debug)]
pub(super) struct Picked<T> {
    pub(super) number: usize,
    pub(super) kind: CallKind,
    pub(super) value: Arc<T>,
    /// How many entries the call has not tried before, this one included.
    pub(super) untried: u32,
}

/// What the end of a call says about its endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallEnd {
    pub(super) signal: HealthSignal,
    /// A sample of the response time.
    pub(super) sample: Option<Duration>,
}

impl<T> Entries<T> {
    pub(super) fn new(policy: HealthPolicy) -> Self {
        let (listed, leaving) = (Vec::new(), Vec::new());
        Entries { policy, generation: None, listed, leaving, next_number: 0 }
    }

    /// The entries in the list, in its order.
    pub(super) fn listed(&self) -> &[Entry<T>] {
        &self.listed
    }

    /// Adds an endpoint to the end of the list, and returns its number.
    pub(super) fn push(&mut self, endpoint: Endpoint, value: T) -> usize {
        let entry = self.new_entry(endpoint, value);
        let number = entry.number;
        self.listed.push(entry);
        number
    }

    /// Removes the endpoint with this number from the list. Returns its value if that is no longer
    /// used. `None` also if there is no such endpoint.
    pub(super) fn remove(&mut self, number: usize) -> Option<Arc<T>> {
        let at = self.listed.iter().position(|entry| entry.number == number)?;
        let entry = self.listed.remove(at);
        if entry.outstanding > 0 {
            self.leaving.push(entry);
            return None;
        }
        Some(entry.value)
    }

    /// Whether the list of that generation has yet to be applied.
    pub(super) fn is_behind(&self, generation: u64) -> bool {
        self.generation.is_none_or(|known| known < generation)
    }

    /// Replaces the list. An endpoint that is in both lists keeps its value and what is known of
    /// it. Returns the values that are no longer used. Ignores a list older than the last one.
    pub(super) fn apply(
        &mut self,
        generation: u64,
        endpoints: Vec<Endpoint>,
        value_for: impl Fn(&Endpoint) -> T,
    ) -> Vec<Arc<T>> {
        if !self.is_behind(generation) {
            return Vec::new();
        }
        self.generation = Some(generation);
        let mut old = std::mem::take(&mut self.listed);
        for endpoint in endpoints {
            if self.listed.iter().any(|other| other.endpoint.addr() == endpoint.addr()) {
                continue;
            }
            let known = old.iter().position(|other| other.endpoint.addr() == endpoint.addr());
            let entry = match known {
                Some(at) => Entry { endpoint, ..old.swap_remove(at) },
                None => {
                    let value = value_for(&endpoint);
                    self.new_entry(endpoint, value)
                }
            };
            self.listed.push(entry);
        }
        let (busy, idle): (Vec<_>, Vec<_>) =
            old.into_iter().partition(|entry| entry.outstanding > 0);
        self.leaving.extend(busy);
        idle.into_iter().map(|entry| entry.value).collect()
    }

    fn new_entry(&mut self, endpoint: Endpoint, value: T) -> Entry<T> {
        let number = self.next_number;
        self.next_number += 1;
        let (response, health) = (ResponseTime::default(), Health::default());
        Entry { number, endpoint, value: Arc::new(value), outstanding: 0, response, health }
    }

    /// Begins a call at an entry that the call has not `tried`. `None`: it has tried all.
    pub(super) fn pick(
        &mut self,
        balancer: &dyn Balancer,
        key: u64,
        tried: &[usize],
        now: Instant,
    ) -> Option<Picked<T>> {
        let is_untried = |at: &usize| !tried.contains(&self.listed[*at].number);
        let untried: Vec<usize> = (0..self.listed.len()).filter(is_untried).collect();
        let at = self.choose(balancer, key, &untried, now)?;
        Some(self.listed[at].begin(untried.len(), now))
    }

    /// Begins a call at the entry with this number. `None`: it is not in the list.
    pub(super) fn begin(&mut self, number: usize, now: Instant) -> Option<Picked<T>> {
        let untried = self.listed.len();
        let entry = self.listed.iter_mut().find(|entry| entry.number == number)?;
        Some(entry.begin(untried, now))
    }

    /// The balancer's choice among those available. If there are none, the one whose cool-down ends
    /// first; if there are none of these, the balancer's choice among those being probed.
    fn choose(
        &self,
        balancer: &dyn Balancer,
        key: u64,
        untried: &[usize],
        now: Instant,
    ) -> Option<usize> {
        let (mut available, mut probed, mut first_to_end) = (Vec::new(), Vec::new(), None);
        for at in untried.iter().copied() {
            match self.listed[at].health.availability(now) {
                Availability::Available => available.push(at),
                Availability::BeingProbed => probed.push(at),
                Availability::CoolingDown { until } => {
                    if first_to_end.is_none_or(|(first, _)| until < first) {
                        first_to_end = Some((until, at));
                    }
                }
            }
        }
        match (available.is_empty(), first_to_end) {
            (false, _) => self.balance(balancer, key, &available, now),
            (true, Some((_, at))) => Some(at),
            (true, None) => self.balance(balancer, key, &probed, now),
        }
    }

    fn balance(
        &self,
        balancer: &dyn Balancer,
        key: u64,
        among: &[usize],
        now: Instant,
    ) -> Option<usize> {
        let candidates: Vec<Candidate<'_>> =
            among.iter().map(|at| self.listed[*at].candidate(now)).collect();
        match candidates.len() {
            0 => None,
            len => Some(among[balancer.pick(&candidates, key) % len]),
        }
    }

    /// A call has ended. Returns the entry's value if that is no longer used.
    pub(super) fn end(
        &mut self,
        number: usize,
        kind: CallKind,
        end: CallEnd,
        now: Instant,
    ) -> (Option<Arc<T>>, Option<HealthChange>) {
        if let Some(entry) = self.listed.iter_mut().find(|entry| entry.number == number) {
            return (None, entry.end(kind, end, now, &self.policy));
        }
        let leaving = self.leaving.iter().position(|entry| entry.number == number);
        let at = leaving.expect("an entry with a call is in one of the two lists");
        self.leaving[at].outstanding -= 1;
        match self.leaving[at].outstanding {
            0 => (Some(self.leaving.swap_remove(at).value), None),
            _ => (None, None),
        }
    }
}

impl<T> Entry<T> {
    pub(super) fn number(&self) -> usize {
        self.number
    }

    pub(super) fn response_time(&self, now: Instant) -> Duration {
        self.response.at(now)
    }

    pub(super) fn is_ejected(&self) -> bool {
        !self.health.is_in_use()
    }

    pub(super) fn is_silent(&self, now: Instant) -> bool {
        self.health.is_silent(now)
    }

    fn candidate(&self, now: Instant) -> Candidate<'_> {
        Candidate {
            endpoint: &self.endpoint,
            outstanding: self.outstanding,
            response_time: self.response.at(now),
        }
    }

    fn begin(&mut self, untried: usize, now: Instant) -> Picked<T> {
        self.outstanding += 1;
        Picked {
            number: self.number,
            kind: self.health.begin(now),
            value: Arc::clone(&self.value),
            untried: untried as u32,
        }
    }

    fn end(
        &mut self,
        kind: CallKind,
        end: CallEnd,
        now: Instant,
        policy: &HealthPolicy,
    ) -> Option<HealthChange> {
        self.outstanding -= 1;
        if let Some(sample) = end.sample {
            self.response.add(sample, now);
        }
        let change = self.health.end(kind, end.signal, now, policy);
        if matches!(change, Some(HealthChange::Ejected(_) | HealthChange::ProbeFailed(_))) {
            // How fast it was says nothing about how fast it will be when it is back.
            self.response = ResponseTime::default();
        }
        change
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LeastConnections, RoundRobin};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const ANSWERED: CallEnd = CallEnd { signal: HealthSignal::Answered, sample: None };
    const UNAVAILABLE: CallEnd = CallEnd { signal: HealthSignal::Unavailable, sample: None };

    /// Entries for these addresses; the value of each is its address.
    fn entries(addrs: &[&str]) -> Entries<String> {
        let mut entries = Entries::new(HealthPolicy::default());
        assert!(entries.is_behind(0));
        list(&mut entries, 0, addrs);
        entries
    }

    /// The values that are no longer used.
    fn list(entries: &mut Entries<String>, generation: u64, addrs: &[&str]) -> Vec<String> {
        let endpoints = addrs.iter().map(|addr| Endpoint::new(*addr)).collect();
        let unused = entries.apply(generation, endpoints, |endpoint| endpoint.addr().to_owned());
        unused.iter().map(|value| value.to_string()).collect()
    }

    fn pick(entries: &mut Entries<String>, tried: &[usize], now: Instant) -> Picked<String> {
        entries.pick(&LeastConnections::new(), 0, tried, now).unwrap()
    }

    fn end(entries: &mut Entries<String>, picked: &Picked<String>, ended: CallEnd, now: Instant) {
        assert_eq!(entries.end(picked.number, picked.kind, ended, now).0, None);
    }

    #[test]
    fn calls_count_as_outstanding_until_they_end() {
        let (mut entries, now) = (entries(&["a", "b"]), Instant::now());
        let first = pick(&mut entries, &[], now);
        let second = pick(&mut entries, &[], now);
        assert_ne!(first.value, second.value);
        end(&mut entries, &first, ANSWERED, now);
        assert_eq!(pick(&mut entries, &[], now).value, first.value);
        assert_eq!(entries.listed().iter().map(|entry| entry.outstanding).sum::<usize>(), 2);
    }

    #[test]
    fn a_call_that_goes_on_tries_each_entry_once() {
        let (mut entries, now) = (entries(&["a", "b", "c"]), Instant::now());
        let (mut tried, mut values) = (Vec::new(), Vec::new());
        for untried in [3, 2, 1] {
            let picked = pick(&mut entries, &tried, now);
            assert_eq!(picked.untried, untried);
            end(&mut entries, &picked, UNAVAILABLE, now);
            tried.push(picked.number);
            values.push(picked.value.to_string());
        }
        assert!(entries.pick(&RoundRobin::new(), 0, &tried, now).is_none());
        values.sort_unstable();
        assert_eq!(values, ["a", "b", "c"]);
    }

    #[test]
    fn an_entry_that_is_ejected_gets_no_call_until_its_probe_and_then_one() {
        let (mut entries, now) = (entries(&["a", "b"]), Instant::now());
        let dead = pick(&mut entries, &[], now);
        end(&mut entries, &dead, UNAVAILABLE, now);
        for _ in 0..10 {
            assert_ne!(pick(&mut entries, &[], now).value, dead.value);
        }
        // It has the fewest outstanding calls, so the balancer chooses it as soon as it may.
        let then = now + SECOND;
        let probe = pick(&mut entries, &[], then);
        assert_eq!((&probe.value, probe.kind), (&dead.value, CallKind::Probe));
        assert_ne!(pick(&mut entries, &[], then).value, dead.value);
        assert!(entries.listed()[0].is_ejected());
        end(&mut entries, &probe, ANSWERED, then);
        assert_eq!(pick(&mut entries, &[], then).kind, CallKind::Normal);
        assert!(!entries.listed()[0].is_ejected());
    }

    #[test]
    fn when_all_are_ejected_the_one_whose_cool_down_ends_first_is_tried() {
        let (mut entries, now) = (entries(&["a", "b", "c"]), Instant::now());
        let numbers: Vec<usize> = entries.listed.iter().map(|entry| entry.number).collect();
        for (nth, at) in [(1, now), (2, now + SECOND / 10), (0, now + SECOND / 5)] {
            let others: Vec<usize> =
                numbers.iter().copied().filter(|number| *number != numbers[nth]).collect();
            let picked = pick(&mut entries, &others, now);
            end(&mut entries, &picked, UNAVAILABLE, at);
        }
        let then = now + SECOND / 2;
        let early = pick(&mut entries, &[], then);
        assert_eq!((early.value.as_str(), early.kind), ("b", CallKind::Early));
        // Its failure changes nothing, and the call does not go there again.
        end(&mut entries, &early, UNAVAILABLE, then);
        let next = pick(&mut entries, &[early.number], then);
        assert_eq!(*next.value, "c");
        end(&mut entries, &next, ANSWERED, then);
        assert_eq!(pick(&mut entries, &[], then).value, next.value);
    }

    #[test]
    fn the_only_entry_is_tried_even_while_it_is_probed() {
        let (mut entries, now) = (entries(&["a"]), Instant::now());
        let dead = pick(&mut entries, &[], now);
        end(&mut entries, &dead, UNAVAILABLE, now);
        assert_eq!(pick(&mut entries, &[], now + SECOND).kind, CallKind::Probe);
        assert_eq!(pick(&mut entries, &[], now + SECOND).kind, CallKind::Early);
    }

    #[test]
    fn what_stays_in_the_list_keeps_its_value_and_what_is_known_of_it() {
        let (mut entries, now) = (entries(&["a", "b"]), Instant::now());
        let picked = pick(&mut entries, &[], now);
        end(&mut entries, &picked, UNAVAILABLE, now);
        assert!(!entries.is_behind(0));
        assert!(entries.is_behind(1));
        let endpoints = vec![Endpoint::new("c"), Endpoint::new("a").weighted(7)];
        let unused = entries.apply(1, endpoints, |endpoint| {
            assert_eq!(endpoint.addr(), "c");
            "new".to_owned()
        });
        assert_eq!(unused.len(), 1);
        assert_eq!(*unused[0], "b");
        let kept = &entries.listed()[1];
        assert_eq!((kept.endpoint.weight(), kept.value.as_str()), (7, "a"));
        assert!(kept.is_ejected());
        // A list older than the last one is ignored.
        assert!(list(&mut entries, 0, &["x"]).is_empty());
        assert_eq!(entries.listed().len(), 2);
    }

    #[test]
    fn the_value_of_an_entry_that_has_left_goes_with_its_last_call() {
        let (mut entries, now) = (entries(&["a"]), Instant::now());
        let calls = [pick(&mut entries, &[], now), pick(&mut entries, &[], now)];
        assert!(list(&mut entries, 1, &["b", "b"]).is_empty());
        assert_eq!(entries.listed().len(), 1);
        assert_eq!(*pick(&mut entries, &[], now).value, "b");
        // If it comes back before its calls have ended, it is a new entry.
        assert!(list(&mut entries, 2, &["a", "b"]).is_empty());
        assert_ne!(pick(&mut entries, &[], now).number, calls[0].number);
        assert_eq!(entries.end(calls[0].number, calls[0].kind, UNAVAILABLE, now), (None, None));
        let last = entries.end(calls[1].number, calls[1].kind, UNAVAILABLE, now);
        assert_eq!(last, (Some(Arc::new("a".to_owned())), None));
        assert!(entries.leaving.is_empty());
    }

    #[test]
    fn samples_are_kept_and_forgotten_with_the_health() {
        let (mut entries, now) = (entries(&["a"]), Instant::now());
        let picked = pick(&mut entries, &[], now);
        end(
            &mut entries,
            &picked,
            CallEnd { signal: HealthSignal::Answered, sample: Some(SECOND) },
            now,
        );
        assert_eq!(entries.listed()[0].response_time(now), SECOND);
        let picked = pick(&mut entries, &[], now);
        end(&mut entries, &picked, UNAVAILABLE, now);
        assert_eq!(entries.listed()[0].response_time(now), Duration::ZERO);
    }

    #[test]
    fn an_index_beyond_the_end_counts_from_the_start() {
        struct Beyond;
        impl Balancer for Beyond {
            fn pick(&self, candidates: &[Candidate<'_>], _: u64) -> usize {
                candidates.len() + 1
            }
        }
        let mut entries = entries(&["a", "b"]);
        assert_eq!(entries.pick(&Beyond, 0, &[], Instant::now()).unwrap().value.as_str(), "b");
    }

    #[test]
    fn an_entry_that_is_chosen_by_its_number_counts_like_any_other() {
        let (mut entries, now) = (entries(&[]), Instant::now());
        assert_eq!(entries.push("a".into(), "a".to_owned()), 0);
        assert_eq!(entries.push("b".into(), "b".to_owned()), 1);
        let chosen = entries.begin(1, now).unwrap();
        assert_eq!(
            (chosen.number, chosen.kind, entries.listed()[1].outstanding),
            (1, CallKind::Normal, 1)
        );
        end(&mut entries, &chosen, UNAVAILABLE, now);
        assert_eq!(entries.begin(1, now).unwrap().kind, CallKind::Early);
        assert!(entries.begin(2, now).is_none());
    }
}
