//! The source's clock, which may be wrong.

use chrono::{DateTime, TimeDelta, Utc};

/// A clock that is off by a constant.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock {
    ahead_by: TimeDelta,
}

impl Clock {
    /// A clock that many seconds ahead of the true time, or behind it.
    pub fn ahead_by(seconds: i64) -> Self {
        Self { ahead_by: TimeDelta::seconds(seconds) }
    }

    /// What it shows.
    #[expect(clippy::disallowed_methods, reason = "the source has a clock of its own")]
    pub(super) fn now(self) -> DateTime<Utc> {
        Utc::now() + self.ahead_by
    }
}
