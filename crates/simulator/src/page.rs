//! What a connection answers: the rows of a page, or why there are none.

use std::sync::Weak;

use async_graphql::{Value as Argument, dynamic::ResolverContext};
use serde_json::json;

use super::{
    World,
    fault::FaultKind,
    filter::{self, Filter},
    limits::Scope,
    model::{Owner, TableDef},
    problem::Problem,
    store::Row,
    value::Value,
};

/// What a connection resolves to.
pub(super) struct Page {
    pub(super) rows: Vec<Row>,
    pub(super) total: usize,
    pub(super) offset: usize,
    pub(super) has_next: bool,
}

pub(super) fn cursor(offset: usize) -> Argument {
    Argument::from(format!("b2Zmc2V0-{offset:x}"))
}

fn read_cursor(text: &str) -> Result<usize, Problem> {
    let offset = text.strip_prefix("b2Zmc2V0-").and_then(|hex| usize::from_str_radix(hex, 16).ok());
    offset.ok_or_else(|| Problem::field("Invalid cursor"))
}

/// Takes a place among the requests under way for a tenant, unless this request has one already.
pub(super) fn enter(ctx: &ResolverContext<'_>, world: &Weak<World>, owner: Owner) -> Result<(), Problem> {
    let world = world.upgrade().ok_or_else(|| Problem::field("the simulator is stopping"))?;
    let scope = ctx.data::<Scope>().map_err(|error| Problem::field(error.message))?;
    scope.enter(&world.limits, owner).map_err(|limit| {
        let (Owner::Company(no) | Owner::Customer(no)) = owner;
        Problem::Field(
            format!("Company {no} has {limit} requests in progress. Limit is {limit}."),
            Some(json!({ "code": "OUTSTANDING_LIMIT_EXCEEDED", "limit": limit })),
        )
    })
}

fn context_error(owner: Owner) -> Problem {
    let (Owner::Company(no) | Owner::Customer(no)) = owner;
    Problem::Context(format!(
        "Error: Could not get authorize user using VismaNetCompanyId: {no}. Description: External integration error. Status: 18."
    ))
}

pub(super) async fn page(
    ctx: &ResolverContext<'_>,
    world: &World,
    owner: Owner,
    table: &TableDef,
) -> Result<Page, Problem> {
    let place = Some((owner, table.name.as_str()));
    world.faults.hang(owner, &table.name).await;
    if let Some(fault) = world.faults.take(&[FaultKind::Slow], place) {
        tokio::time::sleep(std::time::Duration::from_millis(fault.millis)).await;
    }
    if world.faults.take(&[FaultKind::TenantDown], place).is_some() {
        ctx.data::<Scope>().map_err(|error| Problem::field(error.message))?.doom();
        return Err(Problem::field("the tenant is down"));
    }
    if !world.store().knows(owner) || world.faults.take(&[FaultKind::Deny], place).is_some() {
        return Err(context_error(owner));
    }
    if world.faults.take(&[FaultKind::PartialError], place).is_some() {
        return Err(Problem::field("Error: the table is busy."));
    }
    let argument = |name: &str| ctx.args.get(name).map(|value| value.as_value().clone());
    let number = |name: &str| -> Result<Option<usize>, Problem> {
        match argument(name) {
            None | Some(Argument::Null) => Ok(None),
            Some(value) => match value {
                Argument::Number(number) if number.as_u64().is_some_and(|number| number > 0) => {
                    Ok(number.as_u64().and_then(|number| usize::try_from(number).ok()))
                }
                _ => Err(Problem::field(format!("{name} must be a positive integer"))),
            },
        }
    };
    let filter = match argument("filter") {
        Some(argument) => Filter::read(table, &argument).map_err(Problem::field)?,
        None => Filter::All(vec![]),
    };
    let order = filter::order(table, argument("orderBy").as_ref());
    let cursor = match argument("after") {
        Some(Argument::String(text)) => read_cursor(&text)?,
        _ => 0,
    };
    let first = number("first")?.unwrap_or(usize::MAX).min(world.page_rows_max());
    let offset = cursor + number("skip")?.unwrap_or(0);
    let counts = ctx.field().selection_set().any(|field| field.name() == "totalCount");
    let (rows, total) = collect(world, owner, table, &filter, &order, offset, first, counts);
    let has_next = rows.len() > first;
    let rows: Vec<Row> = rows.into_iter().take(first).collect();
    poison(ctx, world, owner, table, &rows)?;
    world.limits.returned(rows.len());
    Ok(Page { rows, total, offset, has_next })
}

/// Rows from `offset` on, one more than `first` if there are that many, and the count of all if it was asked for.
#[expect(clippy::too_many_arguments, reason = "the arguments of a connection")]
fn collect(
    world: &World,
    owner: Owner,
    table: &TableDef,
    filter: &Filter,
    order: &[(usize, bool)],
    offset: usize,
    first: usize,
    counts: bool,
) -> (Vec<Row>, usize) {
    let store = world.store();
    if let Some(mut keys) = filter.keys(table) {
        keys.sort();
        keys.dedup();
        let found = keys.iter().filter_map(|key| store.visible_one(owner, &table.name, key));
        let mut rows: Vec<Row> = found.map(|(_, row)| row.clone()).filter(|row| filter.matches(row)).collect();
        filter::sort(&mut rows, order);
        let total = rows.len();
        return (rows.into_iter().skip(offset).take(first.saturating_add(1)).collect(), total);
    }
    let from = filter.lower_bound(table).map(|bound| vec![bound]);
    let matching = store
        .visible(owner, &table.name, from.as_ref())
        .filter(|(_, row)| filter.matches(row))
        .map(|(_, row)| row.clone());
    if order.is_empty() && !counts {
        return (matching.skip(offset).take(first.saturating_add(1)).collect(), 0);
    }
    let mut rows: Vec<Row> = matching.collect();
    let total = rows.len();
    filter::sort(&mut rows, order);
    (rows.into_iter().skip(offset).take(first.saturating_add(1)).collect(), total)
}

/// A poisoned row fails whatever touches it: its part alone, or the whole request.
fn poison(
    ctx: &ResolverContext<'_>,
    world: &World,
    owner: Owner,
    table: &TableDef,
    rows: &[Row],
) -> Result<(), Problem> {
    let touches = |key: &serde_json::Map<String, serde_json::Value>| {
        rows.iter().any(|row| {
            key.iter().all(|(name, json)| {
                table.column(name).is_some_and(|index| {
                    Value::read(&table.columns[index].scalar, json)
                        .is_ok_and(|value| value.ordered() == row[index].ordered())
                })
            })
        })
    };
    let is_of_key = |name: &str| table.column(name).is_some_and(|index| table.key.contains(&index));
    let with_values = ctx
        .field()
        .selection_set()
        .filter(|field| field.name() == "items")
        .any(|items| items.selection_set().any(|field| !is_of_key(field.name())));
    match world.faults.poison(owner, &table.name, with_values, touches) {
        None => Ok(()),
        Some(FaultKind::PoisonWhole) => {
            ctx.data::<Scope>().map_err(|error| Problem::field(error.message))?.doom();
            Err(Problem::field("poisoned"))
        }
        Some(_) => Err(Problem::field("Error: unexpected failure while reading.")),
    }
}
