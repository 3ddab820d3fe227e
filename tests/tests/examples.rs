//! The connectors of `connectors/examples`, sandboxed, each against a real server.

use raic_cloud::{Cloud, ErrorKind};
use raic_tests::{
    components::connected,
    webdav::{PASSWORD, USER, WebDavServer},
};

const TMP: &str = env!("CARGO_TARGET_TMPDIR");

#[tokio::test(flavor = "multi_thread")]
async fn the_webdav_example_conforms_on_apache() {
    let service = WebDavServer::start();
    let url = format!("{}/raic", service.url);
    let settings = [("url", url.as_str()), ("user", USER)];
    let cloud = connected(TMP, "webdav", &settings, &[("account", PASSWORD)], &[]).expect("a cloud");
    assert_eq!(cloud.probe().await.expect_err("no folder yet").kind, ErrorKind::ContainerNotFound);
    cloud.create_container().await.expect("the folder is made");
    cloud.create_container().await.expect("made again is made");
    raic_tests::conforms(&cloud, "all/").await;
    let wrong = connected(TMP, "webdav", &settings, &[("account", "another")], &[]).expect("a cloud");
    assert_eq!(wrong.probe().await.expect_err("a wrong password").kind, ErrorKind::Unauthenticated);
    cloud.delete_container().await.expect("the folder goes");
}
