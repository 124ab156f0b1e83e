//! What is within an area around a point. Servers search in the same way, with the same formulas.

use super::cells::{Cell, FINEST, Point};

/// Meters.
const EARTH_RADIUS: f64 = 6_372_797.560_856;
/// The largest coordinate of a Mercator map, meters.
const MERCATOR_MAX: f64 = 20_037_726.37;
const RADIANS_PER_DEGREE: f64 = std::f64::consts::PI / 180.0;

/// Distances may differ by this many meters from those on the master, because its processor or its C library may round
/// in another way. This is far more than the real differences.
const ROUNDING: f64 = 1e-6;
/// Toward the point on the other side of the globe, small errors become large.
const OTHER_SIDE: f64 = 20_000_000.0;
const ROUNDING_ON_OTHER_SIDE: f64 = 1.0;

/// What is searched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Area {
    pub(super) center: Point,
    pub(super) shape: Shape,
    /// Meters per unit.
    pub(super) unit: f64,
}

/// In the units of the command.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    Circle { radius: f64 },
    Box { width: f64, height: f64 },
}

/// Whose way of finding the cells in which to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// Redis 6.0 and before.
    Old,
    /// Redis 6.2 and after, Valkey.
    New,
}

/// Is a point in an area?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Within {
    Yes,
    No,
    /// It is on the very border: that depends on rounding.
    Unsure,
}

impl Within {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Unsure, _) | (_, Self::Unsure) => Self::Unsure,
            (Self::Yes, Self::Yes) => Self::Yes,
        }
    }
}

impl Area {
    pub(super) fn within(&self, point: Point) -> Within {
        let center = self.center;
        match self.shape {
            Shape::Circle { radius } => {
                let exact = point == center;
                at_most(distance(center, point), radius * self.unit, exact)
            }
            Shape::Box { width, height } => {
                let beside = Point {
                    longitude: center.longitude,
                    ..point
                };
                let up = along_meridian(point.latitude, center.latitude);
                let across = distance(point, beside);
                let same_latitude = point.latitude == center.latitude;
                at_most(up, height * self.unit / 2.0, same_latitude).and(at_most(
                    across,
                    width * self.unit / 2.0,
                    point == beside,
                ))
            }
        }
    }

    /// The cells in which servers look for members, in this order.
    pub(super) fn cells(&self, version: Version) -> Vec<Cell> {
        let meters = match self.shape {
            Shape::Circle { radius } => radius,
            Shape::Box { width, height } => {
                (width / 2.0 * (width / 2.0) + height / 2.0 * (height / 2.0)).sqrt()
            }
        } * self.unit;
        let limits = self.limits(version, meters);
        let mut step = first_step(meters, self.center.latitude);
        if step > 1 && self.leaves_cells(version, step, meters, &limits) {
            step = step.saturating_sub(1);
        }
        let cell = Cell::at(self.center, step);
        let bounds = cell.bounds();
        // From the third size on, neighbours are left out that the middle makes needless.
        let all = step < 2;
        let needed = |east: i32, north: i32| {
            let south_too = all || north >= 0 || bounds.latitude.0 >= limits.south;
            let north_too = all || north <= 0 || bounds.latitude.1 <= limits.north;
            let west_too = all || east >= 0 || bounds.longitude.0 >= limits.west;
            let east_too = all || east <= 0 || bounds.longitude.1 <= limits.east;
            south_too && north_too && west_too && east_too
        };
        let mut found = Vec::with_capacity(9);
        for (east, north) in [
            (0, 0),
            (0, 1),
            (0, -1),
            (1, 0),
            (-1, 0),
            (1, 1),
            (-1, 1),
            (1, -1),
            (-1, -1),
        ] {
            let next = cell.beside(east, north);
            // When cells are huge, those on either side are the same.
            if needed(east, north) && found.last() != Some(&next) {
                found.push(next);
            }
        }
        found
    }

    /// How far the area goes in each direction, roughly.
    fn limits(&self, version: Version, meters: f64) -> Limits {
        let Point {
            longitude,
            latitude,
        } = self.center;
        let (width, height) = match (self.shape, version) {
            (_, Version::Old) => (meters, meters),
            (Shape::Circle { radius }, _) => (self.unit * radius, self.unit * radius),
            (Shape::Box { width, height }, _) => {
                (self.unit * (width / 2.0), self.unit * (height / 2.0))
            }
        };
        let up = degrees(height / EARTH_RADIUS);
        let at = match version {
            Version::Old => latitude,
            Version::New if latitude < 0.0 => latitude - up,
            Version::New => latitude + up,
        };
        let across = degrees(width / EARTH_RADIUS / radians(at).cos());
        Limits {
            west: longitude - across,
            east: longitude + across,
            south: latitude - up,
            north: latitude + up,
        }
    }

    /// Does the area go beyond the cells of this size around its middle?
    fn leaves_cells(&self, version: Version, step: u32, meters: f64, limits: &Limits) -> bool {
        let cell = Cell::at(self.center, step);
        let north = cell.beside(0, 1).bounds().latitude.1;
        let south = cell.beside(0, -1).bounds().latitude.0;
        let east = cell.beside(1, 0).bounds().longitude.1;
        let west = cell.beside(-1, 0).bounds().longitude.0;
        match version {
            Version::New => {
                north < limits.north
                    || south > limits.south
                    || east < limits.east
                    || west > limits.west
            }
            Version::Old => {
                let Point {
                    longitude,
                    latitude,
                } = self.center;
                let ends = [
                    (longitude, north),
                    (longitude, south),
                    (east, latitude),
                    (west, latitude),
                ];
                ends.into_iter().any(|(longitude, latitude)| {
                    distance(
                        self.center,
                        Point {
                            longitude,
                            latitude,
                        },
                    ) < meters
                })
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    west: f64,
    east: f64,
    south: f64,
    north: f64,
}

/// The size of cells to begin with.
fn first_step(mut meters: f64, latitude: f64) -> u32 {
    if meters == 0.0 {
        return FINEST;
    }
    let mut step: u32 = 1;
    while meters < MERCATOR_MAX {
        meters *= 2.0;
        step = step.saturating_add(1);
    }
    // Toward the poles, cells are narrower.
    let less = match latitude.abs() {
        latitude if latitude > 80.0 => 4,
        latitude if latitude > 66.0 => 3,
        _ => 2,
    };
    step.saturating_sub(less).clamp(1, FINEST)
}

fn at_most(distance: f64, limit: f64, exact: bool) -> Within {
    if !exact && (distance - limit).abs() <= rounding(distance.max(limit)) {
        Within::Unsure
    } else if distance > limit {
        Within::No
    } else {
        Within::Yes
    }
}

/// How far a distance may be off.
pub(super) fn rounding(distance: f64) -> f64 {
    if distance > OTHER_SIDE {
        ROUNDING_ON_OTHER_SIDE
    } else {
        ROUNDING
    }
}

/// In meters.
pub(super) fn distance(from: Point, to: Point) -> f64 {
    if half_sine(from.longitude, to.longitude) == 0.0 {
        along_meridian(from.latitude, to.latitude)
    } else {
        haversine(from, to)
    }
}

fn haversine(from: Point, to: Point) -> f64 {
    let v = half_sine(from.longitude, to.longitude);
    let u = half_sine(from.latitude, to.latitude);
    let (from, to) = (radians(from.latitude), radians(to.latitude));
    let a = u * u + from.cos() * to.cos() * v * v;
    2.0 * EARTH_RADIUS * a.sqrt().asin()
}

fn along_meridian(from: f64, to: f64) -> f64 {
    EARTH_RADIUS * (radians(to) - radians(from)).abs()
}

fn half_sine(from: f64, to: f64) -> f64 {
    ((radians(to) - radians(from)) / 2.0).sin()
}

fn radians(degrees: f64) -> f64 {
    degrees * RADIANS_PER_DEGREE
}

fn degrees(radians: f64) -> f64 {
    radians / RADIANS_PER_DEGREE
}
