//! Refuses names of a .proto that would become the same name in Rust.
//!
//! A .proto may have a `message Foo_Bar` and a `message FooBar`, or a `service Echo` and a `message
//! EchoService`. In Rust each pair has the same name, and the compiler would complain about lines
//! that nobody wrote. So each generated name is claimed here first, and a name that is claimed
//! twice is refused, with both places.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::collections::{BTreeSet, HashSet};
use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use heck::{ToSnakeCase, ToUpperCamelCase};
use prost_build::Module;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet, ServiceDescriptorProto,
};

use crate::ALIAS;
use crate::source::Place;

/// Numbers of the fields of descriptors, which make up the paths to elements.
mod field {
    pub(super) const PACKAGE: i32 = 2;
    pub(super) const FILE_MESSAGE: i32 = 4;
    pub(super) const FILE_ENUM: i32 = 5;
    pub(super) const FILE_SERVICE: i32 = 6;
    pub(super) const MESSAGE_FIELD: i32 = 2;
    pub(super) const MESSAGE_MESSAGE: i32 = 3;
    pub(super) const MESSAGE_ENUM: i32 = 4;
    pub(super) const MESSAGE_ONEOF: i32 = 8;
    pub(super) const ENUM_VALUE: i32 = 2;
    pub(super) const SERVICE_METHOD: i32 = 2;
}

/// Why names are refused: a line for each pair.
pub(crate) struct NameError(Vec<String>);

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// A build script shows this of the error that it ends with.
impl fmt::Debug for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error for NameError {}

/// Checks that everything in `descriptors` has a Rust name of its own.
pub(crate) fn check(
    descriptors: &FileDescriptorSet,
    includes: &[PathBuf],
) -> Result<(), NameError> {
    let mut claims = Claims::default();
    for file in descriptors.file.iter().filter(|file| !is_well_known(file)) {
        FileNames { file, includes, claims: &mut claims }.claim_all();
    }
    match claims.refusals.is_empty() {
        true => Ok(()),
        false => Err(NameError(claims.refusals)),
    }
}

/// Whether its types come with prost, so that nothing is generated for them.
pub(crate) fn is_well_known(file: &FileDescriptorProto) -> bool {
    file.package() == "google.protobuf"
}

/// What has which name in which scope. A scope is a module of Rust, or a kind of names of one item,
/// such as its fields.
#[derive(Default)]
struct Claims {
    taken: BTreeMap<(String, String), Claim>,
    refused: BTreeSet<(String, String)>,
    refusals: Vec<String>,
}

#[derive(Clone)]
struct Claim {
    /// "message Foo".
    what: String,
    place: Place,
}

impl Claims {
    fn refuse(&mut self, Claim { what, place }: &Claim, why: &str) {
        self.refusals.push(format!("{place}: {what} {why}"));
    }

    fn claim(&mut self, scope: &str, name: String, claim: &Claim) {
        let Claim { what, place } = claim;
        if name.is_empty() {
            return self.refuse(claim, "has no name in Rust: it needs a letter or a digit");
        }
        if name == ALIAS {
            return self.refuse(
                claim,
                &format!("becomes `{ALIAS}` in Rust, the name of the runtime crate: rename it"),
            );
        }
        match self.taken.entry((scope.to_owned(), name)) {
            Entry::Vacant(vacant) => {
                vacant.insert(claim.clone());
            }
            Entry::Occupied(other) if other.get().what == *what && what.starts_with("package") => {}
            Entry::Occupied(other) => {
                let name = &other.key().1;
                let underscore = if name.starts_with(char::is_numeric) { "_" } else { "" };
                let Claim { what: other_what, place: other_place } = other.get();
                // One line for each pair, although a field may claim several names.
                if self.refused.insert((other_place.to_string(), place.to_string())) {
                    self.refusals.push(format!(
                        "{place}: {what} becomes `{underscore}{name}` in Rust, and so does \
                         {other_what} at {other_place}: rename one of them"
                    ));
                }
            }
        }
    }
}

/// Whether prost turns it into a raw identifier.
fn is_keyword(name: &str) -> bool {
    Module::from_protobuf_package_name(name).to_string().starts_with("r#")
}

/// Claims the names of one file.
struct FileNames<'a> {
    file: &'a FileDescriptorProto,
    includes: &'a [PathBuf],
    claims: &'a mut Claims,
}

impl FileNames<'_> {
    fn claim_all(&mut self) {
        let file = self.file;
        let scope = self.claim_package();
        for (at, message) in (0..).zip(&file.message_type) {
            self.claim_message(&scope, message, &[field::FILE_MESSAGE, at]);
        }
        for (at, item) in (0..).zip(&file.enum_type) {
            self.claim_enum(&scope, item, &[field::FILE_ENUM, at]);
        }
        for (at, service) in (0..).zip(&file.service) {
            self.claim_service(&scope, service, &[field::FILE_SERVICE, at]);
        }
    }

    fn claim_of(&self, what: impl Into<String>, path: &[i32]) -> Claim {
        Claim { what: what.into(), place: Place::of(path, self.file, self.includes) }
    }

    /// Claims a module for each part of the package's name. Returns the innermost.
    fn claim_package(&mut self) -> String {
        let (mut scope, mut package) = (String::new(), String::new());
        for part in self.file.package().split('.').filter(|part| !part.is_empty()) {
            let separator = if package.is_empty() { "" } else { "." };
            package = format!("{package}{separator}{part}");
            let claim = self.claim_of(format!("package {package}"), &[field::PACKAGE]);
            self.claims.claim(&scope, part.to_snake_case(), &claim);
            scope = format!("{scope}::{}", part.to_snake_case());
        }
        scope
    }

    fn claim_message(&mut self, scope: &str, message: &DescriptorProto, path: &[i32]) {
        let name = message.name();
        let claim = self.claim_of(format!("message {name}"), path);
        self.claims.claim(scope, name.to_upper_camel_case(), &claim);
        let inner = format!("{scope}::{}", name.to_snake_case());
        let is_map_entry =
            |it: &DescriptorProto| it.options.as_ref().is_some_and(|o| o.map_entry());
        let nested: Vec<_> =
            (0..).zip(&message.nested_type).filter(|(_, it)| !is_map_entry(it)).collect();
        let oneofs: Vec<_> = (0..)
            .zip(&message.oneof_decl)
            .filter(|(at, _)| fields_of(message, *at).next().is_some())
            .collect();
        if !nested.is_empty() || !message.enum_type.is_empty() || !oneofs.is_empty() {
            let claim = self.claim_of(format!("what is in message {name}"), path);
            self.claims.claim(scope, name.to_snake_case(), &claim);
        }
        for (at, nested) in nested {
            self.claim_message(&inner, nested, &[path, &[field::MESSAGE_MESSAGE, at]].concat());
        }
        for (at, item) in (0..).zip(&message.enum_type) {
            self.claim_enum(&inner, item, &[path, &[field::MESSAGE_ENUM, at]].concat());
        }
        for (at, _) in oneofs {
            self.claim_oneof(&inner, message, at, path);
        }
        for (at, member) in (0..).zip(&message.field).filter(|(_, it)| !is_in_oneof(it)) {
            let path = [path, &[field::MESSAGE_FIELD, at]].concat();
            let claim = self.claim_of(format!("field {}", member.name()), &path);
            let snake = member.name().to_snake_case();
            self.claims.claim(&format!("{inner} fields"), snake, &claim);
            let methods = methods(member, message);
            if is_keyword(member.name()) && methods.iter().any(|it| it.starts_with("insert_")) {
                self.claims
                    .refuse(&claim, "is a keyword in Rust, which prost cannot call a map of enums");
            }
            for method in methods {
                self.claims.claim(&format!("{inner} methods"), method, &claim);
            }
        }
    }

    /// Claims an enum and a field.
    fn claim_oneof(&mut self, inner: &str, message: &DescriptorProto, at: i32, path: &[i32]) {
        let name = message.oneof_decl[at as usize].name();
        let claim =
            self.claim_of(format!("oneof {name}"), &[path, &[field::MESSAGE_ONEOF, at]].concat());
        self.claims.claim(&format!("{inner} fields"), name.to_snake_case(), &claim);
        let mut camel = name.to_upper_camel_case();
        let nested = message.nested_type.iter().map(DescriptorProto::name);
        let mut others = nested.chain(message.enum_type.iter().map(EnumDescriptorProto::name));
        if others.any(|other| other.to_upper_camel_case() == camel) {
            // prost does this.
            camel.push_str("OneOf");
        }
        let scope = format!("{inner}::{camel} variants");
        self.claims.claim(inner, camel, &claim);
        for (at, member) in fields_of(message, at) {
            let path = [path, &[field::MESSAGE_FIELD, at]].concat();
            let claim = self.claim_of(format!("field {}", member.name()), &path);
            self.claims.claim(&scope, member.name().to_upper_camel_case(), &claim);
        }
    }

    fn claim_enum(&mut self, scope: &str, item: &EnumDescriptorProto, path: &[i32]) {
        let camel = item.name().to_upper_camel_case();
        let claim = self.claim_of(format!("enum {}", item.name()), path);
        self.claims.claim(scope, camel.clone(), &claim);
        let mut numbers = HashSet::new();
        for (at, value) in (0..).zip(&item.value) {
            // prost leaves aliases out.
            if numbers.insert(value.number()) {
                let path = [path, &[field::ENUM_VALUE, at]].concat();
                let claim = self.claim_of(format!("value {}", value.name()), &path);
                let variant = variant(&camel, value.name());
                self.claims.claim(&format!("{scope}::{camel} variants"), variant, &claim);
            }
        }
    }

    fn claim_service(&mut self, scope: &str, service: &ServiceDescriptorProto, path: &[i32]) {
        let camel = service.name().to_upper_camel_case();
        let claim = self.claim_of(format!("service {}", service.name()), path);
        if camel.is_empty() {
            return self.claims.claim(scope, camel, &claim);
        }
        for suffix in ["", "Service", "Stub"] {
            self.claims.claim(scope, format!("{camel}{suffix}"), &claim);
        }
        for (at, method) in (0..).zip(&service.method) {
            let path = [path, &[field::SERVICE_METHOD, at]].concat();
            let claim = self.claim_of(format!("rpc {}", method.name()), &path);
            let snake = method.name().to_snake_case();
            self.claims.claim(&format!("{scope}::{camel} methods"), snake, &claim);
        }
    }
}

/// Whether a field is in a oneof of the .proto. (An `optional` field is alone in a oneof that
/// nobody wrote.)
fn is_in_oneof(field: &FieldDescriptorProto) -> bool {
    field.oneof_index.is_some() && !field.proto3_optional()
}

fn fields_of(
    message: &DescriptorProto,
    oneof: i32,
) -> impl Iterator<Item = (i32, &FieldDescriptorProto)> {
    let fields = (0..).zip(&message.field);
    fields.filter(move |(_, field)| is_in_oneof(field) && field.oneof_index == Some(oneof))
}

/// The methods that prost makes for a field.
fn methods(field: &FieldDescriptorProto, message: &DescriptorProto) -> Vec<String> {
    let name = field.name().to_snake_case();
    let entry = message.nested_type.iter().find(|entry| {
        entry.options.as_ref().is_some_and(|options| options.map_entry())
            && field.type_name().ends_with(&format!(".{}.{}", message.name(), entry.name()))
    });
    let has_enums =
        |entry: &DescriptorProto| entry.field.iter().any(|field| field.r#type() == Type::Enum);
    match (entry, field.r#type(), field.label()) {
        (Some(entry), ..) if has_enums(entry) => {
            vec![format!("get_{name}"), format!("insert_{name}")]
        }
        (Some(_), ..) | (_, Type::Message | Type::Group, _) => Vec::new(),
        (_, Type::Enum, Label::Repeated) => vec![format!("push_{name}"), name],
        (_, Type::Enum, _) => vec![format!("set_{name}"), name],
        _ if field.proto3_optional() => vec![name],
        _ => Vec::new(),
    }
}

/// The name that prost gives a variant of an enum: without the enum's name in front.
fn variant(item: &str, value: &str) -> String {
    let camel = value.to_upper_camel_case();
    match camel.strip_prefix(item) {
        Some(rest) if rest.starts_with(char::is_uppercase) => rest.to_owned(),
        _ => camel,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is refused in a file with these lines behind the first line.
    fn refusals(lines: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.proto");
        std::fs::write(&path, format!("syntax = \"proto3\"; package a;\n{lines}")).unwrap();
        let descriptors = protox::compile([&path], [dir.path()]).unwrap();
        let includes = [dir.path().to_owned()];
        let refused = check(&descriptors, &includes).err().map_or(Vec::new(), |error| error.0);
        let dir = format!("{}/", dir.path().display());
        refused.iter().map(|refusal| refusal.replace(&dir, "")).collect()
    }

    fn check_pair(lines: &str, name: &str, [first, second]: [&str; 2]) {
        let expected = format!(
            "a.proto:3: {second} becomes `{name}` in Rust, and so does {first} at a.proto:2: \
             rename one of them"
        );
        assert_eq!(refusals(lines), [expected], "{lines}");
    }

    #[test]
    fn two_that_would_have_one_name_are_refused_with_both_places() {
        let pairs = [
            (
                "message EchoService {}\nservice Echo {}",
                "EchoService",
                ["message EchoService", "service Echo"],
            ),
            (
                "message EchoStub {}\nservice Echo {}",
                "EchoStub",
                ["message EchoStub", "service Echo"],
            ),
            ("message echo {}\nservice Echo {}", "Echo", ["message echo", "service Echo"]),
            (
                "message FooBar {}\nmessage Foo_Bar {}",
                "FooBar",
                ["message FooBar", "message Foo_Bar"],
            ),
            (
                "message FooBar {}\nenum foo_bar { ZERO = 0; }",
                "FooBar",
                ["message FooBar", "enum foo_bar"],
            ),
            (
                "enum E { SOME_ONE = 0;\nSomeOne = 1; }",
                "SomeOne",
                ["value SOME_ONE", "value SomeOne"],
            ),
            ("enum E { ONE = 0;\nE_ONE = 1; }", "One", ["value ONE", "value E_ONE"]),
            (
                "enum E { Z = 0; } message M { E set_e = 1;\nE e = 2; }",
                "set_e",
                ["field set_e", "field e"],
            ),
            ("message M { message In {}\nmessage IN {} }", "In", ["message In", "message IN"]),
        ];
        for (lines, name, what) in pairs {
            check_pair(lines, name, what);
        }
        let methods =
            "message M {} service S { rpc GetIt(M) returns (M);\nrpc get_it(M) returns (M); }";
        check_pair(methods, "get_it", ["rpc GetIt", "rpc get_it"]);
        let streams = methods.replacen("(M)", "(stream M)", 1);
        check_pair(&streams, "get_it", ["rpc GetIt", "rpc get_it"]);
    }

    #[test]
    fn what_prost_cannot_name_is_refused() {
        let refused = refusals("enum E { Z = 0; } message M { map<string, E> type = 1; }");
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert!(
            refused[0].starts_with("a.proto:2: field type is a keyword in Rust"),
            "{refused:?}"
        );
        assert_eq!(refusals("message M { map<string, M> type = 1; }"), [""; 0]);
    }

    #[test]
    fn the_name_of_the_runtime_crate_is_refused() {
        let refused = refusals("message SyncraftRpcRuntime { message Inner {} }");
        let what = "what is in message SyncraftRpcRuntime";
        let why =
            "becomes `syncraft_rpc_runtime` in Rust, the name of the runtime crate: rename it";
        assert_eq!(refused, [format!("a.proto:2: {what} {why}")]);
    }

    #[test]
    fn every_pair_is_named_at_once() {
        let lines = "message A {}\nmessage a {}\nmessage B {}\nmessage b {}\nmessage _ {}";
        let refused = refusals(lines);
        assert_eq!(refused.len(), 3, "{refused:?}");
        assert_eq!(
            refused[2],
            "a.proto:6: message _ has no name in Rust: it needs a letter or a digit"
        );
    }

    #[test]
    fn what_has_names_of_its_own_passes() {
        for lines in [
            "message Send {} message Echo_ {} service EchoService {}",
            "enum E { Z = 0; } message M { optional E e = 1; uint32 set_e = 2; map<string, E> m = 3; oneof e2 { uint32 e3 = 4; } }",
            "message M { message In {} oneof in { In x = 1; uint32 y = 2; } }",
            "message M {} service S { rpc Get(M) returns (M); rpc GetAsync(stream M) returns (M); }",
            "enum E { option allow_alias = true; A = 0; a = 0; }",
        ] {
            assert_eq!(refusals(lines), [""; 0], "{lines}");
        }
    }
}
