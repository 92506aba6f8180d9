//! Members whose lists differ never find each other: both sides say why, once.

mod node_support;

use node_support::*;
use parking_lot::Mutex;
use syncraft::members::Members;
use syncraft::raft::MemberId;
use syncraft::server::{Config, Member};
use syncraft::testing::Port;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Collector;

impl log::Log for Collector {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.level() <= log::Level::Warn {
            LINES.lock().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

const WORDS: &str = "is --members the same, to the letter, on all members at their first start?";

#[test]
fn members_with_different_lists_say_so() {
    log::set_logger(&Collector).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    let ports = [Port::free().unwrap(), Port::free().unwrap()];
    let dir = tempfile::tempdir().unwrap();
    let _members: Vec<Member> = [(0, "127.0.0.1"), (1, "localhost")]
        .map(|(index, host)| {
            let addr = |port: &Port| format!("{host}:{}", port.addr().port());
            let list = Members::new((1..).map(MemberId).zip(ports.iter().map(addr))).unwrap();
            let id = MemberId(index as u64 + 1);
            let config = Config::new(id, list, dir.path().join(id.to_string()));
            Member::start_on(ports[index].listen().unwrap(), config).unwrap()
        })
        .into();
    let told = |start: &str| {
        let is_told = |line: &&String| line.starts_with(start) && line.contains(WORDS);
        LINES.lock().iter().filter(is_told).count()
    };
    // They ask each other for votes for as long as they do not find each other.
    let all = [
        "refused a message: member 1 ",
        "refused a message: member 2 ",
        "member 1 refuses what we send",
        "member 2 refuses what we send",
    ];
    until("both sides say so", || all.iter().all(|start| told(start) > 0));
    assert_eq!(all.map(told), [1; 4], "{:?}", LINES.lock());
}
