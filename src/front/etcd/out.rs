//! [`Object`]: JSON as etcd's gateway writes it. Integers of 64 bits are strings, bytes are base64,
//! and fields that are zero, false or empty are left out.

use crate::kv::json::base64;

/// An object that is being written.
pub(super) struct Object<'o> {
    out: &'o mut Vec<u8>,
    is_empty: bool,
}

impl Object<'_> {
    /// A whole object.
    pub(super) fn whole(fill: impl FnOnce(&mut Object<'_>)) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        write_object(&mut out, fill);
        out
    }

    /// A message of a stream: `{"result":{...}}` and the end of a line, which are one chunk.
    pub(super) fn message(fill: impl FnOnce(&mut Object<'_>)) -> Vec<u8> {
        let mut out = Object::whole(|message| message.object("result", fill));
        out.push(b'\n');
        out
    }

    fn name(&mut self, name: &str) {
        if !std::mem::take(&mut self.is_empty) {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    /// An integer of 64 bits.
    pub(super) fn number(&mut self, name: &str, value: impl Into<i128>) {
        let value: i128 = value.into();
        if value != 0 {
            self.name(name);
            self.out.extend_from_slice(format!("\"{value}\"").as_bytes());
        }
    }

    /// An integer of 32 bits.
    pub(super) fn plain(&mut self, name: &str, value: u32) {
        if value != 0 {
            self.name(name);
            self.out.extend_from_slice(value.to_string().as_bytes());
        }
    }

    pub(super) fn flag(&mut self, name: &str, value: bool) {
        if value {
            self.raw(name, b"true");
        }
    }

    pub(super) fn text(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.name(name);
            write_text(self.out, value);
        }
    }

    pub(super) fn bytes(&mut self, name: &str, value: &[u8]) {
        if !value.is_empty() {
            self.name(name);
            write_bytes(self.out, value);
        }
    }

    /// A field whose value is JSON already.
    pub(super) fn raw(&mut self, name: &str, json: &[u8]) {
        self.name(name);
        self.out.extend_from_slice(json);
    }

    /// A message, which is there even if it is empty.
    pub(super) fn object(&mut self, name: &str, fill: impl FnOnce(&mut Object<'_>)) {
        self.name(name);
        write_object(self.out, fill);
    }

    /// A list of messages.
    pub(super) fn objects<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        mut fill: impl FnMut(&mut Object<'_>, T),
    ) {
        self.list(name, items, |out, item| write_object(out, |object| fill(object, item)));
    }

    pub(super) fn texts<'t>(&mut self, name: &str, items: impl IntoIterator<Item = &'t String>) {
        self.list(name, items, |out, item| write_text(out, item));
    }

    pub(super) fn byte_strings(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) {
        self.list(name, items, |out, item| write_bytes(out, item.as_ref()));
    }

    fn list<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        mut write: impl FnMut(&mut Vec<u8>, T),
    ) {
        let mut items = items.into_iter();
        let Some(first) = items.next() else { return };
        self.name(name);
        self.out.push(b'[');
        write(self.out, first);
        for item in items {
            self.out.push(b',');
            write(self.out, item);
        }
        self.out.push(b']');
    }
}

fn write_object(out: &mut Vec<u8>, fill: impl FnOnce(&mut Object<'_>)) {
    out.push(b'{');
    fill(&mut Object { out, is_empty: true });
    out.push(b'}');
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a string has a form in JSON, and a Vec takes it");
}

fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    base64::encode_to(out, bytes);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_zero_or_empty_is_left_out() {
        let json = Object::whole(|object| {
            object.number("a", 0u64);
            object.plain("b", 0);
            object.flag("c", false);
            object.text("d", "");
            object.bytes("e", b"");
            object.texts("f", &[]);
            object.objects("g", [0; 0], |_, _| ());
            object.object("h", |_| ());
        });
        assert_eq!(json, br#"{"h":{}}"#);
    }

    #[test]
    fn integers_are_strings_and_bytes_are_base64() {
        let json = Object::message(|object| {
            object.number("a", u64::MAX);
            object.number("b", -1i64);
            object.plain("c", 7);
            object.flag("d", true);
            object.text("e", "\"x\"\n");
            object.bytes("f", b"\xff\xfe");
            object.byte_strings("g", [b"a", b"b"]);
            object.objects("h", [1u64, 0], |object, value| object.number("i", value));
        });
        let expected = concat!(
            r#"{"result":{"a":"18446744073709551615","b":"-1","c":7,"d":true,"#,
            r#""e":"\"x\"\n","f":"//4=","g":["YQ==","Yg=="],"h":[{"i":"1"},{}]}}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(json).unwrap(), expected);
    }
}
