//! A load that an operator ordered, over many tables: killed, it goes on with the tables it had not finished.

use sha2::{Digest, Sha256};
use sqlx::PgPool;

use crate::domain::{DatabaseTime, TargetId, TargetTable};

/// An order under way.
#[derive(Debug, Clone)]
pub struct Order {
    selection: String,
    started_at: DatabaseTime,
    is_new: bool,
}

impl Order {
    /// Takes up the order of these targets if it was given within the last day and has not come to its end, or gives it.
    pub async fn begin(pool: &PgPool, targets: &[TargetTable]) -> Result<Self, sqlx::Error> {
        let selection = digest(targets);
        let order = sqlx::query!(
            r#"insert into nxt_mirror.ordered_load as own (selection, started_at) values ($1, now())
               on conflict on constraint ordered_load_pkey do update set
                   started_at = case when own.started_at < now() - interval '1 day' then excluded.started_at
                                     else own.started_at end
               returning started_at as "started_at: DatabaseTime", started_at = now() as "is_new!""#,
            &selection
        )
        .fetch_one(pool)
        .await?;
        Ok(Self { selection, started_at: order.started_at, is_new: order.is_new })
    }

    /// Whether it was given now, rather than taken up.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Whether a walk of this table has come to its end since the order was given, and has read every row.
    pub async fn has_done(&self, pool: &PgPool, target: TargetId) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar!(
            r#"select exists (select from nxt_mirror.walk
                               where target_id = $1 and finished_at is not null and note is null and started_at >= $2)
                          as "exists!""#,
            target as _,
            self.started_at as _
        )
        .fetch_one(pool)
        .await
    }

    /// The order has come to its end, well or not: the next one like it starts anew.
    pub async fn finish(self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let done = sqlx::query!("delete from nxt_mirror.ordered_load where selection = $1", self.selection);
        done.execute(pool).await.map(drop)
    }
}

fn digest(targets: &[TargetTable]) -> String {
    let mut names: Vec<String> = targets.iter().map(ToString::to_string).collect();
    names.sort_unstable();
    Sha256::digest(names.join("\n")).iter().map(|byte| format!("{byte:02x}")).collect()
}
