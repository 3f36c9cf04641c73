//! Which tables of which tenants a walk is about.

use std::collections::BTreeSet;

use super::{Target, WalkError};
use crate::{
    config::MirrorSettings,
    domain::{TableLevel, TableName, Tenant},
    upstream::{Catalog, CatalogError, Upstream},
};

/// Tables and companies by name.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Tables; empty: those of the settings.
    pub tables: Vec<TableName>,
    /// Companies; empty: those of the settings, else all that the service may see.
    pub companies: Vec<i64>,
}

/// Finds the targets of a selection. A table that exists at neither level is told by its error.
pub async fn targets(
    upstream: &Upstream,
    catalog: &Catalog,
    settings: &MirrorSettings,
    selection: &Selection,
) -> Result<(Vec<Target>, Vec<(TableName, CatalogError)>), WalkError> {
    let tables = if selection.tables.is_empty() { &settings.tables } else { &selection.tables };
    let wanted = if selection.companies.is_empty() { &settings.companies } else { &selection.companies };
    let visible = upstream.available_companies().await?;
    let companies: BTreeSet<i64> = if wanted.is_empty() {
        visible.iter().map(|company| company.company_no).collect()
    } else {
        // A company that the list does not show may still be readable; its walk will tell.
        wanted.iter().copied().collect()
    };
    let customers: BTreeSet<i64> = visible
        .iter()
        .filter(|company| companies.contains(&company.company_no))
        .filter_map(|company| company.customer_no)
        .collect();
    let (mut found, mut unknown) = (vec![], vec![]);
    for name in tables {
        match catalog.table(TableLevel::Company, name, None).await {
            Ok(table) => found.extend(
                companies.iter().map(|&number| Target { tenant: Tenant::Company(number), table: table.clone() }),
            ),
            Err(CatalogError::Unknown { .. }) => match catalog.table(TableLevel::Customer, name, None).await {
                Ok(table) => found.extend(
                    customers.iter().map(|&number| Target { tenant: Tenant::Customer(number), table: table.clone() }),
                ),
                Err(error) => unknown.push((name.clone(), error)),
            },
            Err(error) => unknown.push((name.clone(), error)),
        }
    }
    Ok((found, unknown))
}
