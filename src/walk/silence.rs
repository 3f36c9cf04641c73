//! The silence alarm: changes that no notification announced, in a table that used to send them.

use sqlx::PgConnection;

use crate::{
    domain::{DatabaseTime, SourceTime, TargetTable},
    queue::{self, QueueError},
};

/// How old a change must be before its notification counts as missing.
const GRACE: chrono::Duration = chrono::Duration::seconds(60);

/// What a sweep heard of changes.
#[derive(Debug, Default)]
pub(super) struct Listener {
    /// Changes old enough, the oldest and the newest.
    heard: Option<(SourceTime, SourceTime)>,
}

impl Listener {
    /// Takes note of the changes of a page.
    pub(super) fn hear(&mut self, started_at: DatabaseTime, changes: impl Iterator<Item = SourceTime>) {
        let latest = SourceTime::as_if(started_at - GRACE);
        for change in changes.filter(|change| *change <= latest) {
            let (oldest, newest) = self.heard.unwrap_or((change, change));
            self.heard = Some((oldest.min(change), newest.max(change)));
        }
    }

    /// Raises the alarm when the source changed a row after the last notification of its table was received, and none
    /// waits. A notification that is received later ends it.
    pub(super) async fn report(self, connection: &mut PgConnection, target: &TargetTable) -> Result<(), QueueError> {
        let Some((oldest, newest)) = self.heard else { return Ok(()) };
        if queue::target::note_silence(connection, target.id, oldest, newest).await? {
            tracing::warn!(%target, "rows change but no notification comes any more: is the webhook subscription gone?");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use chrono::{TimeZone, Utc};

    use super::*;

    #[test]
    fn a_change_of_the_last_minute_may_still_be_announced() {
        let now = DatabaseTime::new(Utc.timestamp_opt(1_770_000_000, 0).unwrap());
        let ago = |seconds| SourceTime::as_if(now - chrono::Duration::seconds(seconds));
        let mut listener = Listener::default();
        listener.hear(now, [ago(59), ago(-3_600)].into_iter());
        assert_eq!(listener.heard, None);
        listener.hear(now, [ago(60), ago(600), ago(90)].into_iter());
        assert_eq!(listener.heard, Some((ago(600), ago(60))));
    }
}
