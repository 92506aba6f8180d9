//! Writes .proto files in which messages, methods, fields and values have every name that could get
//! in the way, and compiles them together with those of `proto/`.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::{env, error, fs};

/// Names that mean something in Rust, in prost or in what is generated.
const NAMES: &str = "
    as break const continue crate dyn else enum extern false fn for if impl in let loop match mod move mut pub ref return self
    static struct super trait true type unsafe use where while async await abstract become box do final macro override priv try
    typeof unsized virtual yield gen auto default macro_rules raw safe union
    bool char str u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f16 f32 f64 f128 never array slice tuple unit pointer
    Send Sync Sized Copy Unpin Drop Fn FnMut FnOnce AsyncFn AsyncFnMut AsyncFnOnce drop align_of size_of AsMut AsRef From Into
    DoubleEndedIterator ExactSizeIterator Extend IntoIterator Iterator Option Some None Result Ok Err Box String ToString Vec Clone
    ToOwned Default Eq Ord PartialEq PartialOrd Hash Debug TryFrom TryInto FromIterator Future IntoFuture Error Display FromStr
    clone clone_from fmt eq ne cmp partial_cmp hash borrow borrow_mut deref type_id to_owned into from try_into try_from as_ref next
    unwrap expect iter len panic assert println vec format write todo unreachable include concat env derive test cfg peer package
    std core alloc prost syncraft bytes rpc google protobuf prelude
    Message Name Oneof Enumeration Bytes Buf BufMut DecodeError EncodeError DecodeContext WireType UnknownEnumValue encoding
    encode decode merge clear encoded_len encode_raw merge_field encode_to_vec as_str_name from_str_name is_valid from_i32
    full_name type_url
    Service Stub Done Call CallOptions CallError Channel Method Pending Invoke Payload Status StatusCode Targets Server Bincode
    new with invoker into_service after_calls version implementation options invoke call call_async call_then open run fail flush
    methods name codec args done deadline method f Arc Instant Formatter Implementation T C Self R S A
    Timestamp Duration Any Empty Struct Value
    Foo_Bar fooBaz FOO_QUX x1 X_2 _3 __Four
";

/// One for each name in Rust: those that differ in case or in underscores only would be refused.
fn names() -> Vec<&'static str> {
    let mut seen = BTreeSet::new();
    let mut names: Vec<_> = NAMES.split_whitespace().collect();
    names.retain(|name| seen.insert(name.replace('_', "").to_lowercase()));
    names
}

/// A message of each name, which has a module because it has types in it, and a method of each name
/// that takes the message.
fn messages() -> String {
    let mut out = "syntax = \"proto3\"; package names;\n".to_owned();
    let mut methods = String::new();
    // A message whose name is a number would have the same name as its module, so it is refused.
    for name in names().into_iter().filter(|name| *name != "_3") {
        writeln!(
            out,
            "message {name} {{ message Inner {{ .names.{name} back = 1; }} \
             oneof which {{ Inner inner = 1; string text = 2; }} }}"
        )
        .expect("a String grows");
        writeln!(methods, "rpc {name}(.names.{name}) returns (.names.{name});")
            .expect("a String grows");
    }
    // The same with streams, in turns.
    let mut streams = String::new();
    let shapes = [("", "stream"), ("stream", ""), ("stream", "stream")];
    for (name, (takes, gives)) in
        names().into_iter().filter(|it| *it != "_3").zip(shapes.into_iter().cycle())
    {
        writeln!(streams, "rpc {name}({takes} .names.{name}) returns ({gives} .names.{name});")
            .expect("a String grows");
    }
    out + "service EveryName {\n" + &methods + "}\nservice EveryStream {\n" + &streams + "}\n"
}

/// Fields of each name, of each kind for which prost generates different code.
fn fields() -> String {
    let mut out =
        "syntax = \"proto3\"; package fields; enum E { E_NONE = 0; } message M {}\n".to_owned();
    let kinds = [
        ("Text", "optional string"),
        ("Enum", "E"),
        ("Enums", "repeated E"),
        ("Map", "map<string, M>"),
    ];
    let fields = |kind: &str| -> String {
        let fields = names().into_iter().zip(1..);
        fields.map(|(name, number)| format!("{kind} {name} = {number};\n")).collect()
    };
    for (name, kind) in kinds {
        out += &format!("message Of{name} {{\n{}}}\n", fields(kind));
    }
    out += &format!("message OfOneof {{ oneof which {{\n{}}} }}\n", fields("uint32"));
    let values = names().into_iter().zip(1..);
    let values: String = values.map(|(name, number)| format!("{name} = {number};\n")).collect();
    out + &format!(
        "message OfValues {{ enum Every {{ EVERY_ZERO = 0;\n{values}}} Every every = 1; }}\n"
    )
}

fn main() -> Result<(), Box<dyn error::Error>> {
    let out = env::var("OUT_DIR")?;
    let out = Path::new(&out);
    fs::write(out.join("names.proto"), messages())?;
    fs::write(out.join("fields.proto"), fields())?;
    let mut protos = vec![out.join("names.proto"), out.join("fields.proto")];
    let own = ["issues", "plain", "comments", "types", "shop/orders", "shop/orders_more", "common"];
    protos.extend(own.map(|name| Path::new("proto").join(format!("{name}.proto"))));
    println!("cargo::rerun-if-changed=build.rs");
    syncraft_build::compile(&protos, &[out, Path::new("proto")])?;
    let explicit = syncraft_build::Config::new().runtime("::syncraft::rpc");
    Ok(explicit.compile(&["proto/explicit.proto"], &["proto"])?)
}
