//! The numbers of the HTTP port in a member's `/metrics`.

use syncraft::members::Members;
use syncraft::raft::MemberId;
use syncraft::server::{Config, Member};
use syncraft::testing::Port;

use super::support::Client;

#[test]
fn a_member_says_what_its_http_port_has_done() {
    let [rpc, http] = [Port::free().unwrap(), Port::free().unwrap()];
    let dir = tempfile::tempdir().unwrap();
    let list = Members::new([(MemberId(1), rpc.addr().to_string())]).unwrap();
    let config = Config {
        http: Some(http.addr().to_string()),
        ..Config::new(MemberId(1), list, dir.path())
    };
    let _member = Member::start(config).unwrap();
    let mut refused = Client::connect(http.addr());
    refused.send("BREW / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(refused.answer().status, 501);
    let mut client = Client::connect(http.addr());
    assert_eq!(client.get("/livez").status, 200);
    let got = client.get("/metrics");
    for (kind, name, value) in [
        ("gauge", "connections_accepted", 2),
        ("counter", "connections_refused_total", 0),
        ("counter", "connections_idle_total", 0),
        ("counter", "requests_total", 2),
        ("counter", "requests_refused_total", 1),
    ] {
        let name = format!("syncraft_http_{name}");
        let expected = format!("\n# TYPE {name} {kind}\n{name} {value}\n");
        assert!(got.text().contains(&expected), "{name}: {}", got.text());
    }
    // The refused connection may be there still.
    assert!(got.text().contains("\n# TYPE syncraft_http_connections gauge\n"), "{}", got.text());
    // For `promtool check metrics`, with `--nocapture`.
    println!("{}", got.text());
}
