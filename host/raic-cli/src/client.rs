//! The client of the admin door. It makes one connection for each request.

use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use http_body_util::{BodyDataStream, BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{Method, Request, Response, body::Frame, body::Incoming};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use raic_gateway::wire::{Code, Failure};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::{
    error::{Failed, Outcome},
    home::Home,
};

/// Longest path of a request, in bytes, with its query. A name has at most 1024 bytes, and a path
/// has up to three characters for each; what is kept beside a file may be 12 KiB, and as much
/// longer.
const LONGEST_PATH: usize = 48 << 10;

type Body = BoxBody<Bytes, std::io::Error>;

/// Sends requests to the daemon of a home.
pub(crate) struct Client<'a>(pub(crate) &'a Home);

/// Returns an empty body.
pub(crate) fn nothing() -> Body {
    Full::new(Bytes::new())
        .map_err(|never| match never {})
        .boxed()
}

/// Returns a body with a document in JSON.
pub(crate) fn document(value: &impl serde::Serialize) -> Outcome<Body> {
    let text = serde_json::to_vec(value).map_err(Failed::other)?;
    Ok(Full::new(Bytes::from(text))
        .map_err(|never| match never {})
        .boxed())
}

/// Returns a body that streams `content`.
pub(crate) fn streamed(
    content: impl Stream<Item = std::io::Result<Bytes>> + Send + Sync + 'static,
) -> Body {
    StreamBody::new(content.map_ok(Frame::data)).boxed()
}

/// Returns the path of a file's resource; `kind` is `files` or `stat`.
pub(crate) fn path_of(kind: &str, name: &str) -> String {
    format!("/v1/{kind}/{}", encode(name))
}

/// Returns a query that begins with `?`.
pub(crate) fn query(pairs: &[(&str, String)]) -> String {
    let pairs = pairs.iter();
    let pairs: Vec<_> = pairs
        .map(|(key, value)| format!("{key}={}", encode(value)))
        .collect();
    format!("?{}", pairs.join("&"))
}

/// Encodes a text for a path or a query.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

impl Client<'_> {
    /// Sends a request, and returns its answer. If the answer is an error, fails with that error.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, String)],
        body: Body,
    ) -> Outcome<Response<Incoming>> {
        // A path that ends with a slash lacks a name. A request takes no path beyond this length.
        let of_nothing = path
            .split('?')
            .next()
            .is_some_and(|path| path.ends_with('/'));
        if of_nothing || path.len() > LONGEST_PATH {
            let what = match of_nothing {
                true => "empty",
                false => "too long, or what is to be kept beside the file",
            };
            return Err(Failed {
                code: Code::Usage,
                sentence: format!("the name is {what}"),
            });
        }
        let socket = self.0.socket();
        let stream = UnixStream::connect(&socket)
            .await
            .map_err(|e| self.nobody(&e))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broke_off)?;
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "raic");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(body).map_err(Failed::other)?;
        let answer = sender.send_request(request).await.map_err(broke_off)?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let document = answer
            .into_body()
            .collect()
            .await
            .map_err(broke_off)?
            .to_bytes();
        Err(match serde_json::from_slice::<Failure>(&document) {
            Ok(failure) => Failed {
                code: failure.code,
                sentence: failure.error,
            },
            Err(_) => Failed::other(format!(
                "the daemon answered {status}: {}",
                String::from_utf8_lossy(&document)
            )),
        })
    }

    /// Returns the error of a daemon that does not answer.
    fn nobody(&self, e: &std::io::Error) -> Failed {
        let (socket, home) = (self.0.socket(), self.0.path().display());
        let sentence = if e.kind() == std::io::ErrorKind::PermissionDenied {
            format!(
                "cannot connect to {} ({e}); only the owner of the home can",
                socket.display()
            )
        } else if !self.0.config().exists() {
            return Failed::configuration(format!(
                "there is no home in {home}; `raic init` makes one, --home names another"
            ));
        } else {
            // The home's lock is not tried: a daemon that starts just then would find it taken.
            format!(
                "no daemon answers at {} ({e}); start it with `raic --home {home} serve`, or try \
                 again in a moment if it is starting or stopping",
                socket.display()
            )
        };
        Failed {
            code: Code::NoDaemon,
            sentence,
        }
    }

    /// Sends a request whose answer is a document in JSON, and returns the document.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Body,
    ) -> Outcome<T> {
        parsed(self.send(method, path, &[], body).await?).await
    }

    /// Sends a document, and returns the document that answers it.
    pub(crate) async fn ask_about<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        question: &impl serde::Serialize,
    ) -> Outcome<T> {
        let headers = [("content-type", "application/json".to_owned())];
        parsed(
            self.send(method, path, &headers, document(question)?)
                .await?,
        )
        .await
    }
}

async fn parsed<T: DeserializeOwned>(answer: Response<Incoming>) -> Outcome<T> {
    let document = answer
        .into_body()
        .collect()
        .await
        .map_err(broke_off)?
        .to_bytes();
    serde_json::from_slice(&document)
        .map_err(|e| Failed::other(format!("cannot parse the daemon's answer: {e}")))
}

fn broke_off(e: hyper::Error) -> Failed {
    Failed::other(format!(
        "the daemon's answer broke off: {e}; the daemon ended or was stopped, or its log has the \
         reason"
    ))
}

/// Returns the pieces of an answer's body.
pub(crate) fn pieces(answer: Response<Incoming>) -> impl Stream<Item = Outcome<Bytes>> + Unpin {
    futures::TryStreamExt::map_err(BodyDataStream::new(answer.into_body()), broke_off)
}
