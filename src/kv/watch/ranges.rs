//! [`Ranges`]: finds the ranges that hold a key.
//!
//! A search tree by the begin of the ranges, in which each node knows the greatest end below it
//! (an interval tree). It is kept in balance by random priorities (a treap). To find the ranges of
//! a key takes steps in proportion to the logarithm of their number, and to how many are found,
//! however they are nested or overlap.

use bytes::Bytes;

use crate::kv::model::{KeyRange, RangeEnd};

/// Ranges with numbers. See the file.
#[derive(Debug, Default)]
pub(super) struct Ranges(Tree);

type Tree = Option<Box<Node>>;

#[derive(Debug)]
struct Node {
    begin: Bytes,
    /// `None`: open.
    end: Option<Bytes>,
    number: u64,
    priority: u32,
    /// The greatest end in this subtree.
    last: Option<Bytes>,
    left: Tree,
    right: Tree,
}

impl Ranges {
    /// Adds a range, which is not a single key. No other one has this number.
    pub(super) fn insert(&mut self, keys: &KeyRange, number: u64) {
        let end = match keys.end() {
            RangeEnd::Before(before) => Some(before.clone()),
            RangeEnd::Open => None,
            RangeEnd::Alone => panic!("a single key is not looked for here"),
        };
        let (last, begin) = (end.clone(), keys.begin().clone());
        let priority = fastrand::u32(..);
        let node = Node { begin, end, number, priority, last, left: None, right: None };
        let (left, right) = split(self.0.take(), (keys.begin(), number));
        self.0 = merge(merge(left, Some(Box::new(node))), right);
    }

    pub(super) fn remove(&mut self, keys: &KeyRange, number: u64) {
        let (left, right) = split(self.0.take(), (keys.begin(), number));
        let (_, right) = split(right, (keys.begin(), number + 1));
        self.0 = merge(left, right);
    }

    /// Calls `found` with the number of each range that holds `key`.
    pub(super) fn find(&self, key: &[u8], found: &mut impl FnMut(u64)) {
        find(&self.0, key, found);
    }
}

fn find(tree: &Tree, key: &[u8], found: &mut impl FnMut(u64)) {
    let Some(node) = tree.as_ref().filter(|node| is_before(key, &node.last)) else { return };
    find(&node.left, key, found);
    if node.begin <= key {
        if is_before(key, &node.end) {
            found(node.number);
        }
        find(&node.right, key, found);
    }
}

fn is_before(key: &[u8], end: &Option<Bytes>) -> bool {
    end.as_ref().is_none_or(|end| key < &end[..])
}

/// The nodes before this begin and number, and the others.
fn split(tree: Tree, at: (&Bytes, u64)) -> (Tree, Tree) {
    let Some(mut node) = tree else { return (None, None) };
    if (&node.begin, node.number) < at {
        let (middle, right) = split(node.right.take(), at);
        node.right = middle;
        node.update();
        (Some(node), right)
    } else {
        let (left, middle) = split(node.left.take(), at);
        node.left = middle;
        node.update();
        (left, Some(node))
    }
}

/// All nodes of `left` are before those of `right`.
fn merge(left: Tree, right: Tree) -> Tree {
    let (mut left, mut right) = match (left, right) {
        (Some(left), Some(right)) => (left, right),
        (left, right) => return left.or(right),
    };
    if left.priority > right.priority {
        left.right = merge(left.right.take(), Some(right));
        left.update();
        Some(left)
    } else {
        right.left = merge(Some(left), right.left.take());
        right.update();
        Some(right)
    }
}

impl Node {
    fn update(&mut self) {
        let below = [&self.left, &self.right].into_iter().flatten().map(|node| &node.last);
        // An open end is the greatest.
        let greater = |a, b| match (a, b) {
            (Some(a), Some(b)) => Some(std::cmp::max::<&Bytes>(a, b)),
            _ => None,
        };
        self.last = below.fold(self.end.as_ref(), |a, b| greater(a, b.as_ref())).cloned();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0..3u8, 0..4)
    }

    fn range() -> impl Strategy<Value = KeyRange> {
        (key(), key(), any::<bool>()).prop_map(|(a, b, is_open)| match is_open {
            false if a < b => KeyRange::between(a, b).unwrap(),
            _ => KeyRange::starting_at(a),
        })
    }

    proptest! {
        #[test]
        fn those_that_hold_a_key_are_found_and_no_others(
            ranges in prop::collection::vec((range(), any::<bool>()), 0..40),
            keys in prop::collection::vec(key(), 1..20),
        ) {
            let mut tree = Ranges::default();
            (0..).zip(&ranges).for_each(|(number, (range, _))| tree.insert(range, number));
            let gone = (0..).zip(&ranges).filter(|(_, (_, is_gone))| *is_gone);
            gone.for_each(|(number, (range, _))| tree.remove(range, number));
            for key in keys {
                let mut found = Vec::new();
                tree.find(&key, &mut |number| found.push(number));
                found.sort_unstable();
                let holds = |(range, is_gone): &(KeyRange, bool)| !is_gone && range.contains(&key);
                let those = (0..).zip(&ranges).filter(|(_, range)| holds(range));
                let expected: Vec<u64> = those.map(|(number, _)| number).collect();
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn many_ranges_cost_a_key_few_steps() {
        let mut tree = Ranges::default();
        let begin = |number: u64| number.to_be_bytes().to_vec();
        for number in 0..100_000 {
            tree.insert(&KeyRange::between(begin(number), begin(number + 1)).unwrap(), number);
        }
        fn depth(tree: &Tree) -> usize {
            tree.as_ref().map_or(0, |node| 1 + depth(&node.left).max(depth(&node.right)))
        }
        assert!(depth(&tree.0) < 100, "{}", depth(&tree.0));
    }
}
