//! What a request may cost a member in memory.

use std::fs;
use std::time::Instant;

use bytes::Bytes;
use syncraft::kv::model::OPERATIONS_MAX;
use syncraft::kv::model::proto::TxnReply;
use syncraft::rpc::{CallError, Channel, Method, Payload, PayloadError, StatusCode};

use crate::processes::{Processes, TEST_TIMEOUT};

/// Arguments whose bytes the test chooses.
struct RawArgs(Vec<u8>);

impl Payload for RawArgs {
    const CODEC: u32 = 0;

    fn measure(&self) -> Result<usize, PayloadError> {
        Ok(self.0.len())
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(&self.0);
    }

    fn read(bytes: Bytes) -> Result<RawArgs, PayloadError> {
        Ok(RawArgs(bytes.into()))
    }
}

/// The most memory that a member has taken so far, in KiB.
fn peak_kib(processes: &Processes, id: usize) -> u64 {
    let pid = processes.children[id - 1].as_ref().unwrap().id();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Seven million operations of two bytes each: decoded, they would take more than a gigabyte.
#[test]
fn a_request_of_too_many_operations_is_refused_before_it_is_decoded() {
    let processes = Processes::start(1);
    let operations = [0x12, 0].repeat(15 << 19);
    let mut args = vec![0x12];
    prost::encode_length_delimiter(operations.len(), &mut args).unwrap();
    args.extend(&operations);
    let before = peak_kib(&processes, 1);
    let channel = Channel::builder(processes.ports[0].addr().to_string()).lazy();
    let (txn, deadline) = (Method::new("storeRpc", "Txn"), Instant::now() + TEST_TIMEOUT);
    let Err(CallError::Refused { status, .. }) =
        channel.call::<_, TxnReply>(&txn, &RawArgs(args), deadline)
    else {
        panic!("it is refused");
    };
    assert_eq!(status.code, StatusCode::BadArguments, "{status}");
    assert!(status.message.contains(&OPERATIONS_MAX.to_string()), "{status}");
    let more = peak_kib(&processes, 1) - before;
    assert!(more < 200 << 10, "{more} KiB for a request of {} bytes", operations.len());
}
