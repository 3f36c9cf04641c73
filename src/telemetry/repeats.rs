//! Bounds on lines that come again and again: what goes wrong many times a second would fill a disk and hide the rest.
//!
//! The same line, its message and all its fields, is written a few times a minute, and so is what differs of warnings
//! from one place of the program. What is left out meanwhile is counted and told in one line. Errors that differ are
//! all written, and so are lines of the story, what operators did, and whatever was asked for by `debug` or `trace`.

use std::{
    collections::HashMap,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tracing::{
    Event, Level, Metadata, Subscriber,
    callsite::Identifier,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

use super::{OPERATORS, STORY};

/// For how long is counted.
const WINDOW: Duration = Duration::from_secs(60);
/// The same line in a window.
const SAME_MAX: u32 = 3;
/// Lines of one place in a window, below errors.
const PLACE_MAX: u32 = 60;
/// Lines that are remembered. Past it new ones are written as they come, until old ones are forgotten.
const LINES_MAX: usize = 4_096;
/// How often is told what was left out.
const TICK: Duration = Duration::from_secs(5);

/// Where lines come from that tell what was left out.
const TELLER: &str = "nxt_mirror::repeats";

/// Decides which lines are written.
#[derive(Debug, Default)]
pub(super) struct Repeats(Mutex<HashMap<Counted, Count>>);

/// What is counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Counted {
    Line(u64),
    Place(Identifier),
}

#[derive(Debug)]
struct Count {
    since: Instant,
    written: u32,
    left_out: Option<LeftOut>,
}

/// Lines that were not written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct LeftOut {
    since: Instant,
    lines: u64,
    level: Level,
    message: String,
}

/// A line, as far as it matters here.
struct Line {
    place: Identifier,
    level: Level,
    content: u64,
    message: String,
}

impl Repeats {
    fn admits(&self, line: &Line, now: Instant) -> bool {
        let mut counts = self.0.lock();
        let same = Counted::Line(line.content);
        if counts.len() >= LINES_MAX && !counts.contains_key(&same) {
            return true;
        }
        let bounds = [(same, SAME_MAX), (Counted::Place(line.place.clone()), PLACE_MAX)];
        // Each error may be the one that tells why.
        let bounds = if line.level == Level::ERROR { &bounds[..1] } else { &bounds[..] };
        for (counted, max) in bounds {
            let count = counts.entry(counted.clone()).or_insert_with(|| Count::new(now));
            if !count.has_room(*max, now) {
                count.leave_out(line, now);
                return false;
            }
        }
        for (counted, _) in bounds {
            counts.entry(counted.clone()).and_modify(|count| count.written += 1);
        }
        true
    }

    /// Takes what was left out for as long as a window, or all of it; forgets lines that came no more.
    fn take(&self, all: bool, now: Instant) -> Vec<LeftOut> {
        let mut counts = self.0.lock();
        let is_due = |left: &mut LeftOut| all || now - left.since >= WINDOW;
        let taken = counts.values_mut().filter_map(|count| count.left_out.take_if(is_due)).collect();
        counts.retain(|_, count| count.left_out.is_some() || now - count.since < WINDOW);
        taken
    }
}

impl Count {
    fn new(now: Instant) -> Self {
        Self { since: now, written: 0, left_out: None }
    }

    fn has_room(&mut self, max: u32, now: Instant) -> bool {
        if now - self.since >= WINDOW {
            (self.since, self.written) = (now, 0);
        }
        self.written < max
    }

    fn leave_out(&mut self, line: &Line, now: Instant) {
        let left = self.left_out.get_or_insert_with(|| LeftOut {
            since: now,
            lines: 0,
            level: line.level,
            message: line.message.clone(),
        });
        left.lines += 1;
    }
}

impl<S: Subscriber> Layer<S> for Repeats {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        if is_always_written(event.metadata()) {
            return true;
        }
        let mut content = Content::default();
        event.metadata().callsite().hash(&mut content.hasher);
        event.record(&mut content);
        let line = Line {
            place: event.metadata().callsite(),
            level: *event.metadata().level(),
            content: content.hasher.finish(),
            message: content.message,
        };
        self.admits(&line, Instant::now())
    }
}

fn is_always_written(metadata: &Metadata<'_>) -> bool {
    *metadata.level() > Level::INFO || [STORY, OPERATORS, TELLER].contains(&metadata.target())
}

/// All that a line says.
#[derive(Default)]
struct Content {
    hasher: DefaultHasher,
    message: String,
}

impl Visit for Content {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        (field.name(), &text).hash(&mut self.hasher);
        if field.name() == "message" {
            self.message = text;
        }
    }
}

/// Tells what is left out, as long as the process works.
pub async fn tell_repeats() {
    let mut timer = tokio::time::interval(TICK);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        tell(false);
    }
}

/// Tells all that has been left out by now.
pub fn tell_last_repeats() {
    tell(true);
}

fn tell(all: bool) {
    let now = Instant::now();
    let taken = tracing::dispatcher::get_default(|log| log.downcast_ref::<Repeats>().map(|own| own.take(all, now)));
    for LeftOut { since, lines, level, message } in taken.unwrap_or_default() {
        let seconds = (now - since).as_secs().max(1);
        macro_rules! tell {
            ($level:ident) => {
                tracing::$level!(
                    target: TELLER, lines, seconds,
                    "{lines} more lines like this one were left out in {seconds} s: {message}"
                )
            };
        }
        match level {
            Level::ERROR => tell!(error),
            Level::WARN => tell!(warn),
            _ => tell!(info),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// What is written, by level and message.
    #[derive(Debug, Clone, Default)]
    struct Written(Arc<Mutex<Vec<(Level, String)>>>);

    impl<S: Subscriber> Layer<S> for Written {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut content = Content::default();
            event.record(&mut content);
            self.0.lock().push((*event.metadata().level(), content.message));
        }
    }

    impl Written {
        fn count(&self, message: &str) -> usize {
            self.0.lock().iter().filter(|(_, own)| own == message).count()
        }
    }

    fn logged(log: impl FnOnce()) -> Written {
        let written = Written::default();
        let subscriber = tracing_subscriber::registry().with(Repeats::default()).with(written.clone());
        tracing::subscriber::with_default(subscriber, || {
            log();
            tell_last_repeats();
        });
        written
    }

    #[test]
    fn the_same_line_is_written_a_few_times_and_then_counted() {
        let written = logged(|| {
            for _ in 0..1_000 {
                tracing::warn!(error = "no route", "not stored");
            }
            tracing::warn!("something else");
        });
        assert_eq!(written.count("not stored"), SAME_MAX as usize);
        assert_eq!(written.count("something else"), 1);
        let told = written.0.lock().last().cloned().unwrap();
        assert_eq!(told, (Level::WARN, "997 more lines like this one were left out in 1 s: not stored".to_owned()));
    }

    #[test]
    fn warnings_of_one_place_that_differ_are_bounded_and_errors_that_differ_are_not() {
        let written = logged(|| {
            for number in 0..1_000 {
                tracing::warn!(number, "one of many");
                tracing::error!(number, "each another");
                tracing::error!("always the same");
            }
        });
        assert_eq!(written.count("one of many"), PLACE_MAX as usize);
        assert_eq!(written.count("each another"), 1_000);
        assert_eq!(written.count("always the same"), SAME_MAX as usize);
        let left = format!("{} more lines like this one were left out in 1 s: one of many", 1_000 - PLACE_MAX);
        assert_eq!(written.count(&left), 1);
    }

    #[test]
    fn the_story_what_operators_did_and_what_was_asked_for_is_written_in_full() {
        let written = logged(|| {
            for _ in 0..1_000 {
                tracing::info!(target: STORY, "company 2000001  OrderLine  1 changed");
                tracing::info!(target: OPERATORS, "an operator asked");
                tracing::debug!("a detail");
            }
        });
        for message in ["company 2000001  OrderLine  1 changed", "an operator asked", "a detail"] {
            assert_eq!(written.count(message), 1_000, "{message}");
        }
        assert_eq!(written.0.lock().len(), 3_000);
    }

    fn line(number: u64) -> Line {
        struct Place;
        impl tracing::Callsite for Place {
            fn set_interest(&self, _: tracing::subscriber::Interest) {}
            fn metadata(&self) -> &Metadata<'_> {
                unreachable!("nobody asks")
            }
        }
        static PLACE: Place = Place;
        Line { place: Identifier(&PLACE), level: Level::WARN, content: number, message: format!("no. {number}") }
    }

    #[test]
    fn a_line_that_goes_on_is_written_again_every_window_and_one_that_ends_is_forgotten() {
        let (repeats, begin) = (Repeats::default(), Instant::now());
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let admitted = |from: u64| (from..from + 60).filter(|second| repeats.admits(&line(1), at(*second))).count();
        assert_eq!(admitted(0), 3);
        assert!(repeats.take(false, at(59)).is_empty());
        assert_eq!(admitted(60), 3);
        assert_eq!(repeats.take(false, at(120)).iter().map(|left| left.lines).sum::<u64>(), 114);
        assert!(repeats.take(false, at(600)).is_empty());
        assert!(repeats.0.lock().is_empty());
    }

    #[test]
    fn however_many_lines_differ_few_are_remembered_and_none_is_lost_for_that() {
        let (repeats, now) = (Repeats::default(), Instant::now());
        let error = |number| Line { level: Level::ERROR, ..line(number) };
        assert!((0..2 * LINES_MAX as u64).all(|number| repeats.admits(&error(number), now)));
        assert!(repeats.0.lock().len() <= LINES_MAX);
    }
}
