//! Compiles `.proto` files for `syncraft::rpc`: messages, and for each service the trait to implement, the type that publishes it
//! and the stub that calls it. Nobody needs `protoc`.
//!
//! In a crate's `build.rs`:
//!
//! ```no_run
//! fn main() -> Result<(), syncraft_build::Error> {
//!     syncraft_build::compile(&["proto/friends.proto"], &["proto"])
//! }
//! ```
//!
//! and where its types are wanted, if the file says `package friends;`:
//!
//! ```text
//! syncraft::rpc::include_proto!("friends");
//! ```
//!
//! The crate needs `syncraft` among its dependencies and this one among its build dependencies, and nothing else.

mod service;

use std::error;
use std::fmt;
use std::path::Path;

/// Compiles `protos`, which may import each other and what is below `includes`, to `OUT_DIR`: a file for each package.
///
/// # Errors
///
/// [`Error`], with the place in the .proto that is wrong; or the file that cannot be read or written.
pub fn compile(protos: &[impl AsRef<Path>], includes: &[impl AsRef<Path>]) -> Result<(), Error> {
    Config::new().compile(protos, includes)
}

/// What [`compile`] does, with other settings.
#[derive(Clone, Debug)]
pub struct Config {
    rpc: String,
    prost: String,
}

impl Default for Config {
    fn default() -> Config {
        Config::new()
    }
}

impl Config {
    /// For a crate that depends on `syncraft`.
    pub fn new() -> Config {
        Config { rpc: "::syncraft::rpc".to_owned(), prost: "::syncraft::rpc::prost".to_owned() }
    }

    /// Where the rpc module is, as the crate that is built sees it. Default: `::syncraft::rpc`.
    pub fn rpc_path(mut self, path: &str) -> Config {
        path.clone_into(&mut self.rpc);
        self
    }

    /// Where prost is. Default: `::syncraft::rpc::prost`.
    pub fn prost_path(mut self, path: &str) -> Config {
        path.clone_into(&mut self.prost);
        self
    }

    /// Compiles them: see [`compile`].
    ///
    /// # Errors
    ///
    /// Those of [`compile`].
    pub fn compile(
        &self,
        protos: &[impl AsRef<Path>],
        includes: &[impl AsRef<Path>],
    ) -> Result<(), Error> {
        let watched = protos.iter().map(AsRef::as_ref).chain(includes.iter().map(AsRef::as_ref));
        watched.for_each(|path| println!("cargo::rerun-if-changed={}", path.display()));
        let descriptors = protox::compile(protos, includes).map_err(Error::new)?;
        prost_build::Config::new()
            // A value is a slice of the frame that it came in: it is not copied on its way.
            .bytes(["."])
            .prost_path(&self.prost)
            .type_attribute(
                ".",
                "#[allow(missing_docs, reason = \"generated: the .proto is the documentation\")]",
            )
            .service_generator(Box::new(service::Generator::new(&self.rpc, &self.prost)))
            .compile_fds(descriptors)
            .map_err(Error::new)
    }
}

/// Why nothing was compiled.
pub struct Error(Box<dyn error::Error + Send + Sync>);

impl Error {
    fn new(error: impl error::Error + Send + Sync + 'static) -> Error {
        Error(Box::new(error))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a build script shows of the error that it ends with: the words, and the place.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.0.source()
    }
}
