//! Labels of tables and columns, and the names of values that the model lists.

use super::{Keeper, ModelError, PAUSE};
use crate::{
    domain::TableSpec,
    mirror::{LabelledAs, Labels},
    upstream::TableModel,
};

impl Keeper {
    /// Asks for the labels of the tables whose turn it is, and brings their comments in line.
    pub(super) async fn keep_labels(&mut self) -> Result<(), ModelError> {
        let (language, mirror) = (self.parts.language, self.parts.mirror.clone());
        let due = mirror.take_due_labels(language, self.interval, self.began.elapsed(), PAUSE).await?;
        if due.is_empty() {
            return Ok(());
        }
        let found = self.models(&due).await?;
        for (table, model) in due.iter().zip(found) {
            let Some(model) = model else {
                tracing::warn!(table = %table.name, "the model lists nothing for a table: its labels stay as they are");
                continue;
            };
            mirror.note_members(table, &model.members).await?;
            let labels = Labels { table: model.label, columns: model.column_labels };
            mirror.note_labels(&table.name, LabelledAs { language, labels: &labels }).await?;
            mirror.explain_or_note(table).await;
        }
        Ok(())
    }

    async fn models(&mut self, tables: &[TableSpec]) -> Result<Vec<Option<TableModel>>, ModelError> {
        let Some(shape) = self.shape().await? else { return Ok(vec![Some(TableModel::default()); tables.len()]) };
        let found = self.parts.upstream.model(&shape, tables, self.parts.language).await;
        if found.is_err() {
            // It may be of another shape by now.
            self.shape = None;
        }
        Ok(found?)
    }
}
