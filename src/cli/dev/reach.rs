//! [`Reach`]: how to reach a cluster, as variables, as lines for a shell and as JSON.

use syncraft::testing::Cluster;
use syncraft::testing::control::Control;

/// Where a cluster is reached.
#[derive(Debug)]
pub(super) struct Reach {
    /// As `--members` takes them.
    pub(super) members: String,
    /// Where each member serves HTTP, member 1 first.
    http: Vec<String>,
    /// Where each member serves etcd's clients, member 1 first.
    etcd: Vec<String>,
    /// Where faults are asked for.
    dev: String,
}

impl Reach {
    pub(super) fn of(cluster: &Cluster, control: &Control) -> Reach {
        let http = cluster.ids().into_iter().filter_map(|id| cluster.http_addr(id));
        let etcd = cluster.ids().into_iter().filter_map(|id| cluster.etcd_addr(id));
        Reach {
            members: cluster.members().to_string(),
            http: http.map(|addr| format!("http://{addr}")).collect(),
            etcd: etcd.map(|addr| format!("http://{addr}")).collect(),
            dev: format!("http://{}", control.addr()),
        }
    }

    /// For the environment of a COMMAND. Commands of `syncraft` read the first one.
    pub(super) fn variables(&self) -> [(&'static str, String); 6] {
        [
            ("SYNCRAFT_MEMBERS", self.members.clone()),
            ("SYNCRAFT_HTTP", self.http[0].clone()),
            ("SYNCRAFT_HTTP_ALL", self.http.join(" ")),
            ("SYNCRAFT_ETCD", self.etcd[0].clone()),
            ("SYNCRAFT_ETCD_ALL", self.etcd.join(" ")),
            ("SYNCRAFT_DEV", self.dev.clone()),
        ]
    }

    /// Lines that a shell evaluates, and some for people, which it takes for comments.
    pub(super) fn lines(&self) -> String {
        let export = |(name, value)| format!("export {name}='{value}'\n");
        let exports = self.variables().map(export).concat();
        let (http, dev) = (&self.http[0], &self.dev);
        format!(
            "{exports}\
             # {} members serve until this process ends. Try them:\n\
             #   curl -X PUT --data-binary hello {http}/v1/kv/greeting\n\
             #   curl {http}/v1/kv/greeting\n\
             # Kill the leader:\n\
             #   curl -X POST '{dev}/v1/dev/kill?member=leader'\n",
            self.http.len()
        )
    }

    /// One line.
    pub(super) fn json(&self) -> String {
        let json = serde_json::json!({
            "members": self.members,
            "http": self.http[0],
            "http_all": self.http,
            "etcd": self.etcd[0],
            "etcd_all": self.etcd,
            "dev": self.dev,
        });
        format!("{json}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_for_shells_and_people() {
        let reach = Reach {
            members: "1=127.0.0.1:7001,2=127.0.0.1:7002".to_owned(),
            http: vec!["http://127.0.0.1:8001".to_owned(), "http://127.0.0.1:8002".to_owned()],
            etcd: vec!["http://127.0.0.1:8005".to_owned(), "http://127.0.0.1:8006".to_owned()],
            dev: "http://127.0.0.1:8003".to_owned(),
        };
        let lines = reach.lines();
        let (exports, comments): (Vec<&str>, Vec<&str>) =
            lines.lines().partition(|line| line.starts_with("export "));
        assert_eq!(exports.len(), 6);
        assert_eq!(
            exports[2],
            "export SYNCRAFT_HTTP_ALL='http://127.0.0.1:8001 http://127.0.0.1:8002'"
        );
        assert!(comments.iter().all(|line| line.starts_with("# ")), "{lines}");
        assert!(lines.len() < 4096, "one write to a pipe is whole up to here");
    }
}
