//! Object names: the only place that knows them.

use std::fmt;

use super::HoldName;
use crate::wire::position::{Offset, Position, ReplId};

/// The prefix of every history.
pub(super) const HISTORIES: &str = "histories/";

/// The prefix of what was created to learn what the clock of the store says.
pub(super) const CLOCK: &str = "clock/";

/// The prefix of every hold.
pub(super) const HOLDS: &str = "holds/";

/// An object of the archive. Its [`Display`](fmt::Display) is the object's name; [`Name::parse`] is the way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// `archive.json`
    Archive,
    /// `sidecar.json`
    Sidecar,
    /// `first.json`
    First,
    /// `clock/<id>.json`: it was created to learn what the clock of the store says, and is deleted at once
    Clock(ReplId),
    /// `holds/<name>.json`
    Hold(HoldName),
    /// `histories/<id>/history.json`
    History(ReplId),
    /// `histories/<id>/base/<offset:020>.rdb.zst`
    BaseData(Position),
    /// `histories/<id>/base/<offset:020>.json`
    BaseManifest(Position),
    /// `histories/<id>/base/<offset:020>.verified.json`
    BaseVerdict(Position),
    /// `histories/<id>/base/<offset:020>.<unix ms:020>.drilled.json`
    Drill {
        /// The base that the restore began with.
        base: Position,
        /// When it was tried, Unix milliseconds.
        unix_ms: u64,
    },
    /// `histories/<id>/floor/<offset:020>.json`
    Floor(Position),
    /// `histories/<id>/takeover/<number:020>.json`
    Claim {
        /// The history.
        history: ReplId,
        /// 1 for the first.
        number: u64,
    },
    /// `histories/<id>/successor.json`
    Successor(ReplId),
    /// `histories/<id>/log/<from:020>.resp.zst`
    Log {
        /// The history.
        history: ReplId,
        /// The number of the segment's first byte, or of the byte that has a seal in its place.
        first_byte: u64,
    },
    /// `histories/<id>/span/<from:020>-<to:020>.resp.zst`
    Span {
        /// The history.
        history: ReplId,
        /// The number of its first byte.
        first_byte: u64,
        /// The number of its last byte, not below the first.
        last_byte: u64,
    },
}

impl Name {
    /// The object that has this name. None when it does not belong to an archive.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "archive.json" => return Some(Self::Archive),
            "sidecar.json" => return Some(Self::Sidecar),
            "first.json" => return Some(Self::First),
            _ => {}
        }
        if let Some(id) = text.strip_prefix(CLOCK) {
            return exactly(id.strip_suffix(".json")?).map(Self::Clock);
        }
        if let Some(name) = text.strip_prefix(HOLDS) {
            return name.strip_suffix(".json")?.parse().ok().map(Self::Hold);
        }
        let (id, rest) = text.strip_prefix(HISTORIES)?.split_once('/')?;
        let history = exactly(id)?;
        if rest == "history.json" {
            return Some(Self::History(history));
        }
        if rest == "successor.json" {
            return Some(Self::Successor(history));
        }
        if let Some(claim) = rest.strip_prefix("takeover/") {
            let number = number(claim.strip_suffix(".json")?)?;
            return Some(Self::Claim { history, number });
        }
        if let Some(log) = rest.strip_prefix("log/") {
            let first_byte = number(log.strip_suffix(".resp.zst")?)?;
            return Some(Self::Log {
                history,
                first_byte,
            });
        }
        if let Some(span) = rest.strip_prefix("span/") {
            let (from, to) = span.strip_suffix(".resp.zst")?.split_once('-')?;
            let (first_byte, last_byte) = (number(from)?, number(to)?);
            return (first_byte <= last_byte).then_some(Self::Span {
                history,
                first_byte,
                last_byte,
            });
        }
        let at = |digits: &str| {
            Some(Position {
                history,
                offset: Offset(number(digits)?),
            })
        };
        if let Some(floor) = rest.strip_prefix("floor/") {
            return at(floor.strip_suffix(".json")?).map(Self::Floor);
        }
        let base = rest.strip_prefix("base/")?;
        if let Some(digits) = base.strip_suffix(".rdb.zst") {
            return at(digits).map(Self::BaseData);
        }
        if let Some(drill) = base.strip_suffix(".drilled.json") {
            let (digits, time) = drill.split_once('.')?;
            let (base, unix_ms) = (at(digits)?, number(time)?);
            return Some(Self::Drill { base, unix_ms });
        }
        match base.strip_suffix(".verified.json") {
            Some(digits) => at(digits).map(Self::BaseVerdict),
            None => at(base.strip_suffix(".json")?).map(Self::BaseManifest),
        }
    }
}

/// An id in the only form that names have.
fn exactly(text: &str) -> Option<ReplId> {
    text.parse().ok().filter(|it: &ReplId| it.as_str() == text)
}

/// What the names of all claims on a history begin with.
pub(super) fn claims(history: ReplId) -> String {
    format!("{HISTORIES}{history}/takeover/")
}

/// What the names of all bases of a history begin with.
pub(super) fn bases(history: ReplId) -> String {
    format!("{HISTORIES}{history}/base/")
}

/// What the names of all floors of a history begin with.
pub(super) fn floors(history: ReplId) -> String {
    format!("{HISTORIES}{history}/floor/")
}

/// What the names of all objects of a history's log begin with.
pub(super) fn log(history: ReplId) -> String {
    format!("{HISTORIES}{history}/log/")
}

/// What the names of all spans of a history begin with.
pub(super) fn spans(history: ReplId) -> String {
    format!("{HISTORIES}{history}/span/")
}

/// The history that such a folder is of.
pub(super) fn history_of(folder: &str) -> Option<ReplId> {
    exactly(folder.strip_prefix(HISTORIES)?.strip_suffix('/')?)
}

/// What the names of all objects of a history begin with.
pub(super) fn prefix(history: ReplId) -> String {
    format!("{HISTORIES}{history}/")
}

/// Exactly 20 digits, so that names sort as their numbers do.
fn number(digits: &str) -> Option<u64> {
    if digits.len() == 20 && digits.bytes().all(|digit| digit.is_ascii_digit()) {
        digits.parse().ok()
    } else {
        None
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Archive => f.write_str("archive.json"),
            Self::Sidecar => f.write_str("sidecar.json"),
            Self::First => f.write_str("first.json"),
            Self::Clock(id) => write!(f, "{CLOCK}{id}.json"),
            Self::Hold(name) => write!(f, "{HOLDS}{name}.json"),
            Self::Floor(at) => write!(
                f,
                "{HISTORIES}{}/floor/{:020}.json",
                at.history, at.offset.0
            ),
            Self::History(id) => write!(f, "{HISTORIES}{id}/history.json"),
            Self::BaseData(at) => write!(
                f,
                "{HISTORIES}{}/base/{:020}.rdb.zst",
                at.history, at.offset.0
            ),
            Self::BaseManifest(at) => {
                write!(f, "{HISTORIES}{}/base/{:020}.json", at.history, at.offset.0)
            }
            Self::BaseVerdict(at) => write!(
                f,
                "{HISTORIES}{}/base/{:020}.verified.json",
                at.history, at.offset.0
            ),
            Self::Drill { base, unix_ms } => write!(
                f,
                "{HISTORIES}{}/base/{:020}.{unix_ms:020}.drilled.json",
                base.history, base.offset.0
            ),
            Self::Successor(id) => write!(f, "{HISTORIES}{id}/successor.json"),
            Self::Claim { history, number } => {
                write!(f, "{HISTORIES}{history}/takeover/{number:020}.json")
            }
            Self::Log {
                history,
                first_byte,
            } => write!(f, "{HISTORIES}{history}/log/{first_byte:020}.resp.zst"),
            Self::Span {
                history,
                first_byte,
                last_byte,
            } => write!(
                f,
                "{HISTORIES}{history}/span/{first_byte:020}-{last_byte:020}.resp.zst"
            ),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_name() -> impl Strategy<Value = Name> {
        let parts = (
            any::<[u8; 20]>(),
            prop_oneof![any::<u64>(), Just(0), Just(u64::MAX), 0..1000_u64],
        );
        (0..15, parts).prop_map(|(which, (id, number))| {
            let history = ReplId::from_random(id);
            let at = Position {
                history,
                offset: Offset(number),
            };
            match which {
                0 => Name::Archive,
                1 => Name::History(history),
                2 => Name::BaseData(at),
                3 => Name::BaseManifest(at),
                4 => Name::BaseVerdict(at),
                5 => Name::Claim { history, number },
                6 => Name::Successor(history),
                7 => Name::First,
                8 => Name::Sidecar,
                9 => Name::Clock(history),
                10 => Name::Floor(at),
                11 => Name::Hold(format!("hold-{number}.x").parse().unwrap()),
                12 => Name::Span {
                    history,
                    first_byte: number / 2,
                    last_byte: number,
                },
                13 => Name::Drill {
                    base: at,
                    unix_ms: number / 3,
                },
                _ => Name::Log {
                    history,
                    first_byte: number,
                },
            }
        })
    }

    proptest! {
        #[test]
        fn a_name_parses_back_to_its_object(name in any_name()) {
            prop_assert_eq!(Name::parse(&name.to_string()), Some(name));
        }

        #[test]
        fn what_parses_has_exactly_that_name(
            text in "(histories/[0-9a-fA-F]{40}/(log|base|takeover|span|floor)/[0-9+]{19,21}([-.][0-9+]{19,21})?\\.(resp\\.zst|rdb\\.zst|json|verified\\.json|drilled\\.json)|.{0,30})"
        ) {
            if let Some(name) = Name::parse(&text) {
                prop_assert_eq!(name.to_string(), text);
            }
        }

        #[test]
        fn log_names_sort_as_their_first_bytes_do(id in any::<[u8; 20]>(), a in any::<u64>(), b in any::<u64>()) {
            let name = |first_byte| Name::Log { history: ReplId::from_random(id), first_byte }.to_string();
            prop_assert_eq!(name(a).cmp(&name(b)), a.cmp(&b));
        }
    }

    #[test]
    fn names_are_what_the_design_says() {
        let history: ReplId = "ab".repeat(20).parse().unwrap();
        let at = Position {
            history,
            offset: Offset(42),
        };
        let prefix = format!("histories/{}", "ab".repeat(20));
        assert_eq!(Name::Archive.to_string(), "archive.json");
        assert_eq!(Name::First.to_string(), "first.json");
        assert_eq!(Name::Sidecar.to_string(), "sidecar.json");
        assert_eq!(
            Name::History(history).to_string(),
            format!("{prefix}/history.json")
        );
        assert_eq!(
            Name::BaseData(at).to_string(),
            format!("{prefix}/base/00000000000000000042.rdb.zst")
        );
        assert_eq!(
            Name::BaseManifest(at).to_string(),
            format!("{prefix}/base/00000000000000000042.json")
        );
        assert_eq!(
            Name::BaseVerdict(at).to_string(),
            format!("{prefix}/base/00000000000000000042.verified.json")
        );
        assert_eq!(
            Name::Claim { history, number: 7 }.to_string(),
            format!("{prefix}/takeover/00000000000000000007.json")
        );
        assert_eq!(
            Name::Successor(history).to_string(),
            format!("{prefix}/successor.json")
        );
        let log = Name::Log {
            history,
            first_byte: 43,
        };
        assert_eq!(
            log.to_string(),
            format!("{prefix}/log/00000000000000000043.resp.zst")
        );
        let span = Name::Span {
            history,
            first_byte: 43,
            last_byte: 1000,
        };
        assert_eq!(
            span.to_string(),
            format!("{prefix}/span/00000000000000000043-00000000000000001000.resp.zst")
        );
    }

    #[test]
    fn other_names_are_none_of_ours() {
        for text in [
            "",
            "archive.json/",
            "histories/",
            "histories/x/history.json",
            &format!("histories/{}/history.json", "AB".repeat(20)),
            &format!("histories/{}/log/42.resp.zst", "ab".repeat(20)),
            &format!(
                "histories/{}/log/99999999999999999999.resp.zst",
                "ab".repeat(20)
            ),
            &format!(
                "histories/{}/log/+0000000000000000042.resp.zst",
                "ab".repeat(20)
            ),
            &format!(
                "histories/{}/log/x/00000000000000000042.resp.zst",
                "ab".repeat(20)
            ),
            &format!(
                "histories/{}/span/00000000000000000042-00000000000000000041.resp.zst",
                "ab".repeat(20)
            ),
            &format!(
                "histories/{}/span/00000000000000000042.resp.zst",
                "ab".repeat(20)
            ),
        ] {
            assert_eq!(Name::parse(text), None, "{text}");
        }
    }
}
