//! s3s-fs, an S3 service on a directory. It starts quickly and checks signatures, but it is not a
//! reference for conditional writes.

use std::path::Path;

use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use tokio::{net::TcpListener, task::JoinHandle};

/// A running service; ends when dropped.
#[derive(Debug)]
pub struct S3sFs {
    /// The service's endpoint.
    pub url: String,
    task: JoinHandle<()>,
}

impl S3sFs {
    /// Serves the directories below `root` as buckets.
    pub async fn start(root: &Path, access_key: &str, secret_key: &str) -> Self {
        let files = s3s_fs::FileSystem::new(root).expect("a directory to serve");
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(access_key, secret_key));
        let service = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let task = tokio::spawn(async move {
            let server =
                hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (server, service) = (server.clone(), service.clone());
                // Otherwise small answers would wait for the client's acknowledgement.
                let _ = stream.set_nodelay(true);
                connections.spawn(async move {
                    let stream = hyper_util::rt::TokioIo::new(stream);
                    // A client that goes away is not a failure of the service.
                    let _ = server.serve_connection(stream, service).await;
                });
            }
        });
        Self { url, task }
    }
}

impl Drop for S3sFs {
    fn drop(&mut self) {
        self.task.abort();
    }
}
