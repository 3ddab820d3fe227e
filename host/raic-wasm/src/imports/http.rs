//! The host's side of the import `http`. Requests go through the gate, and answers are bounded.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::BytesMut;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use raic_cloud::Payload;
use wasmtime::component::Resource;

use super::{Outcome, error, refused};
use crate::{
    bindings::raic::connector::{
        http::{self, Request},
        types::{Error, ErrorKind},
    },
    call::{Call, Context, GuestBody, GuestResponse, MAX_REQUESTS, MAX_UNREAD, SecretHandle},
    client::{HttpClient, IDLE, SendError, Upload, causes},
    cpu::{self, CpuTime},
    gate::{Gate, Grant},
    manifest::Token,
    rehearsal::RehearsedAnswer,
    tokens,
};

/// Most bodies that a call holds: the one that it returns, and one that the guest's language has
/// not dropped yet.
const MAX_BODIES: usize = 2;
const MAX_HEADERS: usize = 64;
const MAX_HEADER_BYTES: usize = 32 << 10;
/// Most bytes of all headers of an answer together.
const MAX_ANSWER_HEADERS: usize = 64 << 10;
/// Most bytes of an answer that holds a token. Keystone's answer also holds a catalogue of
/// services.
const MAX_LOGIN: u32 = 256 << 10;
/// Most bytes that are read of an answer with status 400 or above.
const MAX_ERROR: u32 = 64 << 10;
/// Most bytes of a document, whatever limit the guest names. The engine limits the bytes that cross
/// to the guest by its own fuel.
const MAX_DOCUMENT: u32 = 4 << 20;
/// Largest document that is searched for secrets on the async runtime, in bytes.
const SHORT: usize = 8 << 10;
/// Most bytes of all answers that one call reads.
const MAX_READ: usize = 16 << 20;
/// Slowest upload that does not count as hanging, in bytes per second.
const SLOWEST: u64 = 32 << 10;

/// Headers of requests that decide where a message ends, where it goes, or how it is encoded.
const FORBIDDEN: [&str; 17] = [
    "accept-charset",
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    // From these some servers take another method or path than the one that was judged.
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
];

/// Headers of answers that hold secrets of the account's owner, and not of the guest's login.
const SECRET_HEADERS: [&str; 5] = [
    "set-cookie",
    // Swift: anybody with one of these keys can sign URLs ("Temporary URL middleware").
    "x-account-meta-temp-url-key",
    "x-account-meta-temp-url-key-2",
    "x-container-meta-temp-url-key",
    "x-container-meta-temp-url-key-2",
];

impl http::Host for Call {
    async fn send(
        &mut self,
        request: Request,
        upload: Option<Resource<Payload>>,
    ) -> Outcome<Resource<GuestResponse>> {
        let upload = upload
            .map(|payload| self.table.get(&payload).cloned())
            .transpose()?;
        if !self.count_request() {
            return Ok(Err(refused(format!(
                "a call sends {MAX_REQUESTS} requests at most"
            ))));
        }
        self.close_oldest();
        match self.exchange(request, upload).await {
            Ok(response) if self.limits.hold(response.held()) => {
                let handle = self.table.push(response)?;
                self.answers.push_back(handle.rep());
                Ok(Ok(handle))
            }
            Ok(response) => {
                self.limits.release(response.held());
                Ok(Err(error(
                    ErrorKind::TooLarge,
                    "no memory is left for another answer; drop those that were read",
                )))
            }
            Err(e) => Ok(Err(e)),
        }
    }
}

impl Call {
    /// Closes the oldest unread answers, and their connections, so that there is room for one more.
    /// This does not disturb guests whose language drops handles late.
    fn close_oldest(&mut self) {
        let Self { answers, table, .. } = self;
        let mut unread = Vec::new();
        answers.retain(|rep| {
            let Ok(answer) = table.get(&Resource::<GuestResponse>::new_borrow(*rep)) else {
                return false;
            };
            let is_open = answer
                .incoming
                .as_ref()
                .is_some_and(|body| !http_body::Body::is_end_stream(body));
            if is_open {
                unread.push(*rep);
            }
            is_open
        });
        let too_many = (unread.len() + 1).saturating_sub(MAX_UNREAD);
        for rep in unread.into_iter().take(too_many) {
            if let Ok(answer) = table.get_mut(&Resource::<GuestResponse>::new_borrow(rep)) {
                answer.incoming = None;
            }
        }
    }

    async fn exchange(
        &mut self,
        request: Request,
        upload: Option<Payload>,
    ) -> Result<GuestResponse, Error> {
        let context = self.context.clone();
        let passed = context
            .gate
            .check(&request.method, &request.url)
            .map_err(refused)?;
        if upload.is_some() && !request.content.is_empty() {
            return Err(refused("a request has a payload or content, not both"));
        }
        let url = self
            .placeholders
            .fill_url(&passed.grant.name, passed.url.as_str())
            .map_err(refused)?;
        let content = self
            .placeholders
            .fill_content(&passed.grant.name, request.content)
            .map_err(refused)?;
        let parts = upload.map_or_else(|| vec![content.to_vec().into()], |p| p.parts().to_vec());
        let size: u64 = parts.iter().map(|p| p.len() as u64).sum();
        let mut builder = ::http::Request::builder()
            .method(request.method.as_str())
            .uri(url.as_str());
        let total: usize = request.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
        if request.headers.len() > MAX_HEADERS || total > MAX_HEADER_BYTES {
            return Err(refused(format!(
                "a request has {MAX_HEADERS} headers of {MAX_HEADER_BYTES} bytes together at most"
            )));
        }
        let mut room = MAX_HEADER_BYTES;
        for (name, value) in &request.headers {
            let name = name.to_ascii_lowercase();
            if FORBIDDEN.contains(&name.as_str()) || name.starts_with("proxy-") {
                return Err(refused(format!("the header {name} is the host's to set")));
            }
            let value =
                std::str::from_utf8(value).map_err(|_| refused("a header's value is not UTF-8"))?;
            if is_source(&name) {
                return Err(refused(format!(
                    "the header {name} has the service read an object that the gate cannot judge"
                )));
            }
            let filled = self
                .placeholders
                .fill(&passed.grant.name, &name, value, room)
                .map_err(refused)?;
            room = room.saturating_sub(filled.len());
            // Checked as it is sent, since a placeholder may stand for a URL.
            check_urls(&context.gate, passed.grant, &name, &filled)?;
            let mut filled = ::http::HeaderValue::from_str(&filled)
                .map_err(|_| refused(format!("the value of the header {name} cannot be sent")))?;
            // The value is kept out of hyper's debug output.
            filled.set_sensitive(true);
            builder = builder.header(name, filled);
        }
        builder = builder
            .header("accept-encoding", "identity")
            .header("user-agent", "raic");
        if request.method != "GET" && request.method != "HEAD" {
            builder = builder.header("content-length", size);
        }
        let message = builder
            .body(Upload::new(parts))
            .map_err(|e| refused(e.to_string()))?;
        let allowed = IDLE + Duration::from_secs(size / SLOWEST);
        let timeout = request
            .timeout_ms
            .map_or(allowed, |ms| allowed.min(Duration::from_millis(ms.into())));
        let answered = match &self.rehearsal.answer {
            Some(answer) => Answered::rehearsed(answer),
            None => Answered::by(&context.client, message, passed.grant, timeout).await?,
        };
        let mut answer = GuestResponse {
            asked: format!(
                "{} {} of network {:?}",
                request.method,
                passed.url.path(),
                passed.grant.name
            ),
            status: answered.status,
            headers: answered.headers,
            // An answer without content counts as read.
            read: answered.incoming.is_none().then(bytes::Bytes::new),
            incoming: answered.incoming,
            document: passed.document,
            object: passed.object,
            untaken: Vec::new(),
            unmasked: Vec::new(),
            taken: BTreeMap::new(),
        };
        if (200..300).contains(&answer.status) {
            answer.untaken = passed
                .tokens
                .iter()
                .map(|name| (*name).to_owned())
                .collect();
        }
        if !answer.untaken.is_empty() {
            answer.unmasked = answer.headers.clone();
            answer.take(&context, true)?;
        }
        answer.mask(&context, &passed.network_tokens);
        Ok(answer)
    }
}

/// Whether a header has the service read another object in place of the request's content. It names
/// the object by a path that the gate cannot judge. Such headers are S3's `x-amz-copy-source`,
/// those of Google, Swift's `x-copy-from` and its manifests and links, and Azure's
/// `x-ms-rename-source`. Azure's `x-ms-copy-source` is a URL, and is judged as one.
fn is_source(name: &str) -> bool {
    let reads = [
        "copy-source",
        "copy-from",
        "copy-source-range",
        "rename-source",
    ];
    name != "x-ms-copy-source" && reads.iter().any(|reads| name.ends_with(reads))
        || matches!(
            name,
            "x-object-manifest"
                | "x-symlink-target"
                | "x-symlink-target-account"
                | "x-copy-from-account"
        )
}

/// Checks that a header's value leads where the request goes, if it is a URL. Services fetch the
/// URL in such a header, or write there (WebDAV's `destination`, RFC 4918 section 10.3; Azure's
/// `x-ms-copy-source`), and secrets in the URL leave with it.
fn check_urls(gate: &Gate, grant: &Grant, name: &str, value: &str) -> Result<(), Error> {
    let value = value.trim();
    // A path alone is on the same server, and is judged there.
    let text = match name == "destination" && value.starts_with('/') && !value.starts_with("//") {
        true => format!("{}{value}", grant.origin()),
        false => value.to_owned(),
    };
    let is_url = url::Url::parse(&text).is_ok_and(|url| url.has_host());
    if !is_url && name != "destination" {
        return Ok(());
    }
    let target = gate
        .check("PUT", &text)
        .map_err(|why| refused(format!("the header {name}: {why}")))?;
    if target.grant.name != grant.name {
        return Err(refused(format!(
            "the header {name} names a place in another network than the request"
        )));
    }
    Ok(())
}

impl Call {
    /// Returns how many bytes of an answer may be read. The bytes count twice, because a copy
    /// without secrets is made. With the guest's own memory they must stay within the call's limit.
    fn room_for_answer(&self) -> u32 {
        let room = (self.limits.room() / 2).min(MAX_READ.saturating_sub(self.read));
        u32::try_from(room).unwrap_or(u32::MAX)
    }

    /// Reads the whole of an answer, if it was not read yet.
    async fn read_answer(
        &mut self,
        response: &Resource<GuestResponse>,
        most: u32,
    ) -> wasmtime::Result<Result<(), Error>> {
        let (context, cpu) = (self.context.clone(), self.limits.cpu.clone());
        let response = self.table.get_mut(response)?;
        if response.incoming.is_none() {
            return Ok(Ok(()));
        }
        let before = response.held();
        let whole = response.read_whole(&context, most, &cpu).await;
        let after = response.held();
        self.read += response.read.as_ref().map_or(0, bytes::Bytes::len);
        self.limits.release(before);
        // There is room, since no more was read than `most`.
        self.limits.hold(after);
        Ok(whole)
    }
}

/// The head of an answer, and the content that follows it.
struct Answered {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    incoming: Option<Incoming>,
}

impl Answered {
    async fn by(
        client: &HttpClient,
        message: ::http::Request<Upload>,
        grant: &Grant,
        timeout: Duration,
    ) -> Result<Self, Error> {
        let answer = client.send(message, grant.typed, timeout).await;
        let answer = answer.map_err(|e| {
            let place = format!("{}:{}", grant.host, grant.port);
            match e {
                SendError::Timeout(limit) => error(
                    ErrorKind::Timeout,
                    format!("{place} did not answer within {} s", limit.as_secs()),
                ),
                SendError::Failed(why) => error(
                    ErrorKind::Unavailable,
                    format!("{place} cannot be reached: {why}"),
                ),
            }
        })?;
        let (head, incoming) = answer.into_parts();
        if head
            .headers
            .get("content-encoding")
            .is_some_and(|e| e != "identity")
        {
            return Err(error(
                ErrorKind::Protocol,
                "the service encoded an answer, though the request forbade it",
            ));
        }
        let total: usize = head
            .headers
            .iter()
            .map(|(n, v)| n.as_str().len() + v.len())
            .sum();
        if total > MAX_ANSWER_HEADERS {
            let why = format!(
                "the headers of the answer have {total} bytes, more than {MAX_ANSWER_HEADERS}"
            );
            return Err(error(ErrorKind::Protocol, why));
        }
        let headers = head
            .headers
            .iter()
            .map(|(n, v)| (n.as_str().to_owned(), v.as_bytes().to_vec()));
        Ok(Self {
            status: head.status.as_u16(),
            headers: headers.collect(),
            incoming: Some(incoming),
        })
    }

    fn rehearsed(answer: &RehearsedAnswer) -> Self {
        let headers = answer
            .headers
            .iter()
            .map(|(name, value)| (name.clone(), value.clone().into_bytes()));
        Self {
            status: answer.status,
            headers: headers.collect(),
            incoming: None,
        }
    }
}

/// Returns the headers in which a token stands.
fn in_headers(token: &Token) -> impl Iterator<Item = &str> {
    token
        .from
        .iter()
        .filter_map(|place| place.strip_prefix("header:"))
}

impl GuestResponse {
    /// Hides the values of headers in which tokens of the network stand, whatever the request was,
    /// and every repeated secret. The guest sees no value before this, also if a token is still to
    /// be read from the body.
    fn mask(&mut self, context: &Context, names: &[&str]) {
        let tokens = names.iter().filter_map(|name| context.tokens.get(*name));
        let places: Vec<(&str, &Token)> = tokens
            .flat_map(|token| in_headers(token).map(move |place| (place, token)))
            .collect();
        for (name, value) in &mut self.headers {
            let place = places
                .iter()
                .find(|(place, _)| place.eq_ignore_ascii_case(name));
            if let Some((_, token)) = place {
                // The token may also stand elsewhere in this answer, or in the next.
                if let Some(secret) = tokens::in_value(value, token) {
                    context.redaction.learn(&secret);
                }
            }
            if place.is_some() || SECRET_HEADERS.contains(&name.as_str()) {
                *value = b"***".to_vec();
            }
        }
        for (_, value) in &mut self.headers {
            *value = context.redaction.apply(value);
        }
    }

    /// Finds the answer's tokens, in its head or in its body. From then on no answer shows them.
    fn take(&mut self, context: &Context, in_head: bool) -> Result<(), Error> {
        let body = if in_head { None } else { self.read.as_deref() };
        for name in std::mem::take(&mut self.untaken) {
            let Some(token) = context.tokens.get(&name) else {
                continue;
            };
            if in_head && !tokens::is_in_head(token) {
                self.untaken.push(name);
                continue;
            }
            let found = tokens::find(&name, token, &self.unmasked, body);
            if let Some(secret) = found.map_err(|why| error(ErrorKind::Protocol, why))? {
                context.redaction.learn(&secret);
                self.taken.insert(name, secret);
            }
        }
        Ok(())
    }

    /// Reads the whole of an answer, at most once. The bytes that are kept hold no secrets.
    async fn read_whole(
        &mut self,
        context: &Arc<Context>,
        most: u32,
        cpu: &CpuTime,
    ) -> Result<(), Error> {
        let Some(mut incoming) = self.incoming.take() else {
            return Ok(());
        };
        let mut whole = BytesMut::new();
        loop {
            match tokio::time::timeout(IDLE, incoming.frame()).await {
                Err(_) => return Err(error(ErrorKind::Timeout, "the answer stopped coming")),
                Ok(None) => break,
                Ok(Some(Err(e))) => {
                    let why = format!("the answer broke off: {}", causes(&e));
                    return Err(error(ErrorKind::Unavailable, why));
                }
                Ok(Some(Ok(frame))) => {
                    whole.extend_from_slice(&frame.into_data().unwrap_or_default())
                }
            }
            if whole.len() > most as usize {
                let why = format!(
                    "the answer has more than {most} bytes, its limit or what `memory_mib` leaves"
                );
                return Err(error(ErrorKind::TooLarge, why));
            }
        }
        self.read = Some(whole.freeze());
        let taken = self.take(context, false);
        self.unmasked = Vec::new();
        let whole = self.read.take().unwrap_or_default();
        taken?;
        if !is_plain_text(&whole, self.header("content-type").as_deref()) {
            return Err(error(
                ErrorKind::Protocol,
                "the answer holds NUL bytes, or names a charset other than UTF-8, ASCII or Latin-1",
            ));
        }
        self.read = Some(redacted(context, whole, cpu).await.into());
        Ok(())
    }
}

/// Whether a document is in a charset in which secrets are found.
fn is_plain_text(document: &[u8], content_type: Option<&str>) -> bool {
    let charset = content_type.and_then(|t| {
        t.to_ascii_lowercase()
            .split_once("charset=")
            .map(|(_, c)| c.to_owned())
    });
    let charset = charset.as_deref().map(|c| {
        c.trim_matches(['"', ' '])
            .split([';', '"'])
            .next()
            .unwrap_or_default()
    });
    // Error pages in Latin-1 are ASCII except for a few words. UTF-16 and UTF-32 have NULs between
    // characters.
    let known = charset.is_none_or(|c| {
        matches!(
            c,
            "utf-8" | "utf8" | "us-ascii" | "ascii" | "iso-8859-1" | "latin1"
        )
    });
    known && !document.contains(&0)
}

/// Returns a document without secrets. Long documents are searched on the blocking pool, so that no
/// other call waits. Their search is charged to the guest's CPU time.
async fn redacted(context: &Arc<Context>, whole: bytes::Bytes, cpu: &CpuTime) -> Vec<u8> {
    if whole.len() <= SHORT {
        return context.redaction.apply(&whole);
    }
    // Each cloud searches one document at a time, since a search takes many times the document's
    // memory.
    let Ok(_turn) = context.searches.acquire().await else {
        return Vec::new();
    };
    let context = context.clone();
    let searched =
        tokio::task::spawn_blocking(move || cpu::timed(|| context.redaction.apply(&whole))).await;
    // If the search failed, nothing of the document is shown.
    let (searched, used) = searched.unwrap_or_default();
    cpu.add(used);
    searched
}

impl GuestResponse {
    fn header(&self, name: &str) -> Option<String> {
        let name = name.to_ascii_lowercase();
        let values = self.headers.iter().filter(|(n, _)| *n == name);
        let values: Option<Vec<_>> = values.map(|(_, v)| std::str::from_utf8(v).ok()).collect();
        values.filter(|v| !v.is_empty()).map(|v| v.join(", "))
    }
}

impl http::HostResponse for Call {
    async fn status(&mut self, response: Resource<GuestResponse>) -> wasmtime::Result<u16> {
        Ok(self.table.get(&response)?.status)
    }

    async fn headers(
        &mut self,
        response: Resource<GuestResponse>,
    ) -> wasmtime::Result<Vec<(String, Vec<u8>)>> {
        Ok(self.table.get(&response)?.headers.clone())
    }

    async fn header(
        &mut self,
        response: Resource<GuestResponse>,
        name: String,
    ) -> wasmtime::Result<Option<String>> {
        Ok(self.table.get(&response)?.header(&name))
    }

    async fn read(&mut self, handle: Resource<GuestResponse>, limit: u32) -> Outcome<Vec<u8>> {
        let room = self.room_for_answer();
        let response = self.table.get(&handle)?;
        // A part of a document cannot be read, because a secret that is cut in two is not found.
        let is_whole = response.status < 300
            && response.status != 206
            && response.header("content-range").is_none();
        let is_document =
            (response.document || !response.untaken.is_empty() || !response.taken.is_empty())
                && is_whole;
        if response.status < 400 && !is_document {
            let asked = &response.asked;
            return Ok(Err(refused(format!(
                "the manifest does not call this answer a document: {asked}; \
                 a document has exactly its network's path and then its own"
            ))));
        }
        let most = match response.status {
            400.. => MAX_ERROR,
            _ if response.untaken.is_empty() => MAX_DOCUMENT,
            _ => MAX_LOGIN,
        };
        let most = most.min(limit).min(room);
        if let Err(e) = self.read_answer(&handle, most).await? {
            return Ok(Err(e));
        }
        match &self.table.get(&handle)?.read {
            Some(read) => Ok(Ok(read.to_vec())),
            None => Ok(Err(error(
                ErrorKind::Protocol,
                "the answer could not be read the first time",
            ))),
        }
    }

    async fn into_body(
        &mut self,
        response: Resource<GuestResponse>,
    ) -> Outcome<Resource<GuestBody>> {
        let range = self.range;
        // A call returns one body, and each holds a connection.
        let table = &self.table;
        self.bodies
            .retain(|rep| table.get(&Resource::<GuestBody>::new_borrow(*rep)).is_ok());
        if self.bodies.len() >= MAX_BODIES {
            return Ok(Err(refused(format!(
                "a call holds {MAX_BODIES} bodies at most"
            ))));
        }
        let response = self.table.delete(response)?;
        self.limits.release(response.held());
        match body_of(response, range) {
            Ok(body) => {
                let body = self.table.push(body)?;
                self.bodies.push(body.rep());
                Ok(Ok(body))
            }
            Err(e) => Ok(Err(e)),
        }
    }

    async fn take_secret(
        &mut self,
        handle: Resource<GuestResponse>,
        name: String,
    ) -> Outcome<Resource<SecretHandle>> {
        if !self.context.tokens.contains_key(&name) {
            return Ok(Err(refused(format!("the manifest has no token {name:?}"))));
        }
        let room = self.room_for_answer().min(MAX_LOGIN);
        if self.table.get(&handle)?.untaken.contains(&name)
            && let Err(e) = self.read_answer(&handle, room).await?
        {
            return Ok(Err(e));
        }
        match self.table.get(&handle)?.taken.get(&name).cloned() {
            Some(secret) => Ok(Ok(self.table.push(SecretHandle(secret))?)),
            None => Ok(Err(error(
                ErrorKind::Protocol,
                format!("the answer has no {name}"),
            ))),
        }
    }

    async fn drop(&mut self, response: Resource<GuestResponse>) -> wasmtime::Result<()> {
        let response = self.table.delete(response)?;
        self.limits.release(response.held());
        Ok(())
    }
}

/// Makes the body of the object, or of the part that was asked for, out of an answer. Its length
/// comes from the answer's headers.
fn body_of(
    response: GuestResponse,
    range: Option<raic_cloud::ByteRange>,
) -> Result<GuestBody, Error> {
    let protocol = |why: &str| error(ErrorKind::Protocol, why);
    if !response.object || !matches!(response.status, 200 | 206) {
        return Err(protocol(
            "only a GET, or a POST of the manifest's `objects`, answered by 200 or 206 \
             has an object's bytes",
        ));
    }
    let sent: Option<u64> = response
        .header("content-length")
        .and_then(|l| l.trim().parse().ok());
    let sent = sent.ok_or_else(|| protocol("the answer has no content-length"))?;
    let promised = response.header("content-range");
    let incoming = response
        .incoming
        .ok_or_else(|| protocol("the answer was read already"))?;
    let Some(range) = range else {
        return if response.status == 200 {
            Ok(GuestBody {
                incoming,
                skip: 0,
                length: sent,
            })
        } else {
            Err(protocol("the whole object was asked for, but a part came"))
        };
    };
    if response.status == 200 {
        let part = range.within(sent).ok_or_else(|| {
            error(
                ErrorKind::RangeNotSatisfiable,
                "the range begins past the end of the object",
            )
        })?;
        return Ok(GuestBody {
            incoming,
            skip: part.start,
            length: part.end - part.start,
        });
    }
    let start = promised
        .as_deref()
        .and_then(|r| r.trim().strip_prefix("bytes "));
    let start = start
        .and_then(|r| r.split('-').next())
        .and_then(|s| s.parse::<u64>().ok());
    if start != Some(range.offset) || sent > range.length.get() {
        return Err(protocol("another range came than was asked for"));
    }
    Ok(GuestBody {
        incoming,
        skip: 0,
        length: sent,
    })
}
