//! What to do next, in the order of importance. Pure.

use std::fmt;

use super::Status;
use crate::queue::status::Freshness;

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Nothing is mirrored until somebody acts.
    Urgent,
    /// Something is not mirrored, or not proven to be right.
    Soon,
    /// All is well; this would make it better.
    Whenever,
}

/// Something that a person may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice<'a> {
    /// How much it matters.
    pub weight: Weight,
    /// The target that it is about; `None` where it is about all.
    pub about: Option<&'a Freshness>,
    /// What to do, in two or three words.
    pub short: &'static str,
    /// What is the matter.
    pub matter: String,
    /// What to do.
    pub remedy: String,
}

impl Advice<'_> {
    fn new(weight: Weight, short: &'static str, matter: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { weight, about: None, short, matter: matter.into(), remedy: remedy.into() }
    }
}

/// What it is about and what is the matter.
impl fmt::Display for Advice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(target) = self.about {
            write!(f, "{} of {}: ", target.table, target.tenant_name())?;
        }
        f.write_str(&self.matter)
    }
}

/// What to do about the mirror as a whole and about each target, the most important first.
pub fn advice(status: &Status) -> Vec<Advice<'_>> {
    let mut advice = of_all(status);
    advice.extend(status.tables.iter().flat_map(of_target));
    advice.sort_by_key(|advice| advice.weight);
    advice
}

fn of_all(status: &Status) -> Vec<Advice<'_>> {
    let mut advice = vec![];
    if status.workers == 0 {
        let remedy = "start one: nxt-mirror serve, with --role worker beside receivers";
        advice.push(Advice::new(Weight::Urgent, "start it", "no process works, so what is received waits", remedy));
    }
    if let Some(since) = status.api_away_since {
        let reason = status.api_away_because.as_deref().unwrap_or("no reason is known");
        let matter = format!("the API is away since {}: {reason}", since.utc().format("%Y-%m-%d %H:%M UTC"));
        let remedy = "nothing, unless the reason names a wrong client, secret or address: nxt-mirror doctor tries them";
        advice.push(Advice::new(Weight::Urgent, "see the reason", matter, remedy));
    }
    advice.extend(status.clocks.iter().map(|clock| match clock.split_once(": ") {
        Some((matter, remedy)) => Advice::new(Weight::Soon, "set the clock", matter, remedy),
        None => Advice::new(Weight::Soon, "set the clock", clock.as_str(), "nxt-mirror doctor tells more"),
    }));
    let of_targets: i64 = status.tables.iter().map(|target| target.dead_letters).sum();
    let bodies = status.dead_letters - of_targets;
    if bodies > 0 {
        let matter = format!("{bodies} {} not understood", if bodies == 1 { "body was" } else { "bodies were" });
        advice.push(Advice::new(Weight::Soon, "read why", matter, "read why: nxt-mirror dead-letters list"));
    }
    advice
}

/// What to do about one target, the most important first.
pub fn of_target(target: &Freshness) -> Vec<Advice<'_>> {
    let mut advice = vec![];
    let named = match target.company_no {
        Some(company) => format!("--company {company} --table {}", target.table),
        None => format!("--table {}", target.table),
    };
    // What every target has in common is told once, of the whole.
    if let Some(because) = target.paused_because.as_ref().filter(|_| target.paused_until.is_some()) {
        let remedy = "mend what the reason names; it is tried again by itself";
        advice.push(Advice::new(Weight::Soon, "see the reason", format!("paused, {because}"), remedy));
    }
    if target.silent_since.is_some() {
        let remedy = format!("look at its subscription: nxt-mirror subscriptions {named}");
        advice.push(Advice::new(
            Weight::Soon,
            "subscription?",
            "it changes, but no notification of it comes any more",
            remedy,
        ));
    }
    if target.dead_letters > 0 {
        let matter = format!(
            "{} {} set aside",
            target.dead_letters,
            if target.dead_letters == 1 { "row was" } else { "rows were" }
        );
        advice.push(Advice::new(
            Weight::Soon,
            "dead letters",
            matter,
            "mend the reason, then nxt-mirror dead-letters retry",
        ));
    }
    if let Some(differences) = target.differences.filter(|differences| *differences > 0) {
        let matter = format!("{differences} rows differed from the source");
        advice.push(Advice::new(Weight::Soon, "repair", matter, format!("nxt-mirror verify --repair {named}")));
    }
    if target.partial {
        let remedy = format!("nxt-mirror backfill {named}");
        advice.push(Advice::new(Weight::Whenever, "load the rest", "only rows that changed are mirrored", remedy));
    } else if target.last_verified.is_none() {
        let remedy = format!("nxt-mirror verify {named}");
        advice.push(Advice::new(Weight::Whenever, "verify", "never compared with the source", remedy));
    }
    advice.iter_mut().for_each(|advice| advice.about = Some(target));
    advice
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ops::status::BudgetUse, upstream::Usage};

    fn target() -> Freshness {
        Freshness {
            company_no: Some(2),
            customer_no: None,
            table: "Order".into(),
            rows: 1,
            state: "current".into(),
            partial: false,
            backlog: 0,
            oldest_waiting_since: None,
            dead_letters: 0,
            last_change_applied: None,
            last_notified_at: None,
            last_walked: None,
            last_verified: Some(Default::default()),
            differences: Some(0),
            silent_since: None,
            paused_until: None,
            paused_because: None,
        }
    }

    fn status(tables: Vec<Freshness>) -> Status {
        Status {
            now: Default::default(),
            state: "current",
            lag_seconds: 0,
            backlog: 0,
            dead_letters: tables.iter().map(|target| target.dead_letters).sum(),
            budget: BudgetUse { per_minute: 600, used: 0, by_purpose: Usage::default() },
            workers: 1,
            api_away_since: None,
            api_away_because: None,
            clocks: vec![],
            tables,
        }
    }

    #[test]
    fn where_all_is_well_there_is_nothing_to_do() {
        assert_eq!(advice(&status(vec![target()])), []);
    }

    #[test]
    fn what_keeps_everything_comes_before_what_keeps_a_table_and_before_what_could_be_better() {
        let partial = Freshness { partial: true, last_verified: None, ..target() };
        let aside = Freshness { dead_letters: 2, table: "Product".into(), ..target() };
        let all = Status { workers: 0, ..status(vec![partial, aside]) };
        let matters: Vec<_> = advice(&all).iter().map(Advice::to_string).collect();
        let expected = [
            "no process works, so what is received waits",
            "Product of company 2: 2 rows were set aside",
            "Order of company 2: only rows that changed are mirrored",
        ];
        assert_eq!(matters, expected);
    }
}
