//! Recorded traces. Each file in `tests/raft/scripts` tells one story of a cluster, command by
//! command, with what the core did below each command. `UPDATE_GOLDENFILES=1` records them anew:
//! read the diff.
//!
//! | Command | Meaning |
//! |---|---|
//! | `cluster 3 [limit=value]..` | fresh members 1 to 3 |
//! | `cluster 3 recorded=1 [limit=value]..` | the same, and the first leader records the members |
//! | `join 4` | a newcomer that knows that it was added |
//! | `add 1 4`, `promote 1 4`, `remove 1 2`, `move 1 2` | an operator asks 1 for a change of the members |
//! | `start 1 term=3 log="1 2 2"` | member 1 starts with a disk that holds entries of these terms |
//! | `tick 1 [n]`, `campaign 1` | time passes for one member; until it asks for pre-votes |
//! | `propose 1 a b`, `read 1 [n]` | requests, in one step |
//! | `deliver`, `drop`, `repeat` | deliver queued messages; lose them; deliver and keep them |
//! | `deliver [from=] [to=] [kind=] [term=]` | the same, only for messages that match |
//! | `reverse` | the queue in the other order |
//! | `settle` | deliver, with heartbeats, until nothing is left |
//! | `hold 1`, `persist 1`, `release 1` | a disk on command: hold; write one; write all |
//! | `cut 1 2`, `lose 1`, `heal` | a link one way; a member; all again |
//! | `crash 1`, `restart 1` | 1 stops; starts with its disk |
//! | `disconnected 1 2` | 1 loses its connection to 2 |
//! | `snapshot 1` | 1 takes a snapshot of what it has applied |
//! | `queue`, `status [1]`, `log [1]` | look |

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use goldenscript::{Command, Context, Runner};
use syncraft::raft::*;
use test_each_file::test_each_path;

use crate::cluster::Cluster;
use crate::node::read;
use crate::words;

test_each_path! { for ["script"] in "./tests/raft/scripts" as scripts => run }

fn run([path]: [&Path; 1]) {
    let mut script = Script { cluster: Cluster::new(3), reads: 0 };
    goldenscript::run(&mut script, path).expect("the script runs, and matches what was recorded");
}

type Outcome = Result<String, Box<dyn Error>>;

struct Script {
    cluster: Cluster,
    reads: u64,
}

impl Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Outcome {
        let looked = match command.name.as_str() {
            "cluster" | "start" => self.set_up(command)?,
            "deliver" | "drop" | "repeat" => self.messages(command)?,
            "queue" | "status" | "log" => self.look(command)?,
            _ => self.act(command)?,
        };
        let mut lines = std::mem::take(&mut self.cluster.story);
        lines.extend(looked);
        Ok(lines.join("\n"))
    }
}

impl Script {
    fn set_up(&mut self, command: &Command) -> Result<Vec<String>, Box<dyn Error>> {
        let mut args = command.consume_args();
        let number = args.next_pos().ok_or("how many, or which one?")?.parse()?;
        if command.name == "cluster" {
            let mut limits = Vec::new();
            while let Some((name, value)) = args.next_key() {
                limits.push((name.to_owned(), value.parse::<usize>()?));
            }
            self.cluster = Cluster::with(number, |config| {
                limits.iter().for_each(|(name, value)| limit(config, name, *value));
                if limits.iter().any(|(name, _)| name == "recorded") {
                    record(config, number);
                }
            });
            return Ok(Vec::new());
        }
        let term = args.take_key("term").unwrap_or("0").parse()?;
        let log: Result<Vec<u64>, _> = match args.take_key("log") {
            None | Some("") => Ok(Vec::new()),
            Some(log) => log.split(' ').map(str::parse).collect(),
        };
        args.reject_next()?;
        self.cluster.restart_with(number, term, &log?);
        Ok(Vec::new())
    }

    fn messages(&mut self, command: &Command) -> Result<Vec<String>, Box<dyn Error>> {
        let mut args = command.consume_args();
        let id = |value: Option<&str>| value.map(str::parse::<u64>).transpose();
        let (from, to) = (id(args.take_key("from"))?, id(args.take_key("to"))?);
        let kind = args.take_key("kind").map(str::to_owned);
        let term = id(args.take_key("term"))?;
        args.reject_next()?;
        let fits = |message: &Message| {
            term.is_none_or(|term| message.term.0 == term)
                && from.is_none_or(|id| message.from.0 == id)
                && to.is_none_or(|id| message.to.0 == id)
                && kind.as_deref().is_none_or(|kind| words::kind(message) == kind)
        };
        match command.name.as_str() {
            "drop" => {
                let queue = std::mem::take(&mut self.cluster.queue);
                let (dropped, kept): (Vec<_>, Vec<_>) = queue.into_iter().partition(fits);
                self.cluster.queue = kept;
                return Ok(dropped
                    .iter()
                    .map(|it| format!("{} (dropped)", words::message(it)))
                    .collect());
            }
            "repeat" => {
                let again: Vec<_> =
                    self.cluster.queue.iter().filter(|it| fits(it)).cloned().collect();
                again.into_iter().for_each(|message| self.cluster.deliver(message));
            }
            _ => drop(self.cluster.deliver_where(fits)),
        }
        Ok(Vec::new())
    }

    fn look(&self, command: &Command) -> Result<Vec<String>, Box<dyn Error>> {
        let mut args = command.consume_args();
        let ids = match args.next_pos() {
            Some(id) => vec![id.parse()?],
            None => self.cluster.ids(),
        };
        args.reject_next()?;
        Ok(match command.name.as_str() {
            "queue" => self.cluster.queue.iter().map(words::message).collect(),
            "status" => ids.into_iter().map(|id| self.status(id)).collect(),
            _ => ids
                .into_iter()
                .map(|id| format!("{id}: {}", words::entries(&self.cluster.node(id).log)))
                .collect(),
        })
    }

    fn status(&self, id: u64) -> String {
        if self.cluster.is_down(id) {
            return format!("{id} is down");
        }
        let status = self.cluster.node(id).raft.status();
        let mut line = format!(
            "{id} is {}: last {}, commit {}",
            words::role(&status.role),
            status.last_index,
            status.commit_index
        );
        if status.durable_index < status.last_index {
            let _ = write!(line, ", durable {}", status.durable_index);
        }
        line
    }

    fn act(&mut self, command: &Command) -> Result<Vec<String>, Box<dyn Error>> {
        let mut args = command.consume_args();
        let mut words = Vec::new();
        while let Some(word) = args.next_pos() {
            words.push(word);
        }
        args.reject_next()?;
        let number = |at: usize| words.get(at).map(|word| word.parse::<u64>()).transpose();
        let id = number(0)?.unwrap_or(0);
        let cluster = &mut self.cluster;
        match command.name.as_str() {
            "tick" => (0..number(1)?.unwrap_or(1)).for_each(|_| cluster.step(id, [Event::Tick])),
            "campaign" => cluster.campaign(id),
            "join" => {
                let listed: Vec<u64> = (1..id).collect();
                cluster.join(id, &listed);
            }
            "add" | "promote" | "remove" | "move" => {
                let member = MemberId(number(1)?.ok_or("whom?")?);
                cluster.change(id, change(&command.name, member));
            }
            "transfer" => {
                let to = number(1)?.map(MemberId);
                cluster.step(id, [Event::Transfer { to }]);
            }
            "propose" => cluster.propose_all(id, &words[1..]),
            "read" => {
                let from = self.reads + 1;
                self.reads += number(1)?.unwrap_or(1);
                cluster.step(id, (from..=self.reads).map(read));
            }
            "reverse" => cluster.queue.reverse(),
            "settle" => cluster.settle(),
            "hold" => cluster.hold(id),
            "persist" => cluster.persist_one(id),
            "release" => cluster.release(id),
            "cut" => cluster.cut(id, number(1)?.ok_or("cut from whom?")?),
            "lose" => cluster.lose(id),
            "snapshot" => cluster.take_snapshot(id),
            "heal" => cluster.heal(),
            "crash" => cluster.crash(id),
            "restart" => cluster.restart(id),
            "disconnected" => {
                let peer = MemberId(number(1)?.ok_or("from whom?")?);
                cluster.step(id, [Event::Disconnected(peer)]);
            }
            other => return Err(format!("unknown command {other}").into()),
        }
        Ok(Vec::new())
    }
}

/// Members 1 to this one, which the first leader records.
fn record(config: &mut Config, members: u64) {
    let addrs = (1..=members).map(|id| (MemberId(id), format!("h{id}:1")));
    config.first_configuration = Some(Arc::new(Configuration::first(1, 1, addrs)));
}

fn change(name: &str, id: MemberId) -> Change {
    match name {
        "add" => {
            let place = Place { addr: format!("h{id}:1"), directory: id.0 };
            Change::AddLearner { id, place }
        }
        "promote" => Change::Promote(id),
        "remove" => Change::Remove(id),
        _ => Change::Move { id, addr: format!("moved{id}:1") },
    }
}

fn limit(config: &mut Config, name: &str, value: usize) {
    match name {
        "window" => config.window_messages_max = value,
        "append_bytes" => config.append_bytes_max = value,
        "uncommitted" => config.uncommitted_entries_max = value as u64,
        // A member forgets nothing before it knows its cluster.
        "tail_bytes" => (config.cluster_id, config.log_tail_bytes_max) = (1, value),
        "catch_up_bytes" => config.log_catch_up_bytes_max = value,
        "reads" => config.reads_max = value,
        "recorded" => {}
        _ => panic!("unknown limit {name}"),
    }
}
