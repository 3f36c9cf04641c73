//! Names of values that the model does not list: learned from rows, a few at a time.

use std::collections::HashMap;

use super::{Keeper, ModelError};
use crate::{
    domain::{ColumnType, TableSpec, Twin},
    mirror::Unnamed,
    upstream::NameAsk,
};

/// Values that one request asks for.
const ASK_MAX: i64 = 20;

impl Keeper {
    /// Takes in values that were met, and asks for the names of some.
    pub(super) async fn keep_names(&self) -> Result<(), ModelError> {
        let mirror = &self.parts.mirror;
        mirror.gather_met_values().await?;
        let unnamed = mirror.take_unnamed(ASK_MAX).await?;
        if unnamed.is_empty() {
            return Ok(());
        }
        let tables = self.tables().await?;
        let mut asks = vec![];
        for unnamed in unnamed {
            match ask(&tables, &unnamed) {
                Some(ask) => asks.push((unnamed, ask)),
                None => mirror.forget_unnamed(&unnamed).await?,
            }
        }
        self.ask(asks).await
    }

    async fn tables(&self) -> Result<HashMap<String, TableSpec>, ModelError> {
        let specs = self.parts.mirror.descriptions().await?;
        Ok(specs.into_iter().map(|spec| (spec.name.to_string(), spec)).collect())
    }

    /// Asks for all together; if that fails, for each apart, since one may be to blame.
    async fn ask(&self, asks: Vec<(Unnamed, NameAsk)>) -> Result<(), ModelError> {
        let all: Vec<NameAsk> = asks.iter().map(|(_, ask)| ask.clone()).collect();
        if all.is_empty() {
            return Ok(());
        }
        let found = match self.parts.upstream.value_names(&all).await {
            Ok(found) => found,
            Err(error) if all.len() == 1 => return Err(error.into()),
            Err(_) => {
                let mut found = vec![];
                for ask in &all {
                    found
                        .extend(self.parts.upstream.value_names(std::slice::from_ref(ask)).await.unwrap_or(vec![None]));
                }
                found
            }
        };
        for ((unnamed, ask), names) in asks.into_iter().zip(found) {
            if let Some(names) = names {
                self.learn(&unnamed, &ask, names).await?;
            }
        }
        Ok(())
    }

    async fn learn(&self, unnamed: &Unnamed, ask: &NameAsk, names: Vec<String>) -> Result<(), ModelError> {
        let mirror = &self.parts.mirror;
        let learned = match ask.column.twin {
            Some(Twin::Flags) => {
                let known = mirror.names(&unnamed.table, &unnamed.column).await?;
                of_bits(bits(ask.value, ask.column.kind), &names, &known)
            }
            _ => names.into_iter().take(1).map(|name| (ask.value, name)).collect(),
        };
        let column = ask.column.name.to_ascii_lowercase();
        let is_whole = !learned.is_empty();
        let members: Vec<_> = learned.into_iter().map(|(value, name)| (column.clone(), value, name)).collect();
        mirror.note_members(&ask.table, &members).await?;
        if is_whole {
            mirror.forget_unnamed(unnamed).await?;
        }
        Ok(())
    }
}

/// What to ask; `None` for a column that has no names any more.
fn ask(tables: &HashMap<String, TableSpec>, unnamed: &Unnamed) -> Option<NameAsk> {
    let table = tables.get(&unnamed.table)?;
    let column = table.columns.iter().find(|column| column.sql_name == unnamed.column)?;
    column.twin.filter(|twin| twin.has_names())?;
    Some(NameAsk { tenant: unnamed.tenant, table: table.clone(), column: column.clone(), value: unnamed.value })
}

/// The bits of a value of this type, the lowest first.
fn bits(value: i64, kind: ColumnType) -> Vec<i64> {
    let width = match kind {
        ColumnType::SmallInt => 16,
        ColumnType::Integer => 32,
        _ => 64,
    };
    (0..width).map(|bit| 1_i64 << bit).filter(|bit| value & bit != 0).collect()
}

/// Which name is which bit's: those that are known aside, the rest go together if there are as many names as bits. Names
/// come in the order of their bits.
fn of_bits(bits: Vec<i64>, names: &[String], known: &[(i64, String)]) -> Vec<(i64, String)> {
    let is_known_bit = |bit: &i64| known.iter().any(|(value, name)| value == bit && names.contains(name));
    let is_new_name = |name: &&String| !known.iter().any(|(value, own)| own == *name && bits.contains(value));
    let names: Vec<&String> = names.iter().filter(is_new_name).collect();
    let bits: Vec<i64> = bits.iter().copied().filter(|bit| !is_known_bit(bit)).collect();
    if names.len() != bits.len() {
        return vec![];
    }
    bits.into_iter().zip(names.into_iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn bits_are_told_apart_by_what_is_known_of_them() {
        assert_eq!(of_bits(vec![8], &names(&["Rates"]), &[]), [(8, "Rates".to_owned())]);
        assert_eq!(
            of_bits(vec![2, 8], &names(&["Note", "Rates"]), &[]),
            [(2, "Note".to_owned()), (8, "Rates".to_owned())]
        );
        let known = [(2, "Note".to_owned())];
        assert_eq!(of_bits(vec![2, 8], &names(&["Rates", "Note"]), &known), [(8, "Rates".to_owned())]);
        assert!(of_bits(vec![2, 8, 64], &names(&["Note", "Rates"]), &known).is_empty(), "a bit without a name");
        assert!(of_bits(vec![2], &names(&["Note"]), &known).is_empty());
    }

    #[test]
    fn the_sign_is_the_highest_bit_of_its_type() {
        assert_eq!(bits(10, ColumnType::Integer), [2, 8]);
        assert_eq!(bits(-2_147_483_648, ColumnType::Integer), [2_147_483_648]);
        assert_eq!(bits(-32_768, ColumnType::SmallInt), [32_768]);
        assert_eq!(bits(i64::MIN, ColumnType::BigInt), [i64::MIN]);
        assert!(bits(0, ColumnType::Integer).is_empty());
    }
}
