//! The composition root: builds a daemon from its settings, runs it, stops it.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use sqlx::PgPool;
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    clocks,
    config::{MirrorSettings, OpsSettings, Settings, UpstreamSettings, WebhookSettings},
    database::{self, Connector},
    domain::Exclusions,
    listener::{Bound, Served, bind, serve},
    mirror::Mirror,
    model,
    ops::{self, Ops, OpsParts, VerificationParts},
    queue::{self, Appender, Claims, Queue, WorkerId},
    reconcile::Writer,
    telemetry::{Metrics, Purpose, chain},
    upstream::{Budget, Catalogue, Upstream},
    walk,
    webhook::{self, Receiver, Room, SigningSecrets},
    worker::{self, Worker},
};

/// How often old entries are removed.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(3_600);
/// How often clocks are looked at.
const CLOCK_INTERVAL: Duration = Duration::from_secs(300);
/// A daemon that is built and bound, but not running.
#[derive(Debug)]
pub struct App {
    pool: PgPool,
    /// Of pages and all else that is asked from outside.
    operators: PgPool,
    ops: Bound,
    ops_data: Ops,
    receiving: Option<Receiving>,
    working: Option<Working>,
    ledger_days: u32,
}

/// What receives webhooks.
#[derive(Debug)]
struct Receiving {
    public: Bound,
    path: String,
    receiver: Receiver,
    appender: Appender,
}

/// What asks the API.
#[derive(Debug)]
struct Working {
    queue: Queue,
    me: WorkerId,
    worker: Worker,
    schedule: walk::ScheduleParts,
    histories: walk::Histories,
    model: model::Parts,
}

impl App {
    /// Connects, migrates, binds. Nothing is received or fetched before [`App::run`].
    pub async fn build(settings: &Settings, connector: Connector) -> anyhow::Result<Self> {
        let database::Pools { work: pool, operators } = database::connect_daemon(&connector).await?;
        database::migrate(&pool).await?;
        for finding in database::environment::findings(&pool).await? {
            tracing::warn!("{}: {}", finding.what, finding.remedy);
        }
        let metrics = Arc::new(Metrics::new());
        if let Some(upstream) = &settings.upstream {
            metrics.budget_requests.set(upstream.requests_per_minute.into());
        }
        let stored = Arc::new(Notify::new());
        let parts = match &settings.upstream {
            Some(upstream) => Some(worker_parts(upstream, &settings.mirror, &pool, &metrics, &stored).await?),
            None => None,
        };
        let exclusions = || Arc::clone(&settings.mirror.exclusions);
        let receiving = match &settings.webhook {
            Some(webhook) => {
                let (appender, receiver) = receiver(webhook, exclusions(), connector.clone(), &metrics, stored);
                Some(Receiving {
                    public: bind("NXT_LISTEN", webhook.listen)?,
                    path: webhook.path.clone(),
                    receiver,
                    appender,
                })
            }
            None => None,
        };
        let OpsSettings { listen, token, requests_per_minute, taking_max } = settings.ops.clone();
        let ops_data = Ops::new(OpsParts {
            pool: operators.clone(),
            connector,
            metrics,
            token,
            requests_per_minute,
            taking_max,
            exclusions: exclusions(),
            verification: parts.as_ref().map(|parts| VerificationParts {
                pool: pool.clone(),
                upstream: parts.upstream.clone(),
                catalogue: Arc::clone(&parts.catalogue),
                settings: settings.mirror.clone(),
                verifier: verifier(parts),
            }),
        });
        Ok(Self {
            ops: bind("NXT_OPS_LISTEN", listen)?,
            pool,
            operators,
            ops_data,
            receiving,
            working: parts.map(|parts| Working::new(parts, settings)),
            ledger_days: settings.mirror.ledger_days,
        })
    }

    /// Where webhooks are received; `None` for a worker.
    pub fn public_address(&self) -> Option<SocketAddr> {
        self.receiving.as_ref().map(|receiving| receiving.public.address)
    }

    /// Where operators ask.
    pub fn ops_address(&self) -> SocketAddr {
        self.ops.address
    }

    /// Runs until told to stop: first nothing new is received, then nothing new is claimed, then what is under way is
    /// finished, then the database is left.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let ops_data = self.ops_data.clone();
        let ops =
            serve(self.ops.listener, 1, ops::Connection::keep, move |config| ops::configure(config, ops_data.clone()))?;
        let (mut tasks, mut public, mut registered) = (vec![], None, None);
        if let Some(Receiving { public: bound, path, receiver, appender }) = self.receiving {
            public = Some(serve_webhooks(bound.listener, path, receiver)?);
            tasks.push(essential(&stop, appender.run()));
        }
        tasks.push(essential(&stop, self.ops_data.run(stop.clone())));
        tasks.push(essential(&stop, maintain(self.pool.clone(), self.ledger_days, stop.clone())));
        if let Some(Working { queue, me, worker, schedule, histories, model }) = self.working {
            let beating = tokio::spawn(beat(queue.clone(), me));
            registered = Some((beating, queue, me));
            tasks.push(essential(&stop, worker.run(stop.clone())));
            tasks.push(essential(&stop, walk::schedule(schedule, stop.clone())));
            tasks.push(essential(&stop, histories.run(stop.clone())));
            tasks.push(essential(&stop, model::run(model, stop.clone())));
        }
        stop.cancelled().await;
        tracing::info!("stopping");
        if let Some(public) = public {
            public.finish().await;
        }
        for task in tasks {
            task.await.context("a task of the daemon panicked")?;
        }
        if let Some((beating, queue, me)) = registered {
            beating.abort();
            leave(&queue, me).await;
        }
        ops.finish().await;
        self.operators.close().await;
        self.pool.close().await;
        tracing::info!("stopped");
        Ok(())
    }
}

impl Working {
    fn new(parts: worker::Parts, settings: &Settings) -> Self {
        let mirror = &settings.mirror;
        Self {
            queue: parts.queue.clone(),
            me: parts.me,
            schedule: walk::ScheduleParts {
                pool: parts.pool.clone(),
                upstream: parts.upstream.clone(),
                catalogue: Arc::clone(&parts.catalogue),
                queue: parts.queue.clone(),
                me: parts.me,
                settings: mirror.clone(),
                loader: loader(&parts),
                requests_per_minute: settings.upstream.as_ref().map_or(0, |upstream| upstream.requests_per_minute),
            },
            histories: walk::Histories {
                pool: parts.pool.clone(),
                mirror: parts.mirror.clone(),
                catalogue: Arc::clone(&parts.catalogue),
                settings: mirror.clone(),
            },
            model: model::Parts {
                upstream: parts.upstream.clone(),
                catalogue: Arc::clone(&parts.catalogue),
                mirror: parts.mirror.clone(),
                language: mirror.language,
                walk_interval: mirror.walk_interval,
                makes_indexes: mirror.relation_indexes,
            },
            worker: Worker::new(parts),
        }
    }
}

/// The API, within the budget that all processes on this database share.
pub(crate) async fn upstream(
    settings: &UpstreamSettings,
    pool: &PgPool,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Upstream> {
    let budget = Budget::new(pool.clone(), settings.requests_per_minute, settings.in_flight_max).await?;
    Ok(Upstream::new(settings, budget, Arc::clone(metrics))?)
}

/// What a worker works with, from the settings. Registers it as alive.
pub(crate) async fn worker_parts(
    upstream: &UpstreamSettings,
    mirror: &MirrorSettings,
    pool: &PgPool,
    metrics: &Arc<Metrics>,
    stored: &Arc<Notify>,
) -> anyhow::Result<worker::Parts> {
    let client = self::upstream(upstream, pool, metrics).await?;
    let MirrorSettings { keys, extensions, exclusions, walk_interval, .. } = mirror.clone();
    let catalogue = Arc::new(Catalogue::new(client.clone(), keys, extensions, exclusions, walk_interval));
    let tables = Mirror::new(pool.clone(), mirror.deletes).with_history(mirror.history.clone());
    tables.look_for_losses().await?;
    catalogue.remember(tables.descriptions().await?);
    let queue = Queue::new(pool.clone());
    let me = queue.register().await?;
    Ok(worker::Parts {
        queue,
        me,
        claims: Claims::new(),
        pool: pool.clone(),
        upstream: client,
        catalogue,
        writer: Writer::new(tables.clone()),
        mirror: tables,
        settings: Arc::new(mirror.clone()),
        metrics: Arc::clone(metrics),
        stored: Arc::clone(stored),
        fetch_rows_max: usize::try_from(upstream.fetch_rows_max).unwrap_or(usize::MAX),
    })
}

/// Says that the worker is alive, until aborted.
pub(crate) async fn beat(queue: Queue, me: WorkerId) {
    let mut timer = tokio::time::interval(queue::BEAT_INTERVAL);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        if let Err(error) = queue.beat(me).await {
            tracing::warn!(error = %chain(&error), "the worker could not say that it is alive");
        }
    }
}

/// Gives back at once what the worker holds.
pub(crate) async fn leave(queue: &Queue, me: WorkerId) {
    if let Err(error) = queue.leave(me).await {
        tracing::warn!(error = %chain(&error), "what the worker held is free in a few seconds");
    }
}

/// Walks of whole tables with a worker's parts.
pub(crate) fn loader(parts: &worker::Parts) -> walk::Loader {
    walk::Loader::new(parts.pool.clone(), parts.writer.clone(), source(parts, Purpose::Load))
}

/// Comparisons of whole tables with a worker's parts.
pub(crate) fn verifier(parts: &worker::Parts) -> walk::Verifier {
    walk::Verifier::new(parts.pool.clone(), parts.writer.clone(), source(parts, Purpose::Verify))
}

fn source(parts: &worker::Parts, purpose: Purpose) -> walk::Source {
    walk::Source::new(parts.upstream.for_purpose(purpose), Arc::clone(&parts.catalogue), parts.fetch_rows_max)
}

fn receiver(
    settings: &WebhookSettings,
    exclusions: Arc<Exclusions>,
    connector: Connector,
    metrics: &Arc<Metrics>,
    stored: Arc<Notify>,
) -> (Appender, Receiver) {
    let (acceptor, appender) = Appender::new(connector, exclusions, stored, Arc::clone(metrics));
    let receiver = Receiver {
        secrets: SigningSecrets::new(&settings.secrets),
        body_bytes_max: settings.body_bytes_max,
        room: Room::new(),
        acceptor,
        metrics: Arc::clone(metrics),
    };
    (appender, receiver)
}

/// Runs a task without which the daemon is of no use: when it ends, by a panic for example, so does the daemon.
fn essential(stop: &CancellationToken, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    let ends_all = stop.clone().drop_guard();
    tokio::spawn(async move {
        let _ends_all = ends_all;
        task.await;
    })
}

/// Receives webhooks on the public listener.
pub fn serve_webhooks(listener: TcpListener, path: String, receiver: Receiver) -> anyhow::Result<Served> {
    let workers = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
    serve(listener, workers, |_, _| {}, move |config| webhook::configure(config, &path, receiver.clone()))
}

/// What has to be done now and then.
async fn maintain(pool: PgPool, ledger_days: u32, stop: CancellationToken) {
    let ledger = async {
        let mut timer = tokio::time::interval(MAINTENANCE_INTERVAL);
        loop {
            timer.tick().await;
            if let Err(error) =
                queue::maintenance::run(&pool, Duration::from_secs(u64::from(ledger_days) * 86_400)).await
            {
                tracing::error!(error = %chain(&error), "maintenance failed, it is tried again in an hour");
            }
        }
    };
    let clocks = async {
        let mut timer = tokio::time::interval(CLOCK_INTERVAL);
        loop {
            timer.tick().await;
            if let Err(error) = look_at_clocks(&pool).await {
                tracing::warn!(%error, "clocks not looked at");
            }
        }
    };
    // Neither ends, and neither waits for the other.
    stop.run_until_cancelled(async { tokio::join!(ledger, clocks) }).await;
}

async fn look_at_clocks(pool: &PgPool) -> Result<(), sqlx::Error> {
    let found = clocks::recall(pool).await?;
    if found > 0 {
        tracing::warn!(found, "times lay in the far future: was the database's clock set back?");
    }
    for finding in clocks::evidence(pool).await?.findings() {
        tracing::warn!("{finding}: {}", finding.advice());
    }
    Ok(())
}
