//! Makes `proto/friends.proto` Rust.

fn main() -> Result<(), syncraft_build::Error> {
    syncraft_build::compile(&["proto/friends.proto"], &["proto"])
}
