//! Members whose lists differ never join each other: both sides log the reason, once.

use syncraft::members::Members;
use syncraft::raft::MemberId;
use syncraft::server::{Config, Member};
use syncraft::testing::Port;

use crate::alone::alone;
use crate::collector::{collect, lines};
use crate::nodes::*;

const WORDS: &str = "is --members the same, to the letter, on all members at their first start?";

#[test]
fn members_with_different_lists_say_so() {
    alone(|| {
        collect();
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
        let told = |start: &str| lines(WORDS).iter().filter(|line| line.starts_with(start)).count();
        // They ask each other where they stand all the time.
        let all = ["member 1 does not vote", "member 2 does not vote"];
        until("both sides say so", || all.iter().all(|start| told(start) > 0));
        assert_eq!(all.map(told), [1; 2], "{:?}", lines(""));
    });
}
