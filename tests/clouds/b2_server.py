"""Backblaze B2's native API on loopback, emulated. The simulator with which Backblaze tests its own
SDK (b2sdk's RawSimulator) keeps buckets and versions, and checks capabilities and digests.

b2_server.py FOLDER PORT

Listens with TLS on 127.0.0.1, by the certificate in CERTIFICATE and KEY, as api.b2.localhost
(logins), api001.b2.localhost (calls), f001.b2.localhost (downloads) and pod-N.b2.localhost
(uploads, each pod for one token). Prints READY.

What the simulator lacks is emulated here: HTTP, hosts, tokens that end, and ranges. So are two
checks: that a bucket to delete is empty, and that fields and headers are those of the
documentation.

A line on its input ("expire") ends every token. The end of its input ends the server.
"""

import base64
import http.server
import io
import json
import os
import re
import ssl
import sys
import threading
import traceback
import urllib.parse

from b2sdk._internal import exception
from b2sdk._internal.raw_simulator import RawSimulator

folder, port = sys.argv[1], int(sys.argv[2])
HOST = "b2.localhost"
API, DOWNLOAD = f"https://api001.{HOST}:{port}", f"https://f001.{HOST}:{port}"

simulator = RawSimulator()
lock = threading.Lock()
account, master_key = simulator.create_account()
master_token = simulator.authorize_account("", account, master_key)["authorizationToken"]
reader = simulator.create_key(
    RawSimulator.API_URL, master_token, account, ["listBuckets", "listFiles", "readFiles"], "reader", None, None, None)

ended = set()
uploads = {}
# The fields of each call: those it requires, and others that it takes.
CALLS = {
    "b2_list_buckets": ({"accountId"}, {"bucketId", "bucketName", "bucketTypes"}),
    "b2_create_bucket": ({"accountId", "bucketName", "bucketType"}, {"lifecycleRules", "bucketInfo", "corsRules"}),
    "b2_delete_bucket": ({"accountId", "bucketId"}, set()),
    "b2_get_upload_url": ({"bucketId"}, set()),
    "b2_list_file_names": ({"bucketId"}, {"startFileName", "maxFileCount", "prefix", "delimiter"}),
    "b2_list_file_versions": ({"bucketId"}, {"startFileName", "startFileId", "maxFileCount", "prefix", "delimiter"}),
    "b2_delete_file_version": ({"fileName", "fileId"}, {"bypassGovernance"}),
}


class Refused(Exception):
    def __init__(self, status, code, message):
        self.answer = (status, code, message)


def refused(e):
    """An exception of the simulator in the service's words: the inverse of interpret_b2_error."""
    for kind, status, code in [
        (exception.NonExistentBucket, 400, "bad_bucket_id"),
        (exception.FileNotPresent, 400, "file_not_present"),
        (exception.DuplicateBucketName, 400, "duplicate_bucket_name"),
        (exception.BadJson, 400, "bad_json"),
        (exception.FileSha1Mismatch, 400, "bad_request"),
        (exception.Unauthorized, 401, "unauthorized"),
        (exception.UnsatisfiableRange, 416, "range_not_satisfiable"),
    ]:
        if isinstance(e, kind):
            message = "Checksum did not match data received" if kind is exception.FileSha1Mismatch else str(e)
            return Refused(status, code, message)
    return e


def authorized(token):
    if token is None:
        raise Refused(401, "missing_auth_token", "there is no authorization")
    if token in ended:
        raise Refused(401, "expired_auth_token", "Authorization token has expired")
    if token not in simulator.auth_token_to_key:
        raise Refused(401, "bad_auth_token", "Invalid authorization token")
    return token


def call(name, token, fields):
    token = authorized(token)
    if name not in CALLS:
        raise Refused(400, "bad_request", f"no such call: {name}")
    required, others = CALLS[name]
    if not required <= set(fields) or not set(fields) <= required | others:
        raise Refused(400, "bad_request", f"the fields {sorted(fields)} are not those of {name}")
    of, key = fields.get, simulator.auth_token_to_key[token]
    if "accountId" in fields and fields["accountId"] != key.account_id:
        raise Refused(401, "unauthorized", "another account")
    if "maxFileCount" in fields and not 1 <= fields["maxFileCount"] <= 10000:
        raise Refused(400, "bad_request", "maxFileCount out of range")
    at = (RawSimulator.API_URL, token)
    # The simulator ends a listing at the first name without the prefix, also if names with the
    # prefix follow.
    first = of("startFileName") or of("prefix")
    if name == "b2_list_buckets":
        return simulator.list_buckets(*at, of("accountId"), of("bucketId"), of("bucketName"))
    if name == "b2_create_bucket":
        if not 6 <= len(of("bucketName")) <= 63 or of("bucketType") not in ("allPrivate", "allPublic"):
            raise Refused(400, "bad_request", "a bucket's name has 6 to 63 characters, and its type is allPrivate or allPublic")
        return simulator.create_bucket(*at, of("accountId"), of("bucketName"), of("bucketType"), None, None, of("lifecycleRules"))
    if name == "b2_delete_bucket":
        bucket = simulator.bucket_id_to_bucket.get(of("bucketId"))
        if bucket and bucket.file_id_to_file and "deleteBuckets" in key.capabilities:
            raise Refused(400, "cannot_delete_non_empty_bucket", "Cannot delete non-empty bucket")
        return simulator.delete_bucket(*at, of("accountId"), of("bucketId"))
    if name == "b2_get_upload_url":
        told = simulator.get_upload_url(*at, of("bucketId"))
        pod, secret = len(uploads) + 1, os.urandom(16).hex()
        url = f"https://pod-{pod}.{HOST}:{port}/b2api/v3/b2_upload_file/{of('bucketId')}/c001_t{pod:04}"
        uploads[url] = (secret, told["uploadUrl"])
        return {"bucketId": of("bucketId"), "uploadUrl": url, "authorizationToken": secret}
    if name == "b2_list_file_names":
        return simulator.list_file_names(*at, of("bucketId"), first, of("maxFileCount"), of("prefix"))
    if name == "b2_list_file_versions":
        return simulator.list_file_versions(*at, of("bucketId"), first, of("startFileId"), of("maxFileCount"), of("prefix"))
    return simulator.delete_file_version(*at, of("fileId"), of("fileName"))


def file_name(encoded):
    """Decodes and checks a file's name ("Files").

    It has at most 1024 bytes of UTF-8, segments of at most 250 bytes and no control characters.
    """
    if encoded is None or not re.fullmatch(r"(?:[A-Za-z0-9._~!$'()*;=:@/-]|%[0-9A-Fa-f]{2})+", encoded):
        raise Refused(400, "bad_request", "the file's name is not percent-encoded")
    name = urllib.parse.unquote(encoded, errors="strict")
    segments = name.split("/")
    if len(name.encode()) > 1024 or any(not s or len(s.encode()) > 250 for s in segments) or min(name) < " ":
        raise Refused(400, "bad_request", "File names must not be so")
    return name


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Nagle's algorithm would delay answers: head and body are written one after the other.
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def document(self, status, document):
        self.answer(status, json.dumps(document, default=list).encode(), [("content-type", "application/json;charset=utf-8")])

    def handle_request(self, content):
        host, path = self.headers.get("host", ""), urllib.parse.urlsplit(self.path)
        token = self.headers.get("authorization")
        if host == f"api.{HOST}:{port}" and self.command == "GET" and path.path == "/b2api/v3/b2_authorize_account":
            kind, _, pair = (token or "").partition(" ")
            key_id, _, key = base64.b64decode(pair).decode().partition(":")
            if kind != "Basic":
                raise Refused(401, "bad_auth_token", "Basic is wanted")
            told = simulator.authorize_account("", key_id, key)
            told["apiInfo"]["storageApi"].update(apiUrl=API, downloadUrl=DOWNLOAD)
            return self.document(200, told)
        if API == f"https://{host}" and self.command == "POST" and path.path.startswith("/b2api/v3/"):
            if self.headers.get("content-type", "").split(";")[0] != "application/json":
                raise Refused(400, "bad_request", "the content is not JSON")
            return self.document(200, call(path.path.removeprefix("/b2api/v3/"), token, json.loads(content)))
        if DOWNLOAD == f"https://{host}" and self.command == "GET" and path.path.startswith("/file/"):
            return self.download(path.path, authorized(token))
        url = f"https://{host}{self.path}"
        if url in uploads and self.command == "POST":
            return self.document(200, self.upload(*uploads[url], token, content))
        raise Refused(404, "not_found", f"{host} has no {self.command} {self.path}")

    def upload(self, secret, url, token, content):
        if token != secret:
            raise Refused(401, "bad_auth_token", "this host does not take that token")
        kind, sha1 = self.headers.get("content-type"), self.headers.get("x-bz-content-sha1")
        if not kind or not re.fullmatch("[0-9a-f]{40}", sha1 or ""):
            raise Refused(400, "bad_request", "content-type and x-bz-content-sha1 are wanted")
        name = file_name(self.headers.get("x-bz-file-name"))
        return simulator.upload_file(url, url, name, len(content), kind, sha1, {}, io.BytesIO(content))

    def download(self, path, token):
        capabilities = simulator.auth_token_to_key[token].capabilities
        if "readFiles" not in capabilities:
            raise Refused(401, "unauthorized", "the key may not read files")
        try:
            with simulator.download_file_from_url(token, RawSimulator.DOWNLOAD_URL + path) as found:
                content, headers = found.data_bytes, list(found.headers.items())
        except (exception.FileNotPresent, exception.NonExistentBucket) as e:
            raise Refused(404, "not_found", f"File not present: {e}")
        headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        if not asked:
            return self.answer(200, content, headers)
        first, last = int(asked[1]), min(int(asked[2]), len(content) - 1)
        if first > last:
            raise Refused(416, "range_not_satisfiable", "the range is not satisfiable")
        headers.append(("content-range", f"bytes {first}-{last}/{len(content)}"))
        self.answer(206, content[first:last + 1], headers)

    def do_GET(self):
        self.respond(b"")

    def do_POST(self):
        length = self.headers.get("content-length")
        if length is None:
            self.close_connection = True
            return self.document(411, {"status": 411, "code": "bad_request", "message": "there is no content-length"})
        self.respond(self.rfile.read(int(length)))

    def respond(self, content):
        try:
            with lock:
                self.handle_request(content)
        except Exception as e:
            e = refused(e)
            if not isinstance(e, Refused):
                traceback.print_exc()
            status, code, message = e.answer if isinstance(e, Refused) else (500, "internal_error", repr(e))
            self.document(status, {"status": status, "code": code, "message": message})


for name, key_id, key in [("key", account, master_key), ("reader", reader["applicationKeyId"], reader["applicationKey"])]:
    with open(f"{folder}/{name}.json", "w") as file:
        json.dump({"applicationKeyId": key_id, "applicationKey": key}, file)
for name in ("CERTIFICATE", "KEY"):
    with open(f"{folder}/{name}", "w") as file:
        file.write(os.environ[name])


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{folder}/CERTIFICATE", f"{folder}/KEY")

    def finish_request(self, request, client):
        try:
            with self.context.wrap_socket(request, server_side=True) as tls:
                super().finish_request(tls, client)
        except OSError:
            # A client that only looks whether the port is open.
            pass


server = Server(("127.0.0.1", port), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("READY", flush=True)
for line in sys.stdin:
    with lock:
        ended.update(simulator.auth_token_to_key)
    print("EXPIRED", flush=True)
