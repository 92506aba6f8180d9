//! etcd's service `Lock`: `lock` answers when the client has the lock, which it has until it
//! unlocks or its lease ends.

use std::sync::Arc;

use super::error::{self, EtcdError};
use super::parse::Fields;
use super::queue::Claim;
use super::{EtcdFront, Task, ok};
use crate::kv::Change;
use crate::kv::model::{Action, KeyRange, LeaseId, Txn};

impl EtcdFront {
    pub(super) fn lock(&self, fields: &Fields<'_>) -> Result<Task, EtcdError> {
        let claim = Claim {
            name: fields.bytes("name")?,
            lease: LeaseId(fields.int64("lease")?.cast_unsigned()),
            value: bytes::Bytes::new(),
            lost: error::SESSION_EXPIRED,
        };
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(move |answer| {
            let told = Arc::clone(&shared);
            shared.claim(claim, answer, move |result| match result {
                Ok(seat) => ok(|body| {
                    told.header().write(body, seat.revision);
                    body.bytes("key", &seat.key);
                }),
                Err(error) => error.response(),
            });
        }))
    }

    pub(super) fn unlock(&self, fields: &Fields<'_>) -> Result<Task, EtcdError> {
        let key = fields.bytes("key")?;
        if key.is_empty() {
            return Err(error::SESSION_KEY_EMPTY);
        }
        let txn = Txn { then: vec![Action::delete(KeyRange::key(key)).into()], ..Txn::default() };
        Ok(self.write_and_tell_header(Change::Txn(txn)))
    }
}
