//! The client of a daemon's admin API: HTTP over a Unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sustain_node::operations::Failure;
use tokio::net::UnixStream;

/// Most bytes of an answer that are read: a log of a hundred thousand snapshots.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How long the daemon may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long it may take to answer a question; what has it work may take as long as the work does. The longest is
/// the log of a hundred thousand snapshots. A guess.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it is asked how far a daemon's work is.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// A client of one daemon.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    socket: PathBuf,
}

impl Client {
    /// For the daemon that listens on this socket.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Asks, and waits for the answer.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        block_on(async {
            let asking = tokio::time::timeout(ANSWER_TIMEOUT, self.get_async(path));
            asking.await.unwrap_or_else(|_| Err(self.silent()))
        })?
    }

    /// Whether there is a daemon, be it one that does not answer.
    pub(crate) fn is_there(&self) -> bool {
        // Whoever is stopped still has its socket, whose queue takes the connection.
        std::os::unix::net::UnixStream::connect(&self.socket).is_ok()
    }

    fn silent(&self) -> Failure {
        let (socket, seconds) = (self.socket.display(), ANSWER_TIMEOUT.as_secs());
        Failure::new(12, format!("the daemon on {socket} gave no answer in {seconds} s"))
            .with_hint("see whether it is stopped or hangs: its state in `ps`, its log")
    }

    /// Has something done, and waits until it is.
    pub(crate) fn post<T: DeserializeOwned>(&self, path: &str, call: &impl Serialize) -> Result<T, Failure> {
        let body = serde_json::to_vec(call).map_err(|error| Failure::new(1, error.to_string()))?;
        block_on(self.send(Method::POST, path, body))?
    }

    /// As [`Client::post`], and asks something else at intervals while that goes on. If `seen` fails, the daemon is
    /// left to itself, and notices.
    pub(crate) fn post_watched<T: DeserializeOwned, W: DeserializeOwned>(
        &self,
        path: &str,
        call: &impl Serialize,
        watch: &str,
        mut seen: impl FnMut(Option<W>) -> Result<(), Failure>,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(call).map_err(|error| Failure::new(1, error.to_string()))?;
        block_on(async {
            let mut working = std::pin::pin!(self.send(Method::POST, path, body));
            loop {
                tokio::select! {
                    answer = &mut working => return answer,
                    () = tokio::time::sleep(WATCH_INTERVAL) => {
                        // What can't be told now is told later.
                        seen(self.get_async(watch).await.unwrap_or(None))?;
                    }
                }
            }
        })?
    }

    /// As [`Client::get`], inside a runtime.
    pub(crate) async fn get_async<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.send(Method::GET, path, Vec::new()).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, Failure> {
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(&self.socket));
        let stream = match connecting.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unreachable(&self.socket, &error)),
            Err(_) => return Err(unreachable(&self.socket, &"it accepts no connection")),
        };
        let lost = |error: hyper::Error| unreachable(&self.socket, &error);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Failure::new(1, error.to_string()))?;
        let asking = async {
            let response = sender.send_request(request).await.map_err(lost)?;
            let good = response.status().is_success();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| unreachable(&self.socket, &error))?.to_bytes();
            drop(sender);
            Ok::<_, Failure>((good, body))
        };
        let (answer, _) = tokio::join!(asking, connection);
        read(answer?)
    }
}

fn read<T: DeserializeOwned>((good, body): (bool, Bytes)) -> Result<T, Failure> {
    let strange =
        |error: serde_json::Error| Failure::new(1, format!("the daemon's answer is strange: {error}"));
    if good {
        return serde_json::from_slice(&body).map_err(strange);
    }
    Err(serde_json::from_slice(&body).unwrap_or_else(|_| {
        Failure::new(1, format!("the daemon refuses: {}", String::from_utf8_lossy(&body)))
    }))
}

fn unreachable(socket: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::new(12, format!("no daemon answers on {}: {why}", socket.display()))
        .with_hint("start it with `snapctl node --config FILE`")
}

fn block_on<F: Future>(future: F) -> Result<F::Output, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(1, format!("can't start the runtime: {error}")))?;
    Ok(runtime.block_on(future))
}
