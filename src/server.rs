//! A member. So far only its protocol for operators.

/// The messages and the service of `proto/admin_rpc.proto`, generated.
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/syncraft.admin.rs"));
}
