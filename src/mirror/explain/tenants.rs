//! Names of companies and customers: all SQL on them.

use std::time::Duration;

use crate::mirror::Mirror;

impl Mirror {
    /// Whether the names are to be asked for, which nobody else does then for as long as `pause`: they are older than
    /// `interval`, or than the process that began so long ago, or a tenant that is mirrored has none.
    pub(crate) async fn take_tenant_names(
        &self,
        interval: Duration,
        began_ago: Duration,
        pause: Duration,
    ) -> Result<bool, sqlx::Error> {
        // Asked apart: where the names are on every node, nothing can be changed by them in the same statement.
        let is_nameless = self.has_nameless_tenant(pause).await?;
        sqlx::query!(
            "update nxt_mirror.tenant_names set asked_at = now()
              where asked_at < now() - make_interval(secs => $1) or asked_at < now() - make_interval(secs => $2)
                 or asked_at < now() - make_interval(secs => $3) and $4",
            interval.as_secs_f64(),
            began_ago.as_secs_f64(),
            pause.as_secs_f64(),
            is_nameless
        )
        .execute(&self.pool)
        .await
        .map(|done| done.rows_affected() > 0)
    }

    /// Whether a tenant that is mirrored has no name. All targets are looked at for it, and only when the pause is over.
    async fn has_nameless_tenant(&self, pause: Duration) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar!(
            r#"select case when exists (
                   select from nxt_mirror.tenant_names where asked_at < now() - make_interval(secs => $1))
               then exists (
                   select from nxt_mirror.target as target
                    where target.tenant_kind = 'company' and not exists (
                              select from business_nxt_model.company where company_no = target.tenant_no)
                       or target.tenant_kind = 'customer' and not exists (
                              select from business_nxt_model.customer where customer_no = target.tenant_no))
               else false end as "found!""#,
            pause.as_secs_f64()
        )
        .fetch_one(&self.pool)
        .await
    }

    /// Takes over the names of companies, and the customers they belong to. What is not among them keeps its name: the
    /// service may only have lost its access.
    pub(crate) async fn note_companies(&self, companies: &[(i64, Option<i64>, &str)]) -> Result<(), sqlx::Error> {
        let numbers: Vec<i64> = companies.iter().map(|(number, _, _)| *number).collect();
        let customers: Vec<Option<i64>> = companies.iter().map(|(_, customer, _)| *customer).collect();
        let names: Vec<String> = companies.iter().map(|(_, _, name)| storable(name)).collect();
        sqlx::query!(
            "insert into business_nxt_model.company as known (company_no, customer_no, name)
             select distinct on (given.company_no) given.company_no, given.customer_no, given.name
               from unnest($1::bigint[], $2::bigint[], $3::text[]) as given (company_no, customer_no, name)
             on conflict on constraint company_pkey
             do update set customer_no = excluded.customer_no, name = excluded.name
              where row(known.customer_no, known.name) is distinct from row(excluded.customer_no, excluded.name)",
            &numbers,
            &customers as &[Option<i64>],
            &names
        )
        .execute(&self.pool)
        .await
        .map(drop)
    }

    /// Takes over the names of customers.
    pub(crate) async fn note_customers(&self, customers: &[(i64, &str)]) -> Result<(), sqlx::Error> {
        let numbers: Vec<i64> = customers.iter().map(|(number, _)| *number).collect();
        let names: Vec<String> = customers.iter().map(|(_, name)| storable(name)).collect();
        sqlx::query!(
            "insert into business_nxt_model.customer as known (customer_no, name)
             select distinct on (given.customer_no) given.customer_no, given.name
               from unnest($1::bigint[], $2::text[]) as given (customer_no, name)
             on conflict on constraint customer_pkey do update set name = excluded.name
              where known.name is distinct from excluded.name",
            &numbers,
            &names
        )
        .execute(&self.pool)
        .await
        .map(drop)
    }
}

/// PostgreSQL's text cannot hold a NUL character.
pub(super) fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
