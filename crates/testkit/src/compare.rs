//! Mirror against source, row by row and column by column.

use std::{collections::BTreeMap, fmt};

use nxt_simulator::{Owner, Simulator};
use serde_json::{Map, Value as Json};
use sqlx::{AssertSqlSafe, PgPool};

use crate::names::snake_case;

/// Differences that are listed in full.
const SHOWN_MAX: usize = 20;

/// What a comparison found.
#[derive(Debug, Clone, Default)]
pub struct Comparison {
    /// Tables of tenants compared.
    pub tables: usize,
    /// Rows compared, those of the source and those that only the mirror has.
    pub rows: usize,
    /// Values compared.
    pub values: usize,
    /// One line each.
    pub differences: Vec<String>,
}

impl Comparison {
    /// Whether something was compared and nothing differs.
    pub fn is_equal(&self) -> bool {
        self.rows > 0 && self.differences.is_empty()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tables, rows, values, differences } = self;
        write!(f, "compared {tables} tables, {rows} rows, {values} values: {} differences", differences.len())?;
        for difference in differences.iter().take(SHOWN_MAX) {
            write!(f, "\n  {difference}")?;
        }
        Ok(())
    }
}

/// Compares every table that the simulator has rows of.
pub async fn compare(pool: &PgPool, simulator: &Simulator) -> anyhow::Result<Comparison> {
    let mut comparison = Comparison::default();
    for (owner, table) in simulator.tables() {
        let keys = simulator.key_columns(&table)?;
        let source = by_key(simulator.rows(owner, &table)?, &keys);
        let mirror =
            by_key(mirrored(pool, owner, &table).await?, &keys.iter().map(|key| snake_case(key)).collect::<Vec<_>>());
        comparison.tables += 1;
        comparison.table(&format!("{owner:?} {table}"), &source, &mirror);
    }
    Ok(comparison)
}

impl Comparison {
    fn table(&mut self, table: &str, source: &Rows, mirror: &Rows) {
        for (key, row) in source {
            self.rows += 1;
            match mirror.get(key) {
                None => self.differences.push(format!("{table} {key}: missing in the mirror")),
                Some(mirrored) => self.row(&format!("{table} {key}"), row, mirrored),
            }
        }
        for key in mirror.keys().filter(|key| !source.contains_key(*key)) {
            self.rows += 1;
            self.differences.push(format!("{table} {key}: only in the mirror"));
        }
    }

    fn row(&mut self, row: &str, source: &Map<String, Json>, mirror: &Map<String, Json>) {
        for (name, value) in source {
            self.values += 1;
            let mirrored = mirror.get(&snake_case(name)).unwrap_or(&Json::Null);
            if comparable(value) != comparable(mirrored) {
                self.differences.push(format!("{row} {name}: {value} in the source, {mirrored} in the mirror"));
            }
        }
    }
}

type Rows = BTreeMap<String, Map<String, Json>>;

fn by_key(rows: Vec<Map<String, Json>>, keys: &[String]) -> Rows {
    rows.into_iter()
        .map(|row| {
            (
                keys.iter()
                    .map(|key| row.get(key).cloned().unwrap_or_default().to_string())
                    .collect::<Vec<_>>()
                    .join("/"),
                row,
            )
        })
        .collect()
}

async fn mirrored(pool: &PgPool, owner: Owner, table: &str) -> anyhow::Result<Vec<Map<String, Json>>> {
    let name = snake_case(table);
    let exists: bool = sqlx::query_scalar("select to_regclass($1) is not null")
        .bind(format!("business_nxt.\"{name}\""))
        .fetch_one(pool)
        .await?;
    if !exists {
        return Ok(vec![]);
    }
    let (column, number) = match owner {
        Owner::Company(number) => ("_company_no", number),
        Owner::Customer(number) => ("_customer_no", number),
    };
    let sql = format!(
        "select row_to_json(m)::text from business_nxt.\"{name}\" m where {column} = $1 and _deleted_at is null"
    );
    let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql)).bind(number).fetch_all(pool).await?;
    Ok(rows.iter().map(|row| serde_json::from_str(row)).collect::<Result<_, _>>()?)
}

/// One form for both sides: decimals by their digits and exponent, times with six digits and no zone.
fn comparable(value: &Json) -> String {
    match value {
        Json::Number(number) => plain(&number.to_string()),
        Json::String(text) => match chrono::DateTime::parse_from_rfc3339(text) {
            Ok(time) => time.timestamp_micros().to_string(),
            Err(_) => match text.parse::<chrono::NaiveDateTime>() {
                Ok(time) => time.and_utc().timestamp_micros().to_string(),
                Err(_) => text.clone(),
            },
        },
        other => other.to_string(),
    }
}

/// A number as sign, significant digits and the exponent of the last one: `1.50`, `15e-1` and `1.5` are one.
fn plain(number: &str) -> String {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (sign, digits) = mantissa.strip_prefix('-').map_or(("", mantissa), |digits| ("-", digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0').trim_end_matches('0');
    if significant.is_empty() {
        return "0".to_owned();
    }
    let zeros = digits.len() - digits.trim_end_matches('0').len();
    let exponent = exponent.parse::<i64>().unwrap_or_default() - fraction.len() as i64 + zeros as i64;
    format!("{sign}{significant}e{exponent}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_in_several_spellings_is_one_number() {
        for (one, other) in [("1.50", "1.5"), ("1e-7", "0.0000001"), ("-0.0", "0"), ("1200", "1.2e3")] {
            assert_eq!(plain(one), plain(other), "{one} {other}");
        }
        assert_ne!(plain("1.5"), plain("15"));
        assert_ne!(plain("-1"), plain("1"));
    }
}
