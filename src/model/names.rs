//! Names of values that the model does not list: learned from rows, a few at a time.

use std::collections::HashMap;

use super::{
    Keeper, ModelError,
    flags::{self, Told},
};
use crate::{
    domain::{ColumnType, TableSpec, Twin},
    mirror::Unnamed,
    upstream::NameAsk,
};

/// Values that one request asks for.
const ASK_MAX: i64 = 20;
/// Other values of a column of flags that are asked for beside one, since several tell more than one.
const BESIDE_MAX: i64 = 10;

/// A question, and the value that waits for its answer. Single bits are asked for although nothing waits for them.
type Question = (Option<Unnamed>, NameAsk);

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
        let (mut names, mut columns) = (vec![], HashMap::<_, Vec<Question>>::new());
        for unnamed in unnamed {
            match ask(&tables, &unnamed) {
                Some(ask) if ask.column.twin == Some(Twin::Flags) => {
                    let column = (unnamed.table.clone(), unnamed.column.clone());
                    columns.entry(column).or_default().push((Some(unnamed), ask));
                }
                Some(ask) => names.push((Some(unnamed), ask)),
                None => mirror.forget_unnamed(&unnamed).await?,
            }
        }
        self.name_values(names).await?;
        for questions in columns.into_values() {
            self.name_bits(questions, &tables).await?;
        }
        Ok(())
    }

    async fn tables(&self) -> Result<HashMap<String, TableSpec>, ModelError> {
        let specs = self.parts.mirror.descriptions().await?;
        Ok(specs.into_iter().map(|spec| (spec.name.to_string(), spec)).collect())
    }

    /// Asks for all together; if that fails, for each apart, since one may be to blame.
    async fn ask(&self, questions: &[Question]) -> Result<Vec<Option<Vec<String>>>, ModelError> {
        let asks: Vec<NameAsk> = questions.iter().map(|(_, ask)| ask.clone()).collect();
        let mut found = vec![];
        for asks in asks.chunks(ASK_MAX as usize) {
            match self.parts.upstream.value_names(asks).await {
                Ok(names) => found.extend(names),
                Err(error) if asks.len() == 1 => return Err(error.into()),
                Err(_) => {
                    for ask in asks {
                        let apart = self.parts.upstream.value_names(std::slice::from_ref(ask)).await;
                        found.extend(apart.unwrap_or(vec![None]));
                    }
                }
            }
        }
        Ok(found)
    }

    /// Names of enumerations: each value has its own.
    async fn name_values(&self, questions: Vec<Question>) -> Result<(), ModelError> {
        let found = self.ask(&questions).await?;
        for ((unnamed, ask), names) in questions.into_iter().zip(found) {
            if let (Some(unnamed), Some(name)) = (unnamed, names.and_then(|names| names.into_iter().next())) {
                self.learn(&ask, vec![(ask.value, name)]).await?;
                self.parts.mirror.forget_unnamed(&unnamed).await?;
            }
        }
        Ok(())
    }

    /// Names of the bits of one column: from these values, from others that wait, and from their bits alone.
    async fn name_bits(
        &self,
        mut questions: Vec<Question>,
        tables: &HashMap<String, TableSpec>,
    ) -> Result<(), ModelError> {
        let mirror = &self.parts.mirror;
        let Some((Some(first), column)) = questions.first().cloned() else { return Ok(()) };
        let known = mirror.names(&first.table, &first.column).await?;
        let taken: Vec<i64> = questions.iter().map(|(_, ask)| ask.value).collect();
        let beside = mirror.unnamed_beside(&first.table, &first.column, &taken, BESIDE_MAX).await?;
        questions.extend(beside.into_iter().filter_map(|unnamed| {
            let ask = ask(tables, &unnamed)?;
            Some((Some(unnamed), ask))
        }));
        questions.extend(single_bits(&questions, &known).into_iter().map(|ask| (None, ask)));
        let found = self.ask(&questions).await?;
        let told = |((_, ask), names): (&Question, Option<Vec<String>>)| {
            Some(Told { bits: bits(ask.value, ask.column.kind), names: names? })
        };
        let told: Vec<Told> = questions.iter().zip(found).filter_map(told).collect();
        let learned = flags::of_bits(&told, &known);
        let has_name = |bit: &i64| learned.iter().chain(&known).any(|(named, _)| named == bit);
        self.learn(&column, learned.clone()).await?;
        for (unnamed, ask) in questions {
            // A bit without a name may get one, so that its value is asked for again now and then.
            if let Some(unnamed) = unnamed
                && bits(ask.value, ask.column.kind).iter().all(has_name)
            {
                mirror.forget_unnamed(&unnamed).await?;
            }
        }
        Ok(())
    }

    async fn learn(&self, ask: &NameAsk, learned: Vec<(i64, String)>) -> Result<(), ModelError> {
        let column = ask.column.name.to_ascii_lowercase();
        let members: Vec<_> = learned.into_iter().map(|(value, name)| (column.clone(), value, name)).collect();
        Ok(self.parts.mirror.note_members(&ask.table, &members).await?)
    }
}

/// The bits without a name of values that have several bits, each by itself. A tenant that has the one may have the other.
fn single_bits(questions: &[Question], known: &[(i64, String)]) -> Vec<NameAsk> {
    let mut asks: Vec<NameAsk> = vec![];
    for (_, ask) in questions {
        for bit in bits(ask.value, ask.column.kind) {
            let is_asked = questions.iter().map(|(_, ask)| ask).chain(&asks).any(|ask| ask.value == bit);
            if !is_asked && asks.len() < ASK_MAX as usize && !known.iter().any(|(value, _)| *value == bit) {
                asks.push(NameAsk { value: bit, ..ask.clone() });
            }
        }
    }
    asks
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sign_is_the_highest_bit_of_its_type() {
        assert_eq!(bits(10, ColumnType::Integer), [2, 8]);
        assert_eq!(bits(-2_147_483_648, ColumnType::Integer), [2_147_483_648]);
        assert_eq!(bits(-32_768, ColumnType::SmallInt), [32_768]);
        assert_eq!(bits(i64::MIN, ColumnType::BigInt), [i64::MIN]);
        assert!(bits(0, ColumnType::Integer).is_empty());
    }
}
