//! What is due.

use std::time::Duration;

use sqlx::PgPool;

use super::Kind;
use crate::{
    config::MirrorSettings,
    domain::{TableName, Target, TargetId, Tenant},
};

/// Seconds by which a time that was just written may lie in the future.
const CLOCKS_DIFFER_MAX: f64 = 1.0;

/// A walk that is due.
#[derive(Debug, Clone)]
pub(super) struct Due {
    pub(super) kind: Kind,
    pub(super) target: Target,
    /// Seconds since the last one.
    age: f64,
}

/// Where the walks of a target are.
#[derive(Debug, Clone)]
pub(super) struct State {
    target: Target,
    /// Whether its table is mirrored at all, so that there is something to walk again or to sweep.
    is_mirrored: bool,
    /// Whether nothing is to be asked of it now.
    is_paused: bool,
    /// Whether a full scan is under way.
    is_under_way: bool,
    /// Whether one has ever come to its end.
    has_finished: bool,
    /// Seconds since the last one did, or since the target was first seen.
    scan_age: f64,
    /// Seconds since the last sweep, or since the target was first seen.
    sweep_age: f64,
}

/// The state of every target.
pub(super) async fn states(pool: &PgPool) -> Result<Vec<State>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select target.id as "id!: TargetId", target.tenant_kind as "tenant_kind!", target.tenant_no as "tenant_no!",
                  target.table_name as "table_name!",
                  mirrored.table_name is not null as "is_mirrored!",
                  coalesce(target.paused_until > clock_timestamp(), false) as "is_paused!",
                  walk.target_id is not null and walk.finished_at is null as "is_under_way!",
                  walk.last_finished_at is not null as "has_finished!",
                  extract(epoch from clock_timestamp() - coalesce(walk.last_finished_at, target.first_seen_at))::float8
                      as "scan_age!",
                  extract(epoch from clock_timestamp() - coalesce(sweep.swept_at, target.first_seen_at))::float8
                      as "sweep_age!"
             from nxt_mirror.target as target
             left join nxt_mirror.mirrored_table as mirrored on lower(mirrored.table_name) = lower(target.table_name)
             left join nxt_mirror.walk as walk on walk.target_id = target.id
             left join nxt_mirror.sweep as sweep on sweep.target_id = target.id
            order by target.id"#
    )
    .fetch_all(pool)
    .await?;
    // None for a name that no table can have.
    let states = rows.into_iter().filter_map(|row| {
        let tenant = Tenant::from_parts(&row.tenant_kind, row.tenant_no)?;
        let table = TableName::new(row.table_name).ok()?;
        Some(State {
            target: Target { id: row.id, tenant, table },
            is_mirrored: row.is_mirrored,
            is_paused: row.is_paused,
            is_under_way: row.is_under_way,
            has_finished: row.has_finished,
            scan_age: row.scan_age,
            sweep_age: row.sweep_age,
        })
    });
    Ok(states.collect())
}

/// Whatever is due, the longest waiting first.
pub(super) fn find(states: &[State], settings: &MirrorSettings, is_chosen: impl Fn(TargetId) -> bool) -> Vec<Due> {
    let mut due: Vec<Due> = states
        .iter()
        .filter(|state| !state.is_paused && settings.why_not(&state.target).is_none())
        .flat_map(|state| [state.scan(settings, is_chosen(state.target.id)), state.sweep(settings)])
        .flatten()
        .collect();
    due.sort_by(|one, other| other.age.total_cmp(&one.age));
    due
}

impl State {
    /// Chosen tables are loaded from the start; others hold what notifications brought, and are walked again once
    /// somebody has walked them.
    fn scan(&self, settings: &MirrorSettings, is_chosen: bool) -> Option<Due> {
        let kind = if self.has_finished { Kind::Resync } else { Kind::Load };
        let is_due = match kind {
            Kind::Load => is_chosen || self.is_under_way,
            _ => {
                // One that was interrupted is taken up at once.
                let is_old = |interval| self.is_under_way || is_older(self.scan_age, interval);
                self.is_mirrored && settings.walk_interval.is_some_and(is_old)
            }
        };
        is_due.then(|| Due { kind, target: self.target.clone(), age: self.scan_age })
    }

    fn sweep(&self, settings: &MirrorSettings) -> Option<Due> {
        let is_due = settings.sweep_interval.is_some_and(|interval| is_older(self.sweep_age, interval));
        (self.is_mirrored && is_due).then(|| Due {
            kind: Kind::Sweep,
            target: self.target.clone(),
            age: self.sweep_age,
        })
    }
}

/// A last time that lies in the future was told by a clock that has been set back since: nobody knows how long ago it was.
fn is_older(age: f64, interval: Duration) -> bool {
    age >= interval.as_secs_f64() || age < -CLOCKS_DIFFER_MAX
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{config::Source, domain::Exclusions};

    fn settings(walk: u64, sweep: u64) -> MirrorSettings {
        let pairs = [("NXT_WALK_SECONDS", walk.to_string()), ("NXT_SWEEP_SECONDS", sweep.to_string())];
        MirrorSettings::read(&Source::from_pairs(pairs)).unwrap()
    }

    fn state(id: i32) -> State {
        State {
            target: Target {
                id: TargetId(id),
                tenant: Tenant::Company(i64::from(id)),
                table: TableName::new("Order").unwrap(),
            },
            is_mirrored: true,
            is_paused: false,
            is_under_way: false,
            has_finished: false,
            scan_age: 50.0,
            sweep_age: 5.0,
        }
    }

    fn kinds(state: State, settings: &MirrorSettings, is_chosen: bool) -> Vec<Kind> {
        find(&[state], settings, |_| is_chosen).into_iter().map(|due| due.kind).collect()
    }

    #[test]
    fn a_chosen_table_is_loaded_once_and_walked_again_when_that_is_old() {
        let settings = settings(60, 0);
        assert_eq!(kinds(state(1), &settings, true), [Kind::Load]);
        assert_eq!(kinds(state(1), &settings, false), []);
        let finished = State { has_finished: true, ..state(1) };
        assert_eq!(kinds(finished.clone(), &settings, true), []);
        assert_eq!(kinds(State { scan_age: 60.0, ..finished }, &settings, false), [Kind::Resync]);
    }

    #[test]
    fn an_interrupted_walk_is_taken_up_by_its_own_kind() {
        let settings = settings(60, 0);
        let under_way = State { is_under_way: true, ..state(1) };
        assert_eq!(kinds(under_way.clone(), &settings, false), [Kind::Load]);
        assert_eq!(kinds(State { has_finished: true, ..under_way }, &settings, false), [Kind::Resync]);
    }

    #[test]
    fn what_was_swept_longest_ago_comes_first_and_what_is_off_or_paused_never() {
        let states = [state(1), State { sweep_age: 9.0, ..state(2) }, State { is_paused: true, ..state(3) }];
        let order: Vec<i32> = find(&states, &settings(0, 5), |_| false).iter().map(|due| due.target.id.0).collect();
        assert_eq!(order, [2, 1]);
        assert_eq!(kinds(state(1), &settings(0, 6), false), []);
        assert_eq!(kinds(state(1), &settings(0, 0), false), []);
        assert_eq!(kinds(State { is_mirrored: false, ..state(1) }, &settings(0, 5), false), []);
    }

    #[test]
    fn a_clock_that_was_set_back_puts_nothing_off() {
        let ahead = State { has_finished: true, scan_age: -3_600.0, sweep_age: -3_600.0, ..state(1) };
        assert_eq!(kinds(ahead.clone(), &settings(86_400, 300), false), [Kind::Resync, Kind::Sweep]);
        assert_eq!(kinds(State { scan_age: -0.5, sweep_age: -0.5, ..ahead }, &settings(86_400, 300), false), []);
    }

    #[test]
    fn what_the_settings_leave_out_is_left_alone() {
        let only = |table: &str, companies| MirrorSettings {
            tables: vec![TableName::new(table).unwrap()],
            companies,
            ..settings(0, 5)
        };
        assert_eq!(kinds(state(1), &only("order", vec![1]), false), [Kind::Sweep]);
        assert_eq!(kinds(state(1), &only("Product", vec![]), false), []);
        assert_eq!(kinds(state(1), &only("Order", vec![2]), false), []);
        let mut exclusions = Exclusions::default();
        exclusions.add_table("Order");
        let without = MirrorSettings { exclusions: Arc::new(exclusions), ..settings(60, 5) };
        assert_eq!(kinds(State { has_finished: true, scan_age: 60.0, ..state(1) }, &without, true), []);
    }
}
