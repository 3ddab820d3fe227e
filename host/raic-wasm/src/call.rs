//! One call of a guest: its state in the host, and its limits.

#![allow(
    unreachable_pub,
    reason = "the generated bindings name the handles' types"
)]

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::body::Incoming;
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

/// CPU time for a call, looked at in every epoch.
const MAX_CPU: Duration = Duration::from_millis(200);
/// Data a guest may hand to the host in one call of an import: it is refilled for each. What the
/// host keeps of it is counted by [`Limits::hold`].
const HOSTCALL_FUEL: usize = 1 << 20;
const MAX_HANDLES: usize = 256;
/// Requests of one call: a put and a login need three.
pub(crate) const MAX_REQUESTS: u32 = 32;
pub(crate) const MAX_LOG_LINES: u32 = 64;
/// Answers of one call whose bodies were not read: each holds a connection.
pub(crate) const MAX_UNREAD: usize = 4;
const MAX_TABLE: usize = 100_000;
const MAX_INSTANCES: usize = 64;

/// What all calls on one cloud share.
pub(crate) struct Context {
    pub(crate) cloud: String,
    pub(crate) settings: Settings,
    pub(crate) credentials: Credentials,
    pub(crate) redaction: Redactor,
    /// Long documents that are searched at once.
    pub(crate) searches: tokio::sync::Semaphore,
    pub(crate) gate: Gate,
    pub(crate) client: HttpClient,
    /// The tokens of the manifest, by name.
    pub(crate) tokens: BTreeMap<String, Token>,
    /// The names under which logins are kept, in the manifest's order: one may need those before
    /// it.
    pub(crate) login_names: Vec<String>,
    /// The manifest's endpoints, by name.
    pub(crate) endpoints: BTreeMap<String, EndpointRule>,
    /// What calls learned of endpoints that are not pinned, or otherwise. A std lock: held while a
    /// text is copied.
    pub(crate) learned: Mutex<BTreeMap<String, String>>,
    /// How much the connector may write to the log. A std lock: held while a number is changed.
    pub(crate) log_room: Mutex<LogRoom>,
}

/// Which URLs an endpoint may have.
pub(crate) enum EndpointRule {
    /// Those that the operator pinned.
    Pinned(Vec<String>),
    /// Any https host below a domain, at a port.
    Below(String, u16),
}

/// The lines of the log that one cloud's connector may still write: a bucket that fills with time,
/// so that a connector cannot fill the operator's disk.
pub(crate) struct LogRoom {
    lines: f64,
    since: Instant,
    left_out: u64,
}

/// Lines that a connector may write at once, and in each second after.
const LOG_BURST: f64 = 200.0;
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
    /// Takes a line, and says how many were left out before it; `None` if there is no room.
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

/// A secret in the guest's hands: a number.
pub struct SecretHandle(pub(crate) Arc<SecretValue>);

/// An answer, of which the guest sees status, headers, and documents.
pub struct GuestResponse {
    /// What was asked of which network, for people.
    pub(crate) asked: String,
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) incoming: Option<Incoming>,
    /// Whether a success may be read.
    pub(crate) document: bool,
    /// Whether a 200 or 206 is an object.
    pub(crate) object: bool,
    /// What was read, secrets cut out.
    pub(crate) read: Option<Bytes>,
    /// Tokens of this answer whose places were not looked at yet, since they are in its body.
    pub(crate) untaken: Vec<String>,
    /// The headers as they came, for as long as tokens are to be found.
    pub(crate) unmasked: Vec<(String, Vec<u8>)>,
    /// Those that were found.
    pub(crate) taken: BTreeMap<String, Arc<SecretValue>>,
}

impl GuestResponse {
    /// How much memory the host holds for it.
    pub(crate) fn held(&self) -> usize {
        let of = |headers: &[(String, Vec<u8>)]| {
            headers
                .iter()
                .map(|(n, v)| n.len() + v.len())
                .sum::<usize>()
        };
        self.asked.len()
            + of(&self.headers)
            + of(&self.unmasked)
            + self.read.as_ref().map_or(0, Bytes::len)
    }
}

/// An object's bytes on their way down: the guest hands it on.
pub struct GuestBody {
    pub(crate) incoming: Incoming,
    /// Bytes before the part asked for, where the service ignored the range.
    pub(crate) skip: u64,
    /// Bytes to deliver.
    pub(crate) length: u64,
}

/// The host's state of one call.
pub(crate) struct Call {
    pub(crate) context: Arc<Context>,
    pub(crate) table: ResourceTable,
    pub(crate) placeholders: Placeholders,
    /// The range asked of `get`.
    pub(crate) range: Option<ByteRange>,
    pub(crate) requests: u32,
    /// Bytes of all answers that were read.
    pub(crate) read: usize,
    pub(crate) log_lines: u32,
    /// Made with RSA keys.
    pub(crate) signatures: u32,
    /// The logins whose tickets this call holds, by their places in the manifest.
    pub(crate) tickets: Vec<usize>,
    /// Answers in the order in which they came, as the table has them; some may be read or dropped.
    pub(crate) answers: VecDeque<u32>,
    /// The bodies that it took, some of which may be gone.
    pub(crate) bodies: Vec<u32>,
    /// Whether the call is a probe, which tries though a failure was recorded.
    pub(crate) is_probe: bool,
    pub(crate) logins: Arc<Logins>,
    pub(crate) rehearsal: Arc<Rehearsal>,
    pub(crate) began: Instant,
    pub(crate) limits: Limits,
}

/// What a guest ran into; read after a trap.
#[derive(Default)]
pub(crate) struct Limits {
    pub(crate) cpu: Arc<CpuTime>,
    /// Linear memory and tables.
    memory: usize,
    /// What the host holds of answers.
    held: usize,
    /// The most of both.
    memory_mib: u32,
    /// The limit that ended the call, as a sentence's end.
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

    /// Counts a request.
    pub(crate) fn count_request(&mut self) -> bool {
        self.requests += 1;
        self.requests <= MAX_REQUESTS
    }
}

impl Limits {
    fn most(&self) -> usize {
        (self.memory_mib as usize) << 20
    }

    /// What the guest may still have, of memory or of answers that the host holds for it.
    pub(crate) fn room(&self) -> usize {
        self.most()
            .saturating_sub(self.memory)
            .saturating_sub(self.held)
    }

    /// Counts what the host holds of an answer; false where there is no room for it.
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

    /// Whether the call has used up its time. What the host does for a guest counts, too.
    pub(crate) fn is_out_of_time(&self) -> bool {
        self.cpu.so_far() > MAX_CPU
    }

    /// What it holds no longer.
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
        // A table's elements are pointers of the host's.
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
