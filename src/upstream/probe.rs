//! Questions that no row answers.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    Ask, AskError, Share, Upstream, UpstreamError, answer,
    request::{PartOf, Request},
};
use crate::domain::{TableSpec, Tenant};

/// Tables that one question is about.
const TABLES_MAX: usize = 20;

impl Upstream {
    /// Whether the API answers at all.
    pub async fn probe(&self) -> Result<(), UpstreamError> {
        let body = json!({ "query": "query Probe { __typename }", "operationName": "Probe" });
        match self.post(&[], Share::Live, &body).await {
            Ok(answer) if answer.errors.is_empty() => Ok(()),
            Ok(answer) => Err(UpstreamError::Graphql(answer.errors)),
            Err(error) => Err(error),
        }
    }

    /// Whether this table of this tenant can be read. Only the ask's first key is used, for a filter that no row
    /// passes.
    pub async fn probe_table(&self, ask: &Ask) -> Result<Result<(), AskError>, UpstreamError> {
        let column = &ask.table.key_columns().next().expect("a table's key has columns").name;
        let value = &ask.keys[0].values()[0];
        let nothing = json!({ "_and": [{ column: { "_eq": value } }, { column: { "_not_eq": value } }] });
        let part = PartOf { tenant: ask.tenant, table: &ask.table, filter: nothing, rows_max: 1 };
        let request = Request::build("ProbeTable", vec![part]);
        let answer = self.post(&request.tenants, Share::Live, &request.body).await?;
        let page = answer::read(&answer, &request.places, self.timezone).into_iter().next();
        Ok(page.expect("one place gives one page").map(drop))
    }

    /// Whether each of these tables can be read, by few requests.
    pub async fn probe_targets(
        &self,
        targets: &[(Tenant, Arc<TableSpec>)],
    ) -> Result<Vec<Result<(), AskError>>, UpstreamError> {
        let mut told = Vec::with_capacity(targets.len());
        for some in targets.chunks(TABLES_MAX) {
            for (target, together) in some.iter().zip(self.probe_together(some).await?) {
                // One that cannot be read may have spoilt the answer about the others.
                let alone = match &together {
                    Err(_) if some.len() > 1 => self.probe_together(std::slice::from_ref(target)).await?.pop(),
                    _ => None,
                };
                told.push(alone.unwrap_or(together));
            }
        }
        Ok(told)
    }

    async fn probe_together(
        &self,
        targets: &[(Tenant, Arc<TableSpec>)],
    ) -> Result<Vec<Result<(), AskError>>, UpstreamError> {
        let parts =
            targets.iter().map(|(tenant, table)| PartOf { tenant: *tenant, table, filter: Value::Null, rows_max: 1 });
        let request = Request::build("ProbeTables", parts.collect());
        let answer = self.post(&request.tenants, Share::Background, &request.body).await?;
        Ok(answer::read(&answer, &request.places, self.timezone).into_iter().map(|page| page.map(drop)).collect())
    }
}
