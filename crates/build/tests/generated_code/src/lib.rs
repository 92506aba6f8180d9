//! Compiles what `syncraft-build` generates for .proto files with every name that could clash,
//! under lints that a user's crate may have. Nothing in their comments may become a test.
#![deny(
    warnings,
    missing_debug_implementations,
    missing_docs,
    unused,
    rust_2018_idioms,
    nonstandard_style,
    unreachable_pub
)]

/// Every name.
pub mod names {
    // There is a module `syncraft` now.
    ::syncraft::rpc::include_proto!("names");
}

/// Fields and values of every name.
pub mod fields {
    ::syncraft::rpc::include_proto!("fields");
}

/// Files that once did not compile.
pub mod issues {
    syncraft::rpc::include_proto!("issues");
}

/// A file without `package`.
pub mod plain {
    syncraft::rpc::include_proto!("_");
}

/// Included without the macro: build.rs names the runtime crate.
pub mod explicit {
    include!(concat!(env!("OUT_DIR"), "/explicit.rs"));
}

/// Two packages in one module.
pub mod together {
    syncraft::rpc::include_proto!("_");
    syncraft::rpc::include_proto!("issues");
}

/// Code in comments.
pub mod comments {
    syncraft::rpc::include_proto!("comments");
}

/// Types of `google.protobuf`; the package has the name of a keyword.
pub mod r#type {
    syncraft::rpc::include_proto!("type");
}

/// A package whose parts refer to another package, which refers back.
pub mod shop {
    /// The part.
    pub mod orders {
        syncraft::rpc::include_proto!("Shop.Orders");
    }
}

/// The other package.
pub mod common {
    syncraft::rpc::include_proto!("common");
}
