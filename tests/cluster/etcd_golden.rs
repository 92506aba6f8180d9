//! What a real etcd answered, replayed through a follower: the files of `tests/golden/etcd`, whose
//! README describes them, with the intended differences of `syncraft.differences`.

mod exchange;
mod pattern;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value, json};
use syncraft::testing::{Cluster, Options};

use self::exchange::Exchange;
use self::pattern::Names;

/// The fields of a step that say what is expected.
const ANSWER_FIELDS: [&str; 10] = [
    "status",
    "type",
    "head",
    "answer",
    "answers",
    "plain",
    "message",
    "events_seen",
    "dies",
    "closes",
];

/// A test for each file.
macro_rules! files {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                replay(stringify!($name));
            }
        )*

        #[test]
        fn every_file_is_replayed() {
            let mut names: Vec<_> = fs::read_dir(dir())
                .unwrap()
                .filter_map(|file| {
                    file.unwrap().file_name().to_str()?.strip_suffix(".jsonl").map(str::to_owned)
                })
                .collect();
            names.sort();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}
files!(auth cluster election input kv lease lock paths txn watch);

fn dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/etcd")
}

/// The lines of a file.
fn lines(file: &str) -> Vec<Value> {
    let text = fs::read_to_string(dir().join(file)).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The cases of a file: the line that names each, and its steps.
fn cases(topic: &str) -> Vec<(Value, Vec<Value>)> {
    let mut cases: Vec<(Value, Vec<Value>)> = Vec::new();
    for mut line in lines(&format!("{topic}.jsonl")) {
        if let Some(name) = line.get("case").and_then(Value::as_str) {
            line["case"] = format!("{topic}/{name}").into();
            cases.push((line, Vec::new()));
        } else {
            cases.last_mut().unwrap().1.push(line);
        }
    }
    cases
}

fn replay(topic: &str) {
    let mut options = Options::default();
    options.etcd_port = Some(0);
    let cluster = Cluster::start_with(3, options).unwrap();
    let leader = cluster.leader().unwrap();
    let follower = cluster.ids().into_iter().find(|&id| id != leader).unwrap();
    let addr = cluster.etcd_addr(follower).unwrap();
    let differences = lines("syncraft.differences");
    let mut found = Vec::new();
    for (case, steps) in cases(topic) {
        let mut run = Run::begin(addr, &case);
        for (at, step) in steps.iter().enumerate() {
            if let Some(step) = as_expected(step, &case, at + 1, &differences) {
                for text in run.compare(&step) {
                    found.push(format!("{}, step {}: {text}", run.case, at + 1));
                }
            }
        }
        run.clean();
    }
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}

/// A step as the intended differences change it; `None` if it is left out.
fn as_expected(step: &Value, case: &Value, at: usize, differences: &[Value]) -> Option<Value> {
    let mut step = step.clone();
    for change in differences {
        let is_meant = change.get("steps").is_none_or(|steps| {
            steps.as_array().is_some_and(|steps| steps.iter().any(|it| *it == json!(at)))
        });
        if !is_meant || !matches(change["case"].as_str()?, case["case"].as_str()?) {
            continue;
        }
        if change.get("skip").is_some() {
            return None;
        }
        if ANSWER_FIELDS.iter().any(|name| change.get(name).is_some()) {
            let fields = step.as_object_mut()?;
            fields.retain(|name, _| !ANSWER_FIELDS.contains(&name.as_str()));
            let new = change.as_object()?.iter();
            let new = new.filter(|(name, _)| ANSWER_FIELDS.contains(&name.as_str()));
            fields.extend(new.map(|(name, value)| (name.clone(), value.clone())));
        }
        for pointer in change.get("any").and_then(Value::as_array).into_iter().flatten() {
            if let Some(part) = step.pointer_mut(pointer.as_str()?) {
                *part = "$any".into();
            }
        }
    }
    Some(step)
}

/// Whether a name matches a pattern whose `*` stands for anything, at its end alone.
fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |prefix| name.starts_with(prefix))
}

/// One case on its way.
struct Run {
    addr: SocketAddr,
    case: String,
    /// What is deleted before and after it.
    range: Value,
    leases: Vec<Value>,
    names: Names,
    open: BTreeMap<String, Exchange>,
}

impl Run {
    fn begin(addr: SocketAddr, case: &Value) -> Run {
        let name = case["case"].as_str().unwrap();
        let names = Names::new(name);
        let range = match case.get("whole") {
            Some(_) => json!({"key": "AA==", "range_end": "AA=="}),
            None => names.expand(&json!({"key": "$k:", "range_end": "$end"})),
        };
        let leases = case.get("leases").and_then(Value::as_array).cloned().unwrap_or_default();
        let case = name.to_owned();
        let mut run = Run { addr, case, range, leases, names, open: BTreeMap::new() };
        run.clean();
        let answer = run.ask_plainly("/v3/kv/range", &json!({"key": "AA=="}));
        run.names.bind("rev", answer["header"]["revision"].clone());
        run
    }

    fn clean(&mut self) {
        for (_, exchange) in std::mem::take(&mut self.open) {
            exchange.close();
        }
        for lease in [self.leases.clone(), self.names.beginning("lease")].concat() {
            self.ask_plainly("/v3/lease/revoke", &json!({"ID": lease}));
        }
        self.ask_plainly("/v3/kv/deleterange", &self.range);
    }

    fn ask_plainly(&self, path: &str, body: &Value) -> Value {
        let line = format!("POST {path}");
        let body = body.to_string();
        let mut exchange =
            Exchange::send(self.addr, &line, &BTreeMap::new(), body.as_bytes()).unwrap();
        serde_json::from_slice(&exchange.body().unwrap()).unwrap()
    }

    /// Carries a step out, and says in words where the answer is not the expected one.
    fn compare(&mut self, step: &Value) -> Vec<String> {
        let mut seen = match self.perform(step) {
            Ok(seen) => Value::Object(seen),
            Err(error) => return vec![format!("{error}")],
        };
        for pointer in strings(step, "sort") {
            if let Some(list) = seen.pointer_mut(&pointer).and_then(Value::as_array_mut) {
                list.sort_by_key(Value::to_string);
            }
        }
        let wanted = step.as_object().unwrap().iter();
        let wanted = wanted.filter(|(name, _)| ANSWER_FIELDS.contains(&name.as_str()));
        let wanted: Map<_, _> = wanted.map(|(name, it)| (name.clone(), it.clone())).collect();
        let wanted = self.names.expand(&Value::Object(wanted));
        let mut found = Vec::new();
        self.names.compare(&wanted, &seen, "", &mut found);
        for (pointer, name) in step.get("capture").and_then(Value::as_object).into_iter().flatten()
        {
            match seen.pointer(pointer) {
                Some(value) => self.names.bind(name.as_str().unwrap(), value.clone()),
                None => found.push(format!("{pointer} is missing")),
            }
        }
        found
    }

    fn perform(&mut self, step: &Value) -> io::Result<Map<String, Value>> {
        let named = |kind: &str| step.get(kind).and_then(Value::as_str);
        let mut seen = Map::new();
        if let Some(name) = named("start") {
            let exchange = self.send(step)?;
            self.open.insert(name.to_owned(), exchange);
        } else if step.get("ask").is_some() {
            answer(&mut self.send(step)?, step, &mut seen)?;
        } else if let Some(name) = named("finish") {
            answer(self.opened(name), step, &mut seen)?;
        } else if let Some(name) = named("next") {
            let document = self.opened(name).document()?;
            seen.insert("message".to_owned(), document.unwrap_or(Value::Null));
        } else if let Some(name) = named("events") {
            let events = events(self.opened(name), step["count"].as_u64().unwrap() as usize)?;
            seen.insert("events_seen".to_owned(), events.into());
        } else if let Some(name) = named("silence") {
            let time = Duration::from_millis(step["ms"].as_u64().unwrap());
            if !self.opened(name).is_silent(time)? {
                return Err(io::Error::other("something came"));
            }
        } else if let Some(exchange) = self.open.remove(named("close").unwrap()) {
            exchange.close();
        }
        Ok(seen)
    }

    fn opened(&mut self, name: &str) -> &mut Exchange {
        self.open.get_mut(name).unwrap()
    }

    fn send(&self, step: &Value) -> io::Result<Exchange> {
        let body = match (step.get("text"), step.get("body")) {
            (Some(text), _) => self.names.text(text.as_str().unwrap()),
            (None, Some(body)) => self.names.expand(body).to_string(),
            (None, None) => String::new(),
        };
        let fields = step.get("headers").and_then(Value::as_object).into_iter().flatten();
        let fields = fields.map(|(name, value)| (name.clone(), value.as_str().map(str::to_owned)));
        Exchange::send(self.addr, step["ask"].as_str().unwrap(), &fields.collect(), body.as_bytes())
    }
}

/// Reads an answer to its end, into the fields of a step.
fn answer(exchange: &mut Exchange, step: &Value, seen: &mut Map<String, Value>) -> io::Result<()> {
    let body = exchange.body()?;
    seen.insert("status".to_owned(), exchange.status.into());
    let field = |name: &str| exchange.fields.get(&name.to_ascii_lowercase());
    let kind = field("Content-Type").map_or("none", |it| it.split(';').next().unwrap());
    if kind != "application/json" {
        seen.insert("type".to_owned(), kind.into());
    }
    if let Some(names) = step.get("head").and_then(Value::as_object) {
        let head = names.keys().map(|name| (name.clone(), json!(field(name))));
        seen.insert("head".to_owned(), Value::Object(head.collect()));
    }
    let text = String::from_utf8_lossy(&body).into_owned();
    let documents: Result<Vec<Map<String, Value>>, _> =
        text.lines().filter(|line| !line.is_empty()).map(serde_json::from_str).collect();
    match documents {
        Ok(mut one) if one.len() == 1 => seen.insert("answer".to_owned(), one.remove(0).into()),
        Ok(several) if !several.is_empty() => seen.insert("answers".to_owned(), json!(several)),
        _ => seen.insert("plain".to_owned(), text.into()),
    };
    Ok(())
}

/// Reads messages until they have had so many events.
fn events(exchange: &mut Exchange, count: usize) -> io::Result<Vec<Value>> {
    let mut events = Vec::new();
    while events.len() < count {
        let message = exchange.document()?.unwrap_or(Value::Null);
        let result = &message["result"];
        let revision = |value: &Value| value.as_str().and_then(|it| it.parse::<i64>().ok());
        let last = result["events"].as_array().and_then(|it| it.last());
        let last = last.and_then(|it| revision(&it["kv"]["mod_revision"]));
        if last.is_none() || last > revision(&result["header"]["revision"]) {
            return Err(io::Error::other(format!("no message with events: {message}")));
        }
        events.extend(result["events"].as_array().unwrap().iter().cloned());
    }
    Ok(events)
}

fn strings(step: &Value, name: &str) -> Vec<String> {
    let list = step.get(name).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}
