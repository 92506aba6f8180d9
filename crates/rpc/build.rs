//! Compiles `proto/*.proto`.

fn main() -> Result<(), syncraft_build::Error> {
    syncraft_build::compile(&["proto/rpc.proto", "proto/rpc_header.proto"], &["proto"])
}
