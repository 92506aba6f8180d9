//! Generates the Rust code of a protobuf `service`.
//!
//! For `service kvServerRpc { rpc PutAppend(PutAppendArgs) returns (PutAppendReply); }` it writes
//!
//! - `trait KvServerRpc`: what a server implements, with one method for each `rpc`, answered
//!   through a `Done`;
//! - `struct KvServerRpcService<T>`: turns any such `T` into a `Service`, which a `Server`
//!   publishes;
//! - `struct KvServerRpcStub<C>`: what a client calls, through a `Channel` or anything else that
//!   carries calls; through a `Channel` also without waiting.
//!
//! Names on the wire are those of the .proto ("kvServerRpc", "PutAppend"). Names in Rust follow the
//! conventions of Rust.
//!
//! The code may be included in any module, and a .proto may use any names. So every path, even of
//! what std's prelude has, is absolute or begins with the name of the runtime crate, which
//! [`Generator::new`] gets. Methods of the user's trait are called by the trait's name. Type
//! parameters end in `_`, which no name made from a .proto does.

use std::collections::BTreeSet;
use std::path::PathBuf;

use prost_build::{Comments, Method, Service, ServiceGenerator};
use prost_types::FileDescriptorSet;

use crate::source::Place;

/// Methods that each trait or stub has. An `rpc` with such a name gets an underscore at its end.
const RESERVED: [&str; 5] = ["new", "with", "invoker", "into_service", "after_calls"];

/// Written before each item, which its users cannot change.
const ALLOW: &str =
    "#[allow(dead_code, unreachable_pub, clippy::all, clippy::pedantic, reason = \"generated\")]\n";

/// A line for each `rpc` with a stream, which is left out: where it is, and why.
pub(crate) fn left_out(descriptors: &FileDescriptorSet, includes: &[PathBuf]) -> Vec<String> {
    let mut lines = Vec::new();
    for file in &descriptors.file {
        for (at, service) in (0..).zip(&file.service) {
            for (number, method) in (0..).zip(&service.method) {
                if method.client_streaming() || method.server_streaming() {
                    // `service` is field 6 of a file, `method` field 2 of a service.
                    let place = Place::of(&[6, at, 2, number], file, includes);
                    let (service, method) = (service.name(), method.name());
                    lines.push(format!(
                        "{place}: rpc {method} of service {service} is left out: streams are not \
                         supported yet; calls of it are answered as calls of an unknown method"
                    ));
                }
            }
        }
    }
    lines
}

/// The names of one `rpc` in Rust.
struct Names {
    /// In the trait, and in the stub for calls that wait.
    call: String,
    call_async: String,
    call_then: String,
    constant: String,
}

impl Names {
    /// The names of all methods. No two are the same, whatever the methods are called.
    fn of(methods: &[Method]) -> Vec<Names> {
        let own = |method: &Method| match bare(&method.name) {
            name if RESERVED.contains(&name) => format!("{name}_"),
            _ => method.name.clone(),
        };
        let calls: Vec<String> = methods.iter().map(own).collect();
        let mut taken: BTreeSet<String> = RESERVED.map(str::to_owned).into();
        taken.extend(calls.iter().cloned());
        let mut free = |mut name: String| {
            while !taken.insert(name.clone()) {
                name.push('_');
            }
            name
        };
        let names = methods.iter().zip(calls).map(|(method, call)| {
            let bare = bare(&method.name);
            let [call_async, call_then] = ["async", "then"].map(|it| free(format!("{bare}_{it}")));
            Names { call, call_async, call_then, constant: bare.to_uppercase() }
        });
        names.collect()
    }
}

/// A name without what is added to a keyword: `r#move` is `move`, `self_` is `self`.
fn bare(name: &str) -> &str {
    name.trim_start_matches("r#").trim_end_matches('_')
}

/// The generator, with the path of the runtime crate as the generated code sees it.
pub(crate) struct Generator {
    runtime: String,
}

impl Generator {
    pub(crate) fn new(runtime: &str) -> Self {
        Generator { runtime: runtime.to_owned() }
    }

    fn write_trait(
        &self,
        service: &Service,
        names: &[Names],
        left_out: &[Method],
        out: &mut String,
    ) {
        let Service { name, proto_name, .. } = service;
        let rpc = &self.runtime;
        let fallback = format!("What a server of `{proto_name}` implements.");
        write_doc(&service.comments, &fallback, 0, out);
        out.push_str("///\n/// Each method is answered once through its `Done`: at once or later, from any thread.\n");
        for Method { proto_name, .. } in left_out {
            out.push_str(&format!(
                "///\n/// `{proto_name}` is left out: streams are not supported yet.\n"
            ));
        }
        out.push_str(ALLOW);
        out.push_str(&format!(
            "pub trait {name}: ::core::marker::Send + ::core::marker::Sync + 'static {{\n"
        ));
        for (method, names) in service.methods.iter().zip(names) {
            let Method { proto_name, input_type, output_type, comments, .. } = method;
            write_doc(comments, &format!("`{proto_name}`."), 1, out);
            out.push_str(&format!(
                "    fn {call}(&self, args: {input_type}, done: {rpc}::Done<{output_type}>);\n",
                call = names.call,
            ));
        }
        out.push_str(&format!(
            r#"    /// The service that a server publishes: this answers its calls.
    fn into_service(self) -> {name}Service<Self>
    where
        Self: ::core::marker::Sized,
    {{
        {name}Service::new(::std::sync::Arc::new(self))
    }}

    /// Runs after the last of several calls of `method` that had arrived together, on the same
    /// thread. For methods that collect calls and then do one piece of work for all of them.
    fn after_calls(&self, method: &str) {{
        let _ = method;
    }}
}}
"#
        ));
    }

    fn write_service(&self, service: &Service, names: &[Names], out: &mut String) {
        let Service { name, proto_name, package, .. } = service;
        let rpc = &self.runtime;
        let methods: Vec<_> =
            service.methods.iter().map(|m| format!("\"{}\"", m.proto_name)).collect();
        let arms: String = (service.methods.iter().zip(names).enumerate())
            .map(|(index, (method, names))| arm(name, index, method, names))
            .collect();
        let unknown = format!(
            "call.fail({rpc}::Status::new({rpc}::StatusCode::UnknownMethod, \"no such method\"))"
        );
        let call = match arms.is_empty() {
            true => format!("let _ = (method, args);\n        {unknown}"),
            false => {
                format!("match method {{\n{arms}            _ => {unknown},\n        }}")
            }
        };
        out.push_str(&format!(
            r#"
/// Publishes an implementation of [`{name}`] as the service `{proto_name}`.
{ALLOW}pub struct {name}Service<T_> {{
    implementation: ::std::sync::Arc<T_>,
    version: u32,
}}

{ALLOW}impl<T_: {name}> {name}Service<T_> {{
    /// A service that hands its calls to `implementation`.
    pub fn new(implementation: ::std::sync::Arc<T_>) -> Self {{
        Self {{ implementation, version: 0 }}
    }}

    /// Publishes a version. Callers that were made for another version are refused. Default 0: all
    /// are served.
    pub fn version(self, version: u32) -> Self {{
        Self {{ version, ..self }}
    }}
}}

impl<T_> ::core::fmt::Debug for {name}Service<T_> {{
    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{
        f.debug_struct("{name}Service").field("version", &self.version).finish_non_exhaustive()
    }}
}}

{ALLOW}impl<T_: {name}> {rpc}::Service for {name}Service<T_> {{
    fn name(&self) -> &'static str {{
        "{proto_name}"
    }}

    fn package(&self) -> &'static str {{
        "{package}"
    }}

    fn methods(&self) -> &'static [&'static str] {{
        &[{methods}]
    }}

    fn version(&self) -> u32 {{
        self.version
    }}

    fn call(&self, method: usize, args: {rpc}::prost::bytes::Bytes, call: {rpc}::Call) {{
        {call}
    }}

    fn flush(&self, method: usize) {{
        if let ::core::option::Option::Some(method) = {rpc}::Service::methods(self).get(method) {{
            <T_ as {name}>::after_calls(&self.implementation, method);
        }}
    }}
}}
"#,
            methods = methods.join(", "),
        ));
    }

    fn write_stub(&self, service: &Service, names: &[Names], out: &mut String) {
        let Service { name, proto_name, .. } = service;
        let rpc = &self.runtime;
        out.push_str(&format!(
            r#"
/// Calls the service `{proto_name}` through a [`Channel`]({rpc}::Channel), or anything else that
/// [carries calls]({rpc}::Invoke). Cheap to clone: clones share what carries their calls.
{ALLOW}#[derive(::core::clone::Clone, ::core::fmt::Debug)]
pub struct {name}Stub<C_ = {rpc}::Channel> {{
    invoker: C_,
    options: {rpc}::CallOptions,
}}

{ALLOW}impl<C_> {name}Stub<C_> {{
    /// A stub that calls through `invoker`.
    pub fn new(invoker: C_) -> Self {{
        Self {{ invoker, options: ::core::default::Default::default() }}
    }}

    /// The same, with these options for each of its calls.
    pub fn with(self, options: {rpc}::CallOptions) -> Self {{
        Self {{ options, ..self }}
    }}

    /// What carries the calls.
    pub fn invoker(&self) -> &C_ {{
        &self.invoker
    }}
}}

{ALLOW}impl<C_: {rpc}::Invoke> {name}Stub<C_> {{
"#
        ));
        let methods = || service.methods.iter().zip(names);
        methods().for_each(|(method, names)| self.write_call(name, method, names, out));
        out.push_str(&format!("}}\n\n{ALLOW}impl {name}Stub {{\n"));
        methods()
            .for_each(|(method, names)| self.write_async_calls(proto_name, method, names, out));
        out.push_str("}\n");
    }

    /// Writes the method that waits, through anything that carries calls.
    fn write_call(&self, service: &str, method: &Method, names: &Names, out: &mut String) {
        let Method { proto_name, input_type, output_type, comments, .. } = method;
        let (rpc, Names { call, constant, .. }) = (&self.runtime, names);
        write_doc(
            comments,
            &format!("`{proto_name}`: waits for the reply until `deadline`."),
            1,
            out,
        );
        out.push_str(&format!(
            r#"    ///
    /// # Errors
    ///
    /// [`CallError`]({rpc}::CallError), which says whether the call may have run.
    pub fn {call}(
        &self,
        args: &{input_type},
        deadline: ::std::time::Instant,
    ) -> ::core::result::Result<{output_type}, {rpc}::CallError> {{
        {rpc}::Invoke::invoke(&self.invoker, &<{service}Stub>::{constant}, &self.options, args, deadline)
    }}

"#
        ));
    }

    /// Writes the methods that do not wait, through a channel.
    fn write_async_calls(&self, service: &str, method: &Method, names: &Names, out: &mut String) {
        let Method { proto_name, input_type, output_type, options, .. } = method;
        let (rpc, Names { call_async, call_then, constant, .. }) = (&self.runtime, names);
        // IDEMPOTENCY_UNKNOWN is 0. A method without side effects is idempotent, too.
        let mark = match options.idempotency_level.unwrap_or_default() {
            0 => "",
            _ => ".idempotent()",
        };
        out.push_str(&format!(
            r#"    /// The method `{proto_name}`.
    pub const {constant}: {rpc}::Method = {rpc}::Method::new("{service}", "{proto_name}"){mark};

    /// `{proto_name}`, without waiting. The reply is fetched later from what this returns.
    pub fn {call_async}(
        &self,
        args: &{input_type},
        deadline: ::std::time::Instant,
    ) -> {rpc}::Pending<{output_type}> {{
        self.invoker.call_async(&Self::{constant}, &self.options, args, deadline)
    }}

    /// `{proto_name}`, without waiting. `done` runs once, on a thread of the channel, never on this
    /// one.
    pub fn {call_then}(
        &self,
        args: &{input_type},
        deadline: ::std::time::Instant,
        done: impl ::core::ops::FnOnce(::core::result::Result<{output_type}, {rpc}::CallError>)
            + ::core::marker::Send
            + 'static,
    ) {{
        self.invoker.call_then(&Self::{constant}, &self.options, args, deadline, done);
    }}

"#
        ));
    }
}

fn arm(service: &str, index: usize, method: &Method, names: &Names) -> String {
    let Method { input_type, output_type, .. } = method;
    format!(
        "            {index} => {{
                if let ::core::option::Option::Some((args, done)) = call.open::<{input_type}, {output_type}>(args) {{
                    <T_ as {service}>::{call}(&self.implementation, args, done);
                }}
            }}\n",
        call = names.call,
    )
}

/// The .proto's own comment where there is one, else `fallback`.
fn write_doc(comments: &Comments, fallback: &str, indent: u8, out: &mut String) {
    if comments.leading.is_empty() && comments.trailing.is_empty() {
        let indent = "    ".repeat(indent.into());
        return out.push_str(&format!("{indent}/// {fallback}\n"));
    }
    comments.append_with_indent(indent, out);
}

impl ServiceGenerator for Generator {
    fn generate(&mut self, mut service: Service, out: &mut String) {
        let streams = |method: &Method| method.client_streaming || method.server_streaming;
        let (left_out, methods) = service.methods.into_iter().partition(streams);
        service.methods = methods;
        let names = Names::of(&service.methods);
        out.push('\n');
        self.write_trait(&service, &names, &left_out, out);
        self.write_service(&service, &names, out);
        self.write_stub(&service, &names, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stream_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.proto");
        let text = "syntax = \"proto3\"; message M {}\nservice S {\n  rpc One(M) returns (M);\n  \
                    // What happens.\n  rpc Watch(M) returns (stream M);\n}\n";
        std::fs::write(&path, text).unwrap();
        let descriptors = protox::compile([&path], [dir.path()]).unwrap();
        let lines = left_out(&descriptors, &[dir.path().to_owned()]);
        let expected = format!("{}:5: rpc Watch of service S is left out: ", path.display());
        assert!(lines.len() == 1 && lines[0].starts_with(&expected), "{lines:?}");
    }
}
