//! The silence alarm: changes that no notification announced, in a table that used to send them.

use sqlx::PgConnection;

use super::Target;
use crate::domain::Time;

/// How old a change must be before its notification counts as missing.
const GRACE: chrono::Duration = chrono::Duration::seconds(60);

/// What a sweep heard of changes.
#[derive(Debug, Default)]
pub(super) struct Listener {
    /// Changes old enough, the oldest and the newest.
    heard: Option<(Time, Time)>,
}

impl Listener {
    /// Takes note of the changes of a page.
    pub(super) fn hear(&mut self, started_at: Time, changes: impl Iterator<Item = Time>) {
        for change in changes.filter(|change| *change <= started_at - GRACE) {
            let (oldest, newest) = self.heard.unwrap_or((change, change));
            self.heard = Some((oldest.min(change), newest.max(change)));
        }
    }

    /// Raises the alarm when the source changed a row after the last notification of its table was received, and none
    /// waits. A notification that is received later ends it.
    pub(super) async fn report(self, connection: &mut PgConnection, target: &Target) -> Result<(), sqlx::Error> {
        let Some((oldest, newest)) = self.heard else { return Ok(()) };
        let raised = sqlx::query(
            "update nxt_mirror.mirrored_tenant t
                set silent_since = greatest($4, t.last_notified_at)
              where (t.tenant_kind, t.tenant_no, t.table_name) = ($1, $2, $3)
                and t.silent_since is null and t.last_notified_at < $5
                and not exists (
                    select from nxt_mirror.dirty_row d
                     where (d.tenant_kind, d.tenant_no, d.table_name) = ($1, $2, $3) and d.notification_id is not null)",
        )
        .bind(target.tenant.kind())
        .bind(target.tenant.number())
        .bind(target.table.name.as_str())
        .bind(oldest)
        .bind(newest)
        .execute(connection)
        .await?;
        if raised.rows_affected() > 0 {
            tracing::warn!(%target, "rows change but no notification comes any more: is the webhook subscription gone?");
        }
        Ok(())
    }
}
