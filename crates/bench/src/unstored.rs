//! What receiving costs beside storing: the daemon's own handler, whose deliveries are acknowledged at once and stored
//! nowhere. A process of its own, as the daemon is, with the same HTTP server.

use std::{io::Read, net::TcpListener, process::Stdio, sync::Arc};

use nxt_mirror::{
    app,
    queue::{Accepted, Acceptor},
    telemetry::Metrics,
    webhook::{Receiver, Room, SigningSecrets},
};
use nxt_testkit::{Daemon, SECRET, Wait, free_address, webhook_url};
use tokio::{net::TcpStream, process::Command};
use url::Url;

/// What the daemon allows.
const BODY_BYTES_MAX: usize = 1 << 20;

/// The process, seen from the one that measures.
pub(super) struct Unstored {
    pub(super) address: String,
    _process: Daemon,
}

impl Unstored {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let address = free_address();
        let mut command = Command::new(std::env::current_exe()?);
        // It ends with us, whose end closes its input.
        command.args(["unstored", &address]).stdin(Stdio::piped()).kill_on_drop(true);
        let process = Daemon::start(&mut command);
        let look = async || TcpStream::connect(&address).await.map(drop).map_err(|error| error.to_string());
        Wait::seconds(30).every_millis(50).until("the process listens", look).await?;
        Ok(Self { address, _process: process })
    }
}

/// The process itself.
pub(super) async fn serve(address: &str) -> anyhow::Result<()> {
    let (acceptor, mut waiting) = Acceptor::channel(Arc::default());
    let receiver = Receiver {
        secrets: SigningSecrets::new([&SECRET.into()]),
        body_bytes_max: BODY_BYTES_MAX,
        room: Room::new(),
        acceptor,
        metrics: Arc::new(Metrics::new()),
    };
    let path = Url::parse(&webhook_url(address))?.path().to_owned();
    let served = app::serve_webhooks(TcpListener::bind(address)?, path, receiver)?;
    let acknowledge = tokio::spawn(async move {
        while let Some(request) = waiting.recv().await {
            request.answer(Ok(Accepted::Stored));
        }
    });
    _ = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await;
    served.finish().await;
    acknowledge.abort();
    Ok(())
}
