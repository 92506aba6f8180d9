//! Compiles `proto/friends.proto`.

fn main() -> Result<(), syncraft_build::Error> {
    syncraft_build::compile(&["proto/friends.proto"], &["proto"])
}
