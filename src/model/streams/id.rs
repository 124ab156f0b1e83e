//! Ids of stream entries.

/// What a server looks at of an id at most.
const LONGEST: usize = 127;

/// The id of an entry: milliseconds, and a number among the entries of one millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id {
    /// By convention Unix milliseconds.
    pub(super) ms: u64,
    /// The number.
    pub(super) seq: u64,
}

/// An id as `XADD` takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NewId {
    /// `*`: the master does not show which id it took.
    Any,
    /// `ms-*`: the next one of this millisecond.
    In(u64),
    /// Told.
    Is(Id),
}

impl Id {
    /// The smallest one, which no entry has.
    pub(super) const MIN: Self = Self { ms: 0, seq: 0 };
    /// The greatest one.
    pub(super) const MAX: Self = Self {
        ms: u64::MAX,
        seq: u64::MAX,
    };

    /// An id as servers read it, without `-` and `+`: `ms-seq`, or only `ms` for `ms-0`.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        match NewId::parse(text)? {
            NewId::Is(id) => Some(id),
            NewId::Any | NewId::In(_) => None,
        }
    }

    /// The id after it. None after the last.
    pub(super) fn next(self) -> Option<Self> {
        match self.seq.checked_add(1) {
            Some(seq) => Some(Self { ms: self.ms, seq }),
            None => Some(Self {
                ms: self.ms.checked_add(1)?,
                seq: 0,
            }),
        }
    }

    /// The differences to `base`, as listpacks have them.
    pub(super) fn minus(self, base: Self) -> (i64, i64) {
        (
            self.ms.wrapping_sub(base.ms).cast_signed(),
            self.seq.wrapping_sub(base.seq).cast_signed(),
        )
    }

    /// The other way.
    pub(super) fn plus(self, (ms, seq): (i64, i64)) -> Self {
        Self {
            ms: self.ms.wrapping_add_signed(ms),
            seq: self.seq.wrapping_add_signed(seq),
        }
    }

    /// The form in the keys of nodes and pending entries.
    pub(super) fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.ms) << 64 | u128::from(self.seq)).to_be_bytes()
    }

    /// The other way.
    pub(super) fn from_bytes(bytes: [u8; 16]) -> Self {
        let both = u128::from_be_bytes(bytes);
        Self {
            ms: (both >> 64) as u64,
            seq: both as u64,
        }
    }
}

impl NewId {
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        if text == b"*" {
            return Some(Self::Any);
        }
        if text.len() > LONGEST {
            return None;
        }
        // Servers look at it as a C string.
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        let Some(dash) = text.iter().position(|byte| *byte == b'-') else {
            return Some(Self::Is(Id {
                ms: number(text)?,
                seq: 0,
            }));
        };
        let (ms, seq) = text.split_at_checked(dash)?;
        let ms = number(ms)?;
        match seq.strip_prefix(b"-")? {
            b"*" => Some(Self::In(ms)),
            seq => Some(Self::Is(Id {
                ms,
                seq: number(seq)?,
            })),
        }
    }
}

/// A number as `strtoull` reads it, which servers use as a second try: spaces, a plus sign and zeros may come before
/// it.
fn number(text: &[u8]) -> Option<u64> {
    let text = text.trim_ascii_start();
    let text = text.strip_prefix(b"+").unwrap_or(text);
    if !text.first()?.is_ascii_digit() {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_servers_read_them() {
        let id = |ms, seq| Some(Id { ms, seq });
        assert_eq!(Id::parse(b"5"), id(5, 0));
        assert_eq!(Id::parse(b"5-7"), id(5, 7));
        assert_eq!(Id::parse(b"005-+07"), id(5, 7));
        let last = b"18446744073709551615-18446744073709551615";
        assert_eq!(Id::parse(last), Some(Id::MAX));
        let bad: [&[u8]; 9] = [
            b"",
            b"-",
            b"+",
            b"$",
            b"5-",
            b"-5",
            b"5-x",
            b"5--1",
            b"18446744073709551616",
        ];
        for bad in bad {
            assert_eq!(Id::parse(bad), None, "{bad:?}");
        }
        assert_eq!(Id::parse(&[b'1'; 128]), None);
        assert_eq!(NewId::parse(b"*"), Some(NewId::Any));
        assert_eq!(NewId::parse(b"5-*"), Some(NewId::In(5)));
    }

    #[test]
    fn differences_may_be_negative() {
        let base = Id { ms: 5, seq: 7 };
        let later = Id { ms: 6, seq: 0 };
        assert_eq!(later.minus(base), (1, -7));
        assert_eq!(base.plus((1, -7)), later);
        assert_eq!(Id::MIN.plus(Id::MAX.minus(Id::MIN)), Id::MAX);
        assert_eq!(Id::from_bytes(later.to_bytes()), later);
        assert_eq!(Id::MAX.next(), None);
        let end = Id {
            ms: 1,
            seq: u64::MAX,
        };
        assert_eq!(end.next(), Some(Id { ms: 2, seq: 0 }));
    }
}
