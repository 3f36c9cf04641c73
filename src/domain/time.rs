//! Times of two clocks.
//!
//! The source stamps changes and deletions; the mirror's database stamps arrivals and the starts of requests. The two are
//! types of their own, so that the compiler tells where they meet: in the functions of this file and nowhere else.

use std::{
    fmt,
    ops::{Add, Sub},
};

use chrono::{DateTime, Datelike, Duration, LocalResult, NaiveDate, NaiveDateTime, SubsecRound, TimeZone, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

/// How far two times of the source, or of the two clocks, may lie apart and still not tell which was first: a DELETE's
/// `timestamp` is stamped a little after the deletion (webhook documentation, 2025-02).
pub const AMBIGUITY_WINDOW: Duration = Duration::seconds(60);

macro_rules! clock {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, sqlx::Type)]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(DateTime<Utc>);

        impl $name {
            /// An instant of this clock, cut to the microseconds that PostgreSQL keeps.
            pub fn new(instant: DateTime<Utc>) -> Self {
                Self(instant.trunc_subsecs(6))
            }

            /// The instant, whose clock is forgotten.
            pub fn utc(self) -> DateTime<Utc> {
                self.0
            }

            /// Before the other by more than [`AMBIGUITY_WINDOW`].
            pub fn is_clearly_before(self, other: Self) -> bool {
                self.0 + AMBIGUITY_WINDOW < other.0
            }
        }

        impl Add<Duration> for $name {
            type Output = Self;

            fn add(self, duration: Duration) -> Self {
                Self(self.0 + duration)
            }
        }

        impl Sub<Duration> for $name {
            type Output = Self;

            fn sub(self, duration: Duration) -> Self {
                Self(self.0 - duration)
            }
        }

        impl Sub for $name {
            type Output = Duration;

            fn sub(self, other: Self) -> Duration {
                self.0 - other.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0.format("%Y-%m-%dT%H:%M:%S%.6fZ"))
            }
        }
    };
}

clock! {
    /// An instant by the source's clock: when a row was changed or deleted there.
    SourceTime
}
clock! {
    /// An instant by the clock of the mirror's database, which all replicas share: when something arrived or began.
    DatabaseTime
}

impl SourceTime {
    /// The source's time of something that was seen at this moment, taken as if the two clocks agreed.
    pub fn as_if(seen_at: DatabaseTime) -> Self {
        Self(seen_at.0)
    }

    /// Whether it lies in the future of this moment beyond doubt: a clock, or the zone it was read by, is wrong, and it
    /// proves nothing.
    pub fn is_ahead_of(self, moment: DatabaseTime) -> bool {
        moment.0 + AMBIGUITY_WINDOW < self.0
    }

    /// Whether it reads later than this moment, by whatever little. The clocks may differ by more: to be used only where
    /// the answer `true` leads to asking the source.
    pub fn reads_after(self, moment: DatabaseTime) -> bool {
        self.0 > moment.0
    }
}

impl DatabaseTime {
    /// Whether it lies before a time of the source beyond doubt.
    pub fn is_clearly_before_source(self, source: SourceTime) -> bool {
        source.is_ahead_of(self)
    }

    /// Whether it reads later than a time of the source, by whatever little. As [`SourceTime::reads_after`].
    pub fn reads_after(self, source: SourceTime) -> bool {
        self.0 > source.0
    }

    /// Reads a moment that a person wrote: ISO 8601, UTC where no offset says otherwise.
    pub fn parse(text: &str) -> Option<Self> {
        parse_utc(text).map(|time| Self(time.0))
    }
}

/// Reads the body's `timestamp`: ISO 8601, up to nine decimals, `Z`, an offset, or nothing for UTC.
pub fn parse_utc(text: &str) -> Option<SourceTime> {
    parse_in_zone(text, Tz::UTC)
}

/// Reads a `DateTime` of the API; a text without an offset is local time of `zone`.
///
/// Also takes the integer form `yyyymmddhhmmssfff`, since the API notes expect either form in either place. An
/// hour that a zone's clock shows twice means the earlier one; an hour it skips means the same distance from UTC
/// as just before.
pub fn parse_in_zone(text: &str, zone: Tz) -> Option<SourceTime> {
    let text = text.trim();
    if let Ok(with_offset) = DateTime::parse_from_rfc3339(text) {
        return Some(SourceTime::new(with_offset.with_timezone(&Utc))).filter(|time| in_range(time.0.year()));
    }
    let local = match text.parse::<i64>() {
        Ok(digits) => from_digits(digits)?,
        Err(_) => parse_local(text)?,
    };
    in_zone(local, zone)
}

/// The text from which on a table in local time of `zone` has all that was changed after a moment. In an hour that the
/// zone's clock shows twice, what is changed later may be dated earlier: there it is the beginning of that hour or before.
pub fn local_since(moment: SourceTime, zone: Tz) -> String {
    let mut local = moment.0.with_timezone(&zone).naive_local();
    if let LocalResult::Ambiguous(first, second) = zone.from_local_datetime(&local) {
        local -= second.signed_duration_since(first);
    }
    // Without an offset, as the API itself writes it.
    local.format("%Y-%m-%dT%H:%M:%S%.6f").to_string()
}

/// Reads a date and time that has no zone, keeping it as it stands but for an offset, which is dropped with care:
/// a text with one is moved to UTC first.
pub fn parse_local(text: &str) -> Option<NaiveDateTime> {
    const FORMS: [&str; 4] = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"];
    if let Ok(with_offset) = DateTime::parse_from_rfc3339(text) {
        return Some(with_offset.naive_utc().trunc_subsecs(6)).filter(|local| in_range(local.year()));
    }
    FORMS
        .iter()
        .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())
        .or_else(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0))
        .map(|local| local.trunc_subsecs(6))
        .filter(|local| in_range(local.year()))
}

/// The years of SQL Server's `datetime2`. PostgreSQL has fewer than chrono, and no text may bring one it lacks.
fn in_range(year: i32) -> bool {
    (1..=9999).contains(&year)
}

/// Reads `ChangedTimestamp` of a webhook: the integer `yyyymmddhhmmssfff` in UTC (webhook documentation, 2025-02).
pub fn from_webhook_digits(digits: i64) -> Option<SourceTime> {
    Some(SourceTime::new(Utc.from_utc_datetime(&from_digits(digits)?)))
}

fn from_digits(digits: i64) -> Option<NaiveDateTime> {
    let field = |divisor: i64, modulus: i64| u32::try_from(digits / divisor % modulus).ok();
    let year = i32::try_from(digits / 10_000_000_000_000).ok().filter(|year| (1753..=9999).contains(year))?;
    NaiveDate::from_ymd_opt(year, field(100_000_000_000, 100)?, field(1_000_000_000, 100)?)?.and_hms_milli_opt(
        field(10_000_000, 100)?,
        field(100_000, 100)?,
        field(1_000, 100)?,
        field(1, 1_000)?,
    )
}

fn in_zone(local: NaiveDateTime, zone: Tz) -> Option<SourceTime> {
    let found = zone.from_local_datetime(&local).earliest().or_else(|| {
        let hour = Duration::hours(1);
        Some(zone.from_local_datetime(&local.checked_sub_signed(hour)?).earliest()? + hour)
    })?;
    Some(SourceTime::new(found.with_timezone(&Utc)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SourceTime {
        SourceTime::new(DateTime::parse_from_rfc3339(text).unwrap().with_timezone(&Utc))
    }

    #[test]
    fn seven_decimals_are_cut_to_six() {
        assert_eq!(parse_utc("2025-02-06T21:15:28.3971469Z"), Some(at("2025-02-06T21:15:28.397146Z")));
    }

    #[test]
    fn the_published_changed_timestamp_is_read_as_utc() {
        assert_eq!(from_webhook_digits(20_250_206_211_528_366), Some(at("2025-02-06T21:15:28.366Z")));
    }

    #[test]
    fn nonsense_digits_are_no_time() {
        for digits in [0, -1, 20_251_306_211_528_366, 20_250_206_251_528_366, i64::MAX, i64::MIN] {
            assert_eq!(from_webhook_digits(digits), None, "{digits}");
        }
    }

    #[test]
    fn a_text_without_offset_is_local_time_of_the_zone() {
        let oslo = chrono_tz::Europe::Oslo;
        assert_eq!(parse_in_zone("2025-02-06T22:15:28.366", oslo), Some(at("2025-02-06T21:15:28.366Z")));
        assert_eq!(parse_in_zone("2025-02-06 22:15:28", oslo), Some(at("2025-02-06T21:15:28Z")));
        assert_eq!(parse_in_zone("20250206221528366", oslo), Some(at("2025-02-06T21:15:28.366Z")));
        assert_eq!(parse_in_zone("2025-02-06T22:15:28Z", oslo), Some(at("2025-02-06T22:15:28Z")));
    }

    #[test]
    fn hours_that_a_zone_repeats_or_skips_still_have_a_time() {
        let oslo = chrono_tz::Europe::Oslo;
        assert_eq!(parse_in_zone("2025-10-26T02:30:00", oslo), Some(at("2025-10-26T00:30:00Z")));
        assert_eq!(parse_in_zone("2025-03-30T02:30:00", oslo), Some(at("2025-03-30T01:30:00Z")));
    }

    #[test]
    fn what_is_changed_in_a_doubled_hour_is_asked_for_whichever_it_was() {
        let oslo = chrono_tz::Europe::Oslo;
        let since = |text: &str| local_since(at(text), oslo);
        // 2:59 for the first time; a minute later it is 2:00 again.
        assert_eq!(since("2026-10-25T00:59:00Z"), "2026-10-25T01:59:00.000000");
        assert_eq!(since("2026-10-25T01:10:00Z"), "2026-10-25T01:10:00.000000");
        for told in ["2026-10-24T23:59:00Z", "2026-10-25T02:00:00Z", "2026-03-29T00:30:00Z", "2026-07-01T10:00:00Z"] {
            assert_eq!(parse_in_zone(&since(told), oslo), Some(at(told)));
        }
        assert_eq!(local_since(at("2026-10-25T00:59:00Z"), Tz::UTC), "2026-10-25T00:59:00.000000");
    }

    #[test]
    fn a_bare_date_is_midnight_and_rubbish_is_nothing() {
        assert_eq!(parse_utc("2025-02-06"), Some(at("2025-02-06T00:00:00Z")));
        assert_eq!(parse_utc("yesterday"), None);
        assert_eq!(parse_utc(""), None);
        assert_eq!(parse_utc("+262000-01-01T00:00:00"), None);
        assert_eq!(parse_utc("0000-01-01T00:00:00Z"), None);
    }
}
