//! The composition root: builds a daemon from its settings, runs it, stops it.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use actix_web::{App as WebApp, HttpServer, dev::ServerHandle, middleware::DefaultHeaders, web};
use anyhow::Context;
use secrecy::SecretString;
use sqlx::{PgPool, postgres::PgConnectOptions};
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    clocks,
    config::{MirrorSettings, OpsSettings, Settings, UpstreamSettings, WebhookSettings},
    database,
    mirror::Replica,
    ops::{self, Ops},
    queue::{self, Committer, Queue},
    telemetry::{Metrics, chain},
    upstream::{Budget, Catalog, Upstream},
    walk,
    webhook::{self, Receiver, Room, SigningSecrets},
    worker::{self, Scope, Worker},
};

/// How often partitions are made and old entries removed.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(3_600);
/// How often clocks are looked at.
const CLOCK_INTERVAL: Duration = Duration::from_secs(300);
/// How long requests under way may take when the daemon stops.
const HTTP_STOP_SECONDS: u64 = 15;
/// Connections that may wait for, or take part in, a request on the public listener.
const CONNECTIONS_MAX: usize = 4_096;
/// How long a client may take for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A daemon that is built and bound, but not running.
#[derive(Debug)]
pub struct App {
    pool: PgPool,
    ops: Bound,
    public: Option<Bound>,
    committer: Option<Committer>,
    receiver: Option<(String, Receiver)>,
    ops_data: Ops,
    worker: Option<Worker>,
    schedule: Option<walk::ScheduleParts>,
}

#[derive(Debug)]
struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

impl App {
    /// Connects, migrates, binds. Nothing is received or fetched before [`App::run`].
    pub async fn build(settings: &Settings, database_url: &SecretString) -> anyhow::Result<Self> {
        let options = database::options(database_url)?;
        let pool = database::connect(options.clone()).await?;
        database::migrate(&pool).await?;
        queue::maintenance::run(&pool, queue::maintenance::RETENTION_DAYS).await?;
        let metrics = Arc::new(Metrics::new());
        let stored = Arc::new(Notify::new());
        let parts = match &settings.upstream {
            Some(upstream) => Some(worker_parts(upstream, &settings.mirror, &pool, &metrics, &stored).await?),
            None => None,
        };
        let schedule = parts.as_ref().map(|parts| walk::ScheduleParts {
            pool: pool.clone(),
            upstream: parts.upstream.clone(),
            catalog: Arc::clone(&parts.catalog),
            settings: settings.mirror.clone(),
            loader: parts.loader(),
            requests_per_minute: settings.upstream.as_ref().map_or(0, |upstream| upstream.requests_per_minute),
        });
        let worker = parts.map(Worker::new);
        let (public, committer, receiver) = match &settings.webhook {
            Some(webhook) => {
                let (committer, receiver) = receiver(webhook, options, &metrics, stored);
                (Some(bind(webhook.listen)?), Some(committer), Some((webhook.path.clone(), receiver)))
            }
            None => (None, None, None),
        };
        let OpsSettings { listen, token } = settings.ops.clone();
        let ops_data = Ops { pool: pool.clone(), metrics, token };
        Ok(Self { ops: bind(listen)?, pool, public, committer, receiver, ops_data, worker, schedule })
    }

    /// Where webhooks are received; `None` for a worker.
    pub fn public_address(&self) -> Option<SocketAddr> {
        self.public.as_ref().map(|bound| bound.address)
    }

    /// Where operators ask.
    pub fn ops_address(&self) -> SocketAddr {
        self.ops.address
    }

    /// Runs until told to stop: first nothing new is received, then nothing new is claimed, then what is under way is
    /// finished, then the database is left.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let ops_data = self.ops_data.clone();
        let ops = serve(self.ops.listener, 1, move |config| ops::configure(config, ops_data.clone()))?;
        let public = match (self.public, self.receiver) {
            (Some(bound), Some((path, receiver))) => {
                let workers = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
                let configure = move |config: &mut web::ServiceConfig| {
                    webhook::configure(config, &path, receiver.clone());
                };
                Some(serve(bound.listener, workers, configure)?)
            }
            _ => None,
        };
        let committer = self.committer.map(|committer| essential(&stop, committer.run()));
        let maintenance = essential(&stop, maintain(self.pool.clone(), stop.clone()));
        let worker = self.worker.map(|worker| essential(&stop, worker.run(stop.clone())));
        let schedule = self.schedule.map(|parts| essential(&stop, walk::schedule(parts, stop.clone())));
        stop.cancelled().await;
        tracing::info!("stopping");
        if let Some((handle, server)) = public {
            finish(handle, server).await;
        }
        for task in [schedule, committer, worker, Some(maintenance)].into_iter().flatten() {
            task.await.context("a task of the daemon panicked")?;
        }
        finish(ops.0, ops.1).await;
        self.pool.close().await;
        tracing::info!("stopped");
        Ok(())
    }
}

/// What a worker works with, from the settings.
pub(crate) async fn worker_parts(
    upstream: &UpstreamSettings,
    mirror: &MirrorSettings,
    pool: &PgPool,
    metrics: &Arc<Metrics>,
    stored: &Arc<Notify>,
) -> anyhow::Result<worker::Parts> {
    let budget = Budget::new(pool.clone(), upstream.requests_per_minute, upstream.in_flight_max).await?;
    let client = Upstream::new(upstream, budget, Arc::clone(metrics))?;
    let catalog = Arc::new(Catalog::new(client.clone(), mirror.keys.clone(), mirror.walk_interval));
    let replica = Replica::new(pool.clone(), mirror.deletes);
    catalog.remember(replica.descriptions().await?).await;
    Ok(worker::Parts {
        queue: Queue::new(pool.clone()),
        pool: pool.clone(),
        upstream: client,
        catalog,
        replica,
        scope: Arc::new(Scope::new(mirror)),
        metrics: Arc::clone(metrics),
        stored: Arc::clone(stored),
        fetch_rows_max: usize::try_from(upstream.fetch_rows_max).unwrap_or(usize::MAX),
    })
}

fn receiver(
    settings: &WebhookSettings,
    options: PgConnectOptions,
    metrics: &Arc<Metrics>,
    stored: Arc<Notify>,
) -> (Committer, Receiver) {
    let (acceptor, committer) = Committer::new(options, stored, Arc::clone(metrics));
    let receiver = Receiver {
        secrets: SigningSecrets::new(&settings.secrets),
        body_bytes_max: settings.body_bytes_max,
        room: Room::new(),
        acceptor,
        metrics: Arc::clone(metrics),
    };
    (committer, receiver)
}

fn bind(address: SocketAddr) -> anyhow::Result<Bound> {
    let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    let address = listener.local_addr().context("read the bound address")?;
    Ok(Bound { listener, address })
}

/// Runs a task without which the daemon is of no use: when it ends, by a panic for example, so does the daemon.
fn essential(stop: &CancellationToken, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    let ends_all = stop.clone().drop_guard();
    tokio::spawn(async move {
        let _ends_all = ends_all;
        task.await;
    })
}

type Served = (ServerHandle, JoinHandle<std::io::Result<()>>);

fn serve(
    listener: TcpListener,
    workers: usize,
    configure: impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
) -> anyhow::Result<Served> {
    let server = HttpServer::new(move || {
        let headers =
            DefaultHeaders::new().add(("Cache-Control", "no-store")).add(("X-Content-Type-Options", "nosniff"));
        WebApp::new().wrap(headers).configure(configure.clone())
    })
    .workers(workers)
    .max_connections(CONNECTIONS_MAX)
    .client_request_timeout(HEAD_TIMEOUT)
    .shutdown_timeout(HTTP_STOP_SECONDS)
    .disable_signals()
    .listen(listener)
    .context("listen for HTTP")?
    .run();
    Ok((server.handle(), tokio::spawn(server)))
}

async fn finish(handle: ServerHandle, server: JoinHandle<std::io::Result<()>>) {
    handle.stop(true).await;
    match server.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the HTTP server ended with an error"),
        Err(error) => tracing::error!(%error, "the HTTP server panicked"),
    }
}

/// What has to be done now and then.
async fn maintain(pool: PgPool, stop: CancellationToken) {
    let ledger = async {
        let mut timer = tokio::time::interval(MAINTENANCE_INTERVAL);
        // Done when the daemon was built.
        timer.tick().await;
        loop {
            timer.tick().await;
            if let Err(error) = queue::maintenance::run(&pool, queue::maintenance::RETENTION_DAYS).await {
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
    let rows = clocks::recall(pool).await?;
    if rows > 0 {
        tracing::warn!(rows, "rows were due in the far future: was the database's clock set back?");
    }
    for finding in clocks::evidence(pool).await?.findings() {
        tracing::warn!("{finding}: {}", finding.advice());
    }
    Ok(())
}
