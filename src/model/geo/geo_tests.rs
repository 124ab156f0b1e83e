#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::super::testing::{REDIS_13, empty};
use super::super::{ApplyError, Dialect};
use super::area::{distance, rounding};
use super::cells::{Cell, FINEST};
use super::*;
use crate::wire::rdb::Family;

/// Sicily, as in the documentation of the commands: Palermo and Catania are 166 km apart.
const SICILY: [&str; 2] = [
    "GEOADD g 13.361389 38.115556 Palermo 15.087269 37.502669 Catania",
    "GEOADD g 12.758489 38.788135 edge1 17.241510 38.788135 edge2",
];

/// Members and scores in order; none if there is no such key.
fn zset(space: &mut Keyspace, key: &str) -> Option<Vec<(String, f64)>> {
    let args = Args::new(&[]);
    let zset = space.value::<Zset>(&args, key.as_bytes()).unwrap()?;
    let name = |member: &Member| String::from_utf8_lossy(member).into_owned();
    Some(
        zset.iter()
            .map(|(member, score)| (name(member), score))
            .collect(),
    )
}

fn members(space: &mut Keyspace, key: &str) -> Option<String> {
    let mut members: Vec<String> = zset(space, key)?
        .into_iter()
        .map(|(member, _)| member)
        .collect();
    members.sort();
    Some(members.join(" "))
}

fn sicily(dialect: Dialect) -> Keyspace {
    let mut space = empty(dialect);
    for command in SICILY {
        space.run(command).unwrap();
    }
    space
}

/// The scores are those of real servers.
#[test]
fn positions_become_scores() {
    let mut space = sicily(REDIS_13);
    let scores = zset(&mut space, "g").unwrap();
    assert_eq!(scores[0], ("Palermo".to_owned(), 3_479_099_956_230_698.0));
    assert_eq!(scores[2], ("Catania".to_owned(), 3_479_447_370_796_909.0));
    space.run("GEOADD g NX CH 0 0 Palermo").unwrap();
    space.run("GEOADD g xx 0 0 none").unwrap();
    assert_eq!(zset(&mut space, "g").unwrap(), scores);
    space.run("GEOADD g 180 0 east").unwrap();
    let east = zset(&mut space, "g").unwrap().pop().unwrap();
    // One cell too far, which is where servers put it.
    assert_eq!(east.0, "east");
    assert_eq!(Point::of_score(east.1).unwrap().longitude, 180.0);
}

#[test]
fn searches_are_stored() {
    for (command, expected) in [
        ("GEORADIUS g 15 37 200 km STORE d", Some("Catania Palermo")),
        ("GEORADIUS g 15 37 100 km DESC STORE d", Some("Catania")),
        ("georadius g 15 37 200 KM count 1 store d", Some("Catania")),
        (
            "GEORADIUS g 15 37 200 km COUNT 1 DESC STORE d",
            Some("Palermo"),
        ),
        ("GEORADIUS g 15 37 1 m STORE d", None),
        ("GEORADIUS none 15 37 1 m STORE d", None),
        (
            "GEORADIUSBYMEMBER g Palermo 167 km STORE d",
            Some("Catania Palermo edge1"),
        ),
        ("GEORADIUSBYMEMBER g Palermo 0 m STORE d", Some("Palermo")),
        (
            "GEOSEARCHSTORE d g FROMLONLAT 15 37 BYBOX 400 400 km",
            Some("Catania Palermo edge1 edge2"),
        ),
        (
            "GEOSEARCHSTORE d g FROMLONLAT 15 37 BYBOX 400 200 km ASC",
            Some("Catania"),
        ),
        (
            "GEOSEARCHSTORE d g BYRADIUS 400 mi FROMMEMBER Catania COUNT 2 ASC",
            Some("Catania Palermo"),
        ),
        (
            "GEOSEARCHSTORE d g FROMLONLAT 15 37 BYRADIUS 7000 km COUNT 9 ANY",
            Some("Catania Palermo edge1 edge2"),
        ),
        ("GEOSEARCHSTORE d none FROMMEMBER x BYRADIUS 1 m", None),
    ] {
        let mut space = sicily(REDIS_13);
        space.run("MSET d 1").unwrap();
        space.run(command).unwrap();
        assert_eq!(members(&mut space, "d").as_deref(), expected, "{command}");
    }
    let mut space = sicily(REDIS_13);
    space.run("GEORADIUS g 15 37 100 km STORE d").unwrap();
    assert_eq!(zset(&mut space, "d").unwrap()[0].1, 3_479_447_370_796_909.0);
    space.run("GEORADIUS g 15 37 100 km WITHDIST").unwrap(); // It only tells.
}

#[test]
fn what_depends_on_chance_or_on_the_master_is_refused() {
    let mut space = sicily(REDIS_13);
    space.run("GEOADD g 13.361389 38.115556 twin").unwrap();
    space.run("ZADD g -5 nowhere").unwrap();
    for command in [
        "GEORADIUS g 15 37 200 km STOREDIST d",
        "GEORADIUSBYMEMBER g Palermo 200 km STOREDIST d",
        "GEOSEARCHSTORE d g FROMLONLAT 15 37 BYRADIUS 1 km STOREDIST",
        "GEOSEARCHSTORE d g BYPOLYGON 3 0 0 1 1 1 0",
        "GEORADIUS g 15 37 200 km COUNT 2 STORE d",
        "GEORADIUSBYMEMBER g nowhere 1 km STORE d",
    ] {
        let error = space.run(command).unwrap_err();
        assert!(error.is_unmodelled(), "{command}: {error}");
    }
    // All of those that are equally far, or none, is no question.
    space
        .run("GEORADIUS g 15 37 200 km COUNT 1 STORE d")
        .unwrap();
    assert_eq!(members(&mut space, "d").as_deref(), Some("Catania"));
    space
        .run("GEORADIUS g 15 37 200 km COUNT 3 STORE d")
        .unwrap();
    assert_eq!(
        members(&mut space, "d").as_deref(),
        Some("Catania Palermo twin")
    );
}

#[test]
fn a_member_on_the_border_is_refused() {
    let mut space = sicily(REDIS_13);
    let score = |space: &mut Keyspace, index: usize| zset(space, "g").unwrap()[index].1;
    let palermo = Point::of_score(score(&mut space, 0)).unwrap();
    let catania = Point::of_score(score(&mut space, 2)).unwrap();
    let apart = distance(palermo, catania);
    let search = |radius: f64| format!("GEORADIUSBYMEMBER g Palermo {radius} m COUNT 2 STORE d");
    assert!(space.run(&search(apart)).unwrap_err().is_unmodelled());
    assert!(
        space
            .run(&search(apart.next_down()))
            .unwrap_err()
            .is_unmodelled()
    );
    space
        .run(&format!(
            "GEORADIUSBYMEMBER g Palermo {} m STORE d",
            apart + 1e-5
        ))
        .unwrap();
    assert_eq!(
        members(&mut space, "d").as_deref(),
        Some("Catania Palermo edge1")
    );
    space
        .run(&format!(
            "GEORADIUSBYMEMBER g Palermo {} m STORE d",
            apart - 1e-5
        ))
        .unwrap();
    assert_eq!(members(&mut space, "d").as_deref(), Some("Palermo edge1"));
    assert!(rounding(apart) < 1e-5);
}

/// Toward the poles, Redis 6.0 and 6.2 do not find the same. A snapshot of RDB version 9 can be of either.
#[test]
fn where_versions_differ_a_search_is_refused() {
    let old = Dialect {
        family: Family::Redis,
        version: 9,
    };
    for (dialect, differs) in [(old, true), (REDIS_13, false)] {
        let mut space = empty(dialect);
        let grid = (-36..36).flat_map(|east| (78..86).map(move |south| (east * 5, -south)));
        let grid: Vec<String> = grid
            .map(|(east, north)| format!("{east} {north} {east}/{north}"))
            .collect();
        space.run(&format!("GEOADD g {}", grid.join(" "))).unwrap();
        let (mut done, mut refused) = (0, 0);
        for radius in (1..10).map(|tenth| tenth * 110) {
            for north in [-79, -81, -83, -85] {
                match space.run(&format!("GEORADIUS g 84.3 {north} {radius}.7 km STORE d")) {
                    Ok(()) => done += 1,
                    Err(error) => {
                        assert!(error.is_unmodelled(), "{error}");
                        refused += 1;
                    }
                }
            }
        }
        assert_eq!((done > 0, refused > 0), (true, differs), "{done} {refused}");
    }
}

#[test]
fn what_no_master_can_have_done_is_told() {
    let mut space = sicily(REDIS_13);
    space.run("MSET t 1").unwrap();
    for command in [
        "GEOADD g 181 0 a",
        "GEOADD g 0 86 a",
        "GEOADD g 0 0",
        "GEOADD t 0 0 a",
        "GEORADIUS g 15 37 -1 km STORE d",
        "GEORADIUS g 15 37 1 parsec STORE d",
        "GEORADIUS t 15 37 1 km STORE d",
        "GEORADIUSBYMEMBER g none 1 km STORE d",
        "GEOSEARCHSTORE d g FROMMEMBER Palermo",
        "GEOSEARCHSTORE d g BYRADIUS 1 km",
        "GEOSEARCHSTORE d g FROMMEMBER Palermo BYRADIUS 1 km ANY",
    ] {
        let error = space.run(command).unwrap_err();
        assert!(
            matches!(error, ApplyError::Diverged { .. }),
            "{command}: {error}"
        );
    }
}

#[test]
fn a_cell_holds_its_points_and_has_neighbours_all_around() {
    let point = Point::new(13.361389, 38.115556).unwrap();
    for step in 2..=FINEST {
        let cell = Cell::at(point, step);
        let bounds = cell.bounds();
        assert!(bounds.longitude.0 <= point.longitude && point.longitude <= bounds.longitude.1);
        assert!(bounds.latitude.0 <= point.latitude && point.latitude <= bounds.latitude.1);
        let (min, max) = cell.scores();
        let score = point.score() as f64;
        assert!(min <= score && score < max, "{step}");
        assert_eq!(cell.beside(1, 1).beside(-1, -1), cell);
        assert_eq!(cell.beside(1, 0).bounds().longitude.0, bounds.longitude.1);
    }
    let west = Cell::at(Point::new(-179.9, 0.0).unwrap(), 5);
    assert_eq!(
        west.beside(-1, 0),
        Cell::at(Point::new(179.9, 0.0).unwrap(), 5)
    );
}
