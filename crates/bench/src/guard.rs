//! The guard against becoming slow: a few ratios, each against what is measured in the same run, beside a baseline.
//!
//! The machine is shared, so a ratio that is too low is measured again, and its best counts: what has become slower is
//! slower each time.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use nxt_embedded_postgres::EmbeddedPostgres;

use super::{
    applying,
    figures::{median, ratios},
    queue,
    receiving::Rates,
    walks::Walked,
};

/// How far a ratio may lie below its baseline, as a share of it.
const FLOOR: f64 = 0.75;
/// How often each is measured at most.
const TRIES: u32 = 3;
/// Turns of receiving, and their length.
const TURNS: u32 = 5;
const TURN: Duration = Duration::from_secs(2);
/// Dirty rows beside which is folded and claimed.
const DIRTY: i64 = 200_000;
/// Rows of the table that is walked.
const WALKED: i64 = 100_000;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The ratios to compare with: a JSON object of numbers by name
    #[arg(long, default_value = "crates/bench/baseline.json")]
    baseline: PathBuf,
    /// Write the measured ratios there instead
    #[arg(long)]
    write: bool,
}

/// Ratios by name; the higher, the better.
type Ratios = BTreeMap<String, f64>;

/// What is measured together.
#[derive(Clone, Copy)]
enum Group {
    Receiving,
    Queue,
    Walks,
    Applying,
}

impl Group {
    const ALL: [Self; 4] = [Self::Receiving, Self::Queue, Self::Walks, Self::Applying];

    async fn measure(self, server: &EmbeddedPostgres) -> anyhow::Result<Ratios> {
        let ratios = match self {
            Self::Receiving => vec![("acknowledged to a handler that stores nothing", receiving(server).await?)],
            Self::Queue => {
                let (few, many) = queue::times(server, DIRTY).await?;
                vec![
                    ("fold beside few dirty rows to beside many", median(&few.fold) / median(&many.fold)),
                    ("claim beside few dirty rows to beside many", median(&few.claim) / median(&many.claim)),
                ]
            }
            Self::Walks => {
                let walked = Walked::take(server, WALKED).await?;
                vec![
                    ("rows loaded to rows paged by a bare client", walked.load.rate() / walked.bare_rate()),
                    ("rows verified to rows paged by a bare client", walked.verified.rate() / walked.bare_rate()),
                ]
            }
            Self::Applying => {
                let plain = applying::turn(server, applying::USUAL).await?.rate();
                let with_history = applying::turn(server, applying::WITH_HISTORY).await?.rate();
                vec![("rows applied with history to without", with_history / plain)]
            }
        };
        Ok(ratios.into_iter().map(|(name, ratio)| (name.to_owned(), ratio)).collect())
    }
}

async fn receiving(server: &EmbeddedPostgres) -> anyhow::Result<f64> {
    let mut rates = Rates::new(server).await?;
    for _ in 0..TURNS {
        rates.turn(TURN).await?;
    }
    rates.check().await?;
    Ok(median(&ratios(&rates.stored, &rates.bare)))
}

/// Fails when a ratio lies too far below its baseline each time.
pub(super) async fn run(args: &Args, server: &EmbeddedPostgres) -> anyhow::Result<()> {
    if args.write {
        let mut all = Ratios::new();
        for group in Group::ALL {
            all.append(&mut group.measure(server).await?);
        }
        std::fs::write(&args.baseline, serde_json::to_string_pretty(&all)? + "\n")?;
        return Ok(());
    }
    let text = std::fs::read_to_string(&args.baseline).with_context(|| format!("read {}", args.baseline.display()))?;
    let baseline: Ratios = serde_json::from_str(&text).context("a baseline is an object of numbers")?;
    let mut low = vec![];
    for group in Group::ALL {
        low.append(&mut guard(group, server, &baseline).await?);
    }
    ensure!(low.is_empty(), "more than {:.0} % below the baseline: {}", (1.0 - FLOOR) * 100.0, low.join(", "));
    Ok(())
}

/// The best ratios of a group, printed; the names of those that are too low.
async fn guard(group: Group, server: &EmbeddedPostgres, baseline: &Ratios) -> anyhow::Result<Vec<String>> {
    let mut best = Ratios::new();
    for _ in 0..TRIES {
        for (name, ratio) in group.measure(server).await? {
            let best = best.entry(name).or_insert(f64::NEG_INFINITY);
            *best = best.max(ratio);
        }
        if too_low(&best, baseline)?.is_empty() {
            break;
        }
    }
    for (name, ratio) in &best {
        println!("{name:<50} {ratio:>6.2}, baseline {:.2}", baseline[name]);
    }
    too_low(&best, baseline)
}

fn too_low(ratios: &Ratios, baseline: &Ratios) -> anyhow::Result<Vec<String>> {
    let mut low = vec![];
    for (name, ratio) in ratios {
        let expected = baseline.get(name).with_context(|| format!("the baseline lacks {name:?}"))?;
        if *ratio < expected * FLOOR {
            low.push(name.clone());
        }
    }
    Ok(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratios(ratio: f64) -> Ratios {
        Ratios::from([("a".to_owned(), ratio)])
    }

    #[test]
    fn a_ratio_may_fall_a_quarter_below_its_baseline_and_no_further() {
        assert!(too_low(&ratios(0.46), &ratios(0.6)).unwrap().is_empty());
        assert_eq!(too_low(&ratios(0.44), &ratios(0.6)).unwrap(), ["a"]);
        assert!(too_low(&ratios(1.0), &Ratios::new()).is_err());
    }
}
