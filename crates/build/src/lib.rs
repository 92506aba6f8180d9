//! Compiles `.proto` files for `syncraft_rpc`: messages and, for each service, a trait to
//! implement, a type that publishes it, and a stub that calls it. Nobody needs `protoc`.
//!
//! In a crate's `build.rs`:
//!
//! ```no_run
//! fn main() -> Result<(), syncraft_build::Error> {
//!     syncraft_build::compile(&["proto/friends.proto"], &["proto"])
//! }
//! ```
//!
//! and, where you want its types, if the file says `package friends;`:
//!
//! ```text
//! syncraft_rpc::include_proto!("friends");
//! ```
//!
//! The crate needs only `syncraft-rpc` among its dependencies and this crate among its build
//! dependencies. A crate that depends on `syncraft` does not need `syncraft-rpc`: it writes
//! `syncraft::rpc::include_proto!("friends")`. The macro tells the generated code the name of the
//! runtime crate. Code that is included in another way gets the name from [`Config::runtime`].
//!
//! # Packages
//!
//! `include_proto!` takes the package as the .proto spells it, or `"_"` for files without
//! `package`:
//!
//! ```text
//! mod plain {
//!     syncraft_rpc::include_proto!("_");
//! }
//! ```
//!
//! A single package may be included anywhere. Packages that `import` each other find each other by
//! their modules. So each part of a package's name must be a module, either in the crate's root or
//! all in one module. For `shop.orders`, `shop.users` and `common`:
//!
//! ```text
//! pub mod shop {
//!     pub mod orders {
//!         syncraft_rpc::include_proto!("shop.orders");
//!     }
//!     pub mod users {
//!         syncraft_rpc::include_proto!("shop.users");
//!     }
//! }
//! pub mod common {
//!     syncraft_rpc::include_proto!("common");
//! }
//! ```
//!
//! Names of modules are in snake case: `Shop` becomes `shop`, and a keyword such as `type` becomes
//! `r#type`.
//!
//! Types of `google.protobuf` come with `syncraft-rpc` (`syncraft_rpc::prost_types::Timestamp`,
//! ...). `Empty` is `()` in Rust, and a wrapper such as `StringValue` is the type that it wraps.
//!
//! # Names
//!
//! A .proto may use any names. In Rust
//!
//! - types are in camel case, methods and fields in snake case, and keywords get `r#`, or `_` where
//!   `r#` is not allowed;
//! - `rpc New`, `With`, `Invoker`, `IntoService` and `AfterCalls` become `new_`, `with_` and so on,
//!   because each stub or trait has methods of these names already;
//! - if there are `rpc Get` and `rpc GetAsync`, then `get_async` calls `GetAsync` and waits, and
//!   `get_async_` calls `Get` without waiting;
//! - two names that would become the same, such as `service Echo` and `message EchoService`, are
//!   refused, with both places.
//!
//! # Streams
//!
//! An `rpc` with `stream` becomes a method of the trait and a method of the stub, as any other.
//! What these get and return depends on which sides stream:
//!
//! - `List(Args) returns (stream Item)`
//!   - the trait's method gets: `args: Args, replies: Outgoing<Item>`
//!   - the stub's method: `list(&args, deadline)` returns `Incoming<Item>`
//! - `Load(stream Item) returns (Reply)`
//!   - the trait's method gets: `items: Incoming<Item, Status>, done: Done<Reply>`
//!   - the stub's method: `load(deadline)` returns `(Sender<Item>, StreamReply<Reply>)`
//! - `Watch(stream Args) returns (stream Item)`
//!   - the trait's method gets: `items: Incoming<Args, Status>, replies: Outgoing<Item>`
//!   - the stub's method: `watch(deadline)` returns `(Sender<Args>, Incoming<Item>)`
//!
//! Here `deadline` is an `Option<Instant>`, and streams go through a `Channel` only.
//!
//! # Comments
//!
//! Comments of the .proto become the documentation of the generated code. Nothing in them is an
//! example to run, an HTML tag or a link in brackets. `` `code` `` in single backticks is shown as
//! code. The rest stays Markdown: headings (`#`), emphasis (`*`, `_`), lists, tables, entities such
//! as `&lt;`, and URLs.

mod comments;
mod names;
mod service;
mod source;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{env, error, fmt, fs, io};

use prost_build::Module;
use prost_types::FileDescriptorSet;

/// Compiles `protos` to `OUT_DIR`, to one file for each package. They may import each other and
/// files below `includes`.
///
/// # Errors
///
/// [`Error`]: with the wrong place in the .proto, with both places of names that collide, or with
/// the file that cannot be read or written.
pub fn compile(protos: &[impl AsRef<Path>], includes: &[impl AsRef<Path>]) -> Result<(), Error> {
    Config::new().compile(protos, includes)
}

/// The settings of [`compile`].
#[derive(Clone, Debug)]
pub struct Config {
    runtime: String,
}

impl Default for Config {
    fn default() -> Config {
        Config::new()
    }
}

impl Config {
    /// The defaults: for generated files that `include_proto!` includes.
    pub fn new() -> Config {
        Config { runtime: ALIAS.to_owned() }
    }

    /// Names the runtime crate by a path, such as `::syncraft_rpc` or `::syncraft::rpc`.
    ///
    /// By default the generated code gets the name from the `include_proto!` that includes it. So
    /// `syncraft_rpc::include_proto!` and `syncraft::rpc::include_proto!` both work, and so does a
    /// renamed dependency. Set this for files that are included without that macro.
    pub fn runtime(mut self, path: &str) -> Config {
        path.clone_into(&mut self.runtime);
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
        let includes: Vec<PathBuf> = includes.iter().map(|dir| dir.as_ref().to_owned()).collect();
        let watched = protos.iter().map(AsRef::as_ref).chain(includes.iter().map(AsRef::as_ref));
        watched.for_each(|path| println!("cargo::rerun-if-changed={}", path.display()));
        let descriptors = protox::compile(protos, &includes).map_err(Error::new)?;
        names::check(&descriptors, &includes).map_err(Error::new)?;
        self.generate(descriptors).map_err(Error::new)
    }

    fn generate(&self, mut descriptors: FileDescriptorSet) -> io::Result<()> {
        comments::make_plain(&mut descriptors);
        let files = descriptors.file.iter().filter(|file| !names::is_well_known(file));
        let packages: BTreeSet<String> = files.map(|file| file.package().to_owned()).collect();
        let with_module = |file: prost_types::FileDescriptorProto| {
            (Module::from_protobuf_package_name(file.package()), file)
        };
        let modules = prost_build::Config::new()
            // A value is then a slice of the frame that it came in, and is not copied.
            .bytes(["."])
            .prost_path(format!("{}::prost", self.runtime))
            .prost_types_path(format!("{}::prost_types", self.runtime))
            .type_attribute(".", ALLOW)
            .service_generator(Box::new(service::Generator::new(&self.runtime)))
            .generate(descriptors.file.into_iter().map(with_module).collect())?;
        let out_dir = env::var_os("OUT_DIR")
            .ok_or_else(|| io::Error::other("OUT_DIR is not set: this is for build scripts"))?;
        for package in packages {
            // A package without types has no module, but may still be included.
            let module = Module::from_protobuf_package_name(&package);
            let code = modules.get(&module).map_or("", String::as_str);
            let code = &self.with_alias(code);
            let name = if package.is_empty() { "_" } else { &package };
            write_if_changed(&Path::new(&out_dir).join(format!("{name}.rs")), code)?;
        }
        Ok(())
    }

    /// Imports the alias in the modules in `code`, because a module does not see the names of the
    /// module around it.
    fn with_alias(&self, code: &str) -> String {
        if self.runtime != ALIAS {
            return code.to_owned();
        }
        let mut out = String::with_capacity(code.len());
        for line in code.split_inclusive('\n') {
            out.push_str(line);
            if line.trim_start().starts_with("pub mod ") && line.ends_with("{\n") {
                out.push_str("#[allow(unused_imports, reason = \"generated\")]\n");
                out.push_str(&format!("use super::{ALIAS};\n"));
            }
        }
        out
    }
}

/// The name of the runtime crate in generated code. `include_proto!` imports it into its module. It
/// is in snake case because prost changes paths to snake case. [`names::check`] refuses a .proto
/// that makes a module of this name.
const ALIAS: &str = "syncraft_rpc_runtime";

/// Leaves a file with the same content alone, because cargo compiles what was written again.
fn write_if_changed(path: &Path, code: &str) -> io::Result<()> {
    match fs::read(path) {
        Ok(found) if found == code.as_bytes() => Ok(()),
        _ => fs::write(path, code),
    }
}

/// Written before each message and enum, which their users cannot change.
const ALLOW: &str = "#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, \
                     reason = \"generated: the .proto is the documentation\")]";

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

/// A build script that ends with an error shows this: the words, and the place.
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

/// The build script in the README must compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
