//! Compiles `proto/*.proto` to Rust: protox parses (nobody needs `protoc`), prost-build writes the messages, and
//! [`service::Generator`] writes, for each `service`, its trait, its adapter and its client stub.

#[path = "build/service.rs"]
mod service;

use std::error::Error;

const PROTOS: [&str; 4] = [
    "proto/rpc_header.proto",
    "proto/kv_server_rpc.proto",
    "proto/raft_rpc.proto",
    "proto/admin_rpc.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    prost_build::Config::new()
        // A value is a slice of the frame it came in: never copied again on its way to the log or the store.
        .bytes(["."])
        .type_attribute(
            ".",
            "#[allow(missing_docs, reason = \"generated: the .proto is the documentation\")]",
        )
        .service_generator(Box::new(service::Generator::new("crate::rpc")))
        .compile_fds(descriptors)?;
    Ok(())
}
