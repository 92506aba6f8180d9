//! [`Fault`]: what a request asks for, and how it is done.

use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::params::{self, Params, Who};
use super::told::{self, Told};
use super::view::in_words;
use crate::ErrorChain;
use crate::raft::MemberId;
use crate::rpc::http::Response;
use crate::testing::{Cluster, ClusterError, Delay};

/// The pause between two looks for a leader.
const LEADER_PAUSE: Duration = Duration::from_millis(5);

/// The faults, by the names that their paths end with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Kill,
    Stop,
    Restart,
    Wipe,
    Pause,
    Resume,
    Partition,
    Heal,
    Blackhole,
    Delay,
    Drop,
    Add,
    Promote,
    Remove,
    Move,
}

const KINDS: [(&str, Kind); 15] = [
    ("kill", Kind::Kill),
    ("stop", Kind::Stop),
    ("restart", Kind::Restart),
    ("wipe", Kind::Wipe),
    ("pause", Kind::Pause),
    ("resume", Kind::Resume),
    ("partition", Kind::Partition),
    ("heal", Kind::Heal),
    ("blackhole", Kind::Blackhole),
    ("delay", Kind::Delay),
    ("drop", Kind::Drop),
    ("add", Kind::Add),
    ("promote", Kind::Promote),
    ("remove", Kind::Remove),
    ("move", Kind::Move),
];

impl Kind {
    pub(super) fn named(name: &str) -> Option<Kind> {
        KINDS.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    fn name(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).expect("all are in the table").0
    }

    pub(super) fn names() -> String {
        KINDS.map(|(name, _)| name).join(", ")
    }
}

/// A fault with its parameters. All ids are those of members.
#[derive(Debug)]
pub(super) struct Fault {
    kind: Kind,
    what: What,
}

#[derive(Debug)]
enum What {
    Member(Who),
    /// Between each member of the first list and each of the second one; `None`: all others.
    Between(Vec<Who>, Option<Vec<Who>>),
    /// What the first ones send to the second ones.
    OneWay(Vec<Who>, Vec<Who>),
    /// Between all members.
    All,
    Delay(Duration, Duration),
    Drop(f64),
    /// A newcomer, which votes or learns.
    Add {
        is_learner: bool,
    },
}

/// What was done.
#[derive(Debug, Default, Serialize)]
pub(super) struct Done {
    fault: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    one: Option<Vec<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    other: Option<Vec<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Vec<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Vec<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<f64>,
    /// Where a member is reached that has just come there.
    #[serde(skip_serializing_if = "Option::is_none")]
    addr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    etcd: Option<String>,
}

impl Fault {
    /// Reads the parameters of a fault. `ids`: the members that there are.
    pub(super) fn read(
        kind: Kind,
        mut params: Params,
        ids: &[MemberId],
    ) -> Result<Fault, Response> {
        let known: &[&str];
        let what = match kind {
            Kind::Kill
            | Kind::Stop
            | Kind::Restart
            | Kind::Wipe
            | Kind::Pause
            | Kind::Resume
            | Kind::Promote
            | Kind::Remove
            | Kind::Move => {
                known = &["member"];
                What::Member(params.wanted("member", params::who)?)
            }
            Kind::Partition if params.has("from") || params.has("to") => {
                known = &["from", "to"];
                let from = params.wanted("from", params::several)?;
                What::OneWay(from, params.wanted("to", params::several)?)
            }
            Kind::Blackhole if !params.has("one") && !params.has("other") => {
                known = &["one", "other"];
                What::All
            }
            Kind::Partition | Kind::Blackhole => {
                known = &["one", "other"];
                let one = params.wanted("one", params::several)?;
                What::Between(one, params.optional("other", params::several)?)
            }
            Kind::Heal => {
                known = &[];
                What::All
            }
            Kind::Delay => {
                known = &["min", "max"];
                let min = params.wanted("min", params::delay)?;
                let max = params.optional("max", params::delay)?.unwrap_or(min);
                if max < min {
                    return Err(told::invalid(format!("?max: {max:?} is less than ?min, {min:?}")));
                }
                What::Delay(min, max)
            }
            Kind::Drop => {
                known = &["rate"];
                What::Drop(params.wanted("rate", params::share)?)
            }
            Kind::Add => {
                known = &["learner"];
                let is_learner = params.optional("learner", params::flag)?.unwrap_or(false);
                What::Add { is_learner }
            }
        };
        params.end(known)?;
        let is_stranger = |who: &&Who| matches!(who, Who::Id(id) if !ids.contains(id));
        match what.named().into_iter().find(is_stranger) {
            Some(Who::Id(id)) => Err(no_such_member(*id, ids)),
            _ => Ok(Fault { kind, what }),
        }
    }

    /// Does it. While a leader is waited for, `is_over` ends the wait.
    pub(super) fn apply(
        self,
        cluster: &Cluster,
        is_over: impl Fn() -> bool,
    ) -> Result<Done, Response> {
        let find = Find { cluster, is_over };
        let Fault { kind, what } = self;
        let done = Done { fault: kind.name(), ..Done::default() };
        Ok(match what {
            What::Member(who) => {
                let id = find.one(who)?;
                to_member(kind, cluster, id)?;
                let done = Done { member: Some(id.0), ..done };
                if kind == Kind::Move { done.at(cluster, id) } else { done }
            }
            What::Between(one, other) => {
                let one = find.all(one)?;
                let other = match other {
                    Some(other) => find.all(other)?,
                    None => cluster.ids().into_iter().filter(|id| !one.contains(id)).collect(),
                };
                apart(&one, &other)?;
                match kind {
                    Kind::Blackhole => cluster.blackhole(&one, &other),
                    _ => cluster.partition(&one, &other),
                }
                Done { one: Some(numbers(&one)), other: Some(numbers(&other)), ..done }
            }
            What::OneWay(from, to) => {
                let (from, to) = (find.all(from)?, find.all(to)?);
                apart(&from, &to)?;
                for &from in &from {
                    to.iter().for_each(|&to| cluster.partition_one_way(from, to));
                }
                Done { from: Some(numbers(&from)), to: Some(numbers(&to)), ..done }
            }
            What::All => {
                match kind {
                    Kind::Heal => cluster.heal(),
                    _ => cluster.blackhole(&cluster.ids(), &cluster.ids()),
                }
                done
            }
            What::Delay(min, max) => {
                cluster.delay(Delay::from(min..=max));
                Done { min: Some(in_words(min)), max: Some(in_words(max)), ..done }
            }
            What::Drop(rate) => {
                cluster.drop_rate(rate);
                Done { rate: Some(rate), ..done }
            }
            What::Add { is_learner } => {
                let added = if is_learner { cluster.add_learner() } else { cluster.add_member() };
                let id = added.map_err(|error| failed(&error))?;
                Done { member: Some(id.0), ..done }.at(cluster, id)
            }
        })
    }
}

impl Done {
    /// The same with where the member is reached.
    fn at(self, cluster: &Cluster, id: MemberId) -> Done {
        let url = |addr| format!("http://{addr}");
        Done {
            addr: Some(cluster.addr(id).to_string()),
            http: cluster.http_addr(id).map(url),
            etcd: cluster.etcd_addr(id).map(url),
            ..self
        }
    }
}

impl What {
    /// The members that are named in it.
    fn named(&self) -> Vec<&Who> {
        match self {
            What::Member(who) => vec![who],
            What::Between(one, other) => one.iter().chain(other.iter().flatten()).collect(),
            What::OneWay(from, to) => from.iter().chain(to).collect(),
            What::All | What::Delay(..) | What::Drop(_) | What::Add { .. } => Vec::new(),
        }
    }
}

/// Does to a member what it is in a state for.
fn to_member(kind: Kind, cluster: &Cluster, id: MemberId) -> Result<(), Response> {
    let is_done = match kind {
        Kind::Kill => cluster.try_kill(id),
        Kind::Stop => cluster.try_stop(id),
        Kind::Pause => cluster.try_pause(id),
        Kind::Resume => cluster.try_resume(id),
        Kind::Restart => cluster.try_restart(id).map_err(|error| failed(&error))?,
        Kind::Wipe => all_of(cluster.wipe(id))?,
        Kind::Promote => all_of(cluster.promote_member(id))?,
        Kind::Remove => all_of(cluster.remove_member(id))?,
        Kind::Move => all_of(cluster.move_member(id))?,
        other => panic!("{other:?} is done to no member"),
    };
    match is_done {
        true => Ok(()),
        false => Err(unfit(kind, cluster, id)),
    }
}

fn all_of(done: Result<(), ClusterError>) -> Result<bool, Response> {
    done.map(|()| true).map_err(|error| failed(&error))
}

/// Finds out who is meant.
struct Find<'a, F> {
    cluster: &'a Cluster,
    is_over: F,
}

impl<F: Fn() -> bool> Find<'_, F> {
    fn one(&self, who: Who) -> Result<MemberId, Response> {
        let Who::Id(id) = who else { return self.leader() };
        Ok(id)
    }

    fn all(&self, whos: Vec<Who>) -> Result<Vec<MemberId>, Response> {
        let mut ids = whos.into_iter().map(|who| self.one(who)).collect::<Result<Vec<_>, _>>()?;
        ids.sort();
        ids.dedup();
        Ok(ids)
    }

    /// The leader, once there is one.
    fn leader(&self) -> Result<MemberId, Response> {
        let waited = self.cluster.leader_timeout();
        let deadline = Instant::now() + waited;
        loop {
            if let Some(leader) = self.cluster.leader_now() {
                return Ok(leader);
            }
            if Instant::now() >= deadline || (self.is_over)() {
                let message = format!("nobody has led for {waited:?}");
                return Err(Told::new(503, "no_leader", message).response());
            }
            thread::sleep(LEADER_PAUSE);
        }
    }
}

fn numbers(ids: &[MemberId]) -> Vec<u64> {
    ids.iter().map(|id| id.0).collect()
}

/// A network is cut between members, not within one.
fn apart(one: &[MemberId], other: &[MemberId]) -> Result<(), Response> {
    let message = match one.iter().find(|id| other.contains(id)) {
        Some(id) => format!("member {id} is on both sides"),
        None if one.is_empty() || other.is_empty() => "nobody is on the other side".to_owned(),
        None => return Ok(()),
    };
    Err(told::invalid(message))
}

fn no_such_member(id: MemberId, ids: &[MemberId]) -> Response {
    let ids: Vec<String> = ids.iter().map(MemberId::to_string).collect();
    let message = format!("there is no member {id}: there are {}", ids.join(", "));
    Told::new(404, "no_such_member", message).response()
}

/// The member is in no state for it.
fn unfit(kind: Kind, cluster: &Cluster, id: MemberId) -> Response {
    let state = match kind {
        Kind::Restart => "runs already",
        Kind::Resume if cluster.status(id).is_some() => "is not paused",
        Kind::Pause if cluster.is_paused(id) => "is paused already",
        _ => "is down",
    };
    Told::new(409, "state", format!("member {id} {state}")).response()
}

fn failed(error: &ClusterError) -> Response {
    let (status, word) = match error {
        ClusterError::Change { .. } => (409, "refused"),
        _ => (500, "failed"),
    };
    Told::new(status, word, ErrorChain(error).to_string()).response()
}
