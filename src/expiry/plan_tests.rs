#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::archive::{FORMAT, Floor, FloorDoc, HeldLog};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// 2026-07-25T00:00:00Z, a Saturday.
const START: i64 = 1_784_937_600_000;

fn id(n: u8) -> ReplId {
    ReplId::from_random([n; 20])
}

fn at(n: u8, offset: u64) -> Position {
    Position {
        history: id(n),
        offset: Offset(offset),
    }
}

fn base(offset: u64, time: i64) -> BaseFacts {
    BaseFacts {
        offset: Offset(offset),
        as_of_unix_ms: time,
        created: Some(time),
        verified: None,
        sound: true,
        keys: 100,
        raw_bytes: 1000,
    }
}

fn facts(parent: Option<Position>, bases: &[(u64, i64)], end: u64) -> Facts {
    let bases: Vec<BaseFacts> = bases.iter().map(|(at, time)| base(*at, *time)).collect();
    Facts {
        parent,
        end: Some(Offset(end)),
        born: Some(START),
        newest_unix_ms: bases.iter().map(|base| base.as_of_unix_ms).max(),
        said_unix_ms: None,
        related: true,
        bases,
        floors: Floors::default(),
    }
}

/// A single history with a base each day, at offsets 100, 200, …
fn one(days: u64) -> Survey {
    let bases: Vec<(u64, i64)> = (0..days)
        .map(|day| (100 + day * 100, START + day as i64 * DAY))
        .collect();
    let tip_unix_ms = START + (days as i64 - 1) * DAY;
    Survey {
        line: vec![at(1, u64::MAX)],
        tip_unix_ms,
        ahead_unix_ms: None,
        now_ms: tip_unix_ms,
        histories: [(id(1), facts(None, &bases, days * 100 + 50))].into(),
        holds: Vec::new(),
    }
}

fn policy(days: i64) -> KeepPolicy {
    KeepPolicy {
        points: Duration::from_millis((days * DAY) as u64),
        daily: 0,
        weekly: 0,
        monthly: 0,
        superseded: Duration::from_secs(30 * 86_400),
    }
}

fn floors(plan: &Plan) -> Vec<(ReplId, u64)> {
    let floors = plan.floors.iter();
    floors
        .map(|floor| (floor.history, floor.offset.0))
        .collect()
}

#[test]
fn the_newest_base_that_is_old_enough_becomes_the_oldest_one() {
    for (keep, cut) in [(1, 900), (3, 700), (8, 200), (9, 100)] {
        let plan = one(10).plan(&policy(keep));
        assert_eq!(plan.cut, Some(at(1, cut)), "{keep}");
        let floor = (cut > 100).then_some((id(1), cut));
        assert_eq!(floors(&plan), floor.into_iter().collect::<Vec<_>>());
    }
    // None is as old as that.
    let plan = one(10).plan(&policy(10));
    assert_eq!((plan.cut, plan.floors.len()), (None, 0));
    assert_eq!(plan.notes.len(), 1);
}

#[test]
fn a_server_that_stopped_never_ages_out() {
    let mut survey = one(10);
    survey.now_ms += 1000 * DAY;
    assert_eq!(survey.plan(&policy(3)).cut, Some(at(1, 700)));
}

#[test]
fn a_wrong_clock_ages_nothing() {
    // The time of a base went back: what comes after it is no older.
    let mut survey = one(10);
    survey.histories.get_mut(&id(1)).unwrap().bases[9].as_of_unix_ms = 0;
    assert_eq!(survey.plan(&policy(3)).cut, Some(at(1, 700)));
    // All times were far in the past, and the clock was set right: the store knows better.
    let mut survey = one(10);
    for base in &mut survey.histories.get_mut(&id(1)).unwrap().bases {
        base.as_of_unix_ms -= 1000 * DAY;
    }
    assert_eq!(survey.plan(&policy(3)).cut, Some(at(1, 700)));
    // A store that says no times.
    for base in &mut survey.histories.get_mut(&id(1)).unwrap().bases {
        base.created = None;
    }
    assert_eq!(survey.plan(&policy(3)).cut, None);
}

#[test]
fn a_base_that_is_not_as_it_should_be_does_not_become_the_oldest_one() {
    let mut survey = one(10);
    survey.histories.get_mut(&id(1)).unwrap().bases[6].sound = false;
    assert_eq!(survey.plan(&policy(3)).cut, Some(at(1, 600)));
}

#[test]
fn daily_weekly_and_monthly_bases_stay_alone_as_restic_counts_them() {
    let alone = |daily, weekly, monthly| {
        let policy = KeepPolicy {
            daily,
            weekly,
            monthly,
            ..policy(2)
        };
        let plan = one(20).plan(&policy);
        assert_eq!(plan.cut, Some(at(1, 1800)));
        let alone = plan.floors[0].alone.iter().map(|offset| offset.0);
        alone.collect::<Vec<u64>>()
    };
    assert_eq!(alone(0, 0, 0), [0_u64; 0]);
    // The last days count, those too of which every point is kept.
    assert_eq!(alone(3, 0, 0), [0_u64; 0]);
    assert_eq!(alone(5, 0, 0), [1600, 1700]);
    // Sundays: 26 July, 2 August, 9 August; the days of July.
    assert_eq!(alone(0, 3, 0), [900, 1600]);
    assert_eq!(alone(0, 0, 2), [700]);
    assert_eq!(alone(4, 3, 2), [700, 900, 1600, 1700]);
}

/// 1 (0..500), its child 2 (500..900), and the child 3 of that (900..).
fn line() -> Survey {
    let day = |n: i64| START + n * DAY;
    Survey {
        line: vec![at(3, u64::MAX), at(2, 900), at(1, 500)],
        tip_unix_ms: day(30),
        ahead_unix_ms: None,
        now_ms: day(30),
        histories: [
            (id(1), facts(None, &[(100, day(0)), (300, day(5))], 500)),
            (
                id(2),
                facts(Some(at(1, 500)), &[(600, day(10)), (800, day(15))], 900),
            ),
            (id(3), facts(Some(at(2, 900)), &[(1000, day(25))], 1200)),
        ]
        .into(),
        holds: Vec::new(),
    }
}

#[test]
fn what_is_before_the_cut_in_earlier_histories_expires_too() {
    for (keep, cut, wanted) in [
        (26, at(1, 100), vec![]),
        (25, at(1, 300), vec![(id(1), 300)]),
        (18, at(2, 600), vec![(id(1), 501), (id(2), 600)]),
        (
            4,
            at(3, 1000),
            vec![(id(1), 501), (id(2), 901), (id(3), 1000)],
        ),
    ] {
        let plan = line().plan(&policy(keep));
        assert_eq!(plan.cut, Some(cut), "{keep}");
        assert_eq!(floors(&plan), wanted, "{keep}");
        assert!(plan.floors.iter().all(|floor| !floor.lost));
    }
}

/// The same, and 4 left 1 at 400.
fn split() -> Survey {
    let mut survey = line();
    let lost = facts(Some(at(1, 400)), &[(450, START + 6 * DAY)], 700);
    survey.histories.insert(id(4), lost);
    survey
}

#[test]
fn a_lineage_that_lost_goes_long_after_a_verified_one_took_its_place() {
    let plan = |born: Option<i64>, change: fn(&mut Facts)| {
        let mut survey = split();
        survey.now_ms += 30 * DAY;
        survey.tip_unix_ms = survey.now_ms;
        survey.histories.get_mut(&id(2)).unwrap().born = born;
        change(survey.histories.get_mut(&id(4)).unwrap());
        let plan = survey.plan(&policy(4));
        let lost = plan.floors.iter().filter(|floor| floor.lost);
        let lost: Vec<(ReplId, u64)> = lost.map(|it| (it.history, it.offset.0)).collect();
        assert!(lost.is_empty() || plan.notes.is_empty(), "{:?}", plan.notes);
        lost
    };
    let long_ago = Some(START + 29 * DAY);
    assert_eq!(plan(long_ago, |_| {}), [(id(4), 701)]);
    assert_eq!(plan(None, |_| {}), []);
    assert_eq!(plan(Some(START + 31 * DAY), |_| {}), []);
    // The new one has less than a tenth of it.
    assert_eq!(
        plan(long_ago, |lost| lost.bases[0].keys = 1000),
        [(id(4), 701)]
    );
    assert_eq!(plan(long_ago, |lost| lost.bases[0].keys = 1001), []);
    assert_eq!(plan(long_ago, |lost| lost.bases[0].raw_bytes = 10_001), []);
    // By the clock of the store it is young.
    assert_eq!(
        plan(long_ago, |lost| lost.born = Some(START + 31 * DAY)),
        []
    );
    // Another service wrote it.
    assert_eq!(plan(long_ago, |lost| lost.related = false), []);
    // It went on until yesterday.
    let late = |lost: &mut Facts| lost.newest_unix_ms = Some(START + 59 * DAY);
    assert_eq!(plan(long_ago, late), []);
}

#[test]
fn the_end_of_a_history_behind_the_point_where_the_line_left_it_has_lost() {
    let mut survey = line();
    survey.histories.get_mut(&id(1)).unwrap().end = Some(Offset(550));
    let plan = survey.plan(&policy(4));
    assert_eq!(floors(&plan), [(id(2), 901), (id(3), 1000)]);
    assert_eq!(plan.notes.len(), 1, "{:?}", plan.notes);
}

/// The same, long after.
fn aged(mut survey: Survey) -> Survey {
    survey.now_ms += 60 * DAY;
    survey.tip_unix_ms = survey.now_ms;
    for facts in survey.histories.values_mut() {
        facts.born = Some(START);
    }
    survey
}

fn daily(days: i64, daily: u32) -> KeepPolicy {
    KeepPolicy {
        daily,
        ..policy(days)
    }
}

fn alone(plan: &Plan, history: ReplId) -> Vec<u64> {
    let floors = plan.floors.iter().filter(|floor| floor.history == history);
    let alone = floors.flat_map(|floor| floor.alone.iter());
    alone.map(|offset| offset.0).collect()
}

#[test]
fn bases_stay_alone_in_a_history_of_the_line_whose_end_has_lost() {
    let mut survey = aged(line());
    survey.histories.get_mut(&id(1)).unwrap().end = Some(Offset(550));
    let plan = survey.plan(&daily(4, 4));
    assert_eq!(
        floors(&plan),
        [(id(2), 901), (id(3), 1000), (id(1), 551)],
        "{plan:?}"
    );
    assert!(plan.floors[2].lost);
    // Of the days 25, 15, 10 and 5.
    assert_eq!(alone(&plan, id(1)), [300]);
    assert_eq!(alone(&plan, id(2)), [600, 800]);
}

#[test]
fn of_what_lost_without_a_base_of_its_own_an_older_one_tells_how_much_it_was() {
    let plan = |change: fn(&mut Survey)| {
        let mut survey = aged(split());
        survey.histories.get_mut(&id(4)).unwrap().bases.clear();
        change(&mut survey);
        let plan = survey.plan(&policy(4));
        let lost = plan.floors.iter().any(|floor| floor.lost);
        assert_ne!(lost, !plan.notes.is_empty(), "{plan:?}");
        (lost, plan.notes.concat())
    };
    assert!(plan(|_| {}).0);
    let (lost, note) = plan(|survey| {
        let base = &mut survey.histories.get_mut(&id(1)).unwrap().bases[1];
        base.keys = 1001;
    });
    assert!(!lost && note.contains("less than a tenth"), "{note}");
    // The parent is not connected any more.
    let (lost, note) = plan(|survey| survey.histories.get_mut(&id(4)).unwrap().parent = None);
    assert!(!lost && note.contains("no base leads to it"), "{note}");
    // It left the line behind the base that becomes the oldest one.
    let (lost, note) = plan(|survey| {
        survey.histories.get_mut(&id(4)).unwrap().parent = Some(at(3, 1010));
        let mut unsound = base(1020, START + 26 * DAY);
        (unsound.sound, unsound.verified) = (false, Some(START + 26 * DAY));
        survey
            .histories
            .get_mut(&id(3))
            .unwrap()
            .bases
            .push(unsound);
        // Another one took its place long ago.
        survey.line.insert(0, at(5, u64::MAX));
        survey.line[1] = at(3, 1200);
        let latest = facts(Some(at(3, 1200)), &[], 1300);
        survey.histories.insert(id(5), latest);
    });
    assert!(!lost && note.contains("no base that is sound"), "{note}");
}

#[test]
fn where_a_base_is_not_sound_the_one_before_it_stays_too() {
    let mut survey = split();
    let of_1 = |survey: &mut Survey, index: usize| {
        survey.histories.get_mut(&id(1)).unwrap().bases[index].sound = false;
    };
    of_1(&mut survey, 1);
    let both = BTreeSet::from([Offset(100), Offset(300)]);
    assert_eq!(survey.stay()[&id(1)].bases, both);
    of_1(&mut survey, 0);
    assert_eq!(survey.stay()[&id(1)].bases, both);
    // Through a child: its own base does not lead anywhere.
    let mut survey = split();
    let child = facts(Some(at(4, 460)), &[], 470);
    survey.histories.insert(id(5), child);
    survey.histories.get_mut(&id(4)).unwrap().bases[0].sound = false;
    let stay = survey.stay();
    assert_eq!(stay[&id(4)].bases, [Offset(450)].into());
    assert_eq!(stay[&id(4)].log_after, Some(Offset(400)));
    assert_eq!(stay[&id(1)].bases, [Offset(300)].into());
}

#[test]
fn bases_alone_are_thinned_where_nothing_else_is_promised() {
    let before = aged(line());
    let first = before.plan(&daily(4, 5));
    assert_eq!(alone(&first, id(1)), [100, 300]);
    let mut survey = with_floors(before, &first);
    // What is left of it tells nothing of its end.
    survey.histories.get_mut(&id(1)).unwrap().end = None;
    assert!(survey.plan(&daily(4, 5)).floors.is_empty());
    let thinned = survey.plan(&daily(4, 3));
    assert_eq!(floors(&thinned), [(id(1), 502)]);
    assert_eq!(alone(&thinned, id(1)), [0_u64; 0]);
    let thinned = survey.plan(&daily(4, 2));
    assert_eq!(floors(&thinned), [(id(1), 502), (id(2), 902)]);
    assert_eq!(alone(&thinned, id(2)), [800]);
    // What was given up does not come back.
    let survey = with_floors(survey, &thinned);
    assert!(survey.plan(&daily(4, 5)).floors.is_empty());
}

#[test]
fn bases_alone_in_a_line_that_lost_stay_as_long_as_the_rest_of_it() {
    let before = aged(line());
    let first = before.plan(&daily(4, 5));
    assert_eq!(alone(&first, id(1)), [100, 300]);
    let mut survey = with_floors(before, &first);
    // A full sync began a new line.
    let (began, keys) = (survey.now_ms, 9);
    let bases = [(5000, began), (5100, began + DAY)];
    let mut latest = facts(None, &bases, 5200);
    latest.born = Some(began);
    latest.bases.iter_mut().for_each(|base| base.keys = keys);
    survey.histories.insert(id(9), latest);
    survey.line = vec![at(9, u64::MAX)];
    let mut plan = |days: i64, keys: u64| {
        survey.now_ms = began + days * DAY;
        survey.tip_unix_ms = survey.now_ms;
        let bases = &mut survey.histories.get_mut(&id(9)).unwrap().bases;
        bases.iter_mut().for_each(|base| base.keys = keys);
        survey.plan(&daily(4, 5))
    };
    let of_old = |plan: &Plan| {
        let floors = floors(plan).into_iter();
        let of_old = floors.filter(|(history, _)| *history != id(9));
        of_old.collect::<Vec<(ReplId, u64)>>()
    };
    // It is not so long ago.
    let early = plan(29, 100);
    assert_eq!((early.cut, of_old(&early)), (Some(at(9, 5100)), vec![]));
    assert_eq!(early.notes.len(), 3, "{:?}", early.notes);
    // The new one has far less.
    assert_eq!(of_old(&plan(90, keys)), []);
    let gone = plan(90, 100);
    assert_eq!(of_old(&gone), [(id(1), 502), (id(2), 902), (id(3), 1201)]);
    let mut lost = gone.floors.iter().filter(|floor| floor.lost);
    assert!(lost.all(|floor| floor.alone.is_empty()));
}

#[test]
fn the_floor_at_the_base_that_stays_goes_up_with_it_alone() {
    let survey = one(10);
    let first = survey.plan(&daily(3, 6));
    assert_eq!(alone(&first, id(1)), [500, 600]);
    let survey = with_floors(survey, &first);
    for daily_bases in [0, 5, 9] {
        assert!(survey.plan(&daily(3, daily_bases)).floors.is_empty());
    }
}

#[test]
fn the_base_that_stays_is_never_before_a_floor_of_the_line() {
    let mut survey = line();
    // Of the first one nothing expired, because its end has lost not long ago.
    survey.histories.get_mut(&id(1)).unwrap().end = Some(Offset(550));
    let first = survey.plan(&policy(18));
    assert_eq!(floors(&first), [(id(2), 600)]);
    let survey = with_floors(survey, &first);
    assert_eq!(survey.plan(&policy(18)).cut, Some(at(2, 600)));
    // A longer policy does not bring back what is between.
    let longer = survey.plan(&policy(25));
    assert_eq!((longer.cut, longer.floors.len()), (None, 0));
}

#[test]
fn what_a_history_needs_of_its_parent_stays_until_its_own_floor_acts() {
    let mut survey = split();
    let mut floor = |created: i64| {
        let doc = FloorDoc {
            offset: Offset(450),
            history: id(4),
            ..FloorDoc::at_base(at(4, 450))
        };
        survey.histories.get_mut(&id(4)).unwrap().floors = Floors::new(vec![Floor {
            offset: Offset(450),
            created: Some(created),
            doc: Some(doc),
        }]);
        survey.histories.get_mut(&id(2)).unwrap().parent = None;
        survey.stay().contains_key(&id(1))
    };
    let now = START + 30 * DAY;
    assert!(floor(now - DAY + 1));
    assert!(!floor(now - DAY));
}

#[test]
fn what_a_child_and_a_hold_need_stays() {
    let mut survey = split();
    assert_eq!(
        survey.stay()[&id(1)],
        Stay {
            bases: [Offset(300)].into(),
            log_after: None
        }
    );
    // A child without a base of its own, of a child.
    survey
        .histories
        .insert(id(5), facts(Some(at(4, 420)), &[], 430));
    let stay = survey.stay();
    assert_eq!(stay[&id(4)].log_after, Some(Offset(400)));
    assert_eq!(stay[&id(4)].bases.len(), 0);
    assert_eq!(stay[&id(1)].bases, [Offset(300)].into());
    survey.holds.push(HoldDoc {
        format: FORMAT,
        name: "one".parse().unwrap(),
        point: at(2, 650),
        as_of_unix_ms: None,
        base: at(1, 100),
        digest: None,
        log: vec![
            HeldLog {
                history: id(1),
                after: Offset(100),
                upto: Offset(500),
            },
            HeldLog {
                history: id(2),
                after: Offset(500),
                upto: Offset(650),
            },
        ],
        writer: String::new(),
        created_unix_ms: 0,
    });
    let stay = survey.stay();
    assert_eq!(stay[&id(1)].bases, [Offset(100), Offset(300)].into());
    assert_eq!(stay[&id(1)].log_after, Some(Offset(100)));
    assert_eq!(stay[&id(2)].log_after, Some(Offset(500)));
}

/// A line of histories, with bases at random times, and branches that left it somewhere.
fn any_survey() -> impl Strategy<Value = Survey> {
    let of_history = (
        prop::collection::vec((1..90_u64, 0..40_i64), 0..5),
        any::<bool>(),
    );
    let branches = prop::collection::vec((0..4_usize, 0..100_u64), 0..3);
    (prop::collection::vec(of_history, 1..5), branches, 0..60_i64).prop_map(
        |(line, branches, after)| {
            let mut survey = Survey {
                line: Vec::new(),
                tip_unix_ms: START + (40 + after) * DAY,
                ahead_unix_ms: None,
                now_ms: START + (40 + after) * DAY,
                histories: BTreeMap::new(),
                holds: Vec::new(),
            };
            let last = line.len() - 1;
            for (n, (bases, tail)) in line.iter().enumerate() {
                let (n, begin) = (n as u8, n as u64 * 100);
                let mut bases: Vec<(u64, i64)> = bases
                    .iter()
                    .map(|(offset, day)| (begin + offset, START + day * DAY))
                    .collect();
                bases.sort_unstable();
                bases.dedup_by_key(|base| base.0);
                if n == 0 {
                    bases.insert(0, (0, START));
                }
                let parent = (n > 0).then(|| at(n - 1, begin));
                let end = begin + 100 + u64::from(*tail) * 7;
                survey.histories.insert(id(n), facts(parent, &bases, end));
                let left = if n as usize == last {
                    u64::MAX
                } else {
                    begin + 100
                };
                survey.line.insert(0, at(n, left));
            }
            for (n, (of, offset)) in branches.into_iter().enumerate() {
                let of = of.min(last);
                let parent = at(of as u8, of as u64 * 100 + offset);
                let end = parent.offset.0 + 50;
                survey
                    .histories
                    .insert(id(100 + n as u8), facts(Some(parent), &[], end));
            }
            survey
        },
    )
}

/// The same when the floors are there.
fn with_floors(mut survey: Survey, plan: &Plan) -> Survey {
    for floor in &plan.floors {
        let doc = FloorDoc {
            history: floor.history,
            offset: floor.offset,
            alone: floor.alone.clone(),
            ..FloorDoc::at_base(plan.cut.unwrap())
        };
        let of_it = &mut survey.histories.get_mut(&floor.history).unwrap().floors;
        let mut floors: Vec<Floor> = of_it.iter().cloned().collect();
        floors.push(Floor {
            offset: floor.offset,
            created: Some(0),
            doc: Some(doc),
        });
        *of_it = Floors::new(floors);
    }
    survey
}

/// Which bases and how much log are left of a history when everything was deleted that may be.
fn left_of(survey: &Survey, plan: &Plan, history: ReplId) -> (Vec<Offset>, Offset) {
    let stay = survey.stay().remove(&history).unwrap_or_default();
    let floor = plan.floors.iter().find(|floor| floor.history == history);
    let facts = &survey.histories[&history];
    let bases = facts.bases.iter().map(|base| base.offset);
    let Some(floor) = floor else {
        return (bases.collect(), Offset(0));
    };
    let left = bases.filter(|base| {
        *base >= floor.offset || floor.alone.contains(base) || stay.bases.contains(base)
    });
    let needed = stay.bases.iter().copied().chain(stay.log_after).min();
    let log = needed.map_or(floor.offset, |needed| needed.min(floor.offset));
    (left.collect(), log)
}

/// Can a point be restored from what is left?
fn is_restorable(survey: &Survey, plan: &Plan, mut at: Position) -> bool {
    loop {
        let (bases, log) = left_of(survey, plan, at.history);
        let base = bases.into_iter().rfind(|base| *base <= at.offset);
        if let Some(base) = base {
            return base >= log || base == at.offset;
        }
        let Some(parent) = survey.histories[&at.history].parent else {
            return false;
        };
        if log > parent.offset {
            return false;
        }
        at = Position {
            history: parent.history,
            offset: parent.offset.min(at.offset),
        };
    }
}

/// The newest base of each of the last days with one, on the line. Times there never go back.
fn wanted_daily(survey: &Survey, daily: u32) -> Vec<Position> {
    let mut newest: BTreeMap<i64, Position> = BTreeMap::new();
    let mut time = i64::MIN;
    for span in survey.line.iter().rev() {
        let bases = &survey.histories[&span.history].bases;
        for base in bases.iter().filter(|base| base.offset <= span.offset) {
            time = time.max(base.as_of_unix_ms);
            let at = Position {
                history: span.history,
                offset: base.offset,
            };
            newest.insert(time.div_euclid(DAY), at);
        }
    }
    newest.into_values().rev().take(daily as usize).collect()
}

proptest! {
    #[test]
    fn what_is_promised_can_be_restored_afterwards(survey in any_survey(), keep in 1..50_i64, daily in 0..5_u32) {
        let policy = KeepPolicy { daily, ..policy(keep) };
        let plan = survey.plan(&policy);
        let wanted = wanted_daily(&survey, daily);
        let Some(cut) = plan.cut else {
            prop_assert!(plan.floors.is_empty());
            return Ok(());
        };
        let survey = with_floors(survey, &plan);
        // The cut is on the line, and as old as what is kept.
        let base = survey.histories[&cut.history].base(cut.offset).unwrap();
        prop_assert!(base.as_of_unix_ms <= survey.tip_unix_ms - keep * DAY);
        let place = |id: ReplId| survey.line.iter().position(|span| span.history == id);
        // Every point of the line from the cut on.
        for span in &survey.line[..=place(cut.history).unwrap()] {
            let facts = &survey.histories[&span.history];
            let begin = if span.history == cut.history { cut.offset } else { facts.parent.unwrap().offset };
            let end = facts.end.unwrap().min(span.offset);
            for offset in begin.0..=end.0 {
                let point = Position { history: span.history, offset: Offset(offset) };
                prop_assert!(is_restorable(&survey, &plan, point), "{point} {plan:?}");
            }
        }
        // What lost and was not given up, from its first byte on.
        let given_up = |id: ReplId| plan.floors.iter().any(|floor| floor.history == id);
        for (id, facts) in &survey.histories {
            if place(*id).is_none() && !given_up(*id) && facts.end.is_some() {
                let point = Position { history: *id, offset: facts.end.unwrap() };
                prop_assert!(is_restorable(&survey, &plan, point), "{point} {plan:?}");
            }
        }
        // The newest base of each of the last days.
        for base in wanted {
            let (bases, _) = left_of(&survey, &plan, base.history);
            prop_assert!(bases.contains(&base.offset), "{base} {plan:?}");
        }
        // The bases that stay alone.
        for floor in &plan.floors {
            for offset in &floor.alone {
                let (bases, _) = left_of(&survey, &plan, floor.history);
                prop_assert!(bases.contains(offset));
            }
        }
    }
}
