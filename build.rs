//! Compiles `proto/*.proto`.

fn main() -> Result<(), syncraft_build::Error> {
    const PROTOS: [&str; 6] = [
        "proto/kv_server_rpc.proto",
        "proto/raft_rpc.proto",
        "proto/admin_rpc.proto",
        "proto/store_rpc.proto",
        "proto/lane_rpc.proto",
        "proto/member_rpc.proto",
    ];
    syncraft_build::compile(&PROTOS, &["proto"])
}
