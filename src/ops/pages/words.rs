//! Figures and times as people read them. Pure.

use chrono::Duration;
use maud::{Markup, html};

use crate::domain::DatabaseTime;

/// What was done to a row, in a word; and the words by which the script does the same.
pub(super) const ACTIONS: [(&str, &str); 11] = [
    ("inserted", "added"),
    ("updated", "changed"),
    ("deleted", "removed"),
    ("unchanged", "same"),
    ("already_absent", "absent"),
    ("stale", "stale"),
    ("recheck", "again"),
    ("failed", "failed"),
    ("dead_letter", "set aside"),
    ("ignored", "ignored"),
    ("operator", "operator"),
];

/// The word for an action.
pub(super) fn action(action: &str) -> &str {
    ACTIONS.iter().find(|(name, _)| *name == action).map_or(action, |(_, word)| word)
}

/// `1 234 567`, with spaces that do not break.
pub(super) fn number(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut grouped = if number < 0 { "-".to_owned() } else { String::new() };
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

/// A rate or a time with as many decimals as tell something.
pub(super) fn decimal(value: f64) -> String {
    match value {
        value if value >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        value => format!("{value:.1}"),
    }
}

/// `0.4 s`, `12 s`, `3 min`, `5 h`, `2 d`.
pub(super) fn span(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 120.0 => format!("{} s", decimal(if seconds >= 10.0 { seconds.round() } else { seconds })),
        seconds if seconds < 7_200.0 => format!("{:.0} min", seconds / 60.0),
        seconds if seconds < 172_800.0 => format!("{:.0} h", seconds / 3_600.0),
        seconds => format!("{:.0} d", seconds / 86_400.0),
    }
}

/// How long ago something was, the moment itself beside it.
pub(super) fn ago(time: Option<DatabaseTime>, now: DatabaseTime) -> Markup {
    match time {
        None => html! { span.none { "never" } },
        Some(time) => {
            let passed = std::cmp::max(now - time, Duration::zero());
            let text = match passed.num_seconds() {
                ..2 => "just now".to_owned(),
                seconds => format!("{} ago", span(seconds as f64)),
            };
            html! { time datetime=(time.to_string()) title=(full(time)) { (text) } }
        }
    }
}

/// `2026-02-01 10:00:00 UTC`.
pub(super) fn full(time: DatabaseTime) -> String {
    time.utc().format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// The time of day, with milliseconds.
pub(super) fn clock(time: DatabaseTime) -> String {
    time.utc().format("%H:%M:%S%.3f").to_string()
}

/// One of several states, with a mark that does not rely on colour alone.
pub(super) fn state(state: &str) -> Markup {
    html! { span class={ "pill s-" (state.replace(' ', "-")) } { (state) } }
}

/// `1 row`, `2 rows`.
pub(super) fn count(count: i64, one: &str, many: &str) -> String {
    format!("{} {}", number(count), if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567, -4_000].map(number),
            ["0", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567", "-4\u{202f}000"]
        );
        assert_eq!(
            [0.0, 0.44, 9.96, 45.2, 300.0, 7_200.0, 200_000.0].map(span),
            ["0 s", "0.4 s", "10.0 s", "45 s", "5 min", "2 h", "2 d"]
        );
        assert_eq!(count(1, "row", "rows"), "1 row");
    }
}
