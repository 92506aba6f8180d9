//! Writes the Rust of a protobuf `service`.
//!
//! For `service kvServerRpc { rpc PutAppend(PutAppendArgs) returns (PutAppendReply); }` it writes
//!
//! - `trait KvServerRpc`: what a server implements, one method for each `rpc`, answered through a `Done`;
//! - `struct KvServerRpcService<T>`: makes any such `T` an `rpc::Service`, which a `Server` publishes;
//! - `struct KvServerRpcStub`: what a client calls, blocking or with a completion.
//!
//! Names on the wire are the .proto's own ("kvServerRpc", "PutAppend"); names in Rust follow Rust. Every path is
//! absolute (the rpc module's path is given to [`Generator::new`]), so the result may be included in any module.

use prost_build::{Method, Service, ServiceGenerator};

/// The generator; `rpc` is the path of the rpc module as the including crate sees it.
pub(crate) struct Generator {
    rpc: String,
}

impl Generator {
    pub(crate) fn new(rpc: &str) -> Self {
        Generator { rpc: rpc.to_owned() }
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
        out.push_str(&format!("pub trait {name}: Send + Sync + 'static {{\n"));
        for Method { name, proto_name, input_type, output_type, comments, .. } in &service.methods {
            self.doc(&comments.leading, &format!("`{proto_name}`."), "    ", out);
            out.push_str(&format!(
                "    fn {name}(&self, args: {input_type}, done: {rpc}::Done<{output_type}>);\n"
            ));
        }
        out.push_str(
            r#"    /// All calls of `method` that had arrived one behind the other have been made, on this thread: for methods that do for
    /// many at once what they would otherwise do for each.
    fn flush(&self, method: &str) {
        let _ = method;
    }
}
"#,
        );
    }

    fn write_service(&self, service: &Service, out: &mut String) {
        let Service { name, proto_name, .. } = service;
        let rpc = &self.rpc;
        let methods: Vec<_> =
            service.methods.iter().map(|m| format!("\"{}\"", m.proto_name)).collect();
        let arms: String =
            service.methods.iter().enumerate().map(|(i, m)| self.arm(i, m)).collect();
        out.push_str(&format!(
            r#"
/// Publishes an implementation of [`{name}`] as the service `{proto_name}`.
pub struct {name}Service<T>(::std::sync::Arc<T>);

impl<T: {name}> {name}Service<T> {{
    /// A service that hands its calls to `implementation`.
    pub fn new(implementation: ::std::sync::Arc<T>) -> Self {{
        Self(implementation)
    }}
}}

impl<T: {name}> {rpc}::Service for {name}Service<T> {{
    fn name(&self) -> &'static str {{
        "{proto_name}"
    }}

    fn methods(&self) -> &'static [&'static str] {{
        &[{methods}]
    }}

    fn call(&self, method: usize, args: ::bytes::Bytes, call: {rpc}::Call) {{
        match method {{
{arms}            _ => call.fail({rpc}::Status::new({rpc}::StatusCode::UnknownMethod, "no such method")),
        }}
    }}

    fn flush(&self, method: usize) {{
        if let Some(method) = {rpc}::Service::methods(self).get(method) {{
            self.0.flush(method);
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
                    self.0.{name}(args, done);
                }}
            }}\n"
        )
    }

    fn write_stub(&self, service: &Service, out: &mut String) {
        let Service { name, proto_name, .. } = service;
        let rpc = &self.rpc;
        out.push_str(&format!(
            r#"
/// Calls the service `{proto_name}` through a [`Channel`]({rpc}::Channel). Cheap to clone: clones share the channel.
#[derive(Clone, Debug)]
pub struct {name}Stub {{
    channel: {rpc}::Channel,
}}

impl {name}Stub {{
    /// A stub that calls through `channel`.
    pub fn new(channel: {rpc}::Channel) -> Self {{
        Self {{ channel }}
    }}

    /// The channel that carries the calls.
    pub fn channel(&self) -> &{rpc}::Channel {{
        &self.channel
    }}
"#
        ));
        for method in &service.methods {
            self.write_stub_method(proto_name, method, out);
        }
        out.push_str("}\n");
    }

    fn write_stub_method(&self, service: &str, method: &Method, out: &mut String) {
        let Method { name, proto_name, input_type, output_type, comments, .. } = method;
        let rpc = &self.rpc;
        out.push('\n');
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
        self.channel.call("{service}", "{proto_name}", args, deadline)
    }}

    /// `{proto_name}`, without waiting: `done` runs once, on a thread of the channel, never on this one.
    pub fn {name}_async(
        &self,
        args: &{input_type},
        deadline: ::std::time::Instant,
        done: impl ::std::ops::FnOnce(::std::result::Result<{output_type}, {rpc}::CallError>) + Send + 'static,
    ) {{
        self.channel.call_async("{service}", "{proto_name}", args, deadline, done);
    }}
"#
        ));
    }

    /// The .proto's own comment where there is one, else `fallback`.
    fn doc(&self, comment: &[String], fallback: &str, indent: &str, out: &mut String) {
        let lines: Vec<&str> = comment.iter().flat_map(|block| block.lines()).collect();
        for line in if lines.is_empty() { vec![fallback] } else { lines } {
            out.push_str(format!("{indent}/// {}", line.trim()).trim_end());
            out.push('\n');
        }
    }
}

impl ServiceGenerator for Generator {
    fn generate(&mut self, service: Service, out: &mut String) {
        out.push('\n');
        self.write_trait(&service, out);
        self.write_service(&service, out);
        self.write_stub(&service, out);
    }
}
