//! A Docker volume plugin that knows nothing and does nothing: what it takes to answer at all.
//! It answers each call with the very bytes that the real one answered.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;
use tokio::runtime::{Builder, Runtime};

use crate::Fault;

/// Answers until it is dropped.
#[derive(Debug)]
pub(crate) struct NullPlugin {
    _runtime: Runtime,
}

impl NullPlugin {
    /// Listens on `socket`; `answers` are by path.
    pub(crate) fn start(
        socket: &Path,
        answers: HashMap<String, Vec<u8>>,
    ) -> Result<NullPlugin, Fault> {
        let answers = answers.into_iter().map(|(path, body)| (path, Bytes::from(body))).collect();
        let runtime = Builder::new_multi_thread().enable_all().build()?;
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(socket)?
        };
        runtime.spawn(serve(listener, Arc::new(answers)));
        Ok(NullPlugin { _runtime: runtime })
    }
}

async fn serve(listener: UnixListener, answers: Arc<HashMap<String, Bytes>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let answers = answers.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, &answers));
            // How a connection ends is nothing that is measured.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    answers: &HashMap<String, Bytes>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = answers.get(request.uri().path()).cloned().unwrap_or_default();
    // Read to its end, so that the connection can be kept.
    let _ = request.into_body().collect().await;
    Ok(Response::new(Full::new(body)))
}
