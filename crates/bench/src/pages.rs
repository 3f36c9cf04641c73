//! What open pages cost the daemon: its CPU time and memory at the same pace of changes, without and with them, in turns.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use nxt_embedded_postgres::EmbeddedPostgres;
use nxt_simulator::{Options, Owner};
use nxt_testkit::{Daemon, Site, free_address};
use reqwest::Client;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use super::{
    Args, Bench,
    figures::{median, ratio},
};

/// Pages that are open at the same time.
const PAGES: usize = 20;
const CHANGES_A_SECOND: usize = 500;
/// Changes made at once, so that a slow timer keeps up.
const AT_ONCE: usize = 10;
const COMPANY: Owner = Owner::Company(2_000_001);
/// Rows that change in turn.
const ROWS: i64 = 40_000;
/// How often a page asks for its figures, as the script of the pages does.
const REFRESH: Duration = Duration::from_secs(3);
const ROUNDS: usize = 5;
/// Parts of a second in which Linux counts CPU time, on every machine.
const TICKS_A_SECOND: f64 = 100.0;

/// One turn.
struct Turn {
    /// CPU time of the daemon, as a share of one core.
    cores: f64,
    /// Its memory at the end, in MiB.
    resident: f64,
    /// Events that one page was sent a second.
    events: f64,
}

pub(super) async fn measure(args: &Args, server: &EmbeddedPostgres) -> anyhow::Result<()> {
    let ops = free_address();
    let site = super::site(server, Options::default()).await?;
    let daemon = Daemon::start(super::command(&site, &["serve"]).env("NXT_OPS_LISTEN", &ops));
    super::wait_until_it_listens(&site).await?;
    let bench = Bench { daemon, site };
    let stock: Vec<_> = (1..=ROWS).map(|number| order(number, 0)).collect();
    bench.site.simulator.put_all(COMPANY, "Order", &stock, false)?;
    let time = Duration::from_secs(args.seconds);
    // The tables are made, and the pace is found.
    turn(&bench, None, time).await?;
    let (mut without, mut with) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        without.push(turn(&bench, None, time).await?);
        with.push(turn(&bench, Some(&ops), time).await?);
    }
    let of = |turns: &[Turn], figure: fn(&Turn) -> f64| turns.iter().map(figure).collect::<Vec<f64>>();
    let (cores, cores_with) = (of(&without, |turn| turn.cores), of(&with, |turn| turn.cores));
    let (memory, memory_with) = (of(&without, |turn| turn.resident), of(&with, |turn| turn.resident));
    println!(
        "CPU at {CHANGES_A_SECOND} changes/s, {PAGES} pages open         {:>8.2} cores, {:.2} without; ratio {}",
        median(&cores_with),
        median(&cores),
        ratio(&cores_with, &cores)
    );
    println!(
        "resident memory, likewise                     {:>8.1} MiB, {:.1} without; ratio {}",
        median(&memory_with),
        median(&memory),
        ratio(&memory_with, &memory)
    );
    println!("events that each page was sent                {:>8.0} /s", median(&of(&with, |turn| turn.events)));
    Ok(())
}

/// Changes at the same pace, with pages open where the daemon's pages are.
async fn turn(bench: &Bench, pages: Option<&str>, time: Duration) -> anyhow::Result<Turn> {
    let pid = bench.daemon.id().context("the daemon runs")?;
    let events = Arc::new(AtomicU64::new(0));
    let mut open = JoinSet::new();
    for _ in 0..pages.map_or(0, |_| PAGES) {
        let ops = pages.context("pages are open")?;
        open.spawn(page(format!("http://{ops}"), Arc::clone(&events)));
    }
    let (cpu, started) = (cpu_seconds(pid)?, Instant::now());
    change(&bench.site, time).await?;
    let seconds = started.elapsed().as_secs_f64();
    let used = cpu_seconds(pid)? - cpu;
    let resident = bench.resident()?;
    while let Some(ended) = open.try_join_next() {
        ended??;
    }
    let sent = events.load(Ordering::Relaxed);
    open.shutdown().await;
    ensure!(pages.is_none() || sent > 0, "no page was sent anything");
    bench.settle().await?;
    Ok(Turn { cores: used / seconds, resident, events: sent as f64 / PAGES as f64 / seconds })
}

/// A page as a browser has it open: it follows activity, and asks for its figures again and again.
async fn page(ops: String, events: Arc<AtomicU64>) -> anyhow::Result<()> {
    let client = Client::new();
    let stream = client.get(format!("{ops}/api/activity")).header("accept", "text/event-stream").send().await?;
    let mut stream = stream.error_for_status()?;
    let mut timer = tokio::time::interval(REFRESH);
    let mut last = 0;
    loop {
        tokio::select! {
            chunk = stream.chunk() => {
                for byte in chunk?.context("the daemon has hung up")? {
                    // An empty line ends an event.
                    events.fetch_add(u64::from((last, byte) == (b'\n', b'\n')), Ordering::Relaxed);
                    last = byte;
                }
            }
            _ = timer.tick() => {
                let page = client.get(format!("{ops}/")).header("x-live", "1").header("accept", "text/html");
                page.send().await?.error_for_status()?.bytes().await?;
            }
        }
    }
}

/// Changes rows at the pace that is measured.
async fn change(site: &Site, time: Duration) -> anyhow::Result<()> {
    let mut timer = tokio::time::interval(Duration::from_secs(1) / (CHANGES_A_SECOND / AT_ONCE) as u32);
    let (until, mut turn) = (Instant::now() + time, 0);
    while Instant::now() < until {
        timer.tick().await;
        let rows: Vec<_> =
            (0..AT_ONCE as i64).map(|part| order((turn * AT_ONCE as i64 + part) % ROWS + 1, turn)).collect();
        site.simulator.put_all(COMPANY, "Order", &rows, true)?;
        turn += 1;
    }
    Ok(())
}

fn order(number: i64, turn: i64) -> Map<String, Value> {
    Map::from_iter([("orderNo".to_owned(), json!(number)), ("name".to_owned(), json!(format!("turn {turn}")))])
}

/// CPU time that a process has used so far, all its threads together.
fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything; user and system time are the 12th and 13th value behind it.
    let (_, values) = stat.rsplit_once(") ").context("no name")?;
    let ticks: Vec<f64> =
        values.split(' ').skip(11).take(2).map(str::parse).collect::<Result<_, _>>().context("no numbers")?;
    Ok(ticks.iter().sum::<f64>() / TICKS_A_SECOND)
}
