//! What the model calls tables, columns, companies and customers, for those who show them to people beside their
//! identifiers and numbers.

use std::collections::{BTreeMap, HashMap};

use sqlx::{PgPool, types::Json};

use crate::domain::TableName;

/// Characters of a name that are shown.
const CHARACTERS_MAX: usize = 80;

/// Names of mirrored tables, and of the tenants that are mirrored. What has none yet is not among them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DisplayNames {
    tables: HashMap<String, String>,
    companies: HashMap<i64, String>,
    customers: HashMap<i64, String>,
}

impl DisplayNames {
    /// Reads them.
    pub async fn read(pool: &PgPool) -> Result<Self, sqlx::Error> {
        let found = sqlx::query!(
            r#"select 'table' as "kind!", table_name as "table_name?", null::bigint as "number?", label as "name?"
                 from nxt_mirror.explanation where label is not null
                union all
               select tenant.tenant_kind, null, tenant.tenant_no, coalesce(company.name, customer.name)
                 from (select distinct tenant_kind, tenant_no from nxt_mirror.target) as tenant
                 left join business_nxt_model.company as company
                        on tenant.tenant_kind = 'company' and company.company_no = tenant.tenant_no
                 left join business_nxt_model.customer as customer
                        on tenant.tenant_kind = 'customer' and customer.customer_no = tenant.tenant_no"#
        )
        .fetch_all(pool)
        .await?;
        let mut names = Self::default();
        for row in found {
            let Some(name) = row.name.as_deref().and_then(shown) else { continue };
            match (row.kind.as_str(), row.table_name, row.number) {
                ("table", Some(table), _) => drop(names.tables.insert(table, name)),
                ("company", _, Some(number)) => drop(names.companies.insert(number, name)),
                ("customer", _, Some(number)) => drop(names.customers.insert(number, name)),
                _ => {}
            }
        }
        Ok(names)
    }

    /// The label of a table, by the API's name.
    pub fn table(&self, table: &str) -> Option<&str> {
        self.tables.get(table).map(String::as_str)
    }

    /// The name of a tenant: of the two numbers that of the one that is not null.
    pub fn tenant(&self, company: Option<i64>, customer: Option<i64>) -> Option<&str> {
        let found = match (company, customer) {
            (Some(company), _) => self.companies.get(&company),
            (None, customer) => self.customers.get(&customer?),
        };
        found.map(String::as_str)
    }

    /// Labels of tables, by the API's names in order.
    pub fn tables(&self) -> BTreeMap<&str, &str> {
        self.tables.iter().map(|(table, label)| (table.as_str(), label.as_str())).collect()
    }

    /// Names of companies, in the order of their numbers.
    pub fn companies(&self) -> BTreeMap<i64, &str> {
        self.companies.iter().map(|(number, name)| (*number, name.as_str())).collect()
    }

    /// Names of customers, in the order of their numbers.
    pub fn customers(&self) -> BTreeMap<i64, &str> {
        self.customers.iter().map(|(number, name)| (*number, name.as_str())).collect()
    }
}

/// The labels of a table's columns, by the API's names in lower case.
pub async fn column_labels(pool: &PgPool, table: &TableName) -> Result<BTreeMap<String, String>, sqlx::Error> {
    let found = sqlx::query_scalar!(
        r#"select column_labels as "labels: Json<BTreeMap<String, String>>"
             from nxt_mirror.explanation where table_name = $1"#,
        table.as_str()
    )
    .fetch_optional(pool)
    .await?;
    let labels = found.map(|Json(labels)| labels).unwrap_or_default();
    Ok(labels.into_iter().filter_map(|(column, label)| Some((column, shown(&label)?))).collect())
}

/// A name as it can stand in a line: somebody typed it, and it may be anything.
fn shown(name: &str) -> Option<String> {
    let plain: String = name.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
    let plain = plain.trim();
    let mut characters = plain.chars();
    let begin: String = characters.by_ref().take(CHARACTERS_MAX).collect();
    let is_cut = characters.next().is_some();
    (!begin.is_empty()).then(|| if is_cut { format!("{}…", begin.trim_end()) } else { begin })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_somebody_typed_stands_in_one_short_line() {
        assert_eq!(shown(" Nordlys AS\n").as_deref(), Some("Nordlys AS"));
        assert_eq!(shown("one\r\ntwo\u{1b}[31m").as_deref(), Some("one  two [31m"));
        assert_eq!(shown(" \t"), None);
        let long = shown(&"å".repeat(10_000)).unwrap();
        assert_eq!((long.chars().count(), long.ends_with('…')), (CHARACTERS_MAX + 1, true));
        assert_eq!(shown(&"å".repeat(CHARACTERS_MAX)).unwrap().chars().count(), CHARACTERS_MAX);
    }
}
