//! The HTTP listeners: bound to their addresses, served, and stopped without losing a request.

use std::{
    any::Any,
    net::{Shutdown, SocketAddr, TcpListener},
    time::Duration,
};

use actix_web::{
    App as WebApp, HttpServer,
    dev::{Extensions, ServerHandle},
    middleware::DefaultHeaders,
    web,
};
use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{SockFilter, SockRef, Socket};
use tokio::task::JoinHandle;

/// How long requests under way may take when the daemon stops.
const HTTP_STOP_SECONDS: u64 = 15;
/// How long a connection may take from the listening socket to the worker that serves it.
const HAND_OVER: Duration = Duration::from_millis(250);
/// How long the HTTP server may take to let go of its listening socket.
const NOTICE: Duration = Duration::from_millis(50);
/// A filter of the kernel's ("return 0") that lets no packet through.
const NOTHING: SockFilter = SockFilter::new(0x06, 0, 0, 0);
/// Connections that may wait to be accepted, where the system allows so many. The standard library has 128 wait, and
/// whoever comes after them tries again a second later.
const WAITING_MAX: i32 = 4_096;
/// Connections that one thread of a listener serves, where the process may have that many.
const CONNECTIONS_MAX: usize = 4_096;
/// Files and connections that the rest of the process may need: to the database, to the API, and what libraries open.
const FILES_ELSEWHERE: u64 = 256;
/// How long a client may take for the head of its first request on a connection. For later ones it may take as long as
/// it likes: so whoever has not shown that he may ask is hung up on after his first answer.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection is kept while nothing is asked. Whoever asks must be the first to let go of it, or what he sends
/// at that moment is lost: .NET does within one or two minutes, nginx and Amazon's balancers in one, Caddy in two.
const KEEP_ALIVE: Duration = Duration::from_secs(150);

/// A socket that listens, and where.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) listener: TcpListener,
    pub(crate) address: SocketAddr,
}

/// An HTTP server that runs.
#[derive(Debug)]
pub struct Served {
    handle: ServerHandle,
    task: JoinHandle<std::io::Result<()>>,
    /// The socket on which it listens, once more.
    listening: Socket,
}

impl Served {
    /// Takes no new connections, answers those that it has, and ends.
    pub async fn finish(self) {
        // A listening socket that is shut resets the connections that nobody has accepted yet, and a worker of actix-web
        // that is told to stop drops those that it was handed and has not begun with. So nobody new gets in first, and
        // whoever is in reaches a worker.
        if let Err(error) = self.listening.attach_filter(&[NOTHING]) {
            tracing::warn!(%error, "connections that are being made may be reset");
        }
        tokio::time::sleep(HAND_OVER).await;
        let stopped = self.handle.stop(true);
        tokio::time::sleep(NOTICE).await;
        // Whoever was kept out is refused from now on, which proxies try elsewhere.
        if let Err(error) = self.listening.shutdown(Shutdown::Read) {
            tracing::debug!(%error, "the listening socket is shut already");
        }
        stopped.await;
        match self.task.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the HTTP server ended with an error"),
            Err(error) => tracing::error!(%error, "the HTTP server panicked"),
        }
    }
}

/// Listens at the address of a setting, which an error names.
pub(crate) fn bind(setting: &str, address: SocketAddr) -> anyhow::Result<Bound> {
    let listener = TcpListener::bind(address).with_context(|| format!("{setting}: listen on {address}"))?;
    SockRef::from(&listener).listen(WAITING_MAX).with_context(|| format!("{setting}: listen on {address}"))?;
    let address = listener.local_addr().context("read the bound address")?;
    Ok(Bound { listener, address })
}

/// Serves what `configure` mounts, in this many threads.
pub(crate) fn serve(
    listener: TcpListener,
    workers: usize,
    on_connect: fn(&dyn Any, &mut Extensions),
    configure: impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
) -> anyhow::Result<Served> {
    let listening = Socket::from(listener.try_clone().context("listen for HTTP")?);
    let server = HttpServer::new(move || {
        let headers =
            DefaultHeaders::new().add(("Cache-Control", "no-store")).add(("X-Content-Type-Options", "nosniff"));
        WebApp::new().wrap(headers).configure(configure.clone())
    })
    .workers(workers)
    .max_connections(connections_max(raise_open_files(), workers))
    .client_request_timeout(HEAD_TIMEOUT)
    .keep_alive(KEEP_ALIVE)
    .shutdown_timeout(HTTP_STOP_SECONDS)
    .disable_signals()
    .on_connect(on_connect)
    .listen(listener)
    .context("listen for HTTP")?
    .run();
    Ok(Served { handle: server.handle(), task: tokio::spawn(server), listening })
}

/// Raises the number of files and connections that this process may have at once to what the system allows, and returns
/// it. What programs have unasked may be as few as 1,024.
fn raise_open_files() -> u64 {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(few, most)| match few < most {
        true => setrlimit(Resource::RLIMIT_NOFILE, most, most).map(|()| most),
        false => Ok(few),
    });
    raised.unwrap_or_else(|error| {
        tracing::debug!(%error, "the limit of open files stays as it is");
        getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(few, _)| few)
    })
}

/// Connections of one of a listener's threads. However many strangers connect, to both listeners, what the rest of the
/// process needs is left.
fn connections_max(files: u64, threads: usize) -> usize {
    let share = files.saturating_sub(FILES_ELSEWHERE) / 2 / threads as u64;
    usize::try_from(share).map_or(CONNECTIONS_MAX, |share| share.clamp(1, CONNECTIONS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_listeners_leave_files_to_the_rest() {
        assert_eq!(connections_max(u64::MAX, 2), CONNECTIONS_MAX);
        assert_eq!(connections_max(1_048_576, 8), CONNECTIONS_MAX);
        for files in [1_024, 4_096, 16_384] {
            for threads in [1, 2, 8] {
                let both = 2 * threads * connections_max(files, threads);
                assert!(both as u64 + FILES_ELSEWHERE <= files && both >= 512, "{files} {threads}: {both}");
            }
        }
        assert_eq!(connections_max(0, 8), 1);
    }
}
