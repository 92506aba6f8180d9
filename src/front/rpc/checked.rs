//! [`Checked`]: looks at the bytes of a transaction before they are decoded.

use bytes::Bytes;

use super::refused::bad_arguments;
use crate::kv::CommandError;
use crate::kv::api::ApiError;
use crate::kv::model;
use crate::rpc::{Call, Service};

/// `storeRpc`, which decodes no transaction with too many parts: it would take a hundred times as
/// much memory as its request, only to be refused.
pub(super) struct Checked<S>(pub(super) S);

impl<S: Service> Service for Checked<S> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn package(&self) -> &'static str {
        self.0.package()
    }

    fn methods(&self) -> &'static [&'static str] {
        self.0.methods()
    }

    fn call(&self, method: usize, args: Bytes, call: Call) {
        if self.methods()[method] == "Txn"
            && let Err(error) = model::check_request(&args)
        {
            let error = ApiError::Invalid(CommandError::Txn(error));
            return call.fail(bad_arguments(&error));
        }
        self.0.call(method, args, call);
    }

    fn codec(&self) -> u32 {
        self.0.codec()
    }

    fn version(&self) -> u32 {
        self.0.version()
    }

    fn is_stream(&self, method: usize) -> bool {
        self.0.is_stream(method)
    }

    fn flush(&self, method: usize) {
        self.0.flush(method);
    }
}
