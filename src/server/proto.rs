//! The messages and the service of `proto/admin_rpc.proto`, generated.

crate::rpc::include_proto!("syncraft.admin");
