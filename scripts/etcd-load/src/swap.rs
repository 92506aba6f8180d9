//! Compare-and-set, as `syncraft bench cas` does it: one transaction that compares the mod revision
//! which the client knows, puts if it is equal, and otherwise reads the key.

use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;

use crate::etcd::{Compare, Error, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse};

/// The mod revision of each key, as its client knows it. No two clients use the same key.
#[derive(Default)]
pub struct Revisions(Box<[AtomicI64]>);

impl FromIterator<i64> for Revisions {
    fn from_iter<I: IntoIterator<Item = i64>>(revisions: I) -> Revisions {
        Revisions(revisions.into_iter().map(AtomicI64::new).collect())
    }
}

impl Revisions {
    pub fn request(&self, index: u64, key: Bytes, value: Bytes) -> TxnRequest {
        let mod_revision = Some(self.0[index as usize].load(Ordering::Relaxed));
        let compare = Compare { target: Compare::MOD, key: key.clone(), mod_revision };
        let put = PutRequest { key: key.clone(), value };
        let get = RangeRequest { key, ..RangeRequest::default() };
        TxnRequest {
            compare: vec![compare],
            success: vec![RequestOp { put: Some(put), range: None }],
            failure: vec![RequestOp { put: None, range: Some(get) }],
        }
    }

    /// Whether the transaction put. If it was repeated after a failure, its first copy may have
    /// put; then it counts as a lost race.
    pub fn learn(&self, index: u64, response: &TxnResponse) -> Result<bool, Error> {
        let revision = match response.succeeded {
            true => response.header.as_ref().ok_or(Error::Malformed)?.revision,
            false => {
                let read = response.responses.first().and_then(|response| response.range.as_ref());
                let read = read.ok_or(Error::Malformed)?;
                read.kvs.first().map_or(0, |entry| entry.mod_revision)
            }
        };
        self.0[index as usize].store(revision, Ordering::Relaxed);
        Ok(response.succeeded)
    }
}
