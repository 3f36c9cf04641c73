//! Which tables of which tenants a walk is about.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use futures_util::future::join_all;
use sqlx::PgPool;

use super::WalkError;
use crate::{
    config::MirrorSettings,
    domain::{TableLevel, TableName, TableSpec, TargetTable, Tenant},
    queue,
    upstream::{CatalogError, Catalogue, Company, PageAsk, Upstream},
};

/// Tables and companies by name.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Tables; empty: those of the settings.
    pub tables: Vec<TableName>,
    /// Companies; empty: those of the settings, else all that the service may see.
    pub companies: Vec<i64>,
}

/// A table that is not there for a selection: at all, or for one tenant.
#[derive(Debug)]
pub struct Unreachable {
    /// Which table.
    pub table: TableName,
    /// Whose, where others may have it.
    pub tenant: Option<Tenant>,
    /// Why not.
    pub error: WalkError,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tenant {
            Some(tenant) => write!(f, "{} of {tenant}", self.table),
            None => self.table.fmt(f),
        }
    }
}

/// The targets of a selection in the order of its tables, and what of it is not there.
pub type Found = (Vec<TargetTable>, Vec<Unreachable>);

/// Finds the targets of a selection, and gives each its number. A table that exists at neither level is told by its
/// error. Of a company that the service cannot read nothing is left behind: sweeps would ask for it ever after.
pub async fn targets(
    pool: &PgPool,
    upstream: &Upstream,
    catalogue: &Catalogue,
    settings: &MirrorSettings,
    selection: &Selection,
) -> Result<Found, WalkError> {
    let tables = if selection.tables.is_empty() { &settings.tables } else { &selection.tables };
    let wanted = if selection.companies.is_empty() { &settings.companies } else { &selection.companies };
    let tenants = Tenants::visible(upstream, wanted).await?;
    let (mut found, mut unknown) = (vec![], vec![]);
    // Asked for at the same time, so that few requests describe them all.
    for (name, described) in tables.iter().zip(join_all(tables.iter().map(|name| describe(catalogue, name))).await) {
        match described {
            Ok(table) => {
                let refused = tenants.without_access(pool, upstream, &table).await?;
                found.extend(tenants.with(pool, &table, |tenant| !refused.contains_key(&tenant)).await?);
                let unreachable = |(tenant, error)| Unreachable { table: name.clone(), tenant: Some(tenant), error };
                unknown.extend(refused.into_iter().map(unreachable));
            }
            Err(error) => unknown.push(Unreachable { table: name.clone(), tenant: None, error: error.into() }),
        }
    }
    Ok((found, unknown))
}

/// The table as a company's, else as a customer's.
pub(super) async fn describe(catalogue: &Catalogue, name: &TableName) -> Result<Arc<TableSpec>, CatalogError> {
    match catalogue.table(TableLevel::Company, name, None).await {
        Err(CatalogError::Unknown { .. }) => match catalogue.table(TableLevel::Customer, name, None).await {
            Err(CatalogError::Unknown { table, .. }) => {
                Err(CatalogError::Unknown { table, level: "company or customer" })
            }
            found => found,
        },
        result => result,
    }
}

/// Whose tables are walked.
#[derive(Debug)]
pub(super) struct Tenants {
    companies: BTreeSet<i64>,
    /// Those of them that the service's list does not show.
    unlisted: BTreeSet<i64>,
    customers: BTreeSet<i64>,
}

impl Tenants {
    /// These companies, or all that the service may see, and their customers.
    pub(super) async fn visible(upstream: &Upstream, wanted: &[i64]) -> Result<Self, WalkError> {
        let visible = upstream.available_companies().await?;
        Ok(Self::among(&visible, wanted))
    }

    /// Whether there is no company.
    pub(super) fn is_empty(&self) -> bool {
        self.companies.is_empty()
    }

    fn among(visible: &[Company], wanted: &[i64]) -> Self {
        let companies: BTreeSet<i64> = if wanted.is_empty() {
            visible.iter().map(|company| company.company_no).collect()
        } else {
            // A company that the list does not show may still be readable; its walk will tell.
            wanted.iter().copied().collect()
        };
        let of = visible.iter().filter(|company| companies.contains(&company.company_no));
        let customers = of.filter_map(|company| company.customer_no).collect();
        let listed: BTreeSet<i64> = visible.iter().map(|company| company.company_no).collect();
        let unlisted = companies.difference(&listed).copied().collect();
        Self { companies, unlisted, customers }
    }

    /// Those who are not listed, of whose table nothing is known yet, and of which the API shows nothing.
    async fn without_access(
        &self,
        pool: &PgPool,
        upstream: &Upstream,
        table: &Arc<TableSpec>,
    ) -> Result<BTreeMap<Tenant, WalkError>, WalkError> {
        let mut refused = BTreeMap::new();
        if table.level == TableLevel::Customer {
            return Ok(refused);
        }
        for tenant in self.unlisted.iter().copied().map(Tenant::Company) {
            if queue::target::find(pool, tenant, &table.name).await?.is_some() {
                continue;
            }
            match upstream.first_key(tenant, table, PageAsk::default()).await {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => refused.insert(tenant, WalkError::Refused(error)),
                Err(error) => refused.insert(tenant, error.into()),
            };
        }
        Ok(refused)
    }

    /// The targets of a table that those of them have who are wanted.
    pub(super) async fn with(
        &self,
        pool: &PgPool,
        table: &Arc<TableSpec>,
        is_wanted: impl Fn(Tenant) -> bool,
    ) -> Result<Vec<TargetTable>, WalkError> {
        let tenants: Vec<Tenant> = match table.level {
            TableLevel::Company => self.companies.iter().map(|&number| Tenant::Company(number)).collect(),
            TableLevel::Customer => self.customers.iter().map(|&number| Tenant::Customer(number)).collect(),
        };
        let mut targets = Vec::with_capacity(tenants.len());
        for tenant in tenants.into_iter().filter(|&tenant| is_wanted(tenant)) {
            let id = queue::target::ensure(pool, tenant, &table.name).await?.id;
            targets.push(TargetTable { id, tenant, table: table.clone() });
        }
        Ok(targets)
    }
}
