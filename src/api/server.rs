//! Connections: accepted up to a bound, given little time to speak, ended in an orderly way.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::routes::{Door, router};
use super::{Api, stopped};
use crate::limits::{API_CONNECTIONS_MAX, API_DRAIN_MS_MAX, API_HEADER_MAX, API_HEADER_MS_MAX};

/// Serves both doors until [`Api::stop`]; open requests then get a moment to end.
pub async fn serve(api: Arc<Api>, unix: UnixListener, tcp: Option<TcpListener>) {
    let private = serve_door(router(api.clone(), Door::Unix), api.stopping(), unix);
    let public = async {
        if let Some(tcp) = tcp {
            serve_door(router(api.clone(), Door::Tcp), api.stopping(), tcp).await;
        }
    };
    tokio::join!(private, public);
}

async fn serve_door(routes: Router, mut stopping: watch::Receiver<bool>, mut listener: impl Listener) {
    let room = Arc::new(Semaphore::new(API_CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            // Room first: connections past the bound wait in the kernel's queue. Where `accept` fails,
            // for want of descriptors most likely, it tries again after a while.
            let permit = room.clone().acquire_owned().await;
            (permit, listener.accept().await.0)
        };
        tokio::select! {
            () = stopped(&mut stopping) => break,
            Some(_) = connections.join_next() => {}
            (permit, stream) = next => {
                // The semaphore is never closed.
                let Ok(permit) = permit else { break };
                connections.spawn(converse(stream, routes.clone(), stopping.clone(), permit));
            }
        }
    }
    let drain = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(Duration::from_millis(API_DRAIN_MS_MAX), drain).await;
}

async fn converse<S>(
    stream: S,
    routes: Router,
    mut stopping: watch::Receiver<bool>,
    permit: OwnedSemaphorePermit,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let _permit = permit;
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(API_HEADER_MS_MAX))
        .max_buf_size(API_HEADER_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    tokio::pin!(connection);
    // A client that breaks off is no event worth more than a trace.
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "API connection ended");
    }
}
