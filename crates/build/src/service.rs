//! Generates the Rust code of a protobuf `service`.
//!
//! For `service kvServerRpc { rpc PutAppend(PutAppendArgs) returns (PutAppendReply); }` it writes
//!
//! - `trait KvServerRpc`: what a server implements, with one method for each `rpc`, answered
//!   through a `Done`, or through an `Outgoing` if it streams;
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

use prost_build::{Comments, Method, Service, ServiceGenerator};

/// Methods that each trait or stub has. An `rpc` with such a name gets an underscore at its end.
const RESERVED: [&str; 5] = ["new", "with", "invoker", "into_service", "after_calls"];

/// Written before each item, which its users cannot change.
const ALLOW: &str =
    "#[allow(dead_code, unreachable_pub, clippy::all, clippy::pedantic, reason = \"generated\")]\n";

/// Which sides of a method stream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Neither.
    Unary,
    /// The server.
    Stream,
    /// The caller.
    Upload,
    /// Both.
    Duplex,
}

impl Shape {
    fn of(method: &Method) -> Shape {
        match (method.client_streaming, method.server_streaming) {
            (false, false) => Shape::Unary,
            (false, true) => Shape::Stream,
            (true, false) => Shape::Upload,
            (true, true) => Shape::Duplex,
        }
    }
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

    fn write_trait(&self, service: &Service, names: &[Names], out: &mut String) {
        let Service { name, proto_name, .. } = service;
        let fallback = format!("What a server of `{proto_name}` implements.");
        write_doc(&service.comments, &fallback, 0, out);
        out.push_str("///\n/// Each method is answered once through its `Done`: at once or later, from any thread.\n");
        if service.methods.iter().any(|it| it.server_streaming) {
            out.push_str(
                "/// One that streams sends its items through its `Outgoing`, and ends with it.\n",
            );
        }
        out.push_str(ALLOW);
        out.push_str(&format!(
            "pub trait {name}: ::core::marker::Send + ::core::marker::Sync + 'static {{\n"
        ));
        for (method, names) in service.methods.iter().zip(names) {
            let Method { proto_name, comments, .. } = method;
            write_doc(comments, &format!("`{proto_name}`."), 1, out);
            let params = self.params(method);
            out.push_str(&format!("    fn {call}(&self, {params});\n", call = names.call));
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

    /// What a method of the trait gets.
    fn params(&self, method: &Method) -> String {
        let (rpc, Method { input_type, output_type, .. }) = (&self.runtime, method);
        let items = format!("items: {rpc}::Incoming<{input_type}, {rpc}::Status>");
        let replies = format!("replies: {rpc}::Outgoing<{output_type}>");
        match Shape::of(method) {
            Shape::Unary => format!("args: {input_type}, done: {rpc}::Done<{output_type}>"),
            Shape::Stream => format!("args: {input_type}, {replies}"),
            Shape::Upload => format!("{items}, done: {rpc}::Done<{output_type}>"),
            Shape::Duplex => format!("{items}, {replies}"),
        }
    }

    fn write_service(&self, service: &Service, names: &[Names], out: &mut String) {
        let Service { name, proto_name, package, .. } = service;
        let rpc = &self.runtime;
        let methods: Vec<_> =
            service.methods.iter().map(|m| format!("\"{}\"", m.proto_name)).collect();
        let arms: String = (service.methods.iter().zip(names).enumerate())
            .map(|(index, (method, names))| arm(name, index, method, names))
            .collect();
        let is_stream = is_stream(&service.methods);
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
{is_stream}
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
        methods()
            .filter(|(method, _)| Shape::of(method) == Shape::Unary)
            .for_each(|(method, names)| self.write_call(name, method, names, out));
        out.push_str(&format!("}}\n\n{ALLOW}impl {name}Stub {{\n"));
        for (method, names) in methods() {
            self.write_constant(proto_name, method, names, out);
            match Shape::of(method) {
                Shape::Unary => self.write_async_calls(method, names, out),
                _ => self.write_open(method, names, out),
            }
        }
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

    fn write_constant(&self, service: &str, method: &Method, names: &Names, out: &mut String) {
        let (rpc, Method { proto_name, options, .. }) = (&self.runtime, method);
        // IDEMPOTENCY_UNKNOWN is 0. A method without side effects is idempotent, too.
        let mark = match options.idempotency_level.unwrap_or_default() {
            0 => "",
            _ => ".idempotent()",
        };
        let constant = &names.constant;
        out.push_str(&format!(
            r#"    /// The method `{proto_name}`.
    pub const {constant}: {rpc}::Method = {rpc}::Method::new("{service}", "{proto_name}"){mark};

"#
        ));
    }

    /// Writes the method that opens a stream, through a channel.
    fn write_open(&self, method: &Method, names: &Names, out: &mut String) {
        let Method { proto_name, input_type, output_type, comments, .. } = method;
        let (rpc, Names { call, constant, .. }) = (&self.runtime, names);
        let incoming = format!("{rpc}::Incoming<{output_type}>");
        let sender = format!("{rpc}::Sender<{input_type}>");
        let (open, args_param, args, returns) = match Shape::of(method) {
            Shape::Stream => ("open_stream", format!("args: &{input_type}, "), "args, ", incoming),
            Shape::Upload => (
                "open_upload",
                String::new(),
                "",
                format!("({sender}, {rpc}::StreamReply<{output_type}>)"),
            ),
            Shape::Duplex | Shape::Unary => {
                ("open_duplex", String::new(), "", format!("({sender}, {incoming})"))
            }
        };
        write_doc(comments, &format!("`{proto_name}`, a stream."), 1, out);
        out.push_str(&format!(
            r#"    ///
    /// Opens the stream without waiting. It ends at `deadline`, if there is one. What this returns
    /// tells whether it could be opened.
    pub fn {call}(
        &self,
        {args_param}deadline: ::core::option::Option<::std::time::Instant>,
    ) -> {returns} {{
        self.invoker.{open}(&Self::{constant}, &self.options, {args}deadline)
    }}

"#
        ));
    }

    /// Writes the methods that do not wait, through a channel.
    fn write_async_calls(&self, method: &Method, names: &Names, out: &mut String) {
        let Method { proto_name, input_type, output_type, .. } = method;
        let (rpc, Names { call_async, call_then, constant, .. }) = (&self.runtime, names);
        out.push_str(&format!(
            r#"    /// `{proto_name}`, without waiting. The reply is fetched later from what this returns.
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

/// The method of a service that tells which of its methods stream, if some do.
fn is_stream(methods: &[Method]) -> String {
    let streaming = methods.iter().enumerate().filter(|(_, it)| Shape::of(it) != Shape::Unary);
    let numbers: Vec<_> = streaming.map(|(number, _)| number.to_string()).collect();
    match numbers.is_empty() {
        true => String::new(),
        false => format!(
            r#"
    fn is_stream(&self, method: usize) -> bool {{
        ::core::matches!(method, {numbers})
    }}
"#,
            numbers = numbers.join(" | "),
        ),
    }
}

fn arm(service: &str, index: usize, method: &Method, names: &Names) -> String {
    let Method { input_type, output_type, .. } = method;
    let (open, first, second) = match Shape::of(method) {
        Shape::Unary => ("open", "args", "done"),
        Shape::Stream => ("open_stream", "args", "replies"),
        Shape::Upload => ("open_upload", "items", "done"),
        Shape::Duplex => ("open_duplex", "items", "replies"),
    };
    format!(
        "            {index} => {{
                if let ::core::option::Option::Some(({first}, {second})) = call.{open}::<{input_type}, {output_type}>(args) {{
                    <T_ as {service}>::{call}(&self.implementation, {first}, {second});
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
    fn generate(&mut self, service: Service, out: &mut String) {
        let names = Names::of(&service.methods);
        out.push('\n');
        self.write_trait(&service, &names, out);
        self.write_service(&service, &names, out);
        self.write_stub(&service, &names, out);
    }
}
