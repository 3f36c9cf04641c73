//! Which tables of which tenants a walk is about.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::future::join_all;
use sqlx::PgPool;

use super::WalkError;
use crate::{
    config::MirrorSettings,
    domain::{TableLevel, TableName, TableSpec, TargetTable, Tenant},
    queue,
    upstream::{CatalogError, Catalogue, Company, Upstream},
};

/// Tables and companies by name.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Tables; empty: those of the settings.
    pub tables: Vec<TableName>,
    /// Companies; empty: those of the settings, else all that the service may see.
    pub companies: Vec<i64>,
}

/// The targets of a selection in the order of its tables, and the tables that cannot be described, with why.
pub type Found = (Vec<TargetTable>, Vec<(TableName, CatalogError)>);

/// Finds the targets of a selection, and gives each its number. A table that exists at neither level is told by its
/// error.
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
            Ok(table) => found.extend(tenants.with(pool, &table).await?),
            Err(error) => unknown.push((name.clone(), error)),
        }
    }
    Ok((found, unknown))
}

/// The table as a company's, else as a customer's.
pub(super) async fn describe(catalogue: &Catalogue, name: &TableName) -> Result<Arc<TableSpec>, CatalogError> {
    match catalogue.table(TableLevel::Company, name, None).await {
        Err(CatalogError::Unknown { .. }) => catalogue.table(TableLevel::Customer, name, None).await,
        result => result,
    }
}

/// Whose tables are walked.
#[derive(Debug)]
pub(super) struct Tenants {
    companies: BTreeSet<i64>,
    customers: BTreeSet<i64>,
}

impl Tenants {
    /// These companies, or all that the service may see, and their customers.
    pub(super) async fn visible(upstream: &Upstream, wanted: &[i64]) -> Result<Self, WalkError> {
        let visible = upstream.available_companies().await?;
        Ok(Self::among(&visible, wanted))
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
        Self { companies, customers }
    }

    /// Their targets of a table.
    pub(super) async fn with(&self, pool: &PgPool, table: &Arc<TableSpec>) -> Result<Vec<TargetTable>, WalkError> {
        let tenants: Vec<Tenant> = match table.level {
            TableLevel::Company => self.companies.iter().map(|&number| Tenant::Company(number)).collect(),
            TableLevel::Customer => self.customers.iter().map(|&number| Tenant::Customer(number)).collect(),
        };
        let mut targets = Vec::with_capacity(tenants.len());
        for tenant in tenants {
            let id = queue::target::ensure(pool, tenant, &table.name).await?.id;
            targets.push(TargetTable { id, tenant, table: table.clone() });
        }
        Ok(targets)
    }
}
