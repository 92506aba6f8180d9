//! The endpoints of a source, and all that is known of each. No clock, no I/O: the time and the list come in.

use std::time::{Duration, Instant};

use super::health::{Change, Health, Policy, Role, Sign, Standing};
use super::response::ResponseTime;
use super::{Balancer, Candidate, Endpoint};

/// A table of endpoints, each with a line: what reaches it.
pub(super) struct Table<L> {
    policy: Policy,
    /// The list's; `None`: none has been taken in.
    generation: Option<u64>,
    targets: Vec<Target<L>>,
    /// Left the list, and have calls still.
    leaving: Vec<Target<L>>,
    next_id: u64,
}

pub(super) struct Target<L> {
    /// No other endpoint has had it, nor will.
    id: u64,
    pub(super) endpoint: Endpoint,
    line: L,
    pub(super) outstanding: usize,
    response: ResponseTime,
    health: Health,
}

/// Where a call goes.
#[derive(Debug)]
pub(super) struct Picked<L> {
    pub(super) id: u64,
    pub(super) role: Role,
    pub(super) line: L,
    /// Endpoints that the call has not been to, with this one.
    pub(super) untried: u32,
}

/// How a call ended, for the endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) sign: Sign,
    /// A sample of its response time.
    pub(super) sample: Option<Duration>,
}

impl<L> Target<L> {
    pub(super) fn response_time(&self, now: Instant) -> Duration {
        self.response.at(now)
    }

    pub(super) fn is_left_alone(&self) -> bool {
        !self.health.is_in_use()
    }
}

impl<L: Clone> Table<L> {
    pub(super) fn new(policy: Policy) -> Self {
        let (targets, leaving) = (Vec::new(), Vec::new());
        Table { policy, generation: None, targets, leaving, next_id: 1 }
    }

    /// Whether the list of that generation is still to be taken in.
    pub(super) fn is_behind(&self, generation: u64) -> bool {
        self.generation.is_none_or(|known| known < generation)
    }

    pub(super) fn targets(&self) -> &[Target<L>] {
        &self.targets
    }

    /// Takes a list in, and returns the lines that nobody needs any more. An older list than the one known is dropped.
    pub(super) fn apply(
        &mut self,
        generation: u64,
        endpoints: Vec<Endpoint>,
        line_to: impl Fn(&Endpoint) -> L,
    ) -> Vec<L> {
        if !self.is_behind(generation) {
            return Vec::new();
        }
        self.generation = Some(generation);
        let mut old = std::mem::take(&mut self.targets);
        for endpoint in endpoints {
            if self.targets.iter().any(|other| other.endpoint.addr() == endpoint.addr()) {
                continue;
            }
            let known = old.iter().position(|other| other.endpoint.addr() == endpoint.addr());
            let target = match known {
                Some(at) => Target { endpoint, ..old.swap_remove(at) },
                None => self.new_target(line_to(&endpoint), endpoint),
            };
            self.targets.push(target);
        }
        let (busy, idle): (Vec<_>, Vec<_>) =
            old.into_iter().partition(|target| target.outstanding > 0);
        self.leaving.extend(busy);
        idle.into_iter().map(|target| target.line).collect()
    }

    fn new_target(&mut self, line: L, endpoint: Endpoint) -> Target<L> {
        let id = self.next_id;
        self.next_id += 1;
        let (response, health) = (ResponseTime::default(), Health::default());
        Target { id, endpoint, line, outstanding: 0, response, health }
    }

    /// The endpoint for a call that has been to `tried`; it is then one more outstanding there. `None`: there is no other.
    pub(super) fn pick(
        &mut self,
        balancer: &dyn Balancer,
        key: u64,
        tried: &[u64],
        now: Instant,
    ) -> Option<Picked<L>> {
        let untried: Vec<usize> =
            (0..self.targets.len()).filter(|at| !tried.contains(&self.targets[*at].id)).collect();
        let at = self.choose(balancer, key, &untried, now)?;
        let target = &mut self.targets[at];
        target.outstanding += 1;
        Some(Picked {
            id: target.id,
            role: target.health.begin(now),
            line: target.line.clone(),
            untried: untried.len() as u32,
        })
    }

    /// Of those in use the one that the balancer picks; else the one whose cool-down ends first; else one that is probed.
    fn choose(
        &self,
        balancer: &dyn Balancer,
        key: u64,
        untried: &[usize],
        now: Instant,
    ) -> Option<usize> {
        let (mut open, mut probed, mut first_to_end) = (Vec::new(), Vec::new(), None);
        for at in untried.iter().copied() {
            match self.targets[at].health.standing(now) {
                Standing::Open => open.push(at),
                Standing::Probed => probed.push(at),
                Standing::Resting(until) => {
                    if first_to_end.is_none_or(|(first, _)| until < first) {
                        first_to_end = Some((until, at));
                    }
                }
            }
        }
        match (open.is_empty(), first_to_end) {
            (false, _) => self.balance(balancer, key, &open, now),
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
        let candidates: Vec<Candidate<'_>> = among
            .iter()
            .map(|at| &self.targets[*at])
            .map(|target| Candidate {
                endpoint: &target.endpoint,
                outstanding: target.outstanding,
                response_time: target.response.at(now),
            })
            .collect();
        match candidates.len() {
            0 => None,
            len => Some(among[balancer.pick(&candidates, key) % len]),
        }
    }

    /// A call has ended. Returns the endpoint's line if nobody needs it any more, and its address with a change of its health.
    pub(super) fn end(
        &mut self,
        id: u64,
        role: Role,
        ended: Ended,
        now: Instant,
    ) -> (Option<L>, Option<(String, Change)>) {
        if let Some(target) = self.targets.iter_mut().find(|target| target.id == id) {
            let change = target.end(role, ended, now, &self.policy);
            return (None, change.map(|change| (target.endpoint.addr().to_owned(), change)));
        }
        let leaving = self.leaving.iter().position(|target| target.id == id);
        let at = leaving.expect("a target with a call is in one of the two lists");
        self.leaving[at].outstanding -= 1;
        match self.leaving[at].outstanding {
            0 => (Some(self.leaving.swap_remove(at).line), None),
            _ => (None, None),
        }
    }
}

impl<L> Target<L> {
    fn end(&mut self, role: Role, ended: Ended, now: Instant, policy: &Policy) -> Option<Change> {
        self.outstanding -= 1;
        if let Some(sample) = ended.sample {
            self.response.add(sample, now);
        }
        let change = self.health.end(role, ended.sign, now, policy);
        if matches!(change, Some(Change::LeftAlone(_) | Change::ProbeFailed(_))) {
            // What it was before says nothing of what it will be.
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
    const ALIVE: Ended = Ended { sign: Sign::Alive, sample: None };
    const GONE: Ended = Ended { sign: Sign::Gone, sample: None };

    /// A table of these addresses; the line to each is its address.
    fn table(addrs: &[&str]) -> Table<String> {
        let mut table = Table::new(Policy::default());
        assert!(table.is_behind(0));
        list(&mut table, 0, addrs);
        table
    }

    fn list(table: &mut Table<String>, generation: u64, addrs: &[&str]) -> Vec<String> {
        let endpoints = addrs.iter().map(|addr| Endpoint::new(*addr)).collect();
        table.apply(generation, endpoints, |endpoint| endpoint.addr().to_owned())
    }

    fn pick(table: &mut Table<String>, tried: &[u64], now: Instant) -> Picked<String> {
        table.pick(&LeastConnections::new(), 0, tried, now).unwrap()
    }

    fn end(table: &mut Table<String>, picked: &Picked<String>, ended: Ended, now: Instant) {
        assert_eq!(table.end(picked.id, picked.role, ended, now).0, None);
    }

    #[test]
    fn calls_count_as_outstanding_until_they_end() {
        let (mut table, now) = (table(&["a", "b"]), Instant::now());
        let first = pick(&mut table, &[], now);
        let second = pick(&mut table, &[], now);
        assert_ne!(first.line, second.line);
        end(&mut table, &first, ALIVE, now);
        assert_eq!(pick(&mut table, &[], now).line, first.line);
        assert_eq!(table.targets().iter().map(|target| target.outstanding).sum::<usize>(), 2);
    }

    #[test]
    fn a_call_that_goes_on_comes_to_each_endpoint_once() {
        let (mut table, now) = (table(&["a", "b", "c"]), Instant::now());
        let (mut tried, mut lines) = (Vec::new(), Vec::new());
        for untried in [3, 2, 1] {
            let picked = pick(&mut table, &tried, now);
            assert_eq!(picked.untried, untried);
            end(&mut table, &picked, GONE, now);
            tried.push(picked.id);
            lines.push(picked.line);
        }
        assert!(table.pick(&RoundRobin::new(), 0, &tried, now).is_none());
        lines.sort_unstable();
        assert_eq!(lines, ["a", "b", "c"]);
    }

    #[test]
    fn one_that_is_left_alone_gets_no_call_until_its_probe_and_then_one() {
        let (mut table, now) = (table(&["a", "b"]), Instant::now());
        let dead = pick(&mut table, &[], now);
        end(&mut table, &dead, GONE, now);
        for _ in 0..10 {
            assert_ne!(pick(&mut table, &[], now).line, dead.line);
        }
        // It has the fewest outstanding, so it is the balancer's choice as soon as it may be.
        let then = now + SECOND;
        let probe = pick(&mut table, &[], then);
        assert_eq!((&probe.line, probe.role), (&dead.line, Role::Probe));
        assert_ne!(pick(&mut table, &[], then).line, dead.line);
        assert!(table.targets()[0].is_left_alone());
        end(&mut table, &probe, ALIVE, then);
        assert_eq!(pick(&mut table, &[], then).role, Role::Ordinary);
        assert!(!table.targets()[0].is_left_alone());
    }

    #[test]
    fn when_all_are_left_alone_the_one_whose_cool_down_ends_first_is_tried() {
        let (mut table, now) = (table(&["a", "b", "c"]), Instant::now());
        let ids: Vec<u64> = table.targets.iter().map(|target| target.id).collect();
        for (nth, at) in [(1, now), (2, now + SECOND / 10), (0, now + SECOND / 5)] {
            let others: Vec<u64> = ids.iter().copied().filter(|id| *id != ids[nth]).collect();
            let picked = pick(&mut table, &others, now);
            end(&mut table, &picked, GONE, at);
        }
        let then = now + SECOND / 2;
        let early = pick(&mut table, &[], then);
        assert_eq!((early.line.as_str(), early.role), ("b", Role::Early));
        // That it fails makes nothing worse, and is no reason to go there once more.
        end(&mut table, &early, GONE, then);
        let next = pick(&mut table, &[early.id], then);
        assert_eq!(next.line, "c");
        end(&mut table, &next, ALIVE, then);
        assert_eq!(pick(&mut table, &[], then).line, next.line);
    }

    #[test]
    fn the_only_one_is_tried_also_while_it_is_probed() {
        let (mut table, now) = (table(&["a"]), Instant::now());
        let dead = pick(&mut table, &[], now);
        end(&mut table, &dead, GONE, now);
        assert_eq!(pick(&mut table, &[], now + SECOND).role, Role::Probe);
        assert_eq!(pick(&mut table, &[], now + SECOND).role, Role::Early);
    }

    #[test]
    fn what_stays_in_the_list_keeps_its_line_and_what_is_known_of_it() {
        let (mut table, now) = (table(&["a", "b"]), Instant::now());
        let picked = pick(&mut table, &[], now);
        end(&mut table, &picked, GONE, now);
        assert!(!table.is_behind(0));
        assert!(table.is_behind(1));
        let endpoints = vec![Endpoint::new("c"), Endpoint::new("a").weighted(7)];
        let unused = table.apply(1, endpoints, |endpoint| {
            assert_eq!(endpoint.addr(), "c");
            "new".to_owned()
        });
        assert_eq!(unused, ["b"]);
        let kept = &table.targets()[1];
        assert_eq!((kept.endpoint.weight(), kept.line.as_str()), (7, "a"));
        assert!(kept.is_left_alone());
        // A list that is overtaken by a newer one is dropped.
        assert!(list(&mut table, 0, &["x"]).is_empty());
        assert_eq!(table.targets().len(), 2);
    }

    #[test]
    fn the_line_of_one_that_has_left_goes_with_its_last_call() {
        let (mut table, now) = (table(&["a"]), Instant::now());
        let calls = [pick(&mut table, &[], now), pick(&mut table, &[], now)];
        assert!(list(&mut table, 1, &["b", "b"]).is_empty());
        assert_eq!(table.targets().len(), 1);
        assert_eq!(pick(&mut table, &[], now).line, "b");
        // Back before its calls have ended, it is another one.
        assert!(list(&mut table, 2, &["a", "b"]).is_empty());
        assert_ne!(pick(&mut table, &[], now).id, calls[0].id);
        assert_eq!(table.end(calls[0].id, calls[0].role, GONE, now), (None, None));
        let last = table.end(calls[1].id, calls[1].role, GONE, now);
        assert_eq!(last, (Some("a".to_owned()), None));
        assert!(table.leaving.is_empty());
    }

    #[test]
    fn samples_are_kept_and_forgotten_with_the_health() {
        let (mut table, now) = (table(&["a"]), Instant::now());
        let picked = pick(&mut table, &[], now);
        end(&mut table, &picked, Ended { sign: Sign::Alive, sample: Some(SECOND) }, now);
        assert_eq!(table.targets()[0].response_time(now), SECOND);
        let picked = pick(&mut table, &[], now);
        end(&mut table, &picked, GONE, now);
        assert_eq!(table.targets()[0].response_time(now), Duration::ZERO);
    }

    #[test]
    fn an_index_beyond_the_end_counts_from_the_start() {
        struct Beyond;
        impl Balancer for Beyond {
            fn pick(&self, candidates: &[Candidate<'_>], _: u64) -> usize {
                candidates.len() + 1
            }
        }
        let mut table = table(&["a", "b"]);
        assert_eq!(table.pick(&Beyond, 0, &[], Instant::now()).unwrap().line, "b");
    }
}
