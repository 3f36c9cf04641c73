//! Answers tried against the real database and the real API.

use std::sync::Arc;

use anyhow::{Context, bail};
use sqlx::PgPool;

use super::super::subscriptions::{Comparison, Line, identify};
use crate::{
    app,
    config::{DatabaseSettings, MirrorSettings, Source, UpstreamSettings, WebhookSettings},
    database::{self, Connector},
    domain::{TableLevel, TableName, Tenant},
    telemetry::{Metrics, chain},
    upstream::{Budget, Catalogue, Company, Upstream},
    walk::Selection,
};

/// What was found in the end.
pub(super) struct Found {
    /// The name of the user in Business NXT.
    pub(super) client_id: String,
    /// The subscriptions that there should be.
    pub(super) lines: Vec<Line>,
}

/// An API that gives tokens.
pub(super) struct Trial {
    client_id: String,
    upstream: Upstream,
}

/// The database, if one is named: whether it can be used.
pub(super) async fn database(source: &Source) -> anyhow::Result<Option<PgPool>> {
    let Some(address) = DatabaseSettings::read(source)?.address else {
        say!("ok  database: none is named, the daemon will have one of its own");
        return Ok(None);
    };
    let pool = database::connect(&Connector::new(address)).await?;
    let may_create = sqlx::query_scalar!(r#"select has_database_privilege(current_database(), 'CREATE') as "may!""#)
        .fetch_one(&pool)
        .await
        .context("ask for the role's rights")?;
    if !may_create {
        bail!("the database's role may not create schemas: grant create on database ... to ...");
    }
    say!("ok  database: answers, and its role may create schemas");
    Ok(Some(pool))
}

/// The signature keys. Nothing outside can say whether they are the right ones.
pub(super) fn keys(source: &Source) -> anyhow::Result<()> {
    let settings = WebhookSettings::read(source)?.context("a signature key is needed")?;
    say!("ok  signature keys: {}", settings.secrets.len());
    Ok(())
}

impl Trial {
    /// Asks for a token, and the API whether it takes it.
    pub(super) async fn client(source: &Source, pool: Option<&PgPool>) -> anyhow::Result<Self> {
        let settings = UpstreamSettings::read(source)?.context("client id and secret are needed")?;
        let metrics = Arc::new(Metrics::new());
        let shared = match pool {
            Some(pool) if database::is_current(pool).await? => Some(pool),
            _ => None,
        };
        let upstream = match shared {
            Some(pool) => app::upstream(&settings, pool, &metrics).await?,
            None => Upstream::new(&settings, Budget::alone(settings.requests_per_minute), metrics)?,
        };
        upstream.probe().await?;
        say!("ok  API: gives a token and answers");
        Ok(Self { client_id: settings.client_id, upstream })
    }

    /// The companies to mirror, all of which the service must see.
    pub(super) async fn companies(&self, source: &Source) -> anyhow::Result<Vec<Company>> {
        let wanted = MirrorSettings::read(source)?.companies;
        let visible = self.upstream.available_companies().await.context("list the companies")?;
        if visible.is_empty() {
            bail!(
                "the service sees no company: add rows to Connect Application Access in Business NXT for the user {}",
                self.client_id
            );
        }
        let seen: Vec<_> = visible.iter().map(|company| format!("{} {}", company.company_no, company.name)).collect();
        let unseen = wanted.iter().find(|number| !visible.iter().any(|company| company.company_no == **number));
        if let Some(number) = unseen {
            bail!("the service does not see company {number}; it sees {}", seen.join(", "));
        }
        say!("ok  companies that the service sees: {}", seen.join(", "));
        Ok(visible.into_iter().filter(|company| wanted.is_empty() || wanted.contains(&company.company_no)).collect())
    }

    /// The tables to mirror as the API names them, all of which the service must be able to read.
    pub(super) async fn tables(&self, source: &Source, companies: &[Company]) -> anyhow::Result<Vec<TableName>> {
        let settings = MirrorSettings::read(source)?;
        if settings.tables.is_empty() {
            say!("ok  tables: every one that a notification comes of");
            return Ok(vec![]);
        }
        let known = self.upstream.table_names().await.context("list the tables")?;
        let catalogue =
            Catalogue::new(self.upstream.clone(), settings.keys, settings.extensions, settings.exclusions, None);
        let (mut names, mut targets) = (vec![], vec![]);
        for name in &settings.tables {
            let (level, name) = identify(&known, name).with_context(|| format!("the API knows no table {name}"))?;
            let table = catalogue.table(level, &name, None).await?;
            targets.extend(tenants(companies, level).into_iter().map(|tenant| (tenant, Arc::clone(&table))));
            names.push(name);
        }
        let told = self.upstream.probe_targets(&targets).await.context("read the tables")?;
        let unreadable = targets.iter().zip(told).filter_map(|((tenant, table), told)| {
            Some(format!("{} of {tenant} cannot be read: {}", table.name, chain(&told.err()?)))
        });
        let unreadable: Vec<_> = unreadable.collect();
        if !unreadable.is_empty() {
            bail!("{}", unreadable.join("; "));
        }
        say!("ok  tables: {} can be read", targets.len());
        Ok(names)
    }

    /// The subscriptions that these companies and tables need.
    pub(super) async fn subscriptions(
        &self,
        source: &Source,
        companies: Vec<Company>,
        tables: Vec<TableName>,
    ) -> anyhow::Result<Found> {
        let mirror = MirrorSettings::read(source)?;
        let comparison =
            Comparison { upstream: &self.upstream, pool: None, client_id: &self.client_id, mirror: &mirror };
        let companies = companies.iter().map(|company| company.company_no).collect();
        let lines = match tables.is_empty() {
            true => vec![],
            false => comparison.lines(&Selection { tables, companies }).await.context("compare the subscriptions")?,
        };
        Ok(Found { client_id: self.client_id.clone(), lines })
    }
}

fn tenants(companies: &[Company], level: TableLevel) -> Vec<Tenant> {
    let mut tenants: Vec<Tenant> = match level {
        TableLevel::Company => companies.iter().map(|company| Tenant::Company(company.company_no)).collect(),
        TableLevel::Customer => {
            companies.iter().filter_map(|company| company.customer_no).map(Tenant::Customer).collect()
        }
    };
    tenants.sort_unstable();
    tenants.dedup();
    tenants
}
