//! A connector as a [`Cloud`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use raic_cloud::{
    Body, ByteRange, Cloud, CloudError, CloudUsage, ErrorKind, Listed, Object, ObjectInfo,
    ObjectKey, Operation, Page, Payload, Result, WriteMode,
};
use tokio::time::{Instant, timeout_at};
use wasmtime::{Store, Trap, component::Resource};

use crate::{
    ConnectorError, CredentialDocuments, Grant, TlsSettings,
    bindings::{exports::raic::connector::object_store as exported, raic::connector::types as wit},
    call::{Call, Context, EndpointRule, GuestBody},
    client::{HttpClient, IDLE, causes},
    engine::{Connector, Instance, Room},
    gate::{Gate, Pins},
    imports::error,
    logins::Logins,
    manifest::{domain, expand, is_plain},
    redaction::Redactor,
    rehearsal::Rehearsal,
    secrets::Credentials,
};

/// Timeout of a call, waiting for room included. The body of a get streams on after its call.
const WALL_CLOCK: Duration = Duration::from_secs(300);

/// What a cloud's operator configures for its connector.
#[derive(Clone, Default)]
pub struct Configuration {
    /// Values of the manifest's settings, by name.
    pub settings: BTreeMap<String, String>,
    /// The documents with secrets, by credential name.
    pub credentials: CredentialDocuments,
    /// Which TLS servers are trusted.
    pub tls: TlsSettings,
    /// The endpoints learned at login that the operator pinned, by the manifest's names. An
    /// endpoint has several if the manifest says so.
    pub endpoints: Pins,
}

/// One cloud behind a connector. Every call runs in a fresh instance.
pub struct ConnectorCloud {
    connector: Connector,
    context: Arc<Context>,
    logins: Arc<Logins>,
    rehearsal: Arc<Rehearsal>,
    /// Set once the connector has answered that its service has no batch deletion. Objects are then
    /// deleted one by one.
    deletes_one_by_one: AtomicBool,
}

impl fmt::Debug for ConnectorCloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectorCloud")
            .field("name", &self.context.cloud)
            .field("connector", &self.connector)
            .finish_non_exhaustive()
    }
}

/// A call that has returned: its instance, and the room that it takes until this is dropped.
struct Ended {
    // Fields are dropped in this order, so the room is given back after the memory.
    store: Store<Call>,
    _room: Room,
}

/// Longest etag, in bytes. Those of providers have less than a hundred.
const MAX_ETAG: usize = 1024;

/// Most characters that are kept of a guest's text.
const MAX_TEXT: usize = 512;

/// Most pairs that are kept of a guest's further facts.
const MAX_EXTRA: usize = 16;

/// A call of an export under way. It returns the guest's result, or an error if the guest traps.
type ExportCall<'a, T> =
    Pin<Box<dyn Future<Output = wasmtime::Result<Result<T, wit::Error>>> + Send + 'a>>;

impl ConnectorCloud {
    /// Configures a connector to serve the cloud `name`. Sends no request.
    ///
    /// # Errors
    /// [`ConnectorError`] if a setting, a credential, a pinned endpoint or the TLS settings are
    /// missing or wrong.
    pub fn new(
        name: &str,
        connector: &Connector,
        configuration: &Configuration,
    ) -> Result<Self, ConnectorError> {
        let manifest = connector.manifest();
        let settings = manifest.resolve(&configuration.settings)?;
        let credentials = Credentials::new(manifest, &settings, &configuration.credentials)?;
        let unknown = configuration
            .endpoints
            .keys()
            .find(|name| !manifest.endpoints.contains_key(*name));
        if let Some(name) = unknown {
            return Err(ConnectorError::setting(
                name,
                format!("{} learns no endpoint of that name", manifest.name),
            ));
        }
        let mut pins = Pins::new();
        for (name, urls) in &configuration.endpoints {
            // Written as a learned URL is, because a person may have typed the pin.
            let written = |url: &String| {
                let parsed = url::Url::parse(url).ok().filter(is_plain);
                parsed
                    .map(|url| url.as_str().trim_end_matches('/').to_owned())
                    .ok_or_else(|| {
                        ConnectorError::setting(
                            name,
                            format!("{url:?} is not a URL of scheme, host and path"),
                        )
                    })
            };
            pins.insert(
                name.clone(),
                urls.iter().map(written).collect::<Result<_, _>>()?,
            );
        }
        let mut endpoints = BTreeMap::new();
        for (name, endpoint) in &manifest.endpoints {
            let rule = match &endpoint.below {
                None => EndpointRule::Pinned(pins.get(name).cloned().unwrap_or_default()),
                Some(template) => {
                    let wrong = |why| ConnectorError::Manifest(format!("endpoint {name:?}: {why}"));
                    let (domain, port) = expand(template, &settings.values)
                        .and_then(|t| domain(&t))
                        .map_err(wrong)?;
                    EndpointRule::Below(domain, port)
                }
            };
            endpoints.insert(name.clone(), rule);
        }
        let context = Context {
            cloud: name.to_owned(),
            gate: Gate::new(manifest, &settings, &credentials.plain, &pins)?,
            redaction: Redactor::new(&credentials),
            searches: tokio::sync::Semaphore::new(1),
            client: HttpClient::new(&configuration.tls)?,
            settings,
            credentials,
            tokens: manifest.tokens.clone(),
            login_names: manifest.logins.clone(),
            endpoints,
            learned: Mutex::default(),
            log_room: Mutex::default(),
        };
        Ok(Self {
            connector: connector.clone(),
            context: Arc::new(context),
            logins: Arc::default(),
            rehearsal: Arc::default(),
            deletes_one_by_one: AtomicBool::new(false),
        })
    }

    /// Returns the same cloud under simulated conditions, for `raic connector test` and for tests.
    /// It begins with this cloud's logins, unless its clock is wrong. Changes to its logins do not
    /// change this cloud's.
    #[must_use]
    pub fn rehearsing(&self, rehearsal: Rehearsal) -> Self {
        let logins = if rehearsal.clock_ahead_ms == 0 {
            self.logins.copy()
        } else {
            Logins::default()
        };
        Self {
            connector: self.connector.clone(),
            context: self.context.clone(),
            logins: Arc::new(logins),
            rehearsal: Arc::new(rehearsal),
            deletes_one_by_one: AtomicBool::new(false),
        }
    }

    /// Returns the connector's manifest.
    pub fn manifest(&self) -> &crate::Manifest {
        self.connector.manifest()
    }

    /// Returns the places to which the connector may send requests.
    pub fn grants(&self) -> &[Grant] {
        self.context.gate.grants()
    }

    /// Returns the URLs of endpoints that calls learned and that are not pinned, by the manifest's
    /// names.
    pub fn learned(&self) -> BTreeMap<String, String> {
        self.context.learned.lock().clone()
    }

    /// Whether a URL's scheme, host and port are those of a place that the operator typed or
    /// pinned.
    pub fn names_host_of(&self, url: &str) -> bool {
        self.context.gate.names_host_of(url)
    }

    /// Runs one export in a fresh instance, within the limits of a call.
    async fn call<T>(
        &self,
        operation: Operation,
        key: Option<&ObjectKey>,
        range: Option<ByteRange>,
        run: impl for<'a> FnOnce(&'a Instance, &'a mut Store<Call>) -> ExportCall<'a, T> + Send,
    ) -> Result<(T, Ended)> {
        let deadline = Instant::now() + WALL_CLOCK;
        let timed_out = || {
            let seconds = WALL_CLOCK.as_secs();
            let text = format!(
                "connector {:?} took more than {seconds} s",
                self.connector_name()
            );
            CloudError::new(ErrorKind::Timeout, &self.context.cloud, operation, text)
        };
        let with_key = |error: CloudError| match key {
            Some(key) => error.at(key),
            None => error,
        };
        // Waits for room instead of failing, because many clouds may share the engine.
        let memory_mib = self.connector.manifest.memory_mib;
        let room = timeout_at(deadline, self.connector.room())
            .await
            .map_err(|_| {
                let why = format!(
                    "no room for a call of connector {:?}: other calls take it",
                    self.connector_name()
                );
                with_key(CloudError::new(
                    ErrorKind::Throttled,
                    &self.context.cloud,
                    operation,
                    why,
                ))
            })?;
        let (context, logins, rehearsal) = (
            self.context.clone(),
            self.logins.clone(),
            self.rehearsal.clone(),
        );
        let mut store = Call::store(
            context,
            logins,
            rehearsal,
            &self.connector.engine,
            range,
            memory_mib,
        );
        store.data_mut().is_probe = operation == Operation::Probe;
        let cpu = store.data().limits.cpu.clone();
        let whole = cpu.of(async {
            let instance = self.connector.instantiate(&mut store).await?;
            run(&instance, &mut store).await
        });
        let outcome = timeout_at(deadline, whole).await;
        tracing::trace!(
            cloud = self.context.cloud, %operation, requests = store.data().requests,
            micros = store.data().began.elapsed().as_micros() as u64, "connector call"
        );
        match outcome {
            Ok(Ok(Ok(value))) => Ok((value, Ended { store, _room: room })),
            Ok(Ok(Err(e))) => Err(with_key(self.reported(operation, e))),
            Ok(Err(trap)) => Err(with_key(self.trapped(operation, &trap, &store))),
            Err(_) => Err(with_key(timed_out())),
        }
    }

    fn connector_name(&self) -> &str {
        &self.connector.manifest.name
    }

    /// Returns a guest's text, shortened and without secrets or hidden characters.
    fn clean(&self, text: String) -> String {
        let text = self
            .context
            .redaction
            .apply_up_to(text.as_bytes(), 4 * MAX_TEXT);
        String::from_utf8_lossy(&text)
            .chars()
            .filter(|c| !crate::hides(*c))
            .take(MAX_TEXT)
            .collect()
    }

    /// Returns the error that a guest reported.
    fn reported(&self, operation: Operation, e: wit::Error) -> CloudError {
        let clean = |text| self.clean(text);
        let mut error = CloudError::new(
            kind(e.kind),
            &self.context.cloud,
            operation,
            clean(e.message),
        );
        error.provider_code = e.provider_code.map(clean);
        error.http_status = e.http_status;
        error.request_id = e.request_id.map(clean);
        error.retry_after = e.retry_after_ms.map(Duration::from_millis);
        error
    }

    fn trapped(
        &self,
        operation: Operation,
        trap: &wasmtime::Error,
        store: &Store<Call>,
    ) -> CloudError {
        // All clouds share the pool. If it is full, that is no fault of this cloud, and passes.
        if trap.is::<wasmtime::PoolConcurrencyLimitError>() {
            let why = "no room for another instance: other calls take it".to_owned();
            return CloudError::new(ErrorKind::Throttled, &self.context.cloud, operation, why);
        }
        let cause = match (&store.data().limits.exceeded, trap.downcast_ref::<Trap>()) {
            (Some(limit), _) => limit.clone(),
            (None, Some(trap)) => format!("trapped: {trap}"),
            (None, None) => format!("failed: {}", trap.root_cause()),
        };
        let text = format!("connector {:?} {cause}", self.connector_name());
        CloudError::new(ErrorKind::Internal, &self.context.cloud, operation, text)
    }

    /// Returns what a guest reported about an object. An etag must be a short line of text (RFC
    /// 9110 section 8.8.3), since it is kept and shown.
    fn info(&self, operation: Operation, info: wit::ObjectInfo) -> Result<ObjectInfo> {
        let is_etag = |etag: &String| {
            (1..=MAX_ETAG).contains(&etag.len()) && etag.bytes().all(|b| (0x20..0x7f).contains(&b))
        };
        if info.etag.as_ref().is_some_and(|etag| !is_etag(etag)) {
            return Err(self.broken(operation, "reported an etag that is not valid".to_owned()));
        }
        let modified = info.last_modified_unix_ms;
        let modified = modified.and_then(|ms| UNIX_EPOCH.checked_add(Duration::from_millis(ms)));
        Ok(ObjectInfo {
            size: info.size,
            etag: info.etag,
            last_modified: modified,
        })
    }

    fn broken(&self, operation: Operation, why: String) -> CloudError {
        let text = format!("connector {:?} {why}", self.connector_name());
        CloudError::new(ErrorKind::Protocol, &self.context.cloud, operation, text)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Cloud for ConnectorCloud {
    fn name(&self) -> &str {
        &self.context.cloud
    }

    async fn describe(&self) -> Result<Vec<(String, String)>> {
        let run = self.call(Operation::Describe, None, None, |guest, store| {
            Box::pin(guest.object_store.call_describe(store))
        });
        Ok(run.await?.0)
    }

    async fn probe(&self) -> Result<()> {
        let run = self.call(Operation::Probe, None, None, |guest, store| {
            Box::pin(guest.object_store.call_probe(store))
        });
        run.await.map(drop)
    }

    async fn put(&self, key: &ObjectKey, content: Payload, mode: WriteMode) -> Result<ObjectInfo> {
        let mode = match mode {
            WriteMode::Overwrite => exported::WriteMode::Overwrite,
            WriteMode::CreateOnly => exported::WriteMode::CreateOnly,
            WriteMode::IfMatch(etag) => exported::WriteMode::IfMatch(etag),
        };
        let size = content.size();
        let run = self.call(Operation::Put, Some(key), None, |guest, store| {
            let key = key.as_str().to_owned();
            Box::pin(async move {
                let payload = store.data_mut().table.push(content)?;
                let borrowed = Resource::new_borrow(payload.rep());
                guest
                    .object_store
                    .call_put(store, &key, borrowed, &mode)
                    .await
            })
        });
        let info = self
            .info(Operation::Put, run.await?.0)
            .map_err(|e| e.at(key))?;
        if info.size != size {
            let why = format!("reported {} bytes stored, not {size}", info.size);
            return Err(self.broken(Operation::Put, why).at(key));
        }
        Ok(info)
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&str>,
    ) -> Result<Object> {
        let asked = range.map(|r| wit::ByteRange {
            offset: r.offset,
            length: r.length.get(),
        });
        let run = self.call(Operation::Get, Some(key), range, |guest, store| {
            let (key, if_match) = (key.as_str().to_owned(), if_match.map(str::to_owned));
            Box::pin(async move {
                guest
                    .object_store
                    .call_get(store, &key, asked, if_match.as_deref())
                    .await
            })
        });
        let ((info, body), mut ended) = run.await?;
        let body: GuestBody = ended.store.data_mut().table.delete(body).map_err(|e| {
            self.broken(Operation::Get, format!("returned no body: {e}"))
                .at(key)
        })?;
        let info = self.info(Operation::Get, info).map_err(|e| e.at(key))?;
        let expected = match range {
            None => Some(info.size),
            Some(range) => range.within(info.size).map(|part| part.end - part.start),
        };
        if expected != Some(body.length) {
            let why = format!(
                "reported an object of {} bytes, but its answer has {}",
                info.size, body.length
            );
            return Err(self.broken(Operation::Get, why).at(key));
        }
        // The instance ends here; the bytes stream on without it.
        drop(ended);
        Ok(Object {
            info,
            body: stream_body(self.context.cloud.clone(), key.clone(), body),
        })
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo> {
        let run = self.call(Operation::Head, Some(key), None, |guest, store| {
            let key = key.as_str().to_owned();
            Box::pin(async move { guest.object_store.call_head(store, &key).await })
        });
        self.info(Operation::Head, run.await?.0)
            .map_err(|e| e.at(key))
    }

    async fn delete(&self, key: &ObjectKey, if_match: Option<&str>) -> Result<()> {
        let run = self.call(Operation::Delete, Some(key), None, |guest, store| {
            let (key, if_match) = (key.as_str().to_owned(), if_match.map(str::to_owned));
            Box::pin(async move {
                guest
                    .object_store
                    .call_delete(store, &key, if_match.as_deref())
                    .await
            })
        });
        run.await.map(drop)
    }

    async fn list(&self, prefix: &str, cursor: Option<&str>, limit: u32) -> Result<Page> {
        let run = self.call(Operation::List, None, None, |guest, store| {
            let (prefix, cursor) = (prefix.to_owned(), cursor.map(str::to_owned));
            Box::pin(async move {
                guest
                    .object_store
                    .call_list(store, &prefix, cursor.as_deref(), limit)
                    .await
            })
        });
        let page = run.await?.0;
        if page.entries.len() > limit as usize {
            let why = format!(
                "listed {} objects, though {limit} were asked for",
                page.entries.len()
            );
            return Err(self.broken(Operation::List, why));
        }
        if page.next.is_some() && page.next.as_deref() == cursor {
            return Err(self.broken(
                Operation::List,
                "returned the cursor that was sent as the next one".to_owned(),
            ));
        }
        let entries = page
            .entries
            .into_iter()
            .filter(|e| e.key.starts_with(prefix))
            .filter_map(|e| {
                // A name that is not an object key is not one of the host's objects.
                let key = ObjectKey::new(e.key).ok()?;
                Some(
                    self.info(Operation::List, e.info)
                        .map(|info| Listed { key, info }),
                )
            });
        Ok(Page {
            entries: entries.collect::<Result<_>>()?,
            next: page.next,
        })
    }

    async fn create_container(&self) -> Result<()> {
        let run = self.call(Operation::CreateContainer, None, None, |guest, store| {
            Box::pin(async move {
                match &guest.container {
                    Some(container) => container.call_create(store).await,
                    None => lacking(
                        "this connector makes no containers; make it with the provider's own tools",
                    ),
                }
            })
        });
        run.await.map(drop)
    }

    async fn delete_container(&self) -> Result<()> {
        let run = self.call(Operation::DeleteContainer, None, None, |guest, store| {
            Box::pin(async move {
                match &guest.container {
                    Some(container) => container.call_delete(store).await,
                    None => lacking(
                        "this connector removes no containers; use the provider's own tools",
                    ),
                }
            })
        });
        run.await.map(drop)
    }

    async fn usage(&self) -> Result<CloudUsage> {
        let run = self.call(Operation::Usage, None, None, |guest, store| {
            Box::pin(async move {
                match &guest.account {
                    Some(account) => account.call_report(store).await,
                    None => lacking("this connector does not report what is used"),
                }
            })
        });
        let usage = run.await?.0;
        let extra = usage.extra.into_iter().take(MAX_EXTRA);
        Ok(CloudUsage {
            bytes: usage.bytes_used,
            objects: usage.objects,
            quota: usage.quota_bytes,
            extra: extra
                .map(|(name, value)| (self.clean(name), self.clean(value)))
                .collect(),
        })
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, CloudError)>> {
        if !self.connector.has_batch_delete() || self.deletes_one_by_one.load(Ordering::Relaxed) {
            let text = "this connector, or its service, removes objects one by one";
            let name = &self.context.cloud;
            return Err(CloudError::new(
                ErrorKind::Unsupported,
                name,
                Operation::DeleteMany,
                text,
            ));
        }
        let run = self.call(Operation::DeleteMany, None, None, |guest, store| {
            let names: Vec<String> = keys.iter().map(|key| key.as_str().to_owned()).collect();
            Box::pin(async move {
                match &guest.batch_delete {
                    Some(batch) => batch.call_delete_many(store, &names).await,
                    None => lacking("this connector removes objects one by one"),
                }
            })
        });
        match run.await {
            Err(e) => {
                if e.kind == ErrorKind::Unsupported {
                    self.deletes_one_by_one.store(true, Ordering::Relaxed);
                }
                Err(e)
            }
            Ok((mut failed, _)) => {
                // The caller tries each of them again, so a key that is reported a thousand times
                // must count once.
                let mut names = BTreeSet::new();
                failed.retain(|(name, _)| names.insert(name.clone()));
                let named = |(name, e): (String, wit::Error)| {
                    let key = keys.iter().find(|key| key.as_str() == name);
                    // If the connector reports another object, it is unknown which one it meant.
                    let key = key.ok_or_else(|| {
                        self.broken(
                            Operation::DeleteMany,
                            "reported an object that was not to be deleted".to_owned(),
                        )
                    })?;
                    Ok((key.clone(), self.reported(Operation::DeleteMany, e).at(key)))
                };
                failed.into_iter().map(named).collect()
            }
        }
    }
}

/// Returns the error of an optional ability that the connector does not export.
fn lacking<T>(what: &str) -> wasmtime::Result<Result<T, wit::Error>> {
    Ok(Err(error(wit::ErrorKind::Unsupported, what)))
}

fn kind(kind: wit::ErrorKind) -> ErrorKind {
    // The kinds have the contract's order, which a test of raic-cloud checks.
    ErrorKind::ALL[kind as usize]
}

/// Returns the body of a get: bytes are skipped, cut and counted, and each piece has a timeout.
fn stream_body(cloud: String, key: ObjectKey, body: GuestBody) -> Body {
    let fail = move |kind, why: String| CloudError::new(kind, &cloud, Operation::Get, why).at(&key);
    stream::try_unfold((body, fail), |(mut body, fail)| async move {
        while body.length > 0 {
            let frame = match tokio::time::timeout(IDLE, body.incoming.frame()).await {
                Err(_) => {
                    return Err(fail(
                        ErrorKind::Timeout,
                        "the object stopped coming".to_owned(),
                    ));
                }
                Ok(Some(Err(e))) => {
                    return Err(fail(
                        ErrorKind::Unavailable,
                        format!("the object broke off: {}", causes(&e)),
                    ));
                }
                Ok(None) => {
                    return Err(fail(
                        ErrorKind::Integrity,
                        format!("the object ended {} bytes early", body.length),
                    ));
                }
                Ok(Some(Ok(frame))) => frame,
            };
            let Ok(mut piece) = frame.into_data() else {
                continue;
            };
            let skipped = usize::try_from(body.skip)
                .unwrap_or(usize::MAX)
                .min(piece.len());
            body.skip -= skipped as u64;
            let mut piece = piece.split_off(skipped);
            piece.truncate(usize::try_from(body.length).unwrap_or(usize::MAX));
            if !piece.is_empty() {
                body.length -= piece.len() as u64;
                return Ok(Some((piece, (body, fail))));
            }
        }
        Ok(None)
    })
    .boxed()
}
