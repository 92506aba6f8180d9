//! The faults of `syncraft dev`, as a program that knows nothing but HTTP sees them.

use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::dev_process::{Dev, answer, ask, is_silent, send, send_with};
use crate::processes::until;

/// Another member.
fn other_than(id: u64) -> u64 {
    id % 3 + 1
}

/// Whether nobody listens where a member serves HTTP.
fn is_dark(dev: &Dev, id: u64) -> bool {
    let asked = ask("GET", &format!("{}/livez", dev.http(id)), "");
    asked.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// Writes through a member, again if nobody leads: a repetition changes nothing.
fn put(dev: &Dev, id: u64, key: &str, value: &str) {
    until("it is written", || dev.put(id, key, value).unwrap().0 == 200);
}

/// Reads from a member. What it reads is this value as soon as there is a leader.
fn holds(dev: &Dev, id: u64, key: &str, value: &str) {
    until("it is read", || match dev.get(id, key).unwrap() {
        (200, read) => {
            assert_eq!(read, value);
            true
        }
        (status, body) => {
            assert_eq!(status, 503, "{body}");
            false
        }
    });
}

/// Killed, stopped and wiped members refuse connections, and come back with what they had.
#[test]
fn members_go_dark_and_come_back() {
    let dev = Dev::start(&[]);
    put(&dev, 1, "k", "1");
    for (number, fault) in ["kill", "stop", "wipe"].into_iter().enumerate() {
        let done = dev.fault(&format!("{fault}?member=leader"));
        let id = done["member"].as_u64().unwrap();
        assert_eq!((done["fault"].as_str(), dev.state(id)), (Some(fault), "down".to_owned()));
        assert!(is_dark(&dev, id), "{fault}");
        let data_dir = dev.view()["members"][id as usize - 1]["data_dir"].to_string();
        assert_eq!(Path::new(data_dir.trim_matches('"')).exists(), fault != "wipe");
        let value = number.to_string();
        put(&dev, other_than(id), "k", &value);
        dev.fault(&format!("restart?member={id}"));
        assert_eq!(dev.state(id), "running");
        holds(&dev, id, "k", &value);
        let stale = format!("{}/v1/kv/k?stale", dev.http(id));
        until("it has all data of its own", || {
            ask("GET", &stale, "").is_ok_and(|(_, body)| body == value)
        });
        // A member without its data does not vote before it has all.
        let is_ready = || {
            dev.view()["members"]
                .as_array()
                .unwrap()
                .iter()
                .all(|it| it["state"] == "running" && it["joining"] == false)
        };
        until("all vote", is_ready);
    }
}

/// A paused member is connected to, and says nothing until it goes on.
#[test]
fn a_paused_member_keeps_its_clients_waiting() {
    let dev = Dev::start(&[]);
    put(&dev, 1, "k", "v");
    let id = dev.fault("pause?member=leader")["member"].as_u64().unwrap();
    assert_eq!(dev.state(id), "paused");
    let mut waiting = send("GET", &format!("{}/v1/kv/k?timeout=50s", dev.http(id)), "").unwrap();
    assert!(is_silent(&waiting));
    put(&dev, other_than(id), "k", "w");
    assert_ne!(dev.leader(), id);
    dev.fault(&format!("resume?member={id}"));
    let (status, read) = answer(&mut waiting).unwrap();
    assert!(status == 503 || (status, &*read) == (200, "w"), "an old leader answers: {read}");
    holds(&dev, id, "k", "w");
}

#[test]
fn the_network_is_cut_and_healed() {
    let dev = Dev::start(&[]);
    let old = dev.leader();
    dev.fault(&format!("partition?one={old}"));
    assert_eq!(dev.view()["network"]["cut"].as_array().unwrap().len(), 4);
    put(&dev, other_than(old), "k", "majority");
    assert_ne!(dev.leader(), old);
    // The old leader serves nobody.
    let alone = format!("{}/v1/kv/k?timeout=300ms", dev.http(old));
    assert_eq!(ask("GET", &alone, "").unwrap().0, 503);
    dev.fault("heal");
    holds(&dev, old, "k", "majority");

    dev.fault("partition?from=1&to=2,3");
    assert_eq!(dev.view()["network"]["cut"], serde_json::json!([[1, 2], [1, 3]]));
    assert_ne!(dev.fault("kill?member=leader")["member"], 1, "its heartbeats reach nobody");
    dev.fault("heal");
    assert_eq!(dev.view()["network"]["cut"], serde_json::json!([]));
    put(&dev, 1, "k", "one of three is dead");
}

/// Connections between members are swallowed, and they connect again.
#[test]
fn connections_are_forgotten() {
    let dev = Dev::start(&[]);
    for fault in ["blackhole", "blackhole?one=leader", "blackhole?one=1&other=2"] {
        assert_eq!(dev.fault(fault)["fault"], "blackhole");
        put(&dev, 2, "k", fault);
        holds(&dev, 3, "k", fault);
    }
}

#[test]
fn the_network_is_slow_or_loses_what_is_sent() {
    let dev = Dev::start(&[]);
    let done = dev.fault("delay?min=40ms&max=60ms");
    assert_eq!((done["min"].as_str(), done["max"].as_str()), (Some("40ms"), Some("60ms")));
    let began = Instant::now();
    put(&dev, 1, "k", "late");
    // To a follower and back.
    assert!(began.elapsed() >= Duration::from_millis(80), "{:?}", began.elapsed());
    dev.fault("delay?min=0");
    assert_eq!(dev.view()["network"]["delay"]["max"], "0s");

    dev.fault("drop?rate=1");
    assert_eq!(dev.view()["network"]["drop"], 1.0);
    let lost = ask("PUT", &format!("{}/v1/kv/k?timeout=1s", dev.http(1)), "lost").unwrap();
    assert!([503, 504].contains(&lost.0), "{lost:?}");
    dev.fault("drop?rate=0");
    put(&dev, 1, "k", "arrived");
    holds(&dev, 2, "k", "arrived");
}

/// Each refusal says what is wrong, and changes nothing.
#[test]
fn what_makes_no_sense_is_refused_in_words() {
    let dev = Dev::start(&[]);
    dev.fault("kill?member=3");
    let before = dev.view()["network"].clone();
    let check = |method: &str, rest: &str, status: u16, error: &str, words: &str| {
        let (found, body) = dev.control(method, rest);
        let told: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((found, told["error"].as_str()), (status, Some(error)), "{rest}: {body}");
        assert!(told["message"].as_str().unwrap().contains(words), "{rest}: {body}");
    };
    let bad = |rest: &str, words: &str| check("POST", rest, 400, "invalid", words);
    bad("/kill", "?member is missing");
    bad("/kill?member=", "neither the id of a member");
    bad("/kill?member=1,2", "neither the id of a member");
    bad("/kill?member=1&member=2", "twice");
    bad("/kill?member=1&hard", "\"hard\" is no parameter here: there are member");
    bad("/heal?member=1", "there are none");
    bad("/partition", "?one is missing");
    bad("/partition?one=1&other=1,2", "on both sides");
    bad("/partition?one=1,2,3", "nobody is on the other side");
    bad("/partition?from=1", "?to is missing");
    bad("/partition?from=1&to=2&one=3", "\"one\" is no parameter here");
    bad("/blackhole?other=1", "?one is missing");
    bad("/delay", "?min is missing");
    bad("/delay?min=10", "a time is a number and a unit");
    bad("/delay?min=61s", "at most 60s");
    bad("/delay?min=2ms&max=1ms", "is less than");
    bad("/drop?rate=1.5", "from 0 to 1");
    bad("/drop?rate=NaN", "from 0 to 1");
    for rest in ["/kill?member=4", "/restart?member=0", "/partition?one=1&other=7"] {
        check("POST", rest, 404, "no_such_member", "there are 1, 2, 3");
    }
    for rest in ["/explode", "/", "/kill/", "/kill%20", "s"] {
        check("POST", rest, 404, "no_such_path", "faults are kill, ");
    }
    check("GET", "/kill?member=1", 405, "method", "POST");
    check("POST", "", 405, "method", "GET");
    for fault in ["kill", "stop", "pause", "resume"] {
        check("POST", &format!("/{fault}?member=3"), 409, "state", "member 3 is down");
    }
    check("POST", "/restart?member=1", 409, "state", "member 1 runs already");
    check("POST", "/resume?member=1", 409, "state", "member 1 is not paused");
    dev.fault("pause?member=1");
    check("POST", "/pause?member=1", 409, "state", "member 1 is paused already");
    dev.fault("resume?member=1");

    let url = format!("{}/v1/dev/kill?member=1", dev.env()[3].1);
    let mut foreign = send_with("POST", &url, "Origin: http://evil.example\r\n", "").unwrap();
    assert_eq!(answer(&mut foreign).unwrap().0, 403);
    assert_eq!(dev.view()["network"], before);
    assert_eq!((dev.state(1), dev.state(2)), ("running".to_owned(), "running".to_owned()));
}
