//! Members come and go: `syncraft member`, and what the members themselves make of it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use syncraft::testing::Port;

use crate::processes::*;

/// A member that is started alone begins a cluster unless it is called within four heartbeats. A
/// busy machine needs time for that.
const SLOW: [&str; 4] = ["--heartbeat", "500ms", "--election-timeout", "2s"];

/// A member that was started with `--join`, or at an address that is not in the list.
struct Newcomer {
    id: u64,
    port: Port,
    dir: PathBuf,
    args: Vec<String>,
    child: Option<Child>,
}

impl Newcomer {
    /// Waits to be added to the cluster.
    fn join(cluster: &Processes, id: u64) -> Newcomer {
        Newcomer::join_with(cluster, id, &[])
    }

    /// With additional options.
    fn join_with(cluster: &Processes, id: u64, options: &[&str]) -> Newcomer {
        let port = Port::free().unwrap();
        let (listen, members) = (port.addr().to_string(), cluster.members());
        let dir = cluster.data_dir(id as usize);
        let args = [&["--join", &members, "--listen", &listen][..], options].concat();
        let args = args.into_iter().map(str::to_owned).collect();
        let mut newcomer = Newcomer { id, port, dir, args, child: None };
        newcomer.start();
        // `member add` waits for that only some seconds.
        until("it waits to be added", || {
            let status = syncraft(&["status", "--members", &newcomer.addr()]);
            String::from_utf8_lossy(&status.stdout).contains("waits to be added")
        });
        newcomer
    }

    fn start(&mut self) {
        self.child = Some(self.command().stdout(Stdio::null()).stderr(self.log()).spawn().unwrap());
    }

    fn command(&self) -> Command {
        let mut command = Command::new(SYNCRAFT);
        command
            .args(["server", "--id", &self.id.to_string(), "--data-dir"])
            .arg(&self.dir)
            .args(&self.args)
            .env_remove("SYNCRAFT_LISTEN")
            .env_remove("SYNCRAFT_MEMBERS");
        command
    }

    fn log(&self) -> File {
        File::options().create(true).append(true).open(self.dir.with_extension("log")).unwrap()
    }

    fn said(&self) -> String {
        fs::read_to_string(self.dir.with_extension("log")).unwrap_or_default()
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    fn addr(&self) -> String {
        self.port.addr().to_string()
    }

    /// As `syncraft member add` takes it.
    fn named(&self) -> String {
        format!("{}={}", self.id, self.addr())
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.id, self.said());
        }
        self.kill();
    }
}

/// `syncraft member`, by a client that knows these addresses.
fn member(known: &str, args: &[&str]) -> Output {
    syncraft(&[&["member", "--timeout", "30s", "--members", known], args].concat())
}

#[track_caller]
fn done(known: &str, args: &[&str]) -> String {
    let output = member(known, args);
    assert!(output.status.success(), "member {args:?}: {}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refused(known: &str, args: &[&str], status: i32, words: &str) {
    let output = member(known, args);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(status), "member {args:?}: {said}");
    assert!(said.contains(words), "member {args:?}: {said}");
}

fn list(known: &str) -> Value {
    serde_json::from_str(&done(known, &["list", "--json"])).unwrap()
}

/// What `syncraft status` says of every member.
fn status(known: &str) -> Vec<Value> {
    let output = syncraft(&["status", "--json", "--members", known]);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    status["members"].as_array().unwrap().clone()
}

/// Id, address and kind of every member.
fn places(known: &str) -> Vec<(u64, String, String)> {
    let text = |member: &Value, name: &str| member[name].as_str().unwrap().to_owned();
    let list = list(known);
    let members = list["members"].as_array().unwrap().iter();
    members.map(|it| (it["id"].as_u64().unwrap(), text(it, "addr"), text(it, "kind"))).collect()
}

fn voters(known: &str) -> Vec<u64> {
    let voters = places(known).into_iter().filter(|(_, _, kind)| kind == "voter");
    voters.map(|(id, _, _)| id).collect()
}

fn addr_of(known: &str, id: u64) -> String {
    let mut places = places(known).into_iter();
    places.find(|(it, _, _)| *it == id).map(|(_, addr, _)| addr).unwrap_or_default()
}

fn put(known: &str, key: &str, value: &str) {
    let output = syncraft(&["put", key, value, "--members", known, "--timeout", "30s"]);
    assert!(output.status.success(), "put: {}", stderr(&output));
}

#[track_caller]
fn check_value(known: &str, key: &str, expected: &str) {
    let output = syncraft(&["get", key, "--members", known, "--timeout", "30s"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), expected, "{}", stderr(&output));
}

/// Waits until a member has stopped by itself.
#[track_caller]
fn end(child: &mut Option<Child>) -> Option<i32> {
    let mut child = child.take().unwrap();
    until("the member stops by itself", || child.try_wait().unwrap().is_some());
    child.wait().unwrap().code()
}

#[test]
fn three_become_five_lose_their_leader_and_move() {
    let mut cluster = Processes::start(3);
    let known = cluster.members();
    put(&known, "k", "1");
    let (four, five) = (Newcomer::join(&cluster, 4), Newcomer::join(&cluster, 5));
    assert!(done(&known, &["add", &four.named()]).contains("member 4"));
    // A client that knows only one member, which is new.
    let one = four.addr();
    done(&one, &["add", &five.named()]);
    assert_eq!(voters(&one), [1, 2, 3, 4, 5]);
    let again = done(&one, &["add", &five.named()]);
    assert!(again.contains("is a voter already"), "{again}");

    assert!(syncraft(&["transfer", "1", "--members", &known]).status.success());
    let id = list(&one)["cluster"].clone();
    done(&one, &["remove", "1"]);
    assert_eq!(voters(&one), [2, 3, 4, 5]);
    assert!(done(&one, &["remove", "1"]).contains("was removed before"));
    assert_eq!(end(&mut cluster.children[0]), Some(3));
    assert!(cluster.logs().contains("member 1 stops: it was removed"), "{}", cluster.logs());
    put(&one, "k", "2");

    // It comes back with its old data, and disturbs nobody. A busy machine may hold an election all
    // the same, but not each time.
    let disturbs_nobody = (0..5).any(|_| {
        let term = list(&one)["term"].clone();
        cluster.restart(1);
        assert_eq!(end(&mut cluster.children[0]), Some(3));
        list(&one)["term"] == term
    });
    assert!(disturbs_nobody, "the term has changed each time");
    refused(
        &one,
        &["add", &format!("1={}", cluster.ports[0].addr())],
        2,
        "an id is used only once",
    );

    // It starts again at another address, with the same list.
    cluster.kill(2);
    let port = Port::free().unwrap();
    let moved = port.addr().to_string();
    cluster.restart_with(2, &["--advertise", &moved, "--listen", &moved]);
    until("member 2 is found at its new address", || addr_of(&one, 2) == moved);
    assert_eq!(list(&one)["cluster"], id);
    check_value(&moved, "k", "2");

    let mut members = Vec::new();
    until("all of them answer", || {
        members = status(&moved);
        members.iter().all(|it| it["reachable"] == true)
    });
    let ids: Vec<u64> = members.iter().map(|it| it["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, [2, 3, 4, 5], "{members:?}");
}

#[test]
fn whoever_is_not_what_was_said_is_not_added() {
    let cluster = Processes::start(3);
    let known = cluster.members();
    let nobody = Port::free().unwrap();
    let two = cluster.ports[1].addr().to_string();
    refused(&known, &["add", &format!("4={}", nobody.addr())], 3, "nobody answers");
    refused(&known, &["add", &format!("4={two}")], 3, "member 2 answers, not member 4");
    refused(&known, &["add", &format!("2={}", nobody.addr())], 2, "choose another id");
    refused(&known, &["add", "4=nowhere"], 2, "the port is missing");
    refused(&known, &["move", "2", &nobody.addr().to_string()], 3, "nobody answers");
    refused(&known, &["move", "3", &two], 3, "member 2 answers, not member 3");
    refused(&known, &["remove", "9"], 2, "there is no member 9");
    refused(&known, &["promote", "9"], 2, "there is no member 9");
    assert!(done(&known, &["promote", "2"]).contains("is a voter already"));

    // Whoever waits for another cluster is not taken.
    let other = Processes::start(1);
    let stranger = Newcomer::join(&other, 4);
    refused(&known, &["add", &stranger.named()], 3, "was started to join cluster");
    let member = Processes::start(1);
    refused(&known, &["add", &format!("1={}", member.ports[0].addr())], 2, "choose another id");
    assert_eq!(voters(&known), [1, 2, 3]);
    put(&known, "k", "1");

    // An address that reaches none of the cluster's members is no list to join with.
    let mut lost = Newcomer::join(&cluster, 5);
    lost.kill();
    lost.args[1] = format!("1={}", nobody.addr());
    lost.start();
    until("it listens", || {
        !stderr(&self::member(&known, &["add", &lost.named()])).contains("nobody")
    });
    refused(&known, &["add", &lost.named()], 3, "has had no answer from this cluster");
}

#[test]
fn a_newcomer_says_that_it_waits() {
    let cluster = Processes::start(1);
    let newcomer = Newcomer::join(&cluster, 2);
    until("it says so in its log", || newcomer.said().contains("waits to be added"));
    let status = syncraft(&["status", "--members", &newcomer.addr()]);
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(said.contains("member 2 is no member yet: it waits to be added"), "{said}");
    done(&cluster.members(), &["add", &newcomer.named()]);
    assert_eq!(voters(&newcomer.addr()), [1, 2]);

    let mut lost = Newcomer::join(&cluster, 3);
    lost.kill();
    lost.args[1] = format!("1={}", Port::free().unwrap().addr());
    lost.start();
    until("it says so", || lost.said().contains("nobody in its --join list has answered"));
    lost.kill();
    lost.args[3] = format!("0.0.0.0:{}", lost.port.addr().port());
    let refused = lost.command().output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("give --advertise"), "{}", stderr(&refused));
}

/// It began its cluster alone, or has a wrong list, and has lost its data. If it began another
/// cluster, clients would find an empty store there.
#[test]
fn a_member_of_a_grown_cluster_does_not_begin_another_one() {
    let mut cluster = Processes::start_with(1, &SLOW);
    let join = |id| Newcomer::join_with(&cluster, id, &SLOW);
    let (mut two, mut three) = (join(2), join(3));
    put(&cluster.members(), "k", "1");
    done(&cluster.members(), &["add", &two.named()]);
    done(&cluster.members(), &["add", &three.named()]);
    cluster.kill(1);
    fs::remove_dir_all(cluster.data_dir(1)).unwrap();
    until("another member leads", || member(&two.addr(), &["promote", "2"]).status.success());
    cluster.restart_with(1, &SLOW);
    assert_eq!(end(&mut cluster.children[0]), Some(3));
    assert!(cluster.logs().contains("does not begin another"), "{}", cluster.logs());
    // The next start may find a directory that is no longer empty.
    cluster.restart_with(1, &SLOW);
    assert_eq!(end(&mut cluster.children[0]), Some(3));

    let others = format!("{},{}", two.named(), three.named());
    let mut command = Command::new(SYNCRAFT);
    command.args(["server", "--id", "1", "--join", &others, "--data-dir"]);
    command.arg(cluster.data_dir(1)).env_remove("SYNCRAFT_MEMBERS");
    command.args(["--listen", &cluster.ports[0].addr().to_string()]).args(SLOW);
    cluster.spawn(1, command);
    let votes = |id: u64| {
        let is_so = |member: &Value| member["id"] == id && member["joining"] == false;
        status(&two.addr()).iter().any(is_so)
    };
    until("it is filled", || votes(1));

    three.kill();
    fs::remove_dir_all(&three.dir).unwrap();
    let mut alone = vec!["--members".to_owned(), three.named()];
    alone.extend(SLOW.map(str::to_owned));
    let join = std::mem::replace(&mut three.args, alone);
    three.start();
    assert_eq!(end(&mut three.child), Some(3));
    three.args = join;
    three.start();
    until("it is filled", || votes(3));
    two.kill();
    check_value(&three.addr(), "k", "1");
}

/// Clients that go by such a list may be served by either, and a backup may be of either.
#[test]
fn a_list_of_several_clusters_is_found_out() {
    let clusters = [Processes::start(1), Processes::start(1)];
    let addrs = clusters.each_ref().map(|cluster| cluster.ports[0].addr().to_string());
    clusters.iter().for_each(|cluster| put(&cluster.members(), "k", "1"));
    let (list, file) = (addrs.join(","), clusters[0].dir.path().join("backup"));
    let file = file.to_str().unwrap();
    for args in [&["status"][..], &["wait-ready", "--timeout", "30s"], &["backup", file]] {
        let output = syncraft(&[args, &["--members", &list]].concat());
        assert_eq!(output.status.code(), Some(3), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("several clusters"), "{args:?}: {}", stderr(&output));
    }
    let shown = syncraft(&["status", "--members", &list]).stdout;
    assert_eq!(String::from_utf8(shown).unwrap().lines().count(), 3, "a line for each");
}

#[test]
fn without_a_leader_somebody_says_who_the_members_are() {
    let mut cluster = Processes::start(3);
    let known = cluster.members();
    put(&known, "k", "1");
    [2, 3].iter().for_each(|id| cluster.kill(*id));
    assert_eq!(voters(&known), [1, 2, 3]);
    // If member 1 led, it takes a moment to notice that the others are gone.
    until("nobody leads", || {
        let refused = syncraft(&["member", "--members", &known, "--timeout", "2s", "remove", "2"]);
        assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
        stderr(&refused).ends_with("no member leads\n")
    });
}

#[test]
fn a_learner_is_promoted_once_it_has_caught_up() {
    let cluster = Processes::start(3);
    let (known, learner) = (cluster.members(), Newcomer::join(&cluster, 4));
    done(&known, &["add", "--learner", &learner.named()]);
    learner.signal("-STOP");
    (0..20).for_each(|n| put(&known, "k", &n.to_string()));
    refused(&known, &["promote", "4"], 3, "member 4 does not answer");
    assert_eq!(voters(&known), [1, 2, 3]);
    learner.signal("-CONT");
    let caught_up = || member(&known, &["promote", "4"]).status.success();
    until("it has caught up", caught_up);
    assert_eq!(voters(&known), [1, 2, 3, 4]);
}

/// One that has just been added starts again, as one of its cluster.
#[test]
fn a_learner_that_is_starting_is_waited_for() {
    let cluster = Processes::start(1);
    let (known, mut learner) = (cluster.members(), Newcomer::join(&cluster, 2));
    done(&known, &["add", "--learner", &learner.named()]);
    learner.kill();
    refused(&known, &["promote", "2"], 3, "member 2 does not answer");
    let named = learner.named();
    let mut command = Command::new(SYNCRAFT);
    command.args(["member", "--timeout", "30s", "--members", &known, "add", &named]);
    let mut adding = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    let mut words = BufReader::new(adding.stderr.take().unwrap());
    words.read_line(&mut said).unwrap();
    assert!(said.contains("member 2 learns: it does not answer"), "{said}");
    learner.start();
    assert!(adding.wait().unwrap().success());
    assert_eq!(voters(&known), [1, 2]);
}

/// It stands for no election, so nobody would tell it, and a new leader knows nothing of it.
#[test]
fn a_learner_that_is_removed_while_it_is_down_learns_it_later() {
    let mut cluster = Processes::start(1);
    let known = cluster.members();
    for (id, is_filled) in [(2, true), (3, false)] {
        let mut learner = Newcomer::join(&cluster, id);
        done(&known, &["add", "--learner", &learner.named()]);
        if is_filled {
            let knows_itself = "voters 1, learners 2 (committed)";
            until("it is filled", || learner.said().contains(knows_itself));
        }
        learner.kill();
        done(&known, &["remove", &id.to_string()]);
        cluster.kill(1);
        cluster.restart(1);
        put(&known, "k", "1");
        learner.start();
        assert_eq!(end(&mut learner.child), Some(3));
        assert!(learner.said().contains("removed"), "{}", learner.said());
    }
}

#[test]
fn no_removal_leaves_a_cluster_that_cannot_go_on() {
    let mut cluster = Processes::start(3);
    let known = cluster.members();
    cluster.kill(3);
    let leads = || cluster.leader();
    until("the others go on", || [1, 2].contains(&leads()));
    let (leader, other) = if leads() == 1 { ("1", "2") } else { ("2", "1") };
    refused(&known, &["remove", other], 3, "a majority does not answer");
    refused(&known, &["remove", leader], 3, "a majority does not answer");
    done(&known, &["remove", "3"]);
    assert_eq!(voters(&known), [1, 2]);
    // Its flags still name it, and its log does not know better. The others do.
    cluster.restart(3);
    assert_eq!(end(&mut cluster.children[2]), Some(3));
    put(&known, "k", "1");
    done(&known, &["remove", "2"]);
    refused(&known, &["remove", "1"], 2, "is the only voter");
}

#[test]
fn a_restart_reads_the_members_from_the_log() {
    let mut cluster = Processes::start(3);
    let (known, mut four) = (cluster.members(), Newcomer::join(&cluster, 4));
    done(&known, &["add", &four.named()]);
    let one = four.addr();
    [1, 2].iter().for_each(|id| drop(done(&one, &["remove", &id.to_string()])));
    [0, 1].iter().for_each(|at| assert_eq!(end(&mut cluster.children[*at]), Some(3)));
    put(&one, "k", "1");
    // Both with the command lines that they had. Those name members that are gone.
    four.kill();
    cluster.kill(3);
    cluster.restart(3);
    four.start();
    check_value(&one, "k", "1");
    assert_eq!(voters(&one), [3, 4]);
}

/// The list that it was started with names a machine that is gone, and not the one that came for
/// it.
#[test]
fn a_member_is_rebuilt_from_those_who_are_members_now() {
    let mut cluster = Processes::start(3);
    let (known, four) = (cluster.members(), Newcomer::join(&cluster, 4));
    put(&known, "k", "1");
    done(&known, &["add", &four.named()]);
    cluster.kill(3);
    done(&known, &["remove", "3"]);
    cluster.kill(1);
    // It counts those of the configuration, and they must be up.
    four.signal("-STOP");
    let refused = cluster.command(1).arg("--rebuild").output().unwrap();
    let words = stderr(&refused);
    assert!(words.contains("no data was discarded: ") && words.contains("member 4 at"), "{words}");
    four.signal("-CONT");
    cluster.restart_until(1, &["--rebuild"], |member| member["joining"] == false);
    cluster.kill(2);
    check_value(&four.addr(), "k", "1");
    cluster.restart(2);
    assert_eq!(voters(&four.addr()), [1, 2, 4]);
}

/// Another list has other majorities: two of them could decide at the same time.
#[test]
fn a_restart_with_another_list_changes_no_majority() {
    let mut cluster = Processes::start(3);
    put(&cluster.members(), "k", "1");
    let addr = |at: usize| cluster.ports[at].addr().to_string();
    let (one, two) = (format!("1={}", addr(0)), format!("2={}", addr(1)));
    let lists =
        [one.clone(), format!("{one},{two}"), format!("{},4=127.0.0.1:1", cluster.members())];
    // Alone, none of them is a majority, whatever its list says.
    [2, 3].iter().for_each(|id| cluster.kill(*id));
    for list in lists {
        cluster.kill(1);
        let command = server(1, &list, &cluster.data_dir(1));
        cluster.spawn(1, command);
        let says_who_votes = || {
            let kinds: Vec<_> = status(&one).iter().map(|it| it["kind"].clone()).collect();
            kinds == ["voter"; 3]
        };
        until("it says who the members are", says_who_votes);
        let alone = ["put", "k", "2", "--members", &one, "--timeout", "500ms"];
        assert_ne!(syncraft(&alone).status.code(), Some(0), "{list}");
    }
    [2, 3].iter().for_each(|id| cluster.restart(*id));
    cluster.wait_ready();
    assert_eq!(voters(&one), [1, 2, 3]);
}

#[test]
fn a_rolling_restart_with_a_new_list_ends_with_one_cluster() {
    let mut cluster = Processes::start(3);
    let before = cluster.members();
    put(&before, "k", "1");
    let id = list(&before)["cluster"].clone();
    let ports: Vec<Port> = (0..3).map(|_| Port::free().unwrap()).collect();
    let after = |at: usize| ports[at].addr().to_string();
    let new_list = format!("1={},2={},3={}", after(0), after(1), after(2));
    for member in 1..=3 {
        cluster.signal(member, "-TERM");
        let mut child = cluster.children[member - 1].take().unwrap();
        until("it stops", || child.try_wait().unwrap().is_some());
        let command = server(member, &new_list, &cluster.data_dir(member));
        cluster.spawn(member, command);
        until("it is found", || addr_of(&new_list, member as u64) == after(member - 1));
        put(&after(member - 1), "k", &member.to_string());
    }
    assert_eq!(list(&new_list)["cluster"], id);
    assert_eq!(voters(&new_list), [1, 2, 3]);
    check_value(&after(0), "k", "3");
}

#[test]
fn a_member_is_moved_by_its_operator() {
    let mut cluster = Processes::start(3);
    let (known, port) = (cluster.members(), Port::free().unwrap());
    let moved = port.addr().to_string();
    cluster.kill(3);
    // It does not know that the others cannot reach it as before.
    cluster.restart_with(3, &["--listen", &moved]);
    until("it is moved", || member(&known, &["move", "3", &moved]).status.success());
    assert_eq!(addr_of(&known, 3), moved);
    assert!(done(&known, &["move", "3", &moved]).contains("already"));
}

#[test]
fn a_server_begins_a_cluster_or_joins_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = server(1, "1=127.0.0.1:1", dir.path());
    let output = command.args(["--join", "2=127.0.0.1:2"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--join and --members exclude each other"));
}
