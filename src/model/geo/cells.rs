//! Positions as scores: the globe in cells, each halved in longitude and latitude in turn, 26 times each.

/// How far the projection goes.
const LONGITUDES: (f64, f64) = (-180.0, 180.0);
const LATITUDES: (f64, f64) = (-85.051_128_78, 85.051_128_78);

/// How many times a position is halved each way.
pub(super) const FINEST: u32 = 26;

/// Servers read a score as an integer, which must be below this. (Positions at the very edge have scores of a little
/// more than 52 bits.)
const SCORES: f64 = (1u64 << 63) as f64;

/// A position in degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) longitude: f64,
    pub(super) latitude: f64,
}

impl Point {
    /// None, if it is outside of what servers accept.
    pub(super) fn new(longitude: f64, latitude: f64) -> Option<Self> {
        let inside = (LONGITUDES.0..=LONGITUDES.1).contains(&longitude)
            && (LATITUDES.0..=LATITUDES.1).contains(&latitude);
        inside.then_some(Self {
            longitude,
            latitude,
        })
    }

    /// Where a member with this score is: the middle of its cell. None, if a score is no position.
    pub(super) fn of_score(score: f64) -> Option<Self> {
        if !(0.0..SCORES).contains(&score) {
            return None;
        }
        let bits = score as u64;
        let cell = Cell {
            x: odd_bits(bits >> 1),
            y: odd_bits(bits),
            step: FINEST,
        };
        let bounds = cell.bounds();
        let middle =
            |(min, max): (f64, f64), (least, most)| f64::clamp((min + max) / 2.0, least, most);
        Some(Self {
            longitude: middle(bounds.longitude, LONGITUDES),
            latitude: middle(bounds.latitude, LATITUDES),
        })
    }

    /// The score of a member that is here.
    pub(super) fn score(self) -> u64 {
        Cell::at(self, FINEST).bits()
    }
}

/// A cell of `2^step` times `2^step`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    /// Number from west to east.
    x: u32,
    /// Number from south to north.
    y: u32,
    pub(super) step: u32,
}

/// The borders of a cell, in degrees.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) longitude: (f64, f64),
    pub(super) latitude: (f64, f64),
}

impl Cell {
    /// The cell that contains a point.
    pub(super) fn at(point: Point, step: u32) -> Self {
        let cells = cells(step);
        let index =
            |value: f64, (min, max): (f64, f64)| ((value - min) / (max - min) * cells) as u32;
        Self {
            x: index(point.longitude, LONGITUDES),
            y: index(point.latitude, LATITUDES),
            step,
        }
    }

    /// The cell that many cells to the east and to the north, around the globe in both directions.
    pub(super) fn beside(self, east: i32, north: i32) -> Self {
        let mask = 1u32.wrapping_shl(self.step).wrapping_sub(1);
        let moved = |index: u32, by: i32| match by {
            // At the very edge it is one too high, and stays so.
            0 => index,
            _ => index.wrapping_add_signed(by) & mask,
        };
        Self {
            x: moved(self.x, east),
            y: moved(self.y, north),
            step: self.step,
        }
    }

    pub(super) fn bounds(self) -> Bounds {
        let cells = cells(self.step);
        let edges = |index: u32, (min, max): (f64, f64)| {
            let edge = |index: f64| min + index / cells * (max - min);
            (edge(index.into()), edge(f64::from(index) + 1.0))
        };
        Bounds {
            longitude: edges(self.x, LONGITUDES),
            latitude: edges(self.y, LATITUDES),
        }
    }

    /// The scores of members in it: the least, and the first that is beyond.
    pub(super) fn scores(self) -> (f64, f64) {
        let shift = FINEST.saturating_sub(self.step).saturating_mul(2);
        let bits = self.bits();
        let align = |bits: u64| (bits << shift) as f64;
        (align(bits), align(bits.wrapping_add(1)))
    }

    /// The bits of both numbers in turn.
    fn bits(self) -> u64 {
        spread(self.x) << 1 | spread(self.y)
    }
}

fn cells(step: u32) -> f64 {
    1u64.wrapping_shl(step) as f64
}

/// Each bit moved to twice its place.
fn spread(number: u32) -> u64 {
    (0..u32::BITS).fold(0, |bits, place| {
        bits | (u64::from(number) >> place & 1) << place.wrapping_mul(2)
    })
}

/// The other way: every second bit, from the lowest on.
fn odd_bits(bits: u64) -> u32 {
    (0..u32::BITS).fold(0, |number, place| {
        number | ((bits >> place.wrapping_mul(2) & 1) as u32) << place
    })
}
