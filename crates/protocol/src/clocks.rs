//! From the model's moments to the times of two clocks.

use chrono::{DateTime, Duration, Utc};
use nxt_mirror::domain::{
    DatabaseTime, SourceTime,
    settle::{Announcement, Deletion, Evidence, Mirrored, Observed, Rechecks},
};

use super::world::{Dirty, Gone, Moment, Row, Rules};

/// From the model's moments to the times that the rules know.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    /// By which the row is settled.
    pub rules: Rules,
    /// How far the source's clock is ahead of the database's, in seconds.
    pub ahead: i64,
    /// Whether notifications tell when the row was changed.
    pub dated: bool,
}

impl Clocks {
    fn database(moment: Moment) -> DatabaseTime {
        DatabaseTime::new(instant(i64::from(moment)))
    }

    fn source(self, moment: Moment) -> SourceTime {
        SourceTime::new(instant(i64::from(moment) + self.ahead))
    }

    /// What the rules know of a deletion.
    pub fn deletion(self, gone: Gone) -> Deletion {
        let received_at = Self::database(gone.received_at);
        match gone.is_found {
            true => Deletion { at: SourceTime::as_if(Self::database(gone.at)), received_at },
            false => Deletion { at: self.source(gone.at), received_at },
        }
    }

    /// What the rules know of a row that waits.
    pub fn evidence(self, dirty: Option<Dirty>) -> Evidence {
        let Some(dirty) = dirty else { return Evidence::default() };
        Evidence {
            deletion: dirty.deletion.map(|gone| self.deletion(gone)),
            announcement: dirty.announced.map(|at| Announcement { changed_at: self.dated.then(|| self.source(at)) }),
            rechecks: Rechecks { found: dirty.rechecks.0.into(), missing: dirty.rechecks.1.into() },
        }
    }

    /// What the rules know of the mirror.
    pub fn mirrored(self, mirror: Option<(Row, Moment)>) -> Option<Mirrored> {
        mirror.map(|(row, fetched_at)| Mirrored {
            changed_at: Some(self.source(row.changed_at)),
            fetched_at: Self::database(fetched_at),
        })
    }

    /// What the rules know of an answer; nothing where none was asked for.
    pub fn observed(self, seen: Option<(Moment, Option<Row>)>, is_overtaken: bool) -> Observed {
        match seen {
            None => Observed::Nothing,
            Some((started_at, Some(row))) => {
                let changed_at = Some(self.source(row.changed_at));
                Observed::Found { started_at: Self::database(started_at), changed_at }
            }
            Some((started_at, None)) => Observed::Missing { started_at: Self::database(started_at), is_overtaken },
        }
    }
}

fn instant(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_770_000_000, 0).expect("a time") + Duration::seconds(seconds)
}
