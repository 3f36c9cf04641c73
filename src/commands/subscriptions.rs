//! `subscriptions`: what Business NXT sends notifications of, beside what is mirrored.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, bail};
use serde::Serialize;
use sqlx::PgPool;

use super::{Usage, own_server::connector};
use crate::{
    app,
    cli::Targets,
    config::{MirrorSettings, Role, Settings, Source},
    database,
    domain::{Delivery, NumberedTable, Subscription, TableLevel, TableName, Tenant, delivery, naming},
    queue::status,
    telemetry::{self, Metrics, chain},
    upstream::{Setup, Upstream},
    walk::Selection,
};

/// Exit code of a comparison that could not be made.
const COULD_NOT_TELL: u8 = 2;

/// What was found of one table of one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// All changes are told.
    Ok,
    /// No subscription.
    Missing,
    /// A subscription that keeps something back.
    Filtered,
    /// It could not be found out.
    Unreadable,
}

/// One table of one tenant.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    company_no: Option<i64>,
    customer_no: Option<i64>,
    table: String,
    pub(super) table_no: Option<i64>,
    pub(super) state: State,
    /// What is wrong and what to do about it; none if nothing is.
    pub(super) note: Option<String>,
}

/// What is compared, and with whose subscriptions.
pub(super) struct Comparison<'a> {
    pub(super) upstream: &'a Upstream,
    /// Where targets stand, for a selection that names no tables.
    pub(super) pool: Option<&'a PgPool>,
    /// The name of the user that the targets belong to.
    pub(super) client_id: &'a str,
    pub(super) mirror: &'a MirrorSettings,
}

/// Prints a line for each table of each tenant. Exit code 0 all is told, 1 something is not, 2 could not tell.
pub(super) async fn subscriptions(config: Option<&Path>, targets: Targets, as_json: bool) -> anyhow::Result<ExitCode> {
    match compare(config, targets).await {
        Ok(lines) => {
            if as_json {
                say!("{}", serde_json::to_string(&lines)?);
            } else {
                lines.iter().for_each(|line| say!("{line}"));
            }
            Ok(exit_code(&lines))
        }
        Err(error) => {
            complain!("nxt-mirror: {}", chain(&*error));
            Ok(ExitCode::from(COULD_NOT_TELL))
        }
    }
}

fn exit_code(lines: &[Line]) -> ExitCode {
    let has = |states: &[State]| lines.iter().any(|line| states.contains(&line.state));
    match (has(&[State::Missing, State::Filtered]), has(&[State::Unreadable])) {
        (true, _) => ExitCode::FAILURE,
        (false, true) => ExitCode::from(COULD_NOT_TELL),
        (false, false) => ExitCode::SUCCESS,
    }
}

async fn compare(config: Option<&Path>, targets: Targets) -> anyhow::Result<Vec<Line>> {
    let settings = Settings::read(&Source::from_process(config)?, Role::Worker)?;
    telemetry::start(&settings.log);
    let tables = targets.table.into_iter().map(TableName::new).collect::<Result<_, _>>().context("--table")?;
    let selection = Selection { tables, companies: targets.company };
    let (connector, server) = connector(&settings.database).await?;
    let pool = database::connect(&connector).await?;
    if !database::is_current(&pool).await? {
        bail!("the database is not up to date: run nxt-mirror migrate");
    }
    let api = settings.upstream.as_ref().context("a worker has API settings")?;
    let upstream = app::upstream(api, &pool, &Arc::new(Metrics::new())).await?;
    let comparison =
        Comparison { upstream: &upstream, pool: Some(&pool), client_id: &api.client_id, mirror: &settings.mirror };
    let lines = comparison.lines(&selection).await?;
    pool.close().await;
    if let Some(server) = server {
        server.stop().await?;
    }
    if lines.is_empty() {
        return Err(Usage("nothing is mirrored yet: give --table, or set NXT_TABLES".into()).into());
    }
    Ok(lines)
}

/// The tables of tenants that notifications are wanted of.
#[derive(Default)]
struct Wanted {
    known: BTreeSet<(Tenant, TableName)>,
    /// Those that the API does not know.
    unknown: Vec<(Tenant, TableName)>,
}

impl Comparison<'_> {
    /// A line for each table of each tenant.
    pub(super) async fn lines(&self, selection: &Selection) -> anyhow::Result<Vec<Line>> {
        let companies = self.upstream.available_companies().await.context("list the companies")?;
        let customers: BTreeMap<i64, i64> =
            companies.iter().filter_map(|company| Some((company.company_no, company.customer_no?))).collect();
        let visible = companies.iter().map(|company| company.company_no).collect();
        let wanted = self.wanted(selection, visible, &customers).await?;
        let names: BTreeSet<TableName> = wanted.known.iter().map(|(_, table)| table.clone()).collect();
        let numbered = self.upstream.with_numbers(names.into_iter().collect()).await.context("read table numbers")?;
        let numbered: BTreeMap<&TableName, &NumberedTable> =
            numbered.iter().map(|table| (&table.name, table)).collect();
        let setup = self.upstream.webhook_setup().await.map_err(|error| chain(&error).to_string());
        let mut known: BTreeMap<i64, Result<Vec<Subscription>, String>> = BTreeMap::new();
        let mut lines: Vec<Line> = wanted.unknown.into_iter().map(Line::unknown).collect();
        for (tenant, table) in &wanted.known {
            let customer = match tenant {
                Tenant::Company(company) => customers.get(company).copied(),
                Tenant::Customer(customer) => Some(*customer),
            };
            let of_customer = match customer {
                None => &Err("the service sees no such company, or not whose it is".to_owned()),
                Some(customer) => {
                    if let std::collections::btree_map::Entry::Vacant(place) = known.entry(customer) {
                        place.insert(self.subscriptions(&setup, customer).await);
                    }
                    &known[&customer]
                }
            };
            lines.push(Line::new(*tenant, numbered[table], of_customer));
        }
        Ok(lines)
    }

    async fn subscriptions(&self, setup: &Result<Setup, String>, customer: i64) -> Result<Vec<Subscription>, String> {
        let setup = setup.as_ref().map_err(Clone::clone)?;
        let found = self.upstream.subscriptions(setup, customer, self.client_id).await;
        found.map_err(|error| chain(&error).to_string())
    }

    /// The tables that are named, of the companies that are named or seen; without names, whatever is mirrored.
    async fn wanted(
        &self,
        selection: &Selection,
        visible: BTreeSet<i64>,
        customers: &BTreeMap<i64, i64>,
    ) -> anyhow::Result<Wanted> {
        let named = [&selection.companies, &self.mirror.companies].into_iter().find(|named| !named.is_empty());
        let tables = [&selection.tables, &self.mirror.tables].into_iter().find(|named| !named.is_empty());
        let Some(tables) = tables else { return self.mirrored(named).await };
        let companies = named.map_or(visible, |named| named.iter().copied().collect());
        let customers: BTreeSet<i64> = companies.iter().filter_map(|company| customers.get(company).copied()).collect();
        let known = self.upstream.table_names().await.context("list the tables")?;
        let mut wanted = Wanted::default();
        for name in tables {
            let of_companies = || companies.iter().copied().map(Tenant::Company);
            match identify(&known, name) {
                None => wanted.unknown.extend(of_companies().map(|tenant| (tenant, name.clone()))),
                Some((TableLevel::Company, table)) => {
                    wanted.known.extend(of_companies().map(|tenant| (tenant, table.clone())));
                }
                Some((TableLevel::Customer, table)) => {
                    let of_customers = customers.iter().copied().map(Tenant::Customer);
                    wanted.known.extend(of_customers.map(|tenant| (tenant, table.clone())));
                }
            }
        }
        Ok(wanted)
    }

    /// Whatever has a target already.
    async fn mirrored(&self, companies: Option<&Vec<i64>>) -> anyhow::Result<Wanted> {
        let is_named = |company: i64| companies.is_none_or(|named| named.contains(&company));
        let mut wanted = Wanted::default();
        let Some(pool) = self.pool else { return Ok(wanted) };
        for target in status::freshness(pool).await? {
            let tenant = match (target.company_no, target.customer_no) {
                (Some(company), _) if is_named(company) => Tenant::Company(company),
                (None, Some(customer)) if companies.is_none() => Tenant::Customer(customer),
                _ => continue,
            };
            wanted.known.insert((tenant, TableName::new(target.table)?));
        }
        Ok(wanted)
    }
}

/// The table's level and identifier, in whatever form it is named; a company's before a customer's.
pub(super) fn identify(known: &[(TableLevel, TableName)], name: &TableName) -> Option<(TableLevel, TableName)> {
    let form = |name: &TableName| naming::snake_case(&naming::pascal_case(name.as_str()));
    let is_it = |table: &TableName| table.as_str().eq_ignore_ascii_case(name.as_str()) || form(table) == form(name);
    let found = |level| known.iter().find(|(own, table)| *own == level && is_it(table)).cloned();
    found(TableLevel::Company).or_else(|| found(TableLevel::Customer))
}

impl Line {
    fn new(tenant: Tenant, table: &NumberedTable, subscriptions: &Result<Vec<Subscription>, String>) -> Self {
        let (state, note) = match subscriptions {
            Err(reason) => (State::Unreadable, Some(reason.clone())),
            Ok(subscriptions) => match delivery(subscriptions, tenant, table) {
                Delivery::All => (State::Ok, None),
                Delivery::Filtered(what) => {
                    (State::Filtered, Some(format!("{what}; clear the subscription's filters")))
                }
                Delivery::None if table.number.is_none() => {
                    (State::Unreadable, Some("the API does not tell the table's number".to_owned()))
                }
                Delivery::None => (State::Missing, Some(to_add(tenant, table))),
            },
        };
        Self::of(tenant, table.clone(), state, note)
    }

    /// A table that nobody has.
    fn unknown((tenant, name): (Tenant, TableName)) -> Self {
        let note = Some(format!("the API knows no table {name}"));
        Self::of(tenant, NumberedTable { name, number: None }, State::Unreadable, note)
    }

    fn of(tenant: Tenant, table: NumberedTable, state: State, note: Option<String>) -> Self {
        let (company_no, customer_no) = tenant.columns();
        Self { company_no, customer_no, table: table.name.to_string(), table_no: table.number, state, note }
    }

    /// Whose it is, for people.
    pub(super) fn tenant(&self) -> String {
        crate::queue::status::tenant_name(self.company_no, self.customer_no)
    }

    /// The table's identifier.
    pub(super) fn table(&self) -> &str {
        &self.table
    }

    /// Whether it is this target's.
    pub(super) fn is_of(&self, target: &status::Freshness) -> bool {
        (self.company_no, self.customer_no) == (target.company_no, target.customer_no)
            && self.table.eq_ignore_ascii_case(&target.table)
    }
}

/// What to type into Business NXT.
fn to_add(tenant: Tenant, table: &NumberedTable) -> String {
    let number = table.number.map_or_else(|| table.name.to_string(), |number| number.to_string());
    match tenant {
        Tenant::Company(company) => format!("add a WebhookSubscription row with company {company} and table {number}"),
        Tenant::Customer(_) => format!("add a WebhookSubscription row with table {number} and no company"),
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match self.state {
            State::Ok => "ok",
            State::Missing => "missing",
            State::Filtered => "filtered",
            State::Unreadable => "unreadable",
        };
        write!(f, "{state:<10} {} {}", self.tenant(), self.table)?;
        if let Some(number) = self.table_no {
            write!(f, " ({number})")?;
        }
        match &self.note {
            Some(note) => write!(f, ": {note}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(states: &[State]) -> Vec<Line> {
        let line = |state: &State| Line {
            company_no: Some(1),
            customer_no: None,
            table: "Order".into(),
            table_no: Some(127),
            state: *state,
            note: None,
        };
        states.iter().map(line).collect()
    }

    #[test]
    fn what_is_wrong_beats_what_cannot_be_told() {
        for (states, code) in [
            (&[State::Ok][..], 0),
            (&[State::Ok, State::Missing], 1),
            (&[State::Filtered, State::Unreadable], 1),
            (&[State::Ok, State::Unreadable], 2),
        ] {
            assert_eq!(exit_code(&lines(states)), ExitCode::from(code), "{states:?}");
        }
    }
}
