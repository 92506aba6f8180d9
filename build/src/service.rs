//! Writes the Rust of a protobuf `service`.
//!
//! For `service kvServerRpc { rpc PutAppend(PutAppendArgs) returns (PutAppendReply); }` it writes
//!
//! - `trait KvServerRpc`: what a server implements, one method for each `rpc`, answered through a `Done`;
//! - `struct KvServerRpcService<T>`: makes any such `T` an `rpc::Service`, which a `Server` publishes;
//! - `struct KvServerRpcStub<C>`: what a client calls, through a `Channel` or whatever else carries calls; through a
//!   `Channel` also without waiting.
//!
//! Names on the wire are the .proto's own ("kvServerRpc", "PutAppend"); names in Rust follow Rust. Every path is
//! absolute (those of the rpc module and of prost are given to [`Generator::new`]), so the result may be included in any module.

use prost_build::{Method, Service, ServiceGenerator};

/// The generator; the paths are those of the rpc module and of prost, as the including crate sees them.
pub(crate) struct Generator {
    rpc: String,
    prost: String,
}

impl Generator {
    pub(crate) fn new(rpc: &str, prost: &str) -> Self {
        Generator { rpc: rpc.to_owned(), prost: prost.to_owned() }
    }

    fn write_trait(&self, service: &Service, out: &mut String) {
        let Service { name, proto_name, .. } = service;
        let rpc = &self.rpc;
        self.doc(
            &service.comments.leading,
            &format!("What a server of `{proto_name}` implements."),
            "",
            out,
        );
        out.push_str("///\n/// Each method is answered once through its `Done`: at once or later, from any thread.\n");
        out.push_str("#[allow(dead_code, reason = \"generated\")]\n");
        out.push_str(&format!("pub trait {name}: Send + Sync + 'static {{\n"));
        for Method { name, proto_name, input_type, output_type, comments, .. } in &service.methods {
            self.doc(&comments.leading, &format!("`{proto_name}`."), "    ", out);
            out.push_str(&format!(
                "    fn {name}(&self, args: {input_type}, done: {rpc}::Done<{output_type}>);\n"
            ));
        }
        out.push_str(&format!(
            r#"    /// The service that a server publishes: this answers its calls.
    fn into_service(self) -> {name}Service<Self>
    where
        Self: Sized,
    {{
        {name}Service::new(::std::sync::Arc::new(self))
    }}

    /// All calls of `method` that had arrived one behind the other have been made, on this thread: for methods that do for
    /// many at once what they would otherwise do for each.
    fn after_calls(&self, method: &str) {{
        let _ = method;
    }}
}}
"#
        ));
    }

    fn write_service(&self, service: &Service, out: &mut String) {
        let Service { name, proto_name, .. } = service;
        let Generator { rpc, prost } = self;
        let methods: Vec<_> =
            service.methods.iter().map(|m| format!("\"{}\"", m.proto_name)).collect();
        let arms: String =
            service.methods.iter().enumerate().map(|(i, m)| self.arm(i, m)).collect();
        out.push_str(&format!(
            r#"
/// Publishes an implementation of [`{name}`] as the service `{proto_name}`.
#[allow(dead_code, reason = "generated")]
pub struct {name}Service<T> {{
    implementation: ::std::sync::Arc<T>,
    version: u32,
}}

#[allow(dead_code, reason = "generated")]
impl<T: {name}> {name}Service<T> {{
    /// A service that hands its calls to `implementation`.
    pub fn new(implementation: ::std::sync::Arc<T>) -> Self {{
        Self {{ implementation, version: 0 }}
    }}

    /// Publishes a version: callers that say they were made for another one are refused. Default 0: all are served.
    pub fn version(self, version: u32) -> Self {{
        Self {{ version, ..self }}
    }}
}}

impl<T: {name}> {rpc}::Service for {name}Service<T> {{
    fn name(&self) -> &'static str {{
        "{proto_name}"
    }}

    fn methods(&self) -> &'static [&'static str] {{
        &[{methods}]
    }}

    fn version(&self) -> u32 {{
        self.version
    }}

    fn call(&self, method: usize, args: {prost}::bytes::Bytes, call: {rpc}::Call) {{
        match method {{
{arms}            _ => call.fail({rpc}::Status::new({rpc}::StatusCode::UnknownMethod, "no such method")),
        }}
    }}

    fn flush(&self, method: usize) {{
        if let Some(method) = {rpc}::Service::methods(self).get(method) {{
            self.implementation.after_calls(method);
        }}
    }}
}}
"#,
            methods = methods.join(", "),
        ));
    }

    fn arm(&self, index: usize, method: &Method) -> String {
        let Method { name, input_type, output_type, .. } = method;
        format!(
            "            {index} => {{
                if let Some((args, done)) = call.open::<{input_type}, {output_type}>(args) {{
                    self.implementation.{name}(args, done);
                }}
            }}\n"
        )
    }

    fn write_stub(&self, service: &Service, out: &mut String) {
        let Service { name, proto_name, .. } = service;
        let rpc = &self.rpc;
        out.push_str(&format!(
            r#"
/// Calls the service `{proto_name}` through a [`Channel`]({rpc}::Channel), or whatever else [carries calls]({rpc}::Invoke). Cheap to
/// clone: clones share what carries them.
#[allow(dead_code, reason = "generated")]
#[derive(Clone, Debug)]
pub struct {name}Stub<C = {rpc}::Channel> {{
    invoker: C,
    options: {rpc}::CallOptions,
}}

#[allow(dead_code, reason = "generated")]
impl<C> {name}Stub<C> {{
    /// A stub that calls through `invoker`.
    pub fn new(invoker: C) -> Self {{
        Self {{ invoker, options: ::std::default::Default::default() }}
    }}

    /// The same, with these options for each of its calls.
    pub fn with(self, options: {rpc}::CallOptions) -> Self {{
        Self {{ options, ..self }}
    }}

    /// What carries the calls.
    pub fn invoker(&self) -> &C {{
        &self.invoker
    }}
}}

#[allow(dead_code, reason = "generated")]
impl<C: {rpc}::Invoke> {name}Stub<C> {{
"#
        ));
        service.methods.iter().for_each(|method| self.write_call(name, method, out));
        out.push_str(&format!(
            "}}\n\n#[allow(dead_code, reason = \"generated\")]\nimpl {name}Stub {{\n"
        ));
        service.methods.iter().for_each(|method| self.write_async_calls(proto_name, method, out));
        out.push_str("}\n");
    }

    /// Why a method cannot be made, if it cannot: in the place of what it would become, so that the compiler says so.
    fn refusal(method: &Method) -> Option<String> {
        let Method { proto_name, client_streaming, server_streaming, .. } = method;
        (*client_streaming || *server_streaming).then(|| {
            format!("compile_error!(\"rpc {proto_name}: streams are not served; each call has one answer\");\n")
        })
    }

    /// Through anything, blocking.
    fn write_call(&self, service: &str, method: &Method, out: &mut String) {
        let Method { name, proto_name, input_type, output_type, comments, .. } = method;
        let (rpc, constant) = (&self.rpc, constant(name));
        self.doc(
            &comments.leading,
            &format!("`{proto_name}`: waits for the reply until `deadline`."),
            "    ",
            out,
        );
        out.push_str(&format!(
            r#"    ///
    /// # Errors
    ///
    /// [`CallError`]({rpc}::CallError), which says whether the call may have run.
    pub fn {name}(
        &self,
        args: &{input_type},
        deadline: ::std::time::Instant,
    ) -> ::std::result::Result<{output_type}, {rpc}::CallError> {{
        {rpc}::Invoke::invoke(&self.invoker, &{service}Stub::{constant}, &self.options, args, deadline)
    }}

"#
        ));
    }

    /// Through a channel, without waiting.
    fn write_async_calls(&self, service: &str, method: &Method, out: &mut String) {
        let Method { name, proto_name, input_type, output_type, options, .. } = method;
        let (rpc, constant) = (&self.rpc, constant(name));
        // `r#move` becomes `move_async`.
        let name = name.trim_start_matches("r#");
        // IDEMPOTENCY_UNKNOWN is 0; what has no side effects is idempotent, too.
        let mark = match options.idempotency_level.unwrap_or_default() {
            0 => "",
            _ => ".idempotent()",
        };
        out.push_str(&format!(
            r#"    /// The method `{proto_name}`.
    pub const {constant}: {rpc}::Method = {rpc}::Method::new("{service}", "{proto_name}"){mark};

    /// `{proto_name}`, without waiting: the reply is fetched from what comes back.
    pub fn {name}_async(
        &self,
        args: &{input_type},
        deadline: ::std::time::Instant,
    ) -> {rpc}::Pending<{output_type}> {{
        self.invoker.call_async(&Self::{constant}, &self.options, args, deadline)
    }}

    /// `{proto_name}`, without waiting: `done` runs once, on a thread of the channel, never on this one.
    pub fn {name}_then(
        &self,
        args: &{input_type},
        deadline: ::std::time::Instant,
        done: impl ::std::ops::FnOnce(::std::result::Result<{output_type}, {rpc}::CallError>) + Send + 'static,
    ) {{
        self.invoker.call_then(&Self::{constant}, &self.options, args, deadline, done);
    }}

"#
        ));
    }

    /// The .proto's own comment where there is one, else `fallback`.
    fn doc(&self, comment: &[String], fallback: &str, indent: &str, out: &mut String) {
        let lines: Vec<&str> = comment.iter().flat_map(|block| block.lines()).collect();
        for line in if lines.is_empty() { vec![fallback] } else { lines } {
            // Words, not Markdown: a fence would be a test of the user's, a bracket a link to nowhere.
            let line = line.trim().replace("```", "'''").replace('[', "\\[").replace(']', "\\]");
            let line = if line == fallback { fallback.to_owned() } else { line };
            out.push_str(format!("{indent}/// {line}").trim_end());
            out.push('\n');
        }
    }
}

impl ServiceGenerator for Generator {
    fn generate(&mut self, service: Service, out: &mut String) {
        out.push('\n');
        service.methods.iter().filter_map(Generator::refusal).for_each(|it| out.push_str(&it));
        self.write_trait(&service, out);
        self.write_service(&service, out);
        self.write_stub(&service, out);
    }
}

/// The name of a method's constant: `put_append` is `PUT_APPEND`, `r#move` is `MOVE`.
fn constant(name: &str) -> String {
    name.trim_start_matches("r#").to_uppercase()
}
