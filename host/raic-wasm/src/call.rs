//! One call of a guest: its state in the host, and its limits.

#![allow(
    unreachable_pub,
    reason = "the generated bindings name the handles' types"
)]

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::body::Incoming;
use parking_lot::Mutex;
use raic_cloud::ByteRange;
use wasmtime::{ResourceLimiter, Store, UpdateDeadline, component::ResourceTable};

use crate::{
    client::HttpClient,
    cpu::CpuTime,
    gate::Gate,
    logins::Logins,
    manifest::{Settings, Token},
    redaction::Redactor,
    rehearsal::Rehearsal,
    secrets::{Credentials, Placeholders, SecretValue},
};

/// Most CPU time of a call; checked in every epoch.
const MAX_CPU: Duration = Duration::from_millis(200);
/// Most data, in bytes, that a guest may hand to the host in one call of an import. The data that
/// the host keeps of it is counted by [`Limits::hold`].
const HOSTCALL_FUEL: usize = 1 << 20;
const MAX_HANDLES: usize = 256;
/// Most requests of one call; a put and a login need three.
pub(crate) const MAX_REQUESTS: u32 = 32;
pub(crate) const MAX_LOG_LINES: u32 = 64;
/// Most answers of one call with unread bodies; each holds a connection.
pub(crate) const MAX_UNREAD: usize = 4;
const MAX_TABLE: usize = 100_000;
const MAX_INSTANCES: usize = 64;

/// The state that all calls on one cloud share.
pub(crate) struct Context {
    pub(crate) cloud: String,
    pub(crate) settings: Settings,
    pub(crate) credentials: Credentials,
    pub(crate) redaction: Redactor,
    /// The permit to search a long document for secrets; there is one for each cloud.
    pub(crate) searches: tokio::sync::Semaphore,
    pub(crate) gate: Gate,
    pub(crate) client: HttpClient,
    /// The manifest's tokens, by name.
    pub(crate) tokens: BTreeMap<String, Token>,
    /// The names of logins, in the manifest's order. A login may need those that stand before it.
    pub(crate) login_names: Vec<String>,
    /// The manifest's endpoints, by name.
    pub(crate) endpoints: BTreeMap<String, EndpointRule>,
    /// URLs of endpoints that calls learned and that are not pinned, by the manifest's names. A std
    /// lock, because it is only held while a text is copied.
    pub(crate) learned: Mutex<BTreeMap<String, String>>,
    /// Room for the connector's lines in the log. A blocking lock, because it is only held while
    /// numbers are changed.
    pub(crate) log_room: Mutex<LogRoom>,
}

/// The URLs that an endpoint may have.
pub(crate) enum EndpointRule {
    /// The URLs that the operator pinned.
    Pinned(Vec<String>),
    /// The URLs of any https host below this domain, at this port.
    Below(String, u16),
}

/// Room for lines that one cloud's connector writes to the log. It grows with time, up to a limit,
/// so that a connector cannot fill the operator's disk.
pub(crate) struct LogRoom {
    lines: f64,
    since: Instant,
    left_out: u64,
}

/// Most lines that a connector may write at once.
const LOG_BURST: f64 = 200.0;
/// Lines per second that a connector may write over time.
const LOG_RATE: f64 = 1.0;

impl Default for LogRoom {
    fn default() -> Self {
        Self {
            lines: LOG_BURST,
            since: Instant::now(),
            left_out: 0,
        }
    }
}

impl LogRoom {
    /// Takes room for one line. Returns how many lines were left out since the last one, or `None`
    /// if there is no room.
    pub(crate) fn take(&mut self) -> Option<u64> {
        let now = Instant::now();
        self.lines = (self.lines + (now - self.since).as_secs_f64() * LOG_RATE).min(LOG_BURST);
        self.since = now;
        if self.lines < 1.0 {
            self.left_out += 1;
            return None;
        }
        self.lines -= 1.0;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// A secret as a guest holds it: a handle, without the value.
pub struct SecretHandle(pub(crate) Arc<SecretValue>);

/// An answer of a service. The guest sees its status and headers, and reads it if it is a document.
pub struct GuestResponse {
    /// The request's method, path and network, for error messages.
    pub(crate) asked: String,
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) incoming: Option<Incoming>,
    /// Whether the guest may read a successful answer.
    pub(crate) document: bool,
    /// Whether an answer of status 200 or 206 is an object or a part of one.
    pub(crate) object: bool,
    /// The answer's content after it was read, without secrets.
    pub(crate) read: Option<Bytes>,
    /// Names of the tokens that were not looked for yet, because they are in the answer's body.
    pub(crate) untaken: Vec<String>,
    /// The headers as the service sent them, kept until the tokens are found.
    pub(crate) unmasked: Vec<(String, Vec<u8>)>,
    /// The tokens that were found, by name.
    pub(crate) taken: BTreeMap<String, Arc<SecretValue>>,
}

impl GuestResponse {
    /// Returns how much memory the host holds for the answer, in bytes.
    pub(crate) fn held(&self) -> usize {
        let length = |headers: &[(String, Vec<u8>)]| {
            headers
                .iter()
                .map(|(n, v)| n.len() + v.len())
                .sum::<usize>()
        };
        self.asked.len()
            + length(&self.headers)
            + length(&self.unmasked)
            + self.read.as_ref().map_or(0, Bytes::len)
    }
}

/// An object's bytes on their way from the service. The guest can only hand them on.
pub struct GuestBody {
    pub(crate) incoming: Incoming,
    /// Bytes to skip before the part that was asked for; more than 0 if the service ignored the
    /// range.
    pub(crate) skip: u64,
    /// Bytes to deliver after those that are skipped.
    pub(crate) length: u64,
}

/// The host's state of one call.
pub(crate) struct Call {
    pub(crate) context: Arc<Context>,
    pub(crate) table: ResourceTable,
    pub(crate) placeholders: Placeholders,
    /// The range that this call of `get` asks for.
    pub(crate) range: Option<ByteRange>,
    pub(crate) requests: u32,
    /// Bytes of all answers that this call has read.
    pub(crate) read: usize,
    pub(crate) log_lines: u32,
    /// Signatures made with RSA keys in this call.
    pub(crate) signatures: u32,
    /// The logins whose tickets this call holds, as positions in the manifest's list.
    pub(crate) tickets: Vec<usize>,
    /// Answers in the order in which they came, as indices of `table`. Some may be read or dropped.
    pub(crate) answers: VecDeque<u32>,
    /// Bodies that the guest took, as indices of `table`. Some may be dropped.
    pub(crate) bodies: Vec<u32>,
    /// Whether the call is a probe. A probe tries to log in although a failure was recorded.
    pub(crate) is_probe: bool,
    pub(crate) logins: Arc<Logins>,
    pub(crate) rehearsal: Arc<Rehearsal>,
    pub(crate) began: Instant,
    pub(crate) limits: Limits,
}

/// What a call has used, and which limit it exceeded. It is read after a trap.
#[derive(Default)]
pub(crate) struct Limits {
    pub(crate) cpu: Arc<CpuTime>,
    /// Bytes of the guest's linear memory and tables.
    memory: usize,
    /// Bytes that the host holds of answers and placeholders.
    held: usize,
    /// Most MiB of `memory` and `held` together.
    memory_mib: u32,
    /// The limit that ended the call, as the predicate of a sentence about the connector.
    pub(crate) exceeded: Option<String>,
}

impl Call {
    pub(crate) fn store(
        context: Arc<Context>,
        logins: Arc<Logins>,
        rehearsal: Arc<Rehearsal>,
        engine: &wasmtime::Engine,
        range: Option<ByteRange>,
        memory_mib: u32,
    ) -> Store<Self> {
        let call = Self {
            context,
            table: ResourceTable::new(),
            placeholders: Placeholders::default(),
            range,
            requests: 0,
            read: 0,
            log_lines: 0,
            signatures: 0,
            tickets: Vec::new(),
            answers: VecDeque::new(),
            bodies: Vec::new(),
            is_probe: false,
            logins,
            rehearsal,
            began: Instant::now(),
            limits: Limits {
                memory_mib,
                ..Limits::default()
            },
        };
        let mut store = Store::new(engine, call);
        store.limiter(|call| &mut call.limits);
        store.set_hostcall_fuel(HOSTCALL_FUEL);
        store.set_max_component_handles(MAX_HANDLES);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|mut store| {
            let limits = &mut store.data_mut().limits;
            if limits.is_out_of_time() {
                limits.exceeded = Some("used up its 200 ms of CPU time".to_owned());
                return Ok(UpdateDeadline::Interrupt);
            }
            Ok(UpdateDeadline::Yield(1))
        });
        store
    }

    /// Counts a request. Returns false if it is more than a call may send.
    pub(crate) fn count_request(&mut self) -> bool {
        self.requests += 1;
        self.requests <= MAX_REQUESTS
    }
}

impl Limits {
    fn most(&self) -> usize {
        (self.memory_mib as usize) << 20
    }

    /// Returns how many bytes are left, for the guest's memory or for what the host holds for it.
    pub(crate) fn room(&self) -> usize {
        self.most()
            .saturating_sub(self.memory)
            .saturating_sub(self.held)
    }

    /// Counts bytes that the host holds for the guest. Returns false if that is more than the call
    /// may have; they are counted all the same.
    pub(crate) fn hold(&mut self, bytes: usize) -> bool {
        self.held += bytes;
        self.memory + self.held <= self.most()
    }

    fn grow(&mut self, bytes: usize) -> wasmtime::Result<bool> {
        self.memory += bytes;
        if self.memory + self.held > self.most() {
            self.exceeded = Some(format!(
                "asked for more than its {} MiB of memory",
                self.memory_mib
            ));
            return Err(wasmtime::Error::msg("memory limit"));
        }
        Ok(true)
    }

    /// Whether the call has used up its CPU time. What the host does for a guest counts, too.
    pub(crate) fn is_out_of_time(&self) -> bool {
        self.cpu.so_far() > MAX_CPU
    }

    /// Counts bytes as no longer held.
    pub(crate) fn release(&mut self, bytes: usize) {
        self.held = self.held.saturating_sub(bytes);
    }
}

impl ResourceLimiter for Limits {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.grow(desired.saturating_sub(current))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // The elements of a table are pointers in the host.
        if desired > MAX_TABLE {
            self.exceeded = Some("asked for a table of more than 100000 elements".to_owned());
            return Err(wasmtime::Error::msg("table limit"));
        }
        self.grow(desired.saturating_sub(current) * size_of::<usize>())
    }

    fn instances(&self) -> usize {
        MAX_INSTANCES
    }

    fn tables(&self) -> usize {
        MAX_INSTANCES
    }

    fn memories(&self) -> usize {
        MAX_INSTANCES
    }
}
