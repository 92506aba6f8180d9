//! [`Order`]: what a request of a stream of watches asks for.

use bytes::Bytes;

use crate::front::etcd::error::EtcdError;
use crate::front::etcd::kv::key_range;
use crate::front::etcd::parse::Fields;
use crate::kv::model::{Revision, WatchRange};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Create(Create),
    Cancel {
        watch_id: i64,
    },
    Progress,
    /// A request without any of them, which etcd passes over.
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Create {
    /// 0: the first free number.
    pub(super) watch_id: i64,
    /// `None`: no key can be in the range.
    pub(super) range: Option<WatchRange>,
    /// Whether it wants to be told now and then how far it is.
    pub(super) progress: bool,
}

impl Order {
    pub(super) fn read(fields: &Fields<'_>) -> Result<Order, EtcdError> {
        if let Some(create) = fields.message("create_request")? {
            return Create::read(&create).map(Order::Create);
        }
        if let Some(cancel) = fields.message("cancel_request")? {
            return Ok(Order::Cancel { watch_id: cancel.int64("watch_id")? });
        }
        let is_progress = fields.message("progress_request")?.is_some();
        Ok(if is_progress { Order::Progress } else { Order::Nothing })
    }
}

impl Create {
    fn read(fields: &Fields<'_>) -> Result<Create, EtcdError> {
        let filters = fields.choices("filters", &["NOPUT", "NODELETE"])?;
        let key = fields.bytes("key")?;
        // No key is empty, so an empty one stands for the least.
        let key = if key.is_empty() { Bytes::from_static(b"\0") } else { key };
        let from = fields.int64("start_revision")?;
        // A message is never split, whether that is allowed or not.
        fields.flag("fragment")?;
        let (progress, previous) = (fields.flag("progress_notify")?, fields.flag("prev_kv")?);
        let range = key_range(&key, &fields.bytes("range_end")?).map(|keys| WatchRange {
            keys,
            // Before the first revision there is the first one.
            from: Revision(u64::try_from(from).unwrap_or(1)),
            puts: !filters.contains(&0),
            deletes: !filters.contains(&1),
            previous,
        });
        Ok(Create { watch_id: fields.int64("watch_id")?, range, progress })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::etcd::parse::message;
    use crate::kv::model::KeyRange;

    fn order(json: &str) -> Result<Order, EtcdError> {
        Order::read(&Fields::of(&message(json.as_bytes())?)?)
    }

    fn range(json: &str) -> Option<WatchRange> {
        match order(&format!(r#"{{"create_request":{json}}}"#)) {
            Ok(Order::Create(create)) => create.range,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_watch_is_read_as_etcd_does_it() {
        let a = WatchRange::of(KeyRange::key("a"));
        assert_eq!(range(r#"{"key":"YQ=="}"#), Some(a.clone()));
        let all = r#"{"key":"YQ==","filters":["NOPUT"],"prevKv":true,"start_revision":"7"}"#;
        let expected = WatchRange { from: Revision(7), puts: false, previous: true, ..a.clone() };
        assert_eq!(range(all), Some(expected));
        let filter = |filters| range(&format!(r#"{{"key":"YQ==","filters":{filters}}}"#));
        assert_eq!(filter("[1]"), Some(WatchRange { deletes: false, ..a.clone() }));
        assert_eq!(filter("[]"), Some(a.clone()));
        let negative = range(r#"{"key":"YQ==","start_revision":-3}"#);
        assert_eq!(negative, Some(WatchRange { from: Revision(1), ..a }));
        assert_eq!(range(r#"{"key":"Yg==","range_end":"YQ=="}"#), None);
        let everything = Some(WatchRange::of(KeyRange::starting_at("\0")));
        assert_eq!(range(r#"{"range_end":"AA=="}"#), everything);
        assert_eq!(range("{}"), Some(WatchRange::of(KeyRange::key("\0"))));
    }

    #[test]
    fn other_requests_are_told_apart() {
        let cancel = order(r#"{"cancelRequest":{"watch_id":"3"}}"#);
        assert_eq!(cancel, Ok(Order::Cancel { watch_id: 3 }));
        assert_eq!(order(r#"{"progress_request":{}}"#), Ok(Order::Progress));
        assert_eq!(order("{}"), Ok(Order::Nothing));
        for bad in [
            r#"{"create_request":7}"#,
            r#"{"create_request":{"key":7}}"#,
            r#"{"create_request":{"filters":["FOO"]}}"#,
            r#"{"create_request":{"filters":[5]}}"#,
            r#"{"create_request":{"start_revision":"x"}}"#,
        ] {
            assert!(order(bad).is_err(), "{bad}");
        }
    }
}
