//! Which service and method a call is for: a table that is built once, at the start.

use std::sync::Arc;

use super::stats::MethodStats;
use crate::header::RpcHeader;
use crate::{ServerError, Service, Status, StatusCode};

pub(super) struct Table {
    /// In the order of their names.
    services: Vec<Entry>,
}

/// A service, and how it is published.
#[derive(Clone)]
pub(super) struct Published {
    pub(super) service: Arc<dyn Service>,
    /// Whether it has room that clients of other services cannot take.
    pub(super) is_reserved: bool,
    /// Whether its methods run on the connection's thread even if there are handlers.
    pub(super) is_inline: bool,
}

struct Entry {
    name: &'static [u8],
    published: Published,
    /// In the order of their numbers.
    methods: Vec<(&'static [u8], Arc<MethodStats>)>,
}

/// What a call is for, by its position in the table. Passing it on touches no memory that other
/// connections' threads write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    service: usize,
    /// The number that [`Service::call`] gets.
    pub(super) method: usize,
}

impl Target {
    pub(super) fn published(self, table: &Table) -> &Published {
        &table.services[self.service].published
    }

    pub(super) fn is_stream(self, table: &Table) -> bool {
        self.published(table).service.is_stream(self.method)
    }

    pub(super) fn stats(self, table: &Table) -> &Arc<MethodStats> {
        &table.services[self.service].methods[self.method].1
    }

    pub(super) fn is(self, other: Target) -> bool {
        (self.service, self.method) == (other.service, other.method)
    }
}

impl Table {
    pub(super) fn new(services: Vec<Published>) -> Result<Self, ServerError> {
        let mut services: Vec<Entry> = services.into_iter().map(Entry::new).collect();
        services.sort_by_key(|entry| entry.name);
        if let Some(twice) = services.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(ServerError::DuplicateService { name: twice[0].published.service.name() });
        }
        Ok(Table { services })
    }

    /// Whether `service` is the name of a reserved service.
    pub(super) fn is_reserved(&self, service: &[u8]) -> bool {
        self.position(service).is_some_and(|at| self.services[at].published.is_reserved)
    }

    fn position(&self, service: &[u8]) -> Option<usize> {
        self.services.binary_search_by_key(&service, |entry| entry.name).ok()
    }

    /// The stats of each method.
    pub(super) fn stats(&self) -> impl Iterator<Item = &MethodStats> {
        let methods = self.services.iter().flat_map(|entry| &entry.methods);
        methods.map(|(_, stats)| &**stats)
    }

    /// The target of a call, or why there is none.
    pub(super) fn find(&self, head: &RpcHeader) -> Result<Target, Status> {
        let (service, method) = (&head.service_name[..], &head.method_name[..]);
        let Some(at) = self.position(service) else {
            return Err(Status::new(
                StatusCode::UnknownService,
                format!("no service {}", quote(service)),
            ));
        };
        let Entry { published, methods, .. } = &self.services[at];
        let Some(number) = methods.iter().position(|(name, _)| *name == method) else {
            let words = format!("service {} has no method {}", quote(service), quote(method));
            return Err(Status::new(StatusCode::UnknownMethod, words));
        };
        let (codec, version) = (published.service.codec(), published.service.version());
        let refuse = |code, words| {
            methods[number].1.refused(code);
            Err(Status::new(code, words))
        };
        if head.codec != codec {
            let words = format!(
                "codec {}: service {} takes {codec}",
                head.codec,
                quote(&head.service_name)
            );
            return refuse(StatusCode::UnsupportedCodec, words);
        }
        if head.version != version && head.version > 0 && version > 0 {
            let words = format!(
                "service {}: version {} is asked for, and this server has version {version}",
                quote(&head.service_name),
                head.version
            );
            return refuse(StatusCode::VersionMismatch, words);
        }
        Ok(Target { service: at, method: number })
    }
}

impl Entry {
    fn new(published: Published) -> Entry {
        let name = published.service.name();
        let methods = published.service.methods().iter();
        let methods = methods.map(|it| (it.as_bytes(), Arc::new(MethodStats::new(name, it))));
        Entry { name: name.as_bytes(), methods: methods.collect(), published }
    }
}

/// A name as it came over the wire, made fit for a log: short, on one line.
fn quote(name: &[u8]) -> String {
    const SHOWN_BYTES: usize = 64;
    let shown = &name[..name.len().min(SHOWN_BYTES)];
    let dots = if shown.len() < name.len() { "..." } else { "" };
    format!("\"{}{dots}\"", shown.escape_ascii())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::Call;

    struct Fake(&'static str);

    impl Service for Fake {
        fn name(&self) -> &'static str {
            self.0
        }

        fn methods(&self) -> &'static [&'static str] {
            &["Put", "Get"]
        }

        fn call(&self, _: usize, _: Bytes, _: Call) {}

        fn version(&self) -> u32 {
            2
        }
    }

    fn table(names: &[&'static str]) -> Result<Table, ServerError> {
        let published = |name: &&'static str| {
            let service = Arc::new(Fake(name));
            Published { service, is_reserved: false, is_inline: false }
        };
        Table::new(names.iter().map(published).collect())
    }

    fn check(
        service: &'static str,
        method: &'static str,
        codec: u32,
        expected: Result<usize, StatusCode>,
    ) {
        let (service_name, method_name) = (service.into(), method.into());
        let head = RpcHeader { service_name, method_name, codec, ..RpcHeader::default() };
        let found = table(&["kvServerRpc", "raftRpc"]).unwrap().find(&head);
        assert_eq!(found.map(|target| target.method).map_err(|status| status.code), expected);
    }

    #[test]
    fn finds_by_the_names_on_the_wire() {
        check("kvServerRpc", "Get", 0, Ok(1));
        check("raftRpc", "Put", 0, Ok(0));
        check("kvserverrpc", "Get", 0, Err(StatusCode::UnknownService));
        check("", "", 0, Err(StatusCode::UnknownService));
        check("kvServerRpc", "get", 0, Err(StatusCode::UnknownMethod));
        check("kvServerRpc", "Get", 1, Err(StatusCode::UnsupportedCodec));
    }

    #[test]
    fn another_version_is_refused_with_both_named() {
        let table = table(&["a"]).unwrap();
        let find = |version| {
            let (service_name, method_name) = ("a".into(), "Get".into());
            table.find(&RpcHeader { service_name, method_name, version, ..RpcHeader::default() })
        };
        assert!(find(0).is_ok() && find(2).is_ok());
        let status = find(3).map(drop).unwrap_err();
        assert_eq!(status.code, StatusCode::VersionMismatch);
        assert!(status.message.contains("3") && status.message.contains("2"), "{status}");
    }

    #[test]
    fn a_name_published_twice_is_refused() {
        assert!(matches!(
            table(&["a", "b", "a"]),
            Err(ServerError::DuplicateService { name: "a" })
        ));
    }

    #[test]
    fn names_are_quoted_on_one_short_line() {
        assert_eq!(quote(b"a\n\xff\""), r#""a\n\xff\"""#);
        assert_eq!(quote(&[b'x'; 100]).len(), 64 + "\"...\"".len());
    }
}
