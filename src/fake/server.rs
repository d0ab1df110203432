//! The HTTP server of the fake hub.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::answer::FakeAnswer;
use super::request::ReceivedRequest;
use super::state::{Action, State};

/// Delay before the next `accept` after one has failed. The usual cause is that file descriptors have run out, and
/// some may soon be free again.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(10);

/// Serves connections until it is aborted.
pub(super) async fn run(listener: TcpListener, state: Arc<Mutex<State>>) {
    // Owned by this task, so that aborting it closes every connection.
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(serve(stream, Arc::clone(&state)));
            }
            Err(_) => tokio::time::sleep(ACCEPT_RETRY_DELAY).await,
        }
        // Reaps the tasks that have ended, which a `JoinSet` keeps until they are joined.
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) {
    let service = service_fn(|request| async {
        let response = match ReceivedRequest::read(request).await {
            Some(request) => respond(&state, &request).await,
            None => FakeAnswer::new(413, ""),
        };
        Ok::<_, Infallible>(response.0.map(Full::new))
    });
    // Ignored, because a client may close its connection at any time.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn respond(state: &Mutex<State>, request: &ReceivedRequest) -> FakeAnswer {
    let action = lock(state).receive(request);
    let response = match action {
        Action::Respond(response) => response,
        Action::RespondToTokenRequest { delay, failure } => {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            failure.unwrap_or_else(|| lock(state).token_response(request))
        }
        Action::RespondToApiRequest(route) => route.response(request).allow_any_origin(),
    };
    let observer = lock(state).observer.clone();
    if let Some(observer) = observer {
        observer(request, response.0.status());
    }
    response
}

pub(super) fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // A poisoned lock is safe to use: no method panics halfway through an update, so the state is consistent.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
