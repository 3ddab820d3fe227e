"""OpenStack Swift ("Object Storage API" reference) by its first login, v1, as TempAuth and
Rackspace's first cloud have it: a GET with user and password answers with a token and the account's
storage URL. Below that URL lie the container and its objects.

componentize-py runs this module once, at build time, and keeps the interpreter as it is then; every
call starts from there. So every import stands at the top: later there is no file system. Nothing
may ask Python for the time, randomness or standard output: without WASI that ends the call with a
trap. A value that does not fit the contract's types traps too, so whatever the service answers is
checked before it is handed on.
"""

import json
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import quote, urlencode

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.object_store import (
    Listed,
    Page,
    WriteMode,
    WriteMode_CreateOnly,
    WriteMode_IfMatch,
)
from wit_world.imports import cloud, http, secrets
from wit_world.imports.payloads import Payload
from wit_world.imports.types import ByteRange, Error, ErrorKind as Kind, ObjectInfo

NUMBER = re.compile("[0-9]{1,18}")  # No more digits than always fit the contract's `u64`.
TAG = re.compile("<[^>]*>")

# Errors. A `result<_, error>` of the contract is a value that is returned or an `Err(Error(..))`
# that is raised. That holds for imports and exports.

KINDS = {
    **dict.fromkeys(range(300, 400), Kind.MISCONFIGURED),  # The host follows no redirects.
    **dict.fromkeys(range(500, 600), Kind.UNAVAILABLE),
    401: Kind.UNAUTHENTICATED, 403: Kind.PERMISSION_DENIED, 404: Kind.NOT_FOUND,
    408: Kind.TIMEOUT, 409: Kind.CONFLICT, 410: Kind.NOT_FOUND, 412: Kind.PRECONDITION_FAILED,
    413: Kind.TOO_LARGE, 416: Kind.RANGE_NOT_SATISFIABLE, 429: Kind.THROTTLED,
    501: Kind.UNSUPPORTED, 507: Kind.QUOTA_EXCEEDED,
    # Swift's own: bytes without the etag that was sent, its rate limit, and fewer bytes than were
    # announced.
    422: Kind.INTEGRITY, 498: Kind.THROTTLED, 499: Kind.INTEGRITY,
}  # fmt: skip

# A login that failed in one of these ways may succeed at the next try. REFUSED_BY_HOST ends when
# the operator pins the endpoint.
PASSING = {
    Kind.UNAVAILABLE,
    Kind.TIMEOUT,
    Kind.THROTTLED,
    Kind.CONFLICT,
    Kind.INTEGRITY,
    Kind.PROTOCOL,
    Kind.REFUSED_BY_HOST,
}


def failure(
    kind: Kind, message: str, status=None, request_id=None, retry_after_ms=None
) -> Err[Error]:
    # A record of the contract has no defaults, so every field must be given: here, once for all.
    return Err(Error(kind, message, None, status, request_id, retry_after_ms, []))


def expect(answer: http.Response, wanted: set[int], here: dict[int, Kind] | None = None) -> None:
    """Raises the error that the answer means, unless its status is one of those wanted.

    `here` has the statuses that mean something else in this place.
    """
    status = answer.status()
    if status in wanted:
        return
    try:
        # Swift's errors are small HTML pages.
        text = " ".join(TAG.sub(" ", answer.read(64 << 10).decode(errors="replace")).split())[:200]
    except Err:
        text = ""  # The status says more than the reason why there is no text.
    kind = (KINDS | (here or {})).get(status, Kind.PROTOCOL)
    if status == 413 and "quota" in text.lower():
        kind = Kind.QUOTA_EXCEEDED  # Swift has one status for both.
    seconds = number(answer.header("retry-after"))
    wait_ms = None if seconds is None else 1000 * min(seconds, 86_400)
    message = text or f"the service answered {status}"
    raise failure(kind, message, status, answer.header("x-trans-id"), wait_ms)


def reported(method):
    """Reports an unforeseen exception to the host: uncaught, it would trap, its text be lost."""

    def call(*arguments):
        try:
            return method(*arguments)
        except Err:
            raise
        except Exception as e:
            raise failure(Kind.INTERNAL, f"{method.__name__}: {type(e).__name__}: {e}") from e

    return call


# The login, which the host keeps for all calls.


def login() -> tuple[secrets.Secret, str, int]:
    """Returns token, storage URL and generation of the login that the host keeps.

    If it keeps none, this call logs in, and all others wait for it.
    """
    match cloud.cache_acquire("token"):
        case cloud.Acquired_Hit(hit):
            pass
        case cloud.Acquired_Refresh(ticket):
            try:
                values, ttl_ms = log_in()
            except Err as e:
                # All calls within half a minute get the error: so not each of them tries a wrong
                # password.
                cloud.Ticket.fail(ticket, e.value, 0 if e.value.kind in PASSING else 30_000)
                raise
            # `fill` consumes ticket and token, and returns handles for this call.
            hit = cloud.Ticket.fill(ticket, values, ttl_ms)
    kept = {name: value.value for name, value in hit.values}
    return kept["token"], kept["storage"], hit.generation


def log_in() -> tuple[list[tuple[str, cloud.Value]], int]:
    """Logs in. Returns the values of the login, and for how many milliseconds they are good."""
    password = secrets.open("account.password")
    if password is None:
        raise failure(Kind.MISCONFIGURED, "the credential account has no Password")
    headers = {"x-auth-user": setting("account.user"), "x-auth-key": password.placeholder("raw")}
    answer = send("GET", setting("auth-url"), headers)
    # What the login does not find is not an object: a delete that needed it has deleted nothing.
    expect(answer, {200, 204}, {404: Kind.MISCONFIGURED, 410: Kind.MISCONFIGURED})
    storage = answer.header("x-storage-url")
    if not storage:
        raise failure(Kind.PROTOCOL, "the login's answer has no X-Storage-Url")
    # Refused until the operator has pinned that URL: no login may lead objects elsewhere. The URL
    # that is returned is spelled as the gate wants it.
    storage = cloud.endpoint("storage", storage)
    # Ten minutes if the service does not say how long the token lasts. It is renewed a minute
    # before its end, or after three quarters of a short life.
    life_ms = 1000 * min(number(answer.header("x-auth-token-expires")) or 600, 86_400)
    token = cloud.Value_Secret(answer.take_secret("token"))
    values = [("token", token), ("storage", cloud.Value_Text(storage))]
    return values, life_ms - min(60_000, life_ms // 4)


# Requests.


def setting(name: str) -> str:
    value = cloud.setting(name)
    if value is None:
        raise failure(Kind.MISCONFIGURED, f"{name} is missing")
    return value


def send(
    method: str, url: str, headers: dict[str, str], upload: Payload | None = None
) -> http.Response:
    pairs = [(name, value.encode()) for name, value in headers.items()]
    return http.send(http.Request(method, url, pairs, b"", None), upload)


def ask(
    method: str,
    path: str,
    headers: dict[str, str] = {},
    upload: Payload | None = None,
    again=False,
) -> http.Response:
    """Sends a request for what lies at `path` below the container.

    If the token is refused, it sends the request once more with a fresh one.
    """
    token, storage, generation = login()
    url = f"{storage}/{quote(setting('container'), safe='')}{path}"
    answer = send(method, url, {**headers, "x-auth-token": token.placeholder("raw")}, upload)
    if answer.status() == 401 and not again:
        cloud.cache_invalidate("token", generation)
        return ask(method, path, headers, upload, again=True)
    return answer


# Answers.


def number(text: str | None) -> int | None:
    text = (text or "").strip()
    return int(text) if NUMBER.fullmatch(text) else None


def strong(etag: str | None) -> str | None:
    """Returns an etag without the quotes that some services write; None if it is weak or missing.

    So it is the same in headers and listings.
    """
    etag = (etag or "").strip()
    return None if etag.startswith("W/") else etag.strip('"') or None


def unix_ms(moment: datetime) -> int | None:
    seconds = moment.replace(tzinfo=UTC).timestamp()  # Listings are in UTC, but do not say so.
    return int(seconds * 1000) if seconds >= 0 else None


def info_of(answer: http.Response) -> ObjectInfo:
    """Returns what the headers say of the whole object, also if they come with a part of it."""
    part = answer.header("content-range")
    size = number(answer.header("content-length") if part is None else part.rpartition("/")[2])
    if size is None:
        raise failure(Kind.PROTOCOL, "the answer does not give the object's size")
    try:
        modified = unix_ms(parsedate_to_datetime(answer.header("last-modified") or ""))
    except ValueError:
        modified = None
    return ObjectInfo(size, strong(answer.header("etag")), modified, [])


def listing_of(document: bytes) -> list[Listed]:
    try:
        rows = json.loads(document or b"[]")  # An empty listing may be a 204 without content.
        if not isinstance(rows, list):
            raise ValueError("it is not a list")
        return [listed(row) for row in rows]
    except ValueError as e:
        raise failure(Kind.PROTOCOL, f"the listing cannot be read: {e}"[:200]) from e


def listed(row: object) -> Listed:
    match row:
        case {
            "name": str(key),
            "bytes": int(size),
            "hash": str(etag),
            "last_modified": str(date),
        } if 0 <= size < 1 << 64:
            # JSON can spell half a surrogate pair, which no text of the contract can be: then this
            # raises.
            (key + etag).encode()
            modified = unix_ms(datetime.fromisoformat(date))
            return Listed(key, ObjectInfo(size, strong(etag), modified, []))
    raise ValueError("a row lacks its name, size, hash or date")


# The contract's interface. componentize-py looks for a class of this name.
class ObjectStore(exports.ObjectStore):
    @reported
    def describe(self):
        # Swift checks `If-None-Match: *` before it writes the object, so writers that race may all
        # pass.
        return [
            ("create-only", "emulated"),
            ("ordered-list", "yes"),
            ("consistency", "eventual"),
            ("max-object-size", str(5 << 30)),
        ]

    @reported
    def probe(self):
        self.list("", None, 1)

    @reported
    def put(self, key: str, content: Payload, mode: WriteMode):
        if isinstance(mode, WriteMode_IfMatch):
            raise failure(Kind.UNSUPPORTED, "Swift does not replace by etag")
        digest = content.digest("md5").hex()  # The service compares it with what arrives.
        headers = {"content-type": "application/octet-stream", "etag": digest}
        if isinstance(mode, WriteMode_CreateOnly):
            headers["if-none-match"] = "*"
        # No object can be missing here: a 404 means the container.
        here = {404: Kind.CONTAINER_NOT_FOUND, 412: Kind.ALREADY_EXISTS}
        expect(ask("PUT", "/" + quote(key), headers, content), {201}, here)
        return ObjectInfo(content.size(), digest, None, [])

    @reported
    def get(self, key: str, range: ByteRange | None, if_match: str | None):
        headers = {}
        if range is not None:
            headers["range"] = f"bytes={range.offset}-{range.offset + range.length - 1}"
        if if_match is not None:
            headers["if-match"] = f'"{if_match}"'
        answer = ask("GET", "/" + quote(key), headers)
        expect(answer, {200, 206})
        # `into_body` consumes the answer, so whatever else is wanted of it comes before.
        return info_of(answer), http.Response.into_body(answer)

    @reported
    def head(self, key: str):
        answer = ask("HEAD", "/" + quote(key))
        expect(answer, {200, 204})
        return info_of(answer)

    @reported
    def delete(self, key: str, if_match: str | None):
        if if_match is not None:
            # Swift deletes whatever is there, so a HEAD checks the etag before. That is not atomic.
            try:
                found = self.head(key)
            except Err as e:
                if e.value.kind is Kind.NOT_FOUND:
                    return
                raise
            if found.etag != if_match:
                raise failure(Kind.PRECONDITION_FAILED, "the object has another etag")
        expect(ask("DELETE", "/" + quote(key)), {200, 204, 404})

    @reported
    def list(self, prefix: str, cursor: str | None, limit: int):
        query = {"format": "json", "limit": str(limit), "prefix": prefix}
        if cursor is not None:
            query["marker"] = cursor
        # By `quote` a space is `%20`, and never `+`.
        answer = ask("GET", "?" + urlencode(query, quote_via=quote, safe=""))
        expect(answer, {200, 204}, {404: Kind.CONTAINER_NOT_FOUND})
        # 4 MiB hold 1000 names of the longest kind, with room to spare.
        entries = listing_of(answer.read(4 << 20))
        # Only an empty page is the last: some services give short pages that go on.
        return Page(entries, entries[-1].key if entries else None)
