//! The service that the RPC's benchmarks call: it gives back what it gets, 300 bytes.

use bytes::Bytes;
use prost::Message;
use syncraft::rpc::{Call, Method, Service};

const SERVICE: &str = "echoRpc";

pub(crate) const METHOD: Method = Method::new(SERVICE, "Echo");

/// The length of a message: its tag, its length and the data.
pub(crate) const LEN_BYTES: usize = 300;

pub(crate) const DATA: Bytes = Bytes::from_static(&[b'd'; LEN_BYTES - 3]);

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Data {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) data: Bytes,
}

pub(crate) struct Echo;

impl Service for Echo {
    fn name(&self) -> &'static str {
        SERVICE
    }

    fn methods(&self) -> &'static [&'static str] {
        &[METHOD.name]
    }

    fn call(&self, _: usize, args: Bytes, call: Call) {
        if let Some((data, done)) = call.open::<Data, Data>(args) {
            done.run(data);
        }
    }
}
