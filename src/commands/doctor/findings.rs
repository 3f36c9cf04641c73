//! What was found, in the order of its importance.

use std::{
    fmt::{self, Display},
    io::IsTerminal,
};

use serde::Serialize;

use super::super::colour::Colour;

/// How much it matters, the most important first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// The mirror cannot be right, or will not stay so, until somebody does something.
    Problem,
    /// It misleads, but nothing of the mirror depends on it.
    Warning,
    /// As it should be.
    Ok,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    level: Level,
    /// What was looked at, and what was found.
    what: String,
    /// What to do; none if nothing is to be done.
    remedy: Option<String>,
}

/// What was found so far. Of findings of one level those come first that others follow from, so they are told in the
/// order in which they were found: settings, database, API, tables, address, subscriptions, targets, clocks.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    pub(super) fn fine(&mut self, what: &str, found: impl Display) {
        self.0.push(Finding { level: Level::Ok, what: format!("{what}: {found}"), remedy: None });
    }

    pub(super) fn warning(&mut self, what: &str, found: impl Display, remedy: &str) {
        self.add(Level::Warning, what, found, remedy);
    }

    pub(super) fn problem(&mut self, what: &str, found: impl Display, remedy: &str) {
        self.add(Level::Problem, what, found, remedy);
    }

    fn add(&mut self, level: Level, what: &str, found: impl Display, remedy: &str) {
        self.0.push(Finding { level, what: format!("{what}: {found}"), remedy: Some(remedy.to_owned()) });
    }

    /// Whether there is no problem.
    pub(super) fn is_well(&self) -> bool {
        self.count(Level::Problem) == 0
    }

    fn count(&self, level: Level) -> usize {
        self.0.iter().filter(|finding| finding.level == level).count()
    }

    /// The most important first.
    pub(super) fn in_order(mut self) -> Vec<Finding> {
        self.0.sort_by_key(|finding| finding.level);
        self.0
    }

    /// Prints them for people, and how many there are.
    pub(super) fn print(self) {
        let summary = match (self.count(Level::Problem), self.count(Level::Warning)) {
            (0, 0) => "everything is as it should be".to_owned(),
            (problems, 0) => counted(problems, "problem"),
            (0, warnings) => counted(warnings, "warning"),
            (problems, warnings) => format!("{}, {}", counted(problems, "problem"), counted(warnings, "warning")),
        };
        let colour = Colour::of(std::io::stdout().is_terminal());
        for finding in self.in_order() {
            say!("{}", Shown { finding, colour });
        }
        say!("\n{summary}");
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A finding for people.
struct Shown {
    finding: Finding,
    colour: Colour,
}

impl Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { level, what, remedy } = &self.finding;
        let word = match level {
            Level::Problem => self.colour.bad("PROBLEM "),
            Level::Warning => self.colour.busy("warning "),
            Level::Ok => self.colour.good("ok      "),
        };
        write!(f, "{word} {what}")?;
        match remedy {
            Some(remedy) => write!(f, "\n         {remedy}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Findings {
        let mut findings = Findings::default();
        findings.fine("settings", "complete");
        findings.warning("clock", "late", "set it");
        findings.problem("API", "away", "wait");
        findings.problem("tables", "none", "name them");
        findings
    }

    #[test]
    fn problems_come_first_and_those_that_others_follow_from_before_them() {
        let whats: Vec<_> = some().in_order().into_iter().map(|finding| finding.what).collect();
        assert_eq!(whats, ["API: away", "tables: none", "clock: late", "settings: complete"]);
        assert!(!some().is_well());
        assert!(Findings::default().is_well());
    }

    #[test]
    fn colours_are_for_terminals_alone() {
        let shown = |colour| Shown { finding: some().in_order().remove(0), colour }.to_string();
        assert_eq!(shown(Colour::None), "PROBLEM  API: away\n         wait");
        assert_eq!(shown(Colour::Some), "\x1b[31mPROBLEM \x1b[0m API: away\n         wait");
    }

    #[test]
    fn programs_get_level_what_and_remedy() {
        let json = serde_json::to_value(some().in_order()).unwrap();
        let (first, last) = (&json[0], &json[3]);
        assert_eq!(*first, serde_json::json!({ "level": "problem", "what": "API: away", "remedy": "wait" }));
        assert_eq!((&last["level"], &last["remedy"]), (&"ok".into(), &serde_json::Value::Null));
    }
}
