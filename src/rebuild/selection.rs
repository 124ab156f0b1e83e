//! Which keys are wanted: a pattern as `KEYS` takes it, a database, a type.

use std::collections::BTreeSet;
use std::fmt;

use crate::model::slot_of;
use crate::wire::rdb::Family;
use crate::wire::rdb::elements::names;

/// The types that can be asked for.
pub const TYPES: [&str; 7] = ["string", "list", "set", "zset", "hash", "stream", "module"];

/// Chosen keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// `*`, `?`, `[a-z]`, `[^a]`, and `\` before a character that stands for itself.
    pub pattern: Vec<u8>,
    /// Only keys of this database.
    pub db: Option<u32>,
    /// Only keys of this type, one of [`TYPES`].
    pub type_name: Option<String>,
    /// Only keys of these slots of a cluster.
    pub slots: Option<SlotSet>,
    /// Functions too, and what modules say beside their values.
    pub functions: bool,
}

/// Slots of a cluster.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct SlotSet(BTreeSet<u16>);

impl SlotSet {
    /// Is it one of them?
    #[must_use]
    pub fn has(&self, slot: u16) -> bool {
        self.0.contains(&slot)
    }

    /// Adds a slot.
    pub fn add(&mut self, slot: u16) {
        self.0.insert(slot);
    }

    /// Adds those of another one.
    pub fn add_all(&mut self, other: &Self) {
        self.0.extend(&other.0);
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} slots", self.0.len())
    }
}

impl Selection {
    /// Is this key one of them?
    #[must_use]
    pub fn wants(&self, db: u32, key: &[u8], family: Family, kind: u8) -> bool {
        self.may_want(db, key)
            && self
                .type_name
                .as_deref()
                .is_none_or(|wanted| wanted == names(family, kind).0)
    }

    /// The same of a key whose type is not known.
    pub(super) fn may_want(&self, db: u32, key: &[u8]) -> bool {
        self.db.is_none_or(|wanted| wanted == db)
            && matches(&self.pattern, key)
            && self
                .slots
                .as_ref()
                .is_none_or(|slots| slots.has(slot_of(key)))
    }
}

/// Does `text` match a pattern of Redis?
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut rest, mut left) = (pattern, text);
    // The last `*`: the pattern after it, and the rest of the text if it takes one more byte.
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        match (rest.split_first(), left.split_first()) {
            (Some((b'*', after)), _) => {
                star = Some((after, left));
                rest = after;
                continue;
            }
            (None, None) => return true,
            (Some(_), Some((byte, others))) => {
                let (fits, after) = one(rest, *byte);
                if fits {
                    (rest, left) = (after, others);
                    continue;
                }
            }
            (None, Some(_)) | (Some(_), None) => {}
        }
        let Some((after, taken)) = star else {
            return false;
        };
        let Some((_, taken)) = taken.split_first() else {
            return false;
        };
        star = Some((after, taken));
        (rest, left) = (after, taken);
    }
}

/// Does a byte match the beginning of the pattern (no `*`)? Also returns the rest of the pattern.
fn one(pattern: &[u8], byte: u8) -> (bool, &[u8]) {
    match pattern {
        [b'?', after @ ..] => (true, after),
        [b'\\', literal, after @ ..] => (*literal == byte, after),
        [b'[', class @ ..] => class_of(class, byte),
        [literal, after @ ..] => (*literal == byte, after),
        [] => (false, pattern),
    }
}

/// `a-z]`, `^abc]`, with `\` before a byte that stands for itself. A class without an end ends with the pattern.
fn class_of(class: &[u8], byte: u8) -> (bool, &[u8]) {
    let (negated, mut rest) = match class {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, class),
    };
    let mut fits = false;
    loop {
        rest = match rest {
            [] => return (fits != negated, rest),
            [b'\\', literal, after @ ..] => {
                fits |= *literal == byte;
                after
            }
            [b']', after @ ..] => return (fits != negated, after),
            [from, b'-', to, after @ ..] => {
                let (low, high) = (from.min(to), from.max(to));
                fits |= (*low..=*high).contains(&byte);
                after
            }
            [literal, after @ ..] => {
                fits |= *literal == byte;
                after
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_redis() {
        for (pattern, fitting, others) in [
            ("*", &["", "a", "a:b"][..], &[][..]),
            ("", &[""], &["a"]),
            ("user:*", &["user:", "user:1"], &["user", "xuser:1"]),
            ("*:1", &["a:1", ":1", "1:1:1"], &["a:12", "1"]),
            ("a*b*c", &["abc", "axxbxbxc", "abcbc"], &["ab", "acb"]),
            ("h?llo", &["hello", "h*llo"], &["hllo", "heello"]),
            ("h[ae]llo", &["hello", "hallo"], &["hillo"]),
            ("h[^e]llo", &["hallo"], &["hello", "hllo"]),
            ("[a-c][0-9]", &["b5"], &["d5", "bb"]),
            ("[c-a]", &["b"], &["d"]),
            ("a\\*b", &["a*b"], &["aXb"]),
            ("[\\]]", &["]"], &["\\"]),
            ("a[b", &["ab"], &["a[b"]),
            ("**a", &["a", "xa"], &["ab"]),
            ("a\\", &["a\\"], &["a"]),
        ] {
            for text in fitting {
                assert!(
                    matches(pattern.as_bytes(), text.as_bytes()),
                    "{pattern} {text}"
                );
            }
            for text in others {
                assert!(
                    !matches(pattern.as_bytes(), text.as_bytes()),
                    "{pattern} {text}"
                );
            }
        }
        // Many stars take no endless time.
        let pattern = "*a".repeat(200);
        assert!(!matches(pattern.as_bytes(), &[b'a'; 199]));
        assert!(!matches(b"*a*a*a*a*a*a*a*b", &vec![b'a'; 100_000]));
    }
}
