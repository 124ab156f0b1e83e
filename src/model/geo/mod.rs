//! Geospatial commands, on sorted sets whose scores are positions.
//!
//! Which members an area holds can depend on how the master's processor and C library round. Where it does, and where
//! versions differ, the command is refused.

mod area;
mod cells;

use std::collections::HashSet;

use super::args::{Args, is_word};
use super::command::Spec;
use super::error::ApplyError;
use super::key_specs::{Keys, Touch};
use super::zsets::{Conditions, Member, add};
use super::{DataType as _, Keyspace, Zset};
use crate::wire::rdb::number::number;
use area::{Area, Shape, Version, Within};
use cells::Point;

pub(super) const COMMANDS: &[Spec] = &[
    Spec::new("GEOADD", Keys::At(&[1]), geoadd),
    Spec::new("GEORADIUS", Keys::By(touched), search),
    Spec::new("GEORADIUSBYMEMBER", Keys::By(touched), search),
    Spec::new("GEOSEARCHSTORE", Keys::By(touched), search),
];

/// Seen: Redis 6.0 with glibc 2.31 stores other last bits than all that run with later ones.
const DISTANCES: &str = "it stores distances, whose last bit depends on the master's C library";
/// Servers convert the score to an unsigned integer. C does not define the result for a score that is negative or too
/// high: x86-64 wraps it around, arm64 takes the nearest possible value. A feed does not show the master's processor.
const NO_POSITION: &str = "a score is no position";

/// Snapshots of versions before are of servers that may search as Redis 6.0 does.
const FIRST_SURELY_NEW: u32 = 10;

/// `GEOADD key [NX|XX] [CH] longitude latitude member …`
fn geoadd(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let mut when = Conditions::default();
    let mut first = 2;
    loop {
        match args.get(first)? {
            word if is_word(word, "NX") => when.only_new = true,
            word if is_word(word, "XX") => when.only_there = true,
            word if is_word(word, "CH") => {} // It only changes the reply.
            _ => break,
        }
        first = first.saturating_add(1);
    }
    let members = args.from(first).chunks(3).map(|three| match three {
        [longitude, latitude, member] => {
            let point = point(args, longitude, latitude)?;
            Ok((point.score() as f64, *member))
        }
        _ => Err(args.diverged("an argument is left over")),
    });
    let members: Vec<_> = members.collect::<Result<_, _>>()?;
    add(space, args, when, &members)
}

fn point(args: &Args, longitude: &[u8], latitude: &[u8]) -> Result<Point, ApplyError> {
    let point = number(longitude).zip(number(latitude));
    point
        .and_then(|(longitude, latitude)| Point::new(longitude, latitude))
        .ok_or_else(|| args.diverged("a position is none"))
}

/// A search whose result is stored.
#[derive(Debug)]
struct Search<'a> {
    source: &'a [u8],
    destination: &'a [u8],
    center: Center<'a>,
    shape: Shape,
    unit: f64,
    /// At most this many.
    count: Option<usize>,
    /// Whichever are found first.
    any: bool,
    descending: bool,
}

#[derive(Clone, Copy, Debug)]
enum Center<'a> {
    At(Point),
    Member(&'a [u8]),
}

/// How a search is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// `GEORADIUS key longitude latitude radius unit …`
    Radius,
    /// `GEORADIUSBYMEMBER key member radius unit …`
    RadiusByMember,
    /// `GEOSEARCHSTORE destination source …`
    Search,
}

impl<'a> Search<'a> {
    /// None, if it does not store anything: such a command changes nothing.
    fn read(args: &Args<'a>) -> Result<Option<Self>, ApplyError> {
        let form = match args.name().len() {
            9 => Form::Radius,
            17 => Form::RadiusByMember,
            _ => Form::Search,
        };
        let mut parts = Parts::default();
        let (source, mut index) = match form {
            Form::Radius => {
                parts.center = Some(Center::At(point(args, args.get(2)?, args.get(3)?)?));
                parts.circle(args, 4)?;
                (1, 6)
            }
            Form::RadiusByMember => {
                parts.center = Some(Center::Member(args.get(2)?));
                parts.circle(args, 3)?;
                (1, 5)
            }
            Form::Search => {
                parts.destination = Some(args.get(1)?);
                (2, 3)
            }
        };
        while index < args.len() {
            let takes = match form {
                Form::Search => parts.search_option(args, index)?,
                _ => parts.radius_option(args, index)?,
            };
            index = index.saturating_add(takes);
        }
        let Some(destination) = parts.destination else {
            return Ok(None);
        };
        let missing = || args.diverged("it says not where to search");
        let (shape, unit) = parts.shape.ok_or_else(missing)?;
        if parts.any && parts.count.is_none() {
            return Err(args.diverged("it has ANY without COUNT"));
        }
        Ok(Some(Self {
            source: args.get(source)?,
            destination,
            center: parts.center.ok_or_else(missing)?,
            shape,
            unit,
            count: parts.count,
            any: parts.any,
            descending: parts.descending,
        }))
    }
}

/// The options that have been read so far.
#[derive(Debug, Default)]
struct Parts<'a> {
    destination: Option<&'a [u8]>,
    center: Option<Center<'a>>,
    /// With the meters of its unit.
    shape: Option<(Shape, f64)>,
    count: Option<usize>,
    any: bool,
    descending: bool,
}

impl<'a> Parts<'a> {
    /// An option that all forms have. How many arguments does it take?
    fn option(&mut self, args: &Args<'a>, index: usize) -> Result<usize, ApplyError> {
        let next = index.saturating_add(1);
        match args.get(index)? {
            word if is_word(word, "ASC") => self.descending = false,
            word if is_word(word, "DESC") => self.descending = true,
            word if is_word(word, "ANY") => self.any = true,
            word if is_word(word, "COUNT") => {
                self.count = Some(args.count(next)?).filter(|count| *count > 0);
                return Ok(2);
            }
            _ => return Err(args.diverged("it has arguments that do not belong there")),
        }
        Ok(1)
    }

    fn radius_option(&mut self, args: &Args<'a>, index: usize) -> Result<usize, ApplyError> {
        match args.get(index)? {
            word if is_word(word, "STORE") => {
                self.destination = Some(args.get(index.saturating_add(1))?);
                Ok(2)
            }
            word if is_word(word, "STOREDIST") => Err(args.unmodelled(DISTANCES)),
            // These change only the reply.
            word if is_word(word, "WITHDIST")
                || is_word(word, "WITHHASH")
                || is_word(word, "WITHCOORD") =>
            {
                Ok(1)
            }
            _ => self.option(args, index),
        }
    }

    fn search_option(&mut self, args: &Args<'a>, index: usize) -> Result<usize, ApplyError> {
        let next = index.saturating_add(1);
        match args.get(index)? {
            word if is_word(word, "FROMMEMBER") => {
                self.center = Some(Center::Member(args.get(next)?));
                Ok(2)
            }
            word if is_word(word, "FROMLONLAT") => {
                let latitude = args.get(next.saturating_add(1))?;
                self.center = Some(Center::At(point(args, args.get(next)?, latitude)?));
                Ok(3)
            }
            word if is_word(word, "BYRADIUS") => {
                self.circle(args, next)?;
                Ok(3)
            }
            word if is_word(word, "BYBOX") => {
                let (second, third) = (next.saturating_add(1), next.saturating_add(2));
                let (width, height) = (length(args, next)?, length(args, second)?);
                self.shape = Some((Shape::Box { width, height }, unit(args, third)?));
                Ok(4)
            }
            word if is_word(word, "BYPOLYGON") => Err(args.unmodelled("it searches in a polygon")),
            word if is_word(word, "STOREDIST") => Err(args.unmodelled(DISTANCES)),
            _ => self.option(args, index),
        }
    }

    fn circle(&mut self, args: &Args<'a>, index: usize) -> Result<(), ApplyError> {
        let radius = length(args, index)?;
        let unit = unit(args, index.saturating_add(1))?;
        self.shape = Some((Shape::Circle { radius }, unit));
        Ok(())
    }
}

/// A length, which is not negative.
fn length(args: &Args, index: usize) -> Result<f64, ApplyError> {
    number(args.get(index)?)
        .filter(|length| *length >= 0.0)
        .ok_or_else(|| args.diverged("a length is none"))
}

/// How many meters it is.
fn unit(args: &Args, index: usize) -> Result<f64, ApplyError> {
    match args.get(index)? {
        word if is_word(word, "m") => Ok(1.0),
        word if is_word(word, "km") => Ok(1000.0),
        word if is_word(word, "ft") => Ok(0.3048),
        word if is_word(word, "mi") => Ok(1609.34),
        _ => Err(args.diverged("a unit is none")),
    }
}

fn touched(args: &Args, touch: &mut dyn FnMut(Touch<'_>)) -> Result<(), ApplyError> {
    if let Some(search) = Search::read(args)? {
        touch(Touch::Key(search.source));
        touch(Touch::Key(search.destination));
    }
    Ok(())
}

/// A member in the area.
struct Found {
    member: Member,
    score: f64,
    distance: f64,
}

fn search(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let Some(search) = Search::read(args)? else {
        return Ok(());
    };
    let dialect = space.dialect();
    let Some(zset) = space.value::<Zset>(args, search.source)? else {
        space.remove(args, search.destination)?;
        return Ok(());
    };
    let center = match search.center {
        Center::At(point) => point,
        Center::Member(member) => {
            let score = zset.score(member);
            let score = score.ok_or_else(|| args.diverged("there is no such member"))?;
            Point::of_score(score).ok_or_else(|| args.unmodelled(NO_POSITION))?
        }
    };
    let area = Area {
        center,
        shape: search.shape,
        unit: search.unit,
    };
    // Before 6.2 there was no ANY, and no GEOSEARCHSTORE.
    let may_be_old = dialect.version < FIRST_SURELY_NEW && !search.any && args.name().len() != 14;
    let limit = search.count.filter(|_| search.any).unwrap_or(usize::MAX);
    let mut found = found(args, zset, &area, Version::New, limit)?;
    if may_be_old {
        let old = self::found(args, zset, &area, Version::Old, limit)?;
        let same = old.len() == found.len() && {
            let members: HashSet<&Member> = old.iter().map(|one| &one.member).collect();
            found.iter().all(|one| members.contains(&one.member))
        };
        if !same {
            return Err(args.unmodelled("versions differ in what they find"));
        }
    }
    if let Some(count) = search.count.filter(|_| !search.any) {
        cut(args, &mut found, count, search.descending)?;
    }
    let members = found.into_iter().map(|one| (one.member, one.score));
    let result = Zset::stored(members.collect(), dialect);
    space.put(args, search.destination, result.into_value())
}

/// The members in the area, at most `limit`, in the order in which servers find them.
fn found(
    args: &Args,
    zset: &Zset,
    area: &Area,
    version: Version,
    limit: usize,
) -> Result<Vec<Found>, ApplyError> {
    let mut found = Vec::new();
    for cell in area.cells(version) {
        let (min, max) = cell.scores();
        for (member, score) in zset.scored(min, max) {
            if found.len() >= limit {
                return Ok(found);
            }
            let point = Point::of_score(score).ok_or_else(|| args.unmodelled(NO_POSITION))?;
            match area.within(point) {
                Within::No => {}
                Within::Unsure => {
                    return Err(args.unmodelled("a member is exactly on the border of the area"));
                }
                Within::Yes => found.push(Found {
                    member: member.clone(),
                    score,
                    distance: area::distance(area.center, point),
                }),
            }
        }
    }
    Ok(found)
}

/// Leaves the nearest, or the farthest.
fn cut(
    args: &Args,
    found: &mut Vec<Found>,
    count: usize,
    descending: bool,
) -> Result<(), ApplyError> {
    found.sort_by(|a, b| {
        let order = a.distance.total_cmp(&b.distance);
        if descending { order.reverse() } else { order }
    });
    let last = count.checked_sub(1).and_then(|last| found.get(last));
    if let (Some(last), Some(next)) = (last, found.get(count)) {
        let apart = (last.distance - next.distance).abs();
        if apart <= area::rounding(last.distance.max(next.distance)) {
            return Err(args.unmodelled(
                "members are equally far, and which of them is taken is left to chance",
            ));
        }
    }
    found.truncate(count);
    Ok(())
}

#[cfg(test)]
#[path = "geo_tests.rs"]
mod tests;
