//! Names of companies and customers.

use super::{Keeper, ModelError, PAUSE};

impl Keeper {
    /// Asks for the names of all tenants, when they are old or one is missing.
    pub(super) async fn keep_tenants(&self) -> Result<(), ModelError> {
        let (mirror, upstream) = (&self.parts.mirror, &self.parts.upstream);
        if !mirror.take_tenant_names(self.interval, self.began.elapsed(), PAUSE).await? {
            return Ok(());
        }
        let companies = upstream.available_companies().await?;
        let names: Vec<_> = companies.iter().map(|own| (own.company_no, own.customer_no, own.name.as_str())).collect();
        mirror.note_companies(&names).await?;
        let customers = upstream.available_customers().await?;
        let names: Vec<_> = customers.iter().map(|own| (own.customer_no, own.name.as_str())).collect();
        mirror.note_customers(&names).await?;
        Ok(())
    }
}
