//! [`KeyRange`]: which keys. [`Range`]: which of their entries, in which order, and as of when.

use std::ops::Bound;

use bytes::{BufMut, Bytes, BytesMut};

use super::Revision;

/// Which keys: one, or all from one key up to another. Keys are ordered by their bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyRange {
    begin: Bytes,
    end: RangeEnd,
}

/// Where a [`KeyRange`] ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RangeEnd {
    /// The range is its first key alone.
    Alone,
    /// At the last key before this one.
    Before(Bytes),
    /// At the last key of all.
    Open,
}

/// The end of a range is not behind its begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a range from {begin:?} ends before {before:?}: it cannot hold a key")]
pub struct RangeError {
    /// The first key of the range.
    pub begin: Bytes,
    /// The key before which it would end.
    pub before: Bytes,
}

impl KeyRange {
    /// One key.
    pub fn key(key: impl Into<Bytes>) -> KeyRange {
        KeyRange { begin: key.into(), end: RangeEnd::Alone }
    }

    /// All keys that begin with `prefix`. An empty prefix means all keys.
    ///
    /// ```
    /// # use syncraft::kv::model::KeyRange;
    /// let users = KeyRange::prefix("user/");
    /// assert!(users.contains(b"user/7") && !users.contains(b"user0"));
    /// ```
    pub fn prefix(prefix: impl Into<Bytes>) -> KeyRange {
        let begin = prefix.into();
        let end = match begin.iter().rposition(|&byte| byte < u8::MAX) {
            Some(last) => {
                let mut before = BytesMut::from(&begin[..=last]);
                before[last] += 1;
                RangeEnd::Before(before.freeze())
            }
            None => RangeEnd::Open,
        };
        KeyRange { begin, end }
    }

    /// The keys from `begin` up to, but without, `before`.
    ///
    /// # Errors
    /// [`RangeError`] if `before` is not greater than `begin`.
    pub fn between(
        begin: impl Into<Bytes>,
        before: impl Into<Bytes>,
    ) -> Result<KeyRange, RangeError> {
        let (begin, before) = (begin.into(), before.into());
        match begin < before {
            true => Ok(KeyRange { begin, end: RangeEnd::Before(before) }),
            false => Err(RangeError { begin, before }),
        }
    }

    /// All keys from `begin` on.
    pub fn starting_at(begin: impl Into<Bytes>) -> KeyRange {
        KeyRange { begin: begin.into(), end: RangeEnd::Open }
    }

    /// All keys.
    pub fn all() -> KeyRange {
        KeyRange::starting_at(Bytes::new())
    }

    /// The first key that the range may hold.
    pub fn begin(&self) -> &Bytes {
        &self.begin
    }

    /// Where the range ends.
    pub fn end(&self) -> &RangeEnd {
        &self.end
    }

    /// Whether the range is one key.
    pub fn is_key(&self) -> bool {
        self.end == RangeEnd::Alone
    }

    /// Whether `key` is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            RangeEnd::Alone => self.begin == key,
            RangeEnd::Before(before) => self.begin <= key && key < &before[..],
            RangeEnd::Open => self.begin <= key,
        }
    }

    /// The part of the range behind `key`: what a reader that has seen `key` goes on with. `None`
    /// if nothing can be left.
    pub fn after(&self, key: &[u8]) -> Option<KeyRange> {
        if self.is_key() {
            return None;
        }
        let mut begin = BytesMut::with_capacity(key.len() + 1);
        begin.extend_from_slice(key);
        begin.put_u8(0);
        let rest = KeyRange { begin: begin.freeze(), end: self.end.clone() };
        match &rest.end {
            RangeEnd::Before(before) if *before <= rest.begin => None,
            _ => Some(rest),
        }
    }

    /// The bounds, for a tree that is ordered by the bytes of its keys.
    pub fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        let end = match &self.end {
            RangeEnd::Alone => Bound::Included(&self.begin[..]),
            RangeEnd::Before(before) => Bound::Excluded(&before[..]),
            RangeEnd::Open => Bound::Unbounded,
        };
        (Bound::Included(&self.begin[..]), end)
    }
}

/// What a range is sorted by. Entries that are equal in it are sorted by their keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortBy {
    /// The key.
    #[default]
    Key,
    /// [`Entry::version`](super::Entry::version).
    Version,
    /// [`Entry::create_revision`](super::Entry::create_revision).
    CreateRevision,
    /// [`Entry::mod_revision`](super::Entry::mod_revision).
    ModRevision,
    /// The value.
    Value,
}

/// What a range answers with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Want {
    /// Entries with their values.
    #[default]
    Entries,
    /// Entries with empty values.
    Keys,
    /// Only how many there are.
    Count,
}

/// Revisions from `min` to `max`, both included. [`Revision::NONE`] is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RevisionBounds {
    /// The lowest.
    pub min: Revision,
    /// The highest.
    pub max: Revision,
}

impl RevisionBounds {
    /// Whether `revision` lies within the bounds.
    pub fn contain(&self, revision: Revision) -> bool {
        self.min <= revision && (self.max == Revision::NONE || revision <= self.max)
    }
}

/// A read of a range of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Which keys.
    pub keys: KeyRange,
    /// The most entries that are answered. 0: no limit.
    pub limit: u64,
    /// The order of the answer.
    pub sort_by: SortBy,
    /// Whether that order is reversed.
    pub descending: bool,
    /// What is answered.
    pub want: Want,
    /// Whether [`RangeAnswer::count`](super::RangeAnswer::count) counts the keys that are beyond
    /// `limit`, which takes as long as reading them.
    pub count_all: bool,
    /// Only entries that were last changed at one of these revisions.
    pub mod_revision: RevisionBounds,
    /// Only entries that came to be at one of these revisions.
    pub create_revision: RevisionBounds,
    /// The state as of this revision. [`Revision::NONE`]: the current state.
    pub at: Revision,
}

impl Range {
    /// The current entries of `keys`, all of them, in the order of the keys.
    pub fn of(keys: KeyRange) -> Range {
        Range {
            keys,
            limit: 0,
            sort_by: SortBy::default(),
            descending: false,
            want: Want::default(),
            count_all: false,
            mod_revision: RevisionBounds::default(),
            create_revision: RevisionBounds::default(),
            at: Revision::NONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_holds_what_begins_with_it() {
        let check = |prefix: &'static [u8], inside: &[&[u8]], outside: &[&[u8]]| {
            let range = KeyRange::prefix(prefix);
            inside.iter().for_each(|key| assert!(range.contains(key), "{prefix:?} {key:?}"));
            outside.iter().for_each(|key| assert!(!range.contains(key), "{prefix:?} {key:?}"));
        };
        check(b"", &[b"", b"a", b"\xff\xff"], &[]);
        check(b"a", &[b"a", b"a\0", b"a\xff\xff"], &[b"", b"`", b"b"]);
        check(b"a\xff", &[b"a\xff", b"a\xff\xff\xff"], &[b"a\xfe", b"b"]);
        check(b"\xff", &[b"\xff", b"\xff\xff"], &[b"\xfe"]);
    }

    #[test]
    fn a_range_without_room_for_a_key_is_refused_with_both_ends() {
        assert!(KeyRange::between("a", "b").is_ok());
        for (begin, before) in [("b", "a"), ("a", "a"), ("a", "")] {
            let error = KeyRange::between(begin, before).unwrap_err();
            assert_eq!((&error.begin[..], &error.before[..]), (begin.as_ref(), before.as_ref()));
        }
    }

    #[test]
    fn what_is_left_behind_a_key_begins_right_after_it() {
        let rest = |range: &KeyRange, key: &[u8]| range.after(key);
        let range = KeyRange::between("a", "a\0\0").unwrap();
        assert_eq!(rest(&range, b"a"), Some(KeyRange::between("a\0", "a\0\0").unwrap()));
        assert_eq!(rest(&range, b"a\0"), None);
        assert_eq!(rest(&KeyRange::key("a"), b"a"), None);
        assert_eq!(rest(&KeyRange::all(), b"\xff"), Some(KeyRange::starting_at("\u{ff}").tail()));
    }

    impl KeyRange {
        /// The range from the byte 0xff and a zero on.
        fn tail(self) -> KeyRange {
            KeyRange::starting_at(&b"\xff\0"[..])
        }
    }
}
