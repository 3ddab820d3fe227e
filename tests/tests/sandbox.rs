//! A hostile connector can end its own call, and nothing else. The error names the connector and
//! the cause.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use raic_cloud::{
    Cloud, CloudError, ErrorKind, MemoryCloud, ObjectKey, Payload, Retry, RetryPolicy, WriteMode,
    collect_body, delete_all,
};
use raic_storage::{ChunkBudget, CloudBackend, Container as _, Span};
use raic_tests::components::package;
use raic_wasm::{Configuration, ConnectorCloud, Engine, Package};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use wasm_encoder::{
    CodeSection, ComponentSection as _, CustomSection, ExportKind, ExportSection, Function,
    FunctionSection, Instruction, MemorySection, MemoryType, Module, TypeSection, ValType,
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{
    Resolve, WorldId, WorldItem,
    abi::{AbiVariant, WasmType},
};
use zeroize::Zeroizing;

const SECRET: &str = "a-secret-of-the-operator";
/// The token with which the service answers a login.
const ISSUED: &str = "a-token-of-the-service";

/// Starts a server that answers by the path. Returns its URL, and the count of its connections.
async fn listen() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let mut head = vec![0; 16 << 10];
            let read = stream.read(&mut head).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..read]).into_owned();
            let header = |name| head.lines().find_map(|l| l.strip_prefix(name));
            let token = header("x-token: ")
                .or(header("x-issued: "))
                .unwrap_or_default();
            let answer = match head.split(' ').nth(1).unwrap_or_default() {
                "/own/redirect" => {
                    "HTTP/1.1 307 Away\r\nconnection: close\r\nlocation: /own/x\r\ncontent-length: 0\r\n\r\n"
                        .to_owned()
                }
                "/own/reflect" => {
                    let hex: String = token.bytes().map(|b| format!("{b:02x} ")).collect();
                    let body = format!("you sent {token}, in hex {hex}");
                    let length = body.len();
                    format!(
                        "HTTP/1.1 400 Bad\r\nconnection: close\r\nx-reflected: {token}\r\ncontent-length: {length}\r\n\r\n{body}"
                    )
                }
                "/own/login/" | "/own/login?x=y" | "/own/%6Cogin" => {
                    format!(
                        "HTTP/1.1 200 OK\r\nconnection: close\r\nx-issued: {ISSUED}\r\nx-account-meta-temp-url-key: {ISSUED}\r\ncontent-length: 0\r\n\r\n"
                    )
                }
                path @ ("/own/login" | "/own/short-login") => {
                    let token = if path == "/own/login" { ISSUED } else { "short" };
                    let body = format!(r#"{{"access_token":"{token}","again":"{token}"}}"#);
                    let length = body.len();
                    format!(
                        "HTTP/1.1 200 OK\r\nconnection: close\r\nx-issued: {token}\r\ncontent-length: {length}\r\n\r\n{body}"
                    )
                }
                "/own/document" => {
                    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1048576\r\n\r\n";
                    head.to_owned() + &"x".repeat(1 << 20)
                }
                "/own/encoded" => {
                    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-encoding: gzip\r\ncontent-length: 7\r\n\r\ncontent"
                        .to_owned()
                }
                "/own/document?part" => {
                    "HTTP/1.1 206 Part\r\nconnection: close\r\ncontent-range: bytes 0-3/7\r\ncontent-length: 4\r\n\r\ncont"
                        .to_owned()
                }
                _ => "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 7\r\n\r\ncontent".to_owned(),
            };
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (url, seen)
}

async fn hostile(endpoint: &str, forbidden: &str) -> ConnectorCloud {
    let connector = Engine::new().expect("an engine");
    let connector = connector
        .load(&package(env!("CARGO_TARGET_TMPDIR"), "hostile"), None)
        .expect("a connector");
    ConnectorCloud::new("h", &connector, &configuration(endpoint, forbidden)).expect("a cloud")
}

fn configuration(endpoint: &str, forbidden: &str) -> Configuration {
    Configuration {
        settings: BTreeMap::from([
            ("endpoint".to_owned(), endpoint.to_owned()),
            ("forbidden".to_owned(), forbidden.to_owned()),
        ]),
        credentials: BTreeMap::from([(
            "token".to_owned(),
            Zeroizing::new(SECRET.as_bytes().to_vec()),
        )]),
        ..Configuration::default()
    }
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).expect("a key")
}

async fn head_error(cloud: &ConnectorCloud, way: &str) -> CloudError {
    let key = key(way);
    let call = tokio::time::timeout(Duration::from_secs(20), cloud.head(&key));
    call.await
        .unwrap_or_else(|_| panic!("{way} hangs"))
        .expect_err(way)
}

#[tokio::test(flavor = "multi_thread")]
async fn traps_and_limits_name_the_connector_and_the_cause() {
    let (endpoint, _) = listen().await;
    let cloud = hostile(&endpoint, "http://127.0.0.1:1/").await;
    for (way, cause) in [
        ("traps", "unreachable"),
        ("loops", "200 ms of CPU time"),
        ("eats-memory", "4 MiB of memory"),
        ("recurses", "call stack exhausted"),
        ("leaks-handles", "failed"),
    ] {
        let e = head_error(&cloud, way).await;
        assert_eq!(e.kind, ErrorKind::Internal, "{way}: {e}");
        assert!(
            e.to_string().contains("connector \"hostile\"") && e.to_string().contains(cause),
            "{way}: {e}"
        );
    }
    cloud
        .head(&key("floods-the-log"))
        .await
        .expect("a flooded log is cut, not fatal");
    cloud
        .probe()
        .await
        .expect("the next call is none the worse");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_a_host_not_granted_never_leaves() {
    let (endpoint, asked) = listen().await;
    let (elsewhere, reached) = listen().await;
    for forbidden in [
        format!("{elsewhere}/own/x"),
        elsewhere.clone(),
        format!("{endpoint}/other"),
        format!("{endpoint}/own/../other"),
        format!("{endpoint}/own/%2e%2e/other"),
        elsewhere.replace("127.0.0.1", "localhost"),
        elsewhere.replace("127.0.0.1", "[::ffff:127.0.0.1]"),
        // Not a URL, not one of HTTP, or not spelled as a parser writes it.
        "own/x".to_owned(),
        "http://".to_owned(),
        "http://[::1/own/x".to_owned(),
        "file:///etc/passwd".to_owned(),
        "gopher://127.0.0.1/own/x".to_owned(),
        endpoint.replace("http://", "http://user:password@") + "/own/x",
        endpoint.replace("http://", "HTTP://") + "/own/x",
        format!("{endpoint}/own/x#fragment"),
        format!("{endpoint}\\own\\x"),
        format!("{endpoint}/own/x y"),
        format!("{endpoint}0/own/x"),
    ] {
        let e = head_error(&hostile(&endpoint, &forbidden).await, "goes-elsewhere").await;
        assert_eq!(e.kind, ErrorKind::RefusedByHost, "{forbidden}: {e}");
    }
    let cloud = hostile(&endpoint, &elsewhere).await;
    let ways = [
        "smuggles-a-header",
        "sends-the-secret-elsewhere",
        "sends-the-secret-to-another-host",
        "signs-with-it",
        "moves-elsewhere",
        "repeats-a-key",
    ];
    for way in ways {
        assert_eq!(
            head_error(&cloud, way).await.kind,
            ErrorKind::RefusedByHost,
            "{way}"
        );
    }
    assert_eq!(
        (reached.load(Ordering::SeqCst), asked.load(Ordering::SeqCst)),
        (0, 0),
        "nobody heard of it"
    );

    let refused = cloud
        .head(&key("puts-the-secret-everywhere"))
        .await
        .expect("counted")
        .size;
    assert_eq!(
        (refused, asked.load(Ordering::SeqCst)),
        (9, 0),
        "each of the nine places"
    );

    let answered = cloud
        .head(&key("follows-a-redirect"))
        .await
        .expect("an answer");
    assert_eq!(answered.size, 307, "a redirect is an answer like any other");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert_eq!(
        head_error(&cloud, "asks-without-end").await.kind,
        ErrorKind::RefusedByHost
    );
    assert!(
        asked.load(Ordering::SeqCst) <= 1 + 32,
        "requests of a call are bounded"
    );
}

/// Each of these ways once cost the host gigabytes, or gave the connector more than was approved.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_multiplies_signs_or_has_fetched_is_bounded() {
    let (endpoint, asked) = listen().await;
    let cloud = hostile(&endpoint, "http://evil.example/x?token").await;
    let counted = async |way: &str| {
        cloud
            .head(&key(way))
            .await
            .unwrap_or_else(|e| panic!("{way}: {e}"))
            .size
    };
    let before = resident();
    assert_eq!(counted("expands-placeholders").await, 4);
    let grown = resident().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes");
    assert_eq!(counted("signs-access-for-years").await, 5);
    assert_eq!(counted("has-others-fetch").await, 8);
    assert_eq!(asked.load(Ordering::SeqCst), 0, "nothing was sent");
}

/// The host keeps a login's values for days, and its error for up to a minute.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_login_keeps_is_bounded() {
    let (endpoint, _) = listen().await;
    let cloud = hostile(&endpoint, "http://127.0.0.1:1/").await;
    let e = head_error(&cloud, "keeps-a-long-name").await;
    assert!(e.message.contains("names of 64 bytes"), "{e}");
    head_error(&cloud, "keeps-a-long-error").await;
    // The other call gets the error that was kept from the first.
    let kept = head_error(&cloud, "keeps-a-long-name").await;
    assert_eq!(
        (kept.kind, kept.message.len()),
        (ErrorKind::Unauthenticated, 512)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_may_need_those_that_are_listed_before_it() {
    let (endpoint, _) = listen().await;
    let cloud = hostile(&endpoint, "http://127.0.0.1:1/").await;
    assert_eq!(
        cloud
            .head(&key("logs-in-in-turn"))
            .await
            .expect("both logins")
            .size,
        1
    );
    let cloud = hostile(&endpoint, "http://127.0.0.1:1/").await;
    assert_eq!(
        head_error(&cloud, "logs-in-out-of-turn").await.kind,
        ErrorKind::RefusedByHost
    );
}

/// Each unread answer holds a socket, and a process has about a thousand.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_holds_few_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("its address"));
    let open = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (counted, highest) = (open.clone(), most.clone());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            highest.fetch_max(counted.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let counted = counted.clone();
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                // A body that does not end for as long as the other side stays.
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nx")
                    .await;
                while stream.read(&mut head).await.is_ok_and(|n| n > 0) {}
                counted.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    let cloud = hostile(&endpoint, "http://127.0.0.1:1/").await;
    assert_eq!(
        cloud
            .head(&key("hoards-connections"))
            .await
            .expect("the call")
            .size,
        30
    );
    // One more may still be closing while the next one opens.
    assert!(most.load(Ordering::SeqCst) <= 4 + 2, "{most:?}");
}

/// A core module with the exports of a world, each of them a trap.
fn trapping_module(resolve: &Resolve, world: WorldId) -> Vec<u8> {
    let (mut types, mut functions) = (TypeSection::new(), FunctionSection::new());
    let (mut exports, mut code) = (ExportSection::new(), CodeSection::new());
    let mut add = |name: &str, parameters: &[WasmType], results: &[WasmType]| {
        // In a memory of 32 bits, every value that is not 64 bits wide or a float is an i32.
        let value = |t: &WasmType| match t {
            WasmType::I64 | WasmType::PointerOrI64 => ValType::I64,
            WasmType::F32 => ValType::F32,
            WasmType::F64 => ValType::F64,
            _ => ValType::I32,
        };
        let number = types.len();
        types
            .ty()
            .function(parameters.iter().map(value), results.iter().map(value));
        functions.function(number);
        exports.export(name, ExportKind::Func, number);
        code.function(
            Function::new([])
                .instruction(&Instruction::Unreachable)
                .instruction(&Instruction::End),
        );
    };
    for (key, item) in &resolve.worlds[world].exports {
        let WorldItem::Interface { id, .. } = item else {
            panic!("the contract exports interfaces")
        };
        for function in resolve.interfaces[*id].functions.values() {
            let signature = resolve.wasm_signature(AbiVariant::GuestExport, function);
            let name = format!("{}#{}", resolve.name_world_key(key), function.name);
            add(&name, &signature.params, &signature.results);
        }
    }
    add("cabi_realloc", &[WasmType::I32; 4], &[WasmType::I32]);
    let mut memory = MemorySection::new();
    memory.memory(MemoryType {
        minimum: 1,
        maximum: None,
        memory64: false,
        shared: false,
        page_size_log2: None,
    });
    exports.export("memory", ExportKind::Memory, 0);
    let mut module = Module::new();
    module
        .section(&types)
        .section(&functions)
        .section(&memory)
        .section(&exports)
        .section(&code);
    module.finish()
}

/// A component that exports what every connector must export, and nothing more. Every export traps.
fn least_connector() -> Package {
    let mut resolve = Resolve::default();
    let wit = concat!(env!("CARGO_MANIFEST_DIR"), "/../wit");
    let (package, _) = resolve.push_dir(wit).expect("the contract");
    let world = resolve
        .select_world(&[package], Some("connector"))
        .expect("its world");
    let mut module = trapping_module(&resolve, world);
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("metadata");
    let component = ComponentEncoder::default()
        .module(&module)
        .and_then(|encoder| encoder.encode());
    let mut component = component.expect("a component");
    let manifest = &include_bytes!("../hostile/connector.toml")[..];
    CustomSection {
        name: "raic:connector.toml".into(),
        data: manifest.into(),
    }
    .append_to_component(&mut component);
    Package::read(component).expect("a connector")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connector_without_optional_abilities_runs_and_says_which_it_lacks() {
    let connector = Engine::new()
        .expect("an engine")
        .load(&least_connector(), None)
        .expect("a connector");
    let cloud = ConnectorCloud::new(
        "h",
        &connector,
        &configuration("http://127.0.0.1:1", "http://127.0.0.1:1/"),
    );
    let cloud = cloud.expect("a cloud");
    let e = cloud.probe().await.expect_err("it traps");
    assert!(
        e.kind == ErrorKind::Internal && e.message.contains("unreachable"),
        "{e}"
    );
    assert_eq!(
        cloud
            .create_container()
            .await
            .expect_err("it has no containers")
            .kind,
        ErrorKind::Unsupported
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_an_answer_repeats_is_not_seen() {
    let (endpoint, _) = listen().await;
    let e = head_error(
        &hostile(&endpoint, "http://127.0.0.1:1/").await,
        "reads-the-secret-back",
    )
    .await;
    assert_eq!(e.message.trim(), "you sent ***, in hex ***  ***", "{e}");
}

/// Collects the log, at every level.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs in one thread, whose log is collected.
#[tokio::test]
async fn a_secret_is_in_no_error_and_in_no_log() {
    let (logged, (endpoint, _)) = (Logged::default(), listen().await);
    let writer = logged.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE);
    let subscriber = subscriber
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let cloud = hostile(&endpoint, "http://127.0.0.1:1/").await;
    let e = head_error(&cloud, "tells-the-secret").await;
    assert!(!format!("{e} {e:?} {cloud:?}").contains(SECRET), "{e:?}");
    head_error(&cloud, "reads-an-issued-token").await;
    head_error(&cloud, "reads-a-kept-token-back").await;
    let log = String::from_utf8(logged.0.lock().clone()).expect("text");
    assert!(
        log.contains("connector: the secret is") && log.contains("connector: you sent ***"),
        "{log}"
    );
    assert!(!log.contains(SECRET) && !log.contains(ISSUED), "{log}");
}

/// A token out of a login's answer can be used as the manifest says, and is seen nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn an_issued_token_is_a_secret_like_any_other() {
    let (endpoint, asked) = listen().await;
    let cloud = hostile(&endpoint, "http://127.0.0.1:1/").await;
    let seen = head_error(&cloud, "reads-an-issued-token").await;
    assert_eq!(seen.message, r#"{"access_token":"***","again":"***"} ***"#);
    let seen = head_error(&cloud, "reads-a-kept-token-back").await;
    assert_eq!(seen.message.trim(), "you sent ***, in hex ***");
    let seen = head_error(&cloud, "asks-for-a-token-otherwise").await;
    assert!(
        seen.message.contains("***") && !seen.message.contains(ISSUED),
        "{seen}"
    );
    let unreadable = head_error(&cloud, "reads-a-token-that-is-none").await;
    assert!(
        unreadable.kind == ErrorKind::Protocol && !unreadable.message.contains("access"),
        "{unreadable}"
    );
    let before = asked.load(Ordering::SeqCst);
    let refused = async |way: &str| cloud.head(&key(way)).await.expect("counted").size;
    assert_eq!(refused("sends-an-issued-token-elsewhere").await, 5);
    assert_eq!(refused("uses-an-issued-token-otherwise").await, 6);
    assert_eq!(
        asked.load(Ordering::SeqCst) - before,
        2,
        "the two logins, and nothing else"
    );
}

/// A connector gets whole signatures of requests to granted hosts, and no intermediate key.
#[tokio::test(flavor = "multi_thread")]
async fn a_signing_key_signs_whole_requests_to_granted_hosts_only() {
    let (endpoint, asked) = listen().await;
    let cloud = hostile(&endpoint, "http://127.0.0.1:1/").await;
    assert_eq!(
        cloud
            .head(&key("asks-for-intermediate-keys"))
            .await
            .expect("counted")
            .size,
        12
    );
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("its status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("VmRSS");
    line.trim()
        .trim_end_matches(" kB")
        .parse::<u64>()
        .expect("a number")
        * 1024
}

/// Puts to and gets from a cloud in memory for `time`. Returns the 99th percentile of what a put
/// and a get took together.
async fn p99_of_a_good_cloud(time: Duration) -> Duration {
    let (cloud, began, mut took) = (
        MemoryCloud::new("good"),
        std::time::Instant::now(),
        Vec::new(),
    );
    let (key, content) = (key("object"), Payload::from(vec![7; 64 << 10]));
    while began.elapsed() < time {
        let start = std::time::Instant::now();
        cloud
            .put(&key, content.clone(), WriteMode::Overwrite)
            .await
            .expect("put");
        let object = cloud.get(&key, None, None).await.expect("get");
        collect_body("good", object.body, 1 << 20)
            .await
            .expect("its bytes");
        took.push(start.elapsed());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    took.sort();
    took[took.len() * 99 / 100]
}

/// Whatever hostile guests do at the same time, it costs the host and its other clouds little.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_guests_cost_the_host_little() {
    let (endpoint, _) = listen().await;
    let cloud = Arc::new(hostile(&endpoint, "http://127.0.0.1:1/").await);
    let ways = [
        "traps",
        "loops",
        "eats-memory",
        "recurses",
        "leaks-handles",
        "floods-the-log",
        "asks-without-end",
        "hoards-answers",
    ];
    for way in ways {
        // Once before the measurement, for the memory that is taken once for all.
        let _ = cloud.head(&key(way)).await;
    }
    let alone = p99_of_a_good_cloud(Duration::from_secs(1)).await;
    let before = resident();
    let busy = (0..16).map(|i| {
        let cloud = cloud.clone();
        tokio::spawn(async move {
            for round in 0..40 {
                let _ = cloud.head(&key(ways[(i + round) % ways.len()])).await;
                let _ = cloud.list("flood/", None, 1000).await;
            }
        })
    });
    let busy: Vec<_> = busy.collect();
    let (mut most, mut beside) = (0, Duration::ZERO);
    while busy.iter().any(|task| !task.is_finished()) {
        beside = beside.max(p99_of_a_good_cloud(Duration::from_secs(1)).await);
        most = most.max(resident());
    }
    let grown = most.saturating_sub(before) >> 20;
    println!(
        "resident memory grew by {grown} MiB; p99 of a good cloud: {alone:?} alone, {beside:?} beside"
    );
    assert!(grown <= 96, "resident memory grew by {grown} MiB");
    // Time is asserted only if nothing else runs: in `cargo xtask test slow`.
    if std::env::var_os("RAIC_SLOW").is_some() {
        assert!(
            beside.saturating_sub(alone) <= Duration::from_millis(30),
            "p99 was {alone:?} and is {beside:?}"
        );
    }
    cloud.probe().await.expect("it still answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_the_operators_to_pin_and_a_login_waits_for_no_other() {
    let (endpoint, _) = listen().await;
    let cloud = hostile(&endpoint, "http://127.0.0.1:1/").await;
    for way in [
        "names-an-endpoint",
        "names-an-endpoint-of-its-own",
        "waits-for-itself",
    ] {
        assert_eq!(
            head_error(&cloud, way).await.kind,
            ErrorKind::RefusedByHost,
            "{way}"
        );
    }
    assert_eq!(
        cloud.learned(),
        BTreeMap::from([("storage".to_owned(), "http://127.0.0.1:1/x".to_owned())])
    );
    let e = head_error(&cloud, "reads-a-kept-token-back").await;
    assert_eq!(
        e.message.trim(),
        "you sent ***, in hex ***",
        "the ticket that was dropped woke this one"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_are_found_and_bytes_stay_in_the_host() {
    let (endpoint, _) = listen().await;
    let cloud = hostile(&endpoint, "http://127.0.0.1:1/").await;
    let put = async |way: &str| {
        cloud
            .put(
                &key(way),
                Payload::from(&b"content"[..]),
                WriteMode::Overwrite,
            )
            .await
    };
    let e = put("traps").await.expect_err("it traps");
    assert!(
        e.kind == ErrorKind::Internal && e.to_string().contains("connector \"hostile\" trapped"),
        "{e}"
    );
    assert_eq!(
        put("lies-about-size").await.expect_err("a lie").kind,
        ErrorKind::Protocol
    );
    assert_eq!(
        put("lies-about-etag").await.expect_err("no etag").kind,
        ErrorKind::Protocol
    );
    assert_eq!(
        head_error(&cloud, "lies-about-etag").await.kind,
        ErrorKind::Protocol
    );
    assert_eq!(
        head_error(&cloud, "hoards-answers").await.kind,
        ErrorKind::TooLarge
    );
    let encoded = head_error(&cloud, "reads-encoded").await;
    assert!(
        encoded.kind == ErrorKind::Protocol && encoded.to_string().contains("encoded"),
        "gzip though identity was asked for: {encoded}"
    );
    let part = head_error(&cloud, "reads-a-part").await;
    assert_eq!(
        part.kind,
        ErrorKind::RefusedByHost,
        "a secret that is cut in two would not be found: {part}"
    );
    let listed = cloud
        .list("reads-objects/", None, 10)
        .await
        .expect_err("no document");
    assert_eq!(listed.kind, ErrorKind::RefusedByHost, "{listed}");
    put("uploads").await.expect("the host sends the bytes");
    let get = async |way: &str| cloud.get(&key(way), None, None).await;
    assert_eq!(
        get("reads-object").await.expect_err("no document").kind,
        ErrorKind::RefusedByHost
    );
    assert_eq!(
        get("lies-about-object").await.expect_err("a lie").kind,
        ErrorKind::Protocol
    );
    let object = get("honest").await.expect("an object");
    assert_eq!(
        &collect_body("h", object.body, 100)
            .await
            .expect("its bytes")[..],
        b"content"
    );
}

/// If several objects are deleted at once, those that are left are known by name. If they are not,
/// none counts as removed.
#[tokio::test(flavor = "multi_thread")]
async fn what_several_deletions_leave_is_told_or_tried_again() {
    let (endpoint, _) = listen().await;
    let cloud = hostile(&endpoint, "http://127.0.0.1:1/").await;
    let keys = |first: &str| [key(first), key("other")];
    let failed = cloud
        .delete_many(&keys("throttled"))
        .await
        .expect("most of them");
    assert_eq!(
        (failed.len(), failed[0].0.as_str(), failed[0].1.kind),
        (1, "throttled", ErrorKind::Throttled)
    );
    assert_eq!(
        delete_all(&cloud, &keys("throttled"))
            .await
            .expect_err("one is left")
            .kind,
        ErrorKind::Throttled
    );
    let unknown = cloud
        .delete_many(&keys("tells-of-another"))
        .await
        .expect_err("which was it");
    assert_eq!(unknown.kind, ErrorKind::Protocol);
    let patient = Retry::new(cloud, RetryPolicy::default());
    delete_all(&patient, &keys("throttled"))
        .await
        .expect("the one that is left is asked for by itself");
    assert_eq!(
        patient
            .delete_many(&keys("has-none"))
            .await
            .expect_err("it has none")
            .kind,
        ErrorKind::Unsupported
    );
    delete_all(&patient, &keys("has-none"))
        .await
        .expect("one by one");
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_are_bounded_and_hold_object_keys_only() {
    let (endpoint, _) = listen().await;
    let cloud = hostile(&endpoint, "http://127.0.0.1:1/").await;
    assert!(cloud.list("flood/", None, 1000).await.is_err());
    assert_eq!(
        cloud
            .list("too-many/", None, 10)
            .await
            .expect_err("too many")
            .kind,
        ErrorKind::Protocol
    );
    let page = cloud.list("same-cursor/", None, 10).await.expect("a page");
    let again = cloud.list("same-cursor/", page.next.as_deref(), 10).await;
    assert_eq!(again.expect_err("no end").kind, ErrorKind::Protocol);
    // A listing that goes on for ever, by another cursor each time, ends with an error: after more
    // empty pages than any container has.
    let backend = CloudBackend::new(
        Arc::new(hostile(&endpoint, "http://127.0.0.1:1/").await),
        4096,
        ChunkBudget::default(),
    );
    let e = backend
        .scan(Span::Whole, 1000)
        .await
        .expect_err("no end")
        .to_string();
    assert!(
        e.contains("\"h\"") && e.contains("goes on without an end"),
        "{e}"
    );
    let page = cloud.list("a/", None, 10).await.expect("a page");
    assert_eq!(
        page.entries
            .iter()
            .map(|e| e.key.as_str())
            .collect::<Vec<_>>(),
        ["a/ok"]
    );
}
