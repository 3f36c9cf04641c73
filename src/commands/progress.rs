//! Progress of long walks: bars on a terminal, a plain line now and then elsewhere.

use std::{
    io::IsTerminal,
    sync::Arc,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

use crate::{domain::TargetTable, walk::Progress};

/// How often a bar is drawn.
const BAR_INTERVAL: Duration = Duration::from_millis(200);
/// How often a line is printed.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Shows walks on standard error.
pub(super) struct Display(Option<MultiProgress>);

/// A walk that is shown until this is dropped.
pub(super) struct Watch {
    pub(super) progress: Arc<Progress>,
    task: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Display {
    pub(super) fn new() -> Self {
        Self(std::io::stderr().is_terminal().then(MultiProgress::new))
    }

    pub(super) fn watch(&self, target: &TargetTable) -> Watch {
        let progress = Arc::new(Progress::default());
        let name = target.to_string();
        let task = match &self.0 {
            Some(bars) => tokio::spawn(draw(Bar(bars.add(ProgressBar::no_length())), name, Arc::clone(&progress))),
            None => tokio::spawn(print(name, Arc::clone(&progress))),
        };
        Watch { progress, task }
    }

    /// Prints lines without tearing the bars.
    pub(super) fn pausing(&self, print: impl FnOnce()) {
        match &self.0 {
            Some(bars) => bars.suspend(print),
            None => print(),
        }
    }
}

/// Goes with its walk.
struct Bar(ProgressBar);

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

async fn draw(bar: Bar, name: String, progress: Arc<Progress>) {
    let counted = "{msg:36} {bar:24} {human_pos}/{human_len} rows  {per_sec}  {eta} left";
    let uncounted = "{msg:36} {spinner} {human_pos} rows  {per_sec}  {elapsed}";
    let style = |template| ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.0.set_message(name);
    bar.0.set_style(style(uncounted));
    loop {
        if let Some(total) = progress.total().filter(|total| bar.0.length() != Some(*total)) {
            bar.0.set_length(total);
            bar.0.set_style(style(counted));
        }
        bar.0.set_position(progress.walked());
        tokio::time::sleep(BAR_INTERVAL).await;
    }
}

async fn print(name: String, progress: Arc<Progress>) {
    let (mut before, mut since) = (0, Instant::now());
    loop {
        tokio::time::sleep(LINE_INTERVAL).await;
        let walked = progress.walked();
        let rate = walked.saturating_sub(before) as f64 / since.elapsed().as_secs_f64();
        complain!("{}", line(&name, walked, progress.total(), rate));
        (before, since) = (walked, Instant::now());
    }
}

fn line(name: &str, walked: u64, total: Option<u64>, rate: f64) -> String {
    match total {
        Some(total) if rate >= 1.0 => {
            let left = total.saturating_sub(walked) as f64 / rate;
            format!("{name}: {walked} of {total} rows, {rate:.0} rows/s, {left:.0} s left")
        }
        Some(total) => format!("{name}: {walked} of {total} rows, waiting"),
        None => format!("{name}: {walked} rows, {rate:.0} rows/s"),
    }
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn lines_tell_the_time_left_where_the_total_is_known() {
        assert_eq!(line("Order", 1_000, Some(3_000), 100.0), "Order: 1000 of 3000 rows, 100 rows/s, 20 s left");
        assert_eq!(line("Order", 1_000, Some(3_000), 0.0), "Order: 1000 of 3000 rows, waiting");
        assert_eq!(line("Order", 1_000, None, 100.0), "Order: 1000 rows, 100 rows/s");
    }
}
