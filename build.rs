//! Compiles `proto/*.proto` to Rust, as `build/` does for any crate, but for the paths.

fn main() -> Result<(), syncraft_build::Error> {
    const PROTOS: [&str; 5] = [
        "proto/rpc.proto",
        "proto/rpc_header.proto",
        "proto/kv_server_rpc.proto",
        "proto/raft_rpc.proto",
        "proto/admin_rpc.proto",
    ];
    println!("cargo::rerun-if-changed=build/src");
    syncraft_build::Config::new()
        .rpc_path("crate::rpc")
        .prost_path("::prost")
        .compile(&PROTOS, &["proto"])
}
