//! What each request does.

use std::{collections::BTreeMap, io, ops::Bound};

use bytes::{Bytes, BytesMut};
use futures::stream;
use http_body_util::BodyExt as _;
use hyper::{HeaderMap, Method, Response, StatusCode, body::Incoming, header::HeaderValue};
use quick_xml::escape::unescape;

use crate::{
    answer::{Answer, breaking, cut, empty, error, hanging, pieces, xml},
    listing,
    misbehaviour::{Fault, Misbehaviour, Moment},
    request::{Target, range},
    service::Shared,
    store::{Object, Parts},
};

type Answered = io::Result<Answer>;

/// One request, without its body.
pub(crate) struct Request<'a> {
    pub(crate) method: Method,
    pub(crate) target: Target,
    pub(crate) headers: HeaderMap,
    pub(crate) shared: &'a Shared,
    pub(crate) misbehaviour: Option<Misbehaviour>,
}

/// Changes one bit in the middle of pieces.
fn flipped(pieces: &[Bytes]) -> Vec<Bytes> {
    let mut whole: BytesMut = pieces
        .iter()
        .flat_map(|piece| piece.iter().copied())
        .collect();
    let middle = whole.len() / 2;
    if let Some(byte) = whole.get_mut(middle) {
        *byte ^= 1;
    }
    vec![whole.freeze()]
}

/// Takes a body apart that was signed chunk by chunk: each has its length, a signature, which is
/// not checked, and its bytes. `None` if it is not one.
fn unchunked(pieces: &[Bytes]) -> Option<Vec<Bytes>> {
    let mut rest: Bytes = pieces.concat().into();
    let mut chunks = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let head = rest.split_to(end + 2);
        let head = std::str::from_utf8(&head).ok()?;
        let length = usize::from_str_radix(head.split(';').next()?, 16).ok()?;
        if length == 0 {
            return Some(chunks);
        }
        if rest.len() < length + 2 {
            return None;
        }
        chunks.push(rest.split_to(length));
        rest = rest.slice(2..);
    }
}

fn length_of(pieces: &[Bytes]) -> u64 {
    pieces.iter().map(|piece| piece.len() as u64).sum()
}

fn not_found() -> Answer {
    error(StatusCode::NOT_FOUND, "NoSuchKey")
}

fn closed<T>() -> io::Result<T> {
    Err(io::ErrorKind::ConnectionReset.into())
}

fn etag(of: &str) -> HeaderValue {
    HeaderValue::try_from(format!("\"{of}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

/// The faults that are the same at every moment: `None` if the request goes on.
async fn plain(fault: Option<Fault>) -> Option<Answered> {
    Some(match fault? {
        Fault::TimeOut => std::future::pending().await,
        Fault::Reset => closed(),
        Fault::TooManyRequests => Ok(error(StatusCode::TOO_MANY_REQUESTS, "SlowDown")),
        Fault::ServerError => Ok(error(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable")),
        _ => return None,
    })
}

impl Request<'_> {
    fn when(&self, at: Moment) -> Option<Fault> {
        self.misbehaviour.and_then(|m| m.when(at))
    }

    /// Does the request, or what the misbehaviour makes of it.
    pub(crate) async fn answer(self, body: Incoming) -> Answered {
        let (method, target) = (self.method.clone(), &self.target);
        if target.bucket.is_empty() {
            return Ok(error(StatusCode::NOT_IMPLEMENTED, "NotImplemented"));
        }
        if target.key.is_empty() && method == Method::PUT {
            let mut store = self.shared.store.lock();
            store.buckets.entry(target.bucket.clone()).or_default();
            return Ok(empty(StatusCode::OK));
        }
        if !self
            .shared
            .store
            .lock()
            .buckets
            .contains_key(&target.bucket)
        {
            return Ok(error(StatusCode::NOT_FOUND, "NoSuchBucket"));
        }
        if target.is_listing(&method) {
            return self.list().await;
        }
        if target.is_deletion(&method) {
            return self.delete(body).await;
        }
        if target.key.is_empty() {
            return Ok(match method {
                Method::HEAD => empty(StatusCode::OK),
                Method::DELETE => self.delete_bucket(),
                _ => error(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
            });
        }
        if let Some(answer) = plain(self.when(Moment::Headers)).await {
            return answer;
        }
        match method {
            Method::PUT | Method::POST | Method::DELETE => self.write(body).await,
            Method::GET | Method::HEAD => self.read().await,
            _ => Ok(error(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed")),
        }
    }

    fn delete_bucket(&self) -> Answer {
        let mut store = self.shared.store.lock();
        let bucket = store.buckets.get(&self.target.bucket);
        if bucket.is_some_and(|bucket| !bucket.is_empty()) {
            return error(StatusCode::CONFLICT, "BucketNotEmpty");
        }
        store.buckets.remove(&self.target.bucket);
        empty(StatusCode::NO_CONTENT)
    }

    async fn list(&self) -> Answered {
        let fault = self.when(Moment::List);
        if let Some(answer) = plain(fault).await {
            return answer;
        }
        let document = {
            let store = self.shared.store.lock();
            let bucket = store.buckets.get(&self.target.bucket);
            listing::page(&self.target, |from| match (bucket, fault) {
                (None, _) | (_, Some(Fault::Lost)) => Box::new(std::iter::empty()),
                (Some(bucket), _) => {
                    let all = bucket.range((from, Bound::Unbounded));
                    let is_stale = fault == Some(Fault::Stale);
                    Box::new(all.filter(move |(_, object)| !(is_stale && object.is_recent)))
                }
            })
        };
        let whole = vec![Bytes::from(document)];
        Ok(match fault {
            Some(Fault::Short) => {
                let half = cut(&whole, 0, length_of(&whole) / 2);
                let mut answer = pieces(StatusCode::OK, breaking(half));
                let length = HeaderValue::from(length_of(&whole));
                answer.headers_mut().insert("content-length", length);
                answer
            }
            Some(Fault::BitFlip) => self.sent(StatusCode::OK, flipped(&whole)),
            Some(Fault::WrongObject) => {
                let text = String::from_utf8_lossy(&whole[0]);
                xml(StatusCode::OK, text.replace("shares", "sharks"))
            }
            _ => self.sent(StatusCode::OK, whole),
        })
    }

    async fn delete(&self, body: Incoming) -> Answered {
        let fault = self.when(Moment::Delete);
        if let Some(answer) = plain(fault).await {
            return answer;
        }
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let many = self.target.key.is_empty();
        let keys: Vec<String> = match many {
            false => vec![self.target.key.clone()],
            true => {
                let text = String::from_utf8_lossy(&body).into_owned();
                let keys = text.split("<Key>").skip(1).filter_map(|rest| {
                    let (key, _) = rest.split_once("</Key>")?;
                    Some(unescape(key).ok()?.into_owned())
                });
                keys.collect()
            }
        };
        let is_kept = matches!(fault, Some(Fault::Lost | Fault::BitFlip));
        for key in keys.into_iter().filter(|_| !is_kept) {
            let mut store = self.shared.store.lock();
            let Some(bucket) = store.buckets.get_mut(&self.target.bucket) else {
                continue;
            };
            let key = match fault {
                Some(Fault::WrongObject) => {
                    let behind = (Bound::Excluded(key), Bound::Unbounded);
                    bucket.range(behind).next().map(|(key, _)| key.clone())
                }
                _ => Some(key),
            };
            let removed = key.and_then(|key| Some((bucket.remove(&key)?, key)));
            if let (Some((object, key)), Some(Fault::Stale)) = (removed, fault) {
                let at = (self.target.bucket.clone(), key);
                store.removed.insert(at, object);
            }
        }
        match (fault, many) {
            (Some(Fault::Short), _) => closed(),
            (_, true) => Ok(xml(StatusCode::OK, "<DeleteResult/>".to_owned())),
            (_, false) => Ok(empty(StatusCode::NO_CONTENT)),
        }
    }

    /// Takes the body up to its middle, or whole.
    async fn take(&self, body: &mut Incoming, most: Option<u64>) -> io::Result<Vec<Bytes>> {
        let (mut taken, mut length) = (Vec::new(), 0);
        while most.is_none_or(|most| length < most) {
            let Some(frame) = body.frame().await.transpose().map_err(io::Error::other)? else {
                break;
            };
            if let Ok(piece) = frame.into_data() {
                length += piece.len() as u64;
                self.shared
                    .lines
                    .0
                    .carry(self.shared.pace, piece.len())
                    .await;
                taken.push(piece);
            }
        }
        self.shared.store.lock().counts.taken += length;
        Ok(taken)
    }

    fn done(&self) -> Answer {
        let mut answer = empty(StatusCode::OK);
        let fresh = self.shared.store.lock().fresh();
        answer.headers_mut().insert("etag", etag(&fresh));
        answer
    }

    async fn write(self, mut body: Incoming) -> Answered {
        if self.when(Moment::Headers) == Some(Fault::Lost) {
            return Ok(self.done());
        }
        let announced = self.headers.get("content-length");
        let announced = announced.and_then(|l| l.to_str().ok()?.parse::<u64>().ok());
        let halfway = self.when(Moment::MidBody);
        let mut pieces = match halfway {
            Some(_) => self.take(&mut body, announced.map(|l| l / 2)).await?,
            None => Vec::new(),
        };
        match (plain(halfway).await, halfway) {
            (Some(answer), _) => return answer,
            (_, Some(Fault::Short)) => return closed(),
            (_, Some(Fault::Lost)) => return Ok(self.done()),
            _ => {}
        }
        pieces.extend(self.take(&mut body, None).await?);
        let digest = self.headers.get("x-amz-content-sha256");
        if digest.is_some_and(|digest| digest.as_bytes().starts_with(b"STREAMING-")) {
            pieces = unchunked(&pieces).ok_or(io::ErrorKind::InvalidData)?;
        }
        let after = self.when(Moment::AfterBody);
        if after == Some(Fault::Lost) {
            return Ok(self.done());
        }
        if [halfway, after].contains(&Some(Fault::BitFlip)) {
            pieces = flipped(&pieces);
        }
        if halfway == Some(Fault::WrongObject) {
            pieces = self.half_of_another(&pieces);
        }
        let answer = self.store(pieces, after == Some(Fault::WrongObject));
        match (plain(after).await, after) {
            (Some(answer), _) => answer,
            (_, Some(Fault::Short)) => closed(),
            _ => Ok(answer),
        }
    }

    /// Stores what came, under the key or another one.
    fn store(&self, pieces: Vec<Bytes>, elsewhere: bool) -> Answer {
        let target = &self.target;
        let mut store = self.shared.store.lock();
        if target.asks("uploads") {
            let id = store.fresh();
            let headers = self.headers.clone();
            let parts = Parts {
                headers,
                ..Parts::default()
            };
            store.uploads.insert(id.clone(), parts);
            return xml(
                StatusCode::OK,
                format!(
                    "<InitiateMultipartUploadResult><UploadId>{id}</UploadId>\
                     </InitiateMultipartUploadResult>"
                ),
            );
        }
        let mut headers = self.headers.clone();
        let mut pieces = pieces;
        let mut is_completed = false;
        if let Some(id) = target.query.get("uploadId") {
            let number = target.query.get("partNumber").and_then(|n| n.parse().ok());
            let fresh = store.fresh();
            match (number, self.method == Method::DELETE) {
                (Some(number), _) => {
                    let Some(upload) = store.uploads.get_mut(id) else {
                        return error(StatusCode::NOT_FOUND, "NoSuchUpload");
                    };
                    upload.parts.insert(number, pieces);
                    let mut answer = empty(StatusCode::OK);
                    answer.headers_mut().insert("etag", etag(&fresh));
                    return answer;
                }
                (None, is_aborted) => {
                    let Some(upload) = store.uploads.remove(id) else {
                        return error(StatusCode::NOT_FOUND, "NoSuchUpload");
                    };
                    if is_aborted {
                        return empty(StatusCode::NO_CONTENT);
                    }
                    headers = upload.headers;
                    pieces = upload.parts.into_values().flatten().collect();
                    is_completed = true;
                }
            }
        }
        if let Some(from) = self.headers.get("x-amz-copy-source") {
            let source = from.to_str().ok().and_then(|from| {
                let uri: hyper::Uri = format!("/{}", from.trim_start_matches('/')).parse().ok()?;
                let source = Target::of(&uri)?;
                store.buckets.get(&source.bucket)?.get(&source.key).cloned()
            });
            let Some(source) = source else {
                return not_found();
            };
            pieces = source.pieces;
        }
        let object = store.object(pieces, &headers);
        let Some(bucket) = store.buckets.get_mut(&target.bucket) else {
            return error(StatusCode::NOT_FOUND, "NoSuchBucket");
        };
        let found = bucket.get(&target.key);
        let condition = |name: &str| self.headers.get(name).and_then(|v| v.to_str().ok());
        let is_met = match (condition("if-none-match"), condition("if-match"), found) {
            (Some(_), _, Some(_)) | (_, Some(_), None) => false,
            (_, Some(wanted), Some(found)) => wanted.trim_matches('"') == found.etag,
            _ => true,
        };
        if !is_met {
            return error(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
        }
        let tag = object.etag.clone();
        let key = match elsewhere {
            true => format!("{}.elsewhere", target.key),
            false => target.key.clone(),
        };
        bucket.insert(key, object);
        let mut answer = match (is_completed, self.headers.contains_key("x-amz-copy-source")) {
            (true, _) => xml(
                StatusCode::OK,
                format!(
                    "<CompleteMultipartUploadResult><ETag>{tag}</ETag></CompleteMultipartUploadResult>"
                ),
            ),
            (_, true) => xml(
                StatusCode::OK,
                format!("<CopyObjectResult><ETag>{tag}</ETag></CopyObjectResult>"),
            ),
            _ => empty(StatusCode::OK),
        };
        answer.headers_mut().insert("etag", etag(&tag));
        answer
    }

    /// The object that a read is answered with.
    fn found(&self) -> Option<Object> {
        let store = self.shared.store.lock();
        let bucket = store.buckets.get(&self.target.bucket)?;
        let any = |fault| {
            [Moment::Headers, Moment::AfterBody]
                .map(|at| self.when(at))
                .contains(&Some(fault))
        };
        let at = (self.target.bucket.clone(), self.target.key.clone());
        let found = bucket.get(&self.target.key).or(store.removed.get(&at));
        match found {
            Some(object) if any(Fault::Stale) && object.is_recent => None,
            Some(_) if any(Fault::WrongObject) => self.another(bucket),
            found => found.cloned(),
        }
    }

    /// Another object than the one that is asked for.
    fn another(&self, bucket: &BTreeMap<String, Object>) -> Option<Object> {
        let mut others = bucket.iter().filter(|(key, _)| **key != self.target.key);
        others.next().map(|(_, object)| object.clone())
    }

    /// The first half of a body, and as many bytes of another object as are missing then.
    fn half_of_another(&self, body: &[Bytes]) -> Vec<Bytes> {
        let other = {
            let store = self.shared.store.lock();
            let bucket = store.buckets.get(&self.target.bucket);
            bucket.and_then(|bucket| self.another(bucket))
        };
        let mut whole: Vec<u8> = body.concat();
        let (half, other) = (
            whole.len() / 2,
            other.map_or_else(Vec::new, |o| o.pieces.concat()),
        );
        // Without another object there are zeros.
        let mut bytes = other.into_iter().chain(std::iter::repeat(0));
        whole[half..].fill_with(|| bytes.next().unwrap_or_default());
        vec![whole.into()]
    }

    async fn read(&self) -> Answered {
        let after = self.when(Moment::AfterBody);
        if matches!(after, Some(Fault::TooManyRequests | Fault::ServerError))
            && let Some(answer) = plain(after).await
        {
            return answer;
        }
        let Some(object) = self.found() else {
            return Ok(not_found());
        };
        if let Some(wanted) = self.headers.get("if-match").and_then(|v| v.to_str().ok())
            && wanted.trim_matches('"') != object.etag
        {
            return Ok(error(StatusCode::PRECONDITION_FAILED, "PreconditionFailed"));
        }
        let (status, part) = match range(&self.headers, object.size) {
            Some(Some(part)) => (StatusCode::PARTIAL_CONTENT, Some(part)),
            Some(None) => {
                return Ok(error(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange"));
            }
            None => (StatusCode::OK, None),
        };
        let body = match part {
            Some((first, last)) => cut(&object.pieces, first, last),
            None => object.pieces.clone(),
        };
        let length = length_of(&body);
        let mut answer = match self.method == Method::HEAD {
            true => empty(status),
            false => self.body(status, body),
        };
        self.describe(&mut answer, &object, length);
        if let Some((first, last)) = part {
            let text = format!("bytes {first}-{last}/{}", object.size);
            if let Ok(value) = HeaderValue::try_from(text) {
                answer.headers_mut().insert("content-range", value);
            }
        }
        Ok(answer)
    }

    fn describe(&self, answer: &mut Response<impl Sized>, object: &Object, length: u64) {
        let headers = answer.headers_mut();
        headers.insert("content-length", HeaderValue::from(length));
        headers.insert("etag", etag(&object.etag));
        headers.insert("accept-ranges", HeaderValue::from_static("bytes"));
        let modified = httpdate::fmt_http_date(object.modified);
        if let Ok(value) = HeaderValue::try_from(modified) {
            headers.insert("last-modified", value);
        }
        headers.extend(object.headers.iter().cloned());
    }

    /// The body of an object, or what the misbehaviour makes of it.
    fn body(&self, status: StatusCode, body: Vec<Bytes>) -> Answer {
        let length = length_of(&body);
        let (halfway, after) = (self.when(Moment::MidBody), self.when(Moment::AfterBody));
        let (upto, fault) = match (halfway, after) {
            (Some(fault), _) => (length / 2, Some(fault)),
            (None, fault) => (length.saturating_sub(1), fault),
        };
        let beginning = || match upto {
            0 => Vec::new(),
            upto => cut(&body, 0, upto - 1),
        };
        match fault {
            Some(Fault::TimeOut) => pieces(status, hanging(beginning())),
            Some(Fault::Reset | Fault::Short) => pieces(status, breaking(beginning())),
            Some(Fault::BitFlip) => self.sent(status, flipped(&body)),
            Some(Fault::WrongObject) if halfway.is_some() => {
                self.sent(status, self.half_of_another(&body))
            }
            _ => self.sent(status, body),
        }
    }

    fn sent(&self, status: StatusCode, body: Vec<Bytes>) -> Answer {
        self.shared.store.lock().counts.given += length_of(&body);
        let (pace, lines) = (self.shared.pace, self.shared.lines.clone());
        let body = stream::unfold(body.into_iter(), move |mut left| {
            let lines = lines.clone();
            async move {
                let piece = left.next()?;
                lines.1.carry(pace, piece.len()).await;
                Some((Ok(piece), left))
            }
        });
        pieces(status, body)
    }
}
