//! [`Encoded`]: changes in bytes, made once for all watches that are told the same.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::form::{Form, Framing};
use crate::kv::model::{Change, Revision};

/// The changes that were encoded last in each form. They stay until others follow, so this holds at
/// most four messages.
#[derive(Default)]
pub(in crate::front::http) struct Encoded([Mutex<Option<Last>>; 4]);

struct Last {
    changes: Arc<[Change]>,
    complete_to: Revision,
    bytes: Bytes,
}

impl Encoded {
    /// As [`Form::changes`].
    pub(super) fn changes(
        &self,
        form: Form,
        changes: &Arc<[Change]>,
        complete_to: Revision,
    ) -> Bytes {
        let mut last = self.0[place(form)].lock();
        if let Some(last) = &*last
            && Arc::ptr_eq(&last.changes, changes)
            && last.complete_to == complete_to
        {
            return last.bytes.clone();
        }
        let bytes = Bytes::from(form.changes(changes, complete_to));
        let changes = Arc::clone(changes);
        *last = Some(Last { changes, complete_to, bytes: bytes.clone() });
        bytes
    }
}

fn place(Form { framing, keys_only }: Form) -> usize {
    usize::from(framing == Framing::Events) + 2 * usize::from(keys_only)
}
