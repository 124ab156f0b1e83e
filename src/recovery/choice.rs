//! Which history is meant, and the plan for a point of it that is known to be sound.

use futures::future::try_join_all;

use crate::archive::{Archive, ArchiveError, Catalog};
use crate::recovery::check::{self, Checked, check};
use crate::recovery::error::RecoveryError;
use crate::recovery::plan::{self, BadBases, Plan, Usable};
use crate::recovery::progress::Progress;
use crate::recovery::target::RecoveryTarget;
use crate::wire::position::{Offset, Position, ReplId};

/// What a restore to `when` needs of the archive, and the history that is meant ([`choose`]).
///
/// # Errors
/// As [`choose`], and of the store.
pub async fn look(
    archive: &Archive,
    named: Option<ReplId>,
    service: Option<&str>,
    recovery_target: RecoveryTarget,
) -> Result<(Catalog, ReplId), RecoveryError> {
    let mut catalog = archive.outline().await?;
    let history = choose(archive, &catalog, named, service)?;
    match recovery_target {
        RecoveryTarget::Latest => {
            archive
                .load(&mut catalog, history, Offset(u64::MAX))
                .await?
        }
        RecoveryTarget::Offset(offset) => {
            archive.load(&mut catalog, history, Offset(offset)).await?
        }
        // A time is looked for in all of the log.
        RecoveryTarget::AtUnixMs(_) => catalog = archive.whole_line(&catalog, history).await?,
    }
    Ok((catalog, history))
}

/// Makes the plan for `when` on `history`, without the bases in `bad`.
///
/// # Errors
/// When the goal cannot be reached, with what is missing; never a plan that ends early in silence.
pub async fn plan(
    archive: &Archive,
    catalog: &Catalog,
    history: ReplId,
    recovery_target: RecoveryTarget,
    bad: &BadBases,
) -> Result<Plan, RecoveryError> {
    let usable = Usable { bad, upto: None };
    plan_with(archive, catalog, history, recovery_target, usable).await
}

/// The same, with a base at or before `from`.
///
/// # Errors
/// As [`plan()`].
pub async fn plan_from(
    archive: &Archive,
    catalog: &Catalog,
    history: ReplId,
    recovery_target: RecoveryTarget,
    from: Offset,
) -> Result<Plan, RecoveryError> {
    let usable = Usable {
        bad: &BadBases::new(),
        upto: Some(from),
    };
    plan_with(archive, catalog, history, recovery_target, usable).await
}

async fn plan_with(
    archive: &Archive,
    catalog: &Catalog,
    history: ReplId,
    recovery_target: RecoveryTarget,
    usable: Usable<'_>,
) -> Result<Plan, RecoveryError> {
    if !catalog.is_partial(history) {
        return plan_of(archive, catalog, history, recovery_target, usable).await;
    }
    let by_newest = usable.bad.is_empty() && usable.upto.is_none();
    if by_newest && !matches!(recovery_target, RecoveryTarget::AtUnixMs(_)) {
        let planned = plan_of(archive, catalog, history, recovery_target, usable).await;
        match planned {
            Err(RecoveryError::Archive(ArchiveError::Store(_))) => return planned,
            // What stays below a floor may have no log. Which floors there are is not listed yet.
            Ok(plan) if !is_below_floor(archive, &plan).await? => return Ok(plan),
            // What there is no way to by the newest base is looked for in all that there is.
            Ok(_) | Err(_) => {}
        }
    }
    let whole = archive.whole_line(catalog, history).await?;
    plan_of(archive, &whole, history, recovery_target, usable).await
}

/// Does it need something below a floor, of any of its histories?
async fn is_below_floor(archive: &Archive, plan: &Plan) -> Result<bool, RecoveryError> {
    let begins = plan.begins()?.into_iter();
    let is_below = begins.map(|(history, begin)| async move {
        let floors = archive.floors(history).await?;
        Ok::<_, ArchiveError>(floors.is_below(begin))
    });
    let is_below = try_join_all(is_below).await?;
    Ok(is_below.contains(&true))
}

async fn plan_of(
    archive: &Archive,
    catalog: &Catalog,
    history: ReplId,
    recovery_target: RecoveryTarget,
    usable: Usable<'_>,
) -> Result<Plan, RecoveryError> {
    let planned = plan::of_listed(archive, catalog, history, recovery_target, usable).await;
    let Err(RecoveryError::Gap {
        history: of,
        next: Some(next),
        ..
    }) = &planned
    else {
        return planned;
    };
    if !usable.bad.is_empty() {
        return planned;
    }
    // It may be bridged up to a base that came while the names were listed.
    let at = Position {
        history: *of,
        offset: Offset::before_byte(*next),
    };
    match archive.with_base(catalog, at).await? {
        Some(catalog) => plan::of_listed(archive, &catalog, history, recovery_target, usable).await,
        None => planned,
    }
}

/// [`check`]s a plan. If its base is damaged, an older one and more of the log lead to the same point: then returns the
/// plan for that, with a note.
///
/// # Errors
/// As [`check`] and [`plan()`] do. Never returns a plan that ends earlier.
pub async fn sound(
    archive: &Archive,
    mut plan: Plan,
    progress: &dyn Progress,
) -> Result<(Plan, Checked), RecoveryError> {
    let mut bad = BadBases::new();
    loop {
        match check(archive, &plan, progress).await {
            Ok(checked) => {
                plan.set_relative_ttls(checked.relative_ttls);
                plan.refused = checked.refused;
                return Ok((plan, checked));
            }
            Err(error) => {
                if !pass_over(&plan, &error, archive, &mut bad).await? {
                    return Err(error);
                }
                tracing::warn!(%error, "this snapshot cannot be used. Looking for an older one");
                let catalog = archive.outline().await?;
                plan =
                    self::plan(archive, &catalog, plan.history, plan.recovery_target, &bad).await?;
            }
        }
    }
}

/// Which history is meant: the one that is named, or else the latest.
///
/// # Errors
/// When there is none, or several could be meant.
pub fn choose(
    archive: &Archive,
    catalog: &Catalog,
    named: Option<ReplId>,
    service: Option<&str>,
) -> Result<ReplId, RecoveryError> {
    let unreadable = |history: &ReplId, reason: &String| RecoveryError::UnreadableHistory {
        history: *history,
        reason: reason.clone(),
    };
    if let Some(history) = named {
        let known = catalog.unreadable.get(&history);
        return known.map_or(Ok(history), |reason| Err(unreadable(&history, reason)));
    }
    // Without it, nobody knows which one is the latest.
    if let Some((history, reason)) = catalog.unreadable.first_key_value() {
        return Err(unreadable(history, reason));
    }
    let latest = catalog.latest(service)?;
    latest.ok_or_else(|| RecoveryError::NothingToRestore {
        url: archive.store().url(),
    })
}

/// Notes a damaged base as such. `false` when the error is not about the base.
async fn pass_over(
    plan: &Plan,
    error: &RecoveryError,
    archive: &Archive,
    bad: &mut BadBases,
) -> Result<bool, RecoveryError> {
    if !check::is_bad_base(error) {
        return Ok(false);
    }
    // The log may be what is damaged: then no other base helps.
    let Err(of_base) = check::check_base(archive, plan, &()).await else {
        return Ok(false);
    };
    if !check::is_bad_base(&of_base) {
        return Err(of_base);
    }
    let known = bad.insert((plan.base.history, plan.base.offset), of_base.to_string());
    Ok(known.is_none())
}
