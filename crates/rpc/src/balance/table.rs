//! [`EndpointTable`]: the entries behind a lock, and calls as guards.

use std::fmt;
use std::ops::Deref;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::entries::{CallEnd, Entries, Entry, Picked};
use super::health::{CallKind, HealthChange, HealthPolicy, HealthSignal};
use super::{Balancer, Endpoint};

/// Endpoints that offer the same services, with what is known of each: how many calls it has
/// outstanding, how fast it answers, and whether it should get calls at all.
///
/// [`Targets`](super::Targets) are built on such a table. A program needs one of its own only if it
/// chooses endpoints by rules that a [`Balancer`] cannot express, for example because one of them
/// is a leader. `T` is whatever reaches an endpoint, such as a stub.
///
/// Each endpoint has a number: 0 for the first that is added, then 1, and so on. No number is used
/// twice.
///
/// ```
/// use std::time::{Duration, Instant};
/// use syncraft_rpc::builtin::{ListServicesArgs, RpcStub};
/// use syncraft_rpc::{Channel, EndpointTable, HealthPolicy, HealthSignal, RoundRobin};
///
/// let table = EndpointTable::new(HealthPolicy::default());
/// let server = syncraft_rpc::Server::builder().bind("127.0.0.1:0").build()?.start();
/// let addr = server.local_addr().to_string();
/// table.push(addr.clone(), RpcStub::new(Channel::builder(addr).lazy()));
///
/// let attempt = table.pick(&RoundRobin::new(), 0, &[]).expect("there is an endpoint");
/// let began = Instant::now();
/// match attempt.list_services(&ListServicesArgs {}, began + Duration::from_secs(5)) {
///     Ok(_) => attempt.end(HealthSignal::Answered, Some(began.elapsed())),
///     Err(error) => attempt.end(HealthSignal::of(&error), None),
/// }
/// assert!(!table.status()[0].is_left_alone);
/// # Ok::<(), syncraft_rpc::ServerError>(())
/// ```
pub struct EndpointTable<T> {
    entries: Mutex<Entries<T>>,
}

/// An endpoint, and what is known of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TargetStatus {
    /// Its address and weight.
    pub endpoint: Endpoint,
    /// Calls that have not ended.
    pub outstanding: usize,
    /// How long it takes to answer, as a moving average. Zero: not known.
    pub response_time: Duration,
    /// Whether it is ejected: it has failed, and has not answered since.
    pub is_left_alone: bool,
}

impl<T> EndpointTable<T> {
    /// An empty table.
    pub fn new(policy: HealthPolicy) -> Self {
        EndpointTable { entries: Mutex::new(Entries::new(policy)) }
    }

    /// Adds an endpoint and returns its number. Its address should not be in the table.
    pub fn push(&self, endpoint: impl Into<Endpoint>, value: T) -> usize {
        self.entries.lock().push(endpoint.into(), value)
    }

    /// Removes the endpoint with this number, if there is one. Calls that are under way there go
    /// on.
    pub fn remove(&self, number: usize) {
        // Dropped once the lock is released.
        let _unused = self.entries.lock().remove(number);
    }

    /// How many endpoints there are.
    pub fn len(&self) -> usize {
        self.entries.lock().listed().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of the first endpoint whose value passes the test.
    pub fn find(&self, mut is_wanted: impl FnMut(&T) -> bool) -> Option<usize> {
        let entries = self.entries.lock();
        entries.listed().iter().find(|entry| is_wanted(&entry.value)).map(Entry::number)
    }

    /// What `look` makes of each endpoint's number and value, in the order in which they were
    /// added.
    pub fn map<R>(&self, mut look: impl FnMut(usize, &T) -> R) -> Vec<R> {
        let entries = self.entries.lock();
        entries.listed().iter().map(|entry| look(entry.number(), &entry.value)).collect()
    }

    /// What is known of each endpoint, in the order in which they were added.
    pub fn status(&self) -> Vec<TargetStatus> {
        let (now, entries) = (Instant::now(), self.entries.lock());
        let status = entries.listed().iter().map(|entry| TargetStatus {
            endpoint: entry.endpoint.clone(),
            outstanding: entry.outstanding,
            response_time: entry.response_time(now),
            is_left_alone: entry.is_ejected(),
        });
        status.collect()
    }

    /// For each endpoint, in the order in which they were added: whether a call there would
    /// probably wait in vain. That is so while the endpoint is ejected and its last call ended as
    /// [`HealthSignal::Silent`]. An endpoint that is ejected for another reason fails at once.
    pub fn silent(&self) -> Vec<bool> {
        let (now, entries) = (Instant::now(), self.entries.lock());
        entries.listed().iter().map(|entry| entry.is_silent(now)).collect()
    }

    /// Begins a call with this `key` at the balancer's choice among the endpoints in use, without
    /// those in `tried`. If none of these is in use, at the one whose cool-down ends first. `None`:
    /// all have been tried.
    ///
    /// The balancer runs under the table's lock: it must not call the table.
    pub fn pick(
        &self,
        balancer: &dyn Balancer,
        key: u64,
        tried: &[usize],
    ) -> Option<Attempt<'_, T>> {
        let now = Instant::now();
        let picked = self.entries.lock().pick(balancer, key, tried, now)?;
        Some(Attempt { table: self, picked, is_over: false })
    }

    /// Begins a call at the endpoint with this number, whatever its health. `None`: there is no
    /// such endpoint.
    pub fn begin(&self, number: usize) -> Option<Attempt<'_, T>> {
        let now = Instant::now();
        let picked = self.entries.lock().begin(number, now)?;
        Some(Attempt { table: self, picked, is_over: false })
    }

    /// Whether the list of that generation has yet to be applied.
    pub(super) fn is_behind(&self, generation: u64) -> bool {
        self.entries.lock().is_behind(generation)
    }

    /// Replaces the list of endpoints, unless a newer list has been applied.
    pub(super) fn apply(
        &self,
        generation: u64,
        endpoints: Vec<Endpoint>,
        value_for: impl Fn(&Endpoint) -> T,
    ) {
        // Dropped once the lock is released.
        let _unused = self.entries.lock().apply(generation, endpoints, value_for);
    }

    fn end(&self, number: usize, kind: CallKind, end: CallEnd) -> Option<HealthChange> {
        let now = Instant::now();
        // As above.
        let (_unused, change) = self.entries.lock().end(number, kind, end, now);
        change
    }
}

impl<T> fmt::Debug for EndpointTable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.entries.lock();
        let addr = |entry: &Entry<T>| entry.endpoint.addr().to_owned();
        let addrs: Vec<String> = entries.listed().iter().map(addr).collect();
        f.debug_tuple("EndpointTable").field(&addrs).finish()
    }
}

/// A call at one endpoint of an [`EndpointTable`], and the way to that endpoint. It counts as
/// outstanding until it [ends](Attempt::end). Dropping it ends it as [`HealthSignal::Unknown`].
pub struct Attempt<'a, T> {
    table: &'a EndpointTable<T>,
    picked: Picked<T>,
    is_over: bool,
}

impl<T> Attempt<'_, T> {
    /// The endpoint's number.
    pub fn number(&self) -> usize {
        self.picked.number
    }

    /// Ends the call. `signal` is what its end says about the endpoint's health. `sample` is how
    /// long the answer took, if that says how fast the endpoint is.
    pub fn end(mut self, signal: HealthSignal, sample: Option<Duration>) {
        self.finish(CallEnd { signal, sample });
    }

    /// As [`end`](Attempt::end), once. Returns the change of health, for the log.
    pub(super) fn finish(&mut self, end: CallEnd) -> Option<HealthChange> {
        assert!(!self.is_over, "an attempt ends once");
        self.is_over = true;
        self.table.end(self.picked.number, self.picked.kind, end)
    }

    /// How many endpoints the call has not tried before, this one included.
    pub(super) fn untried(&self) -> u32 {
        self.picked.untried
    }
}

impl<T> Deref for Attempt<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.picked.value
    }
}

impl<T> Drop for Attempt<'_, T> {
    fn drop(&mut self) {
        if !self.is_over {
            let end = CallEnd { signal: HealthSignal::Unknown, sample: None };
            self.table.end(self.picked.number, self.picked.kind, end);
        }
    }
}

impl<T> fmt::Debug for Attempt<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt")
            .field("number", &self.picked.number)
            .field("kind", &self.picked.kind)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::RoundRobin;
    use super::*;

    fn outstanding<T>(table: &EndpointTable<T>) -> usize {
        table.status().iter().map(|status| status.outstanding).sum()
    }

    #[test]
    fn an_attempt_is_outstanding_until_it_ends_or_is_dropped() {
        let table = EndpointTable::new(HealthPolicy::default());
        assert!(table.is_empty() && table.pick(&RoundRobin::new(), 0, &[]).is_none());
        assert_eq!((table.push("a:1", 'a'), table.push("b:1", 'b')), (0, 1));
        assert_eq!((table.find(|value| *value == 'b'), table.find(|_| false)), (Some(1), None));
        let picked = table.pick(&RoundRobin::new(), 0, &[0]).unwrap();
        let begun = table.begin(0).unwrap();
        assert_eq!((picked.number(), begun.number(), outstanding(&table)), (1, 0, 2));
        drop(begun);
        assert_eq!(outstanding(&table), 1);
        picked.end(HealthSignal::Answered, None);
        assert_eq!(outstanding(&table), 0);
        assert!(table.begin(2).is_none());
    }

    #[test]
    fn an_endpoint_that_is_removed_gets_no_more_calls() {
        let table = EndpointTable::new(HealthPolicy::default());
        assert_eq!((table.push("a:1", 'a'), table.push("b:1", 'b')), (0, 1));
        let begun = table.begin(0).unwrap();
        table.remove(0);
        table.remove(7);
        assert!(table.begin(0).is_none());
        assert_eq!((table.map(|number, value| (number, *value)), *begun), (vec![(1, 'b')], 'a'));
        begun.end(HealthSignal::Answered, None);
        assert_eq!(table.push("a:1", 'c'), 2, "no number is used twice");
    }

    #[test]
    fn a_dropped_attempt_says_nothing_about_the_endpoint() {
        let table = EndpointTable::new(HealthPolicy { losses_max: 1, ..HealthPolicy::default() });
        table.push("a:1", ());
        drop(table.begin(0));
        assert!(!table.status()[0].is_left_alone);
        table.begin(0).unwrap().end(HealthSignal::Silent, None);
        drop(table.begin(0));
        assert!(table.status()[0].is_left_alone);
        assert_eq!(table.silent(), [true]);
    }
}
