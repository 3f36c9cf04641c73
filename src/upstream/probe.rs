//! Questions that no row answers.

use serde_json::json;

use super::{
    Ask, AskError, Share, Upstream, UpstreamError, answer,
    request::{PartOf, Request},
};

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
}
