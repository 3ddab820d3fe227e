//! An S3 service of an independent project (s3s-fs) on loopback, for the demo. Each service is a
//! process of its own, so that it can be stopped.

use std::path::PathBuf;

use clap::Args;
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use tokio::{net::TcpListener, task::JoinSet};

use crate::error::{Failed, Outcome};

#[derive(Args)]
pub(crate) struct DemoServiceArguments {
    /// The folder to serve; each folder in it is a bucket
    root: PathBuf,
    /// The port of 127.0.0.1 to listen on
    port: u16,
}

/// Serves until the process is killed. The keys come from the environment, because other users can
/// see arguments.
pub(crate) async fn serve(arguments: DemoServiceArguments) -> Outcome {
    let key =
        |name| std::env::var(name).map_err(|_| Failed::configuration(format!("{name} is not set")));
    let files =
        s3s_fs::FileSystem::new(&arguments.root).map_err(|e| Failed::other(format!("{e:?}")))?;
    let mut builder = S3ServiceBuilder::new(files);
    builder.set_auth(SimpleAuth::from_single(
        key("RAIC_DEMO_ACCESS_KEY")?,
        key("RAIC_DEMO_SECRET_KEY")?,
    ));
    let service = builder.build();
    let listener = TcpListener::bind(("127.0.0.1", arguments.port))
        .await
        .map_err(Failed::other)?;
    let server = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.map_err(Failed::other)?;
        let (server, service) = (server.clone(), service.clone());
        connections.spawn(async move {
            // A client that goes away is not a failure of the service.
            let _ = server
                .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}
