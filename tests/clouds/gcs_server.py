"""Google Cloud Storage on loopback: gcp-storage-emulator, and before it what the emulator does not
check.

gcs_server.py FOLDER PORT

Writes the keys of two service accounts to FOLDER/service-account.json and FOLDER/reader.json, and
prints READY. The second account may only read.

Authlib checks the service accounts' assertions and the tokens. These are emulated here, and not by
an independent party: what accounts may do, ifGenerationMatch, pages of listings, the headers of
media downloads, and the XML API by HMAC keys.

  POST /token                                    RFC 7523, and Google's own rules for assertions
  GET  /computeMetadata/v1/.../default/token     the metadata server
  *    /storage/v1/..., /upload/storage/v1/...   the JSON API, by a token
  *    /BUCKET, /BUCKET/KEY                      the XML API, signed by GOOG4-HMAC-SHA256
  POST /control/expire                           ends every token
"""

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import sys
import threading
import time
from email.utils import formatdate
from urllib.parse import parse_qsl, quote, unquote
from xml.sax.saxutils import escape

import urllib3
import waitress
from authlib.integrations.flask_oauth2 import AuthorizationServer, ResourceProtector
from authlib.oauth2.rfc6749 import ClientMixin, InvalidGrantError, InvalidScopeError, TokenMixin
from authlib.oauth2.rfc6750 import BearerTokenValidator
from authlib.oauth2.rfc7523 import JWTBearerGrant
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from flask import Flask, Response, jsonify, request
from gcp_storage_emulator.server import create_server
from gcp_storage_emulator.storage import Storage
from joserfc.jwk import RSAKey

os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"
folder, port = os.path.abspath(sys.argv[1]), int(sys.argv[2])
TOKEN_URI = f"http://127.0.0.1:{port}/token"
WRITER, READER = "tester@project.iam.gserviceaccount.com", "reader@project.iam.gserviceaccount.com"
SECONDS = int(os.environ.get("TOKEN_SECONDS", "3600"))
HMAC_SECRETS = {
    "GOOG1EXAMPLEEXAMPLE": (WRITER, "bGoa+V7g/yqDXvKRqq+JTFn4uQZbPiQJo4pf9RzJ"),
    "GOOG1EXAMPLEREADER": (READER, "V7g/yqDXvKRqq+JTFn4uQZbPiQJo4pf9RzJbGoa+"),
}
MAY_READ = "https://www.googleapis.com/auth/devstorage.read_only"
MAY_WRITE = [
    "https://www.googleapis.com/auth/devstorage.read_write",
    "https://www.googleapis.com/auth/devstorage.full_control",
    "https://www.googleapis.com/auth/cloud-platform",
]

private = rsa.generate_private_key(65537, 2048)
pem = private.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()
KEY_ID = secrets.token_hex(20)
for email, name in ((WRITER, "service-account"), (READER, "reader")):
    with open(f"{folder}/{name}.json", "w") as file:
        json.dump({
            "type": "service_account", "project_id": "project", "private_key_id": KEY_ID, "private_key": pem,
            "client_email": email, "client_id": "1", "token_uri": TOKEN_URI,
        }, file)
public = RSAKey.import_key(private.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))

# The emulator would write all it knows to a file after every change; here nothing outlives it.
Storage._write_config_to_file = lambda self: None
emulator = create_server("127.0.0.1", 0, in_memory=True)
emulator.start()
backend = "http://127.0.0.1:%d" % emulator._api._httpd.server_port


class Account(ClientMixin):
    def __init__(self, email):
        self.email = email

    def get_client_id(self):
        return self.email

    def get_allowed_scope(self, scope):
        return scope or ""

    def check_grant_type(self, grant):
        return grant == JWTBearerGrant.GRANT_TYPE


class Token(TokenMixin):
    def __init__(self, scope, seconds):
        self.scope, self.ends, self.email = scope, time.time() + seconds, WRITER

    def get_scope(self):
        return self.scope

    def is_expired(self):
        return time.time() > self.ends

    def is_revoked(self):
        return False


tokens = {}


UNTIMELY = ("Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. "
            "Check your iat and exp values in the JWT claim.")


class Grant(JWTBearerGrant):
    LEEWAY = 0

    def get_audiences(self):
        return [TOKEN_URI, "https://oauth2.googleapis.com/token"]

    def resolve_issuer_client(self, issuer):
        return Account(issuer) if issuer in (WRITER, READER) else None

    def resolve_client_public_key(self, client):
        return public

    def process_assertion_claims(self, assertion):
        header, told = self.extract_assertion(assertion)
        # Checked before Authlib does, which has another text for it.
        if told.get("exp", 0) <= time.time():
            raise InvalidGrantError(description=UNTIMELY)
        if header.get("alg") != "RS256" or header.get("kid", KEY_ID) != KEY_ID:
            raise InvalidGrantError(description="Invalid JWT Signature.")
        claims = super().process_assertion_claims(assertion)
        issued, ends = claims.get("iat"), claims.get("exp")
        if not isinstance(issued, int) or not isinstance(ends, int) or ends - issued > 3600 or issued > time.time() + 60:
            raise InvalidGrantError(description=UNTIMELY)
        if not claims.get("scope"):
            raise InvalidScopeError(description="Invalid OAuth scope or ID token audience provided.")
        self.claimed, self.email = claims["scope"], claims["iss"]
        return claims

    def validate_requested_scope(self):
        pass

    def create_token_response(self):
        status, token, headers = super().create_token_response()
        given = tokens[token["access_token"]]
        given.scope, given.email = self.claimed, self.email
        return status, token, headers


class Validator(BearerTokenValidator):
    def authenticate_token(self, text):
        return tokens.get(text)


app = Flask(__name__)
app.config["OAUTH2_TOKEN_EXPIRES_IN"] = {JWTBearerGrant.GRANT_TYPE: SECONDS}
server = AuthorizationServer(
    app,
    query_client=Account,
    save_token=lambda token, _: tokens.__setitem__(
        token["access_token"], Token(token.get("scope"), token["expires_in"])),
)
server.register_grant(Grant)
protector = ResourceProtector()
protector.register_token_validator(Validator())
# The emulator's backlog is short: so there are few connections, tried again if they are refused.
http = urllib3.PoolManager(maxsize=4, block=True, retries=urllib3.Retry(
    total=None, connect=5, read=0, redirect=0, status=0, backoff_factor=0.05))
writing = threading.Lock()


def failure(status, reason, message):
    answer = jsonify(error={
        "code": status, "message": message,
        "errors": [{"domain": "global", "reason": reason, "message": message}],
    })
    answer.status_code = status
    answer.headers["x-guploader-uploadid"] = "upload-" + secrets.token_hex(8)
    return answer


def objects_of(bucket):
    return f"{backend}/storage/v1/b/{quote(bucket, safe='')}/o"


def bucket_is_there(bucket):
    return http.request("GET", f"{backend}/storage/v1/b/{quote(bucket, safe='')}").status == 200


def metadata(bucket, name):
    answer = http.request("GET", f"{objects_of(bucket)}/{quote(name, safe='')}")
    return json.loads(answer.data) if answer.status == 200 else None


def generation(bucket, name):
    return (metadata(bucket, name) or {}).get("generation", "0")


def store(bucket, name, content):
    # As a multipart upload: the emulator fails at a media upload of no bytes.
    about = json.dumps({"name": name, "contentType": "application/octet-stream"}).encode()
    bound = secrets.token_hex(16).encode()
    body = (b"--" + bound + b"\r\ncontent-type: application/json\r\n\r\n" + about
            + b"\r\n--" + bound + b"\r\ncontent-type: application/octet-stream\r\n\r\n" + content
            + b"\r\n--" + bound + b"--\r\n")
    answer = http.request(
        "POST", f"{backend}/upload/storage/v1/b/{quote(bucket, safe='')}/o?uploadType=multipart",
        body=body, headers={"content-type": f"multipart/related; boundary={bound.decode()}"})
    return json.loads(answer.data)


def remove(bucket, name):
    http.request("DELETE", f"{objects_of(bucket)}/{quote(name, safe='')}")


def content_of(bucket, name):
    return http.request("GET", f"{objects_of(bucket)}/{quote(name, safe='')}?alt=media").data


def page(bucket, prefix, after, most):
    answer = http.request("GET", objects_of(bucket), fields={"prefix": prefix})
    found = sorted(json.loads(answer.data).get("items", []), key=lambda item: item["name"].encode())
    found = [item for item in found if item["name"].encode() > after.encode()]
    token = base64.urlsafe_b64encode(found[most - 1]["name"].encode()).decode() if len(found) > most else None
    return found[:most], token


def media(bucket, name, found):
    """Returns the object's content, or the part that was asked for; None if that does not exist."""
    content = content_of(bucket, name)
    headers = {
        "content-type": "application/octet-stream", "x-goog-generation": found["generation"],
        "x-goog-stored-content-length": str(len(content)), "etag": f'"{found["md5Hash"]}"',
        "last-modified": formatdate(time.time(), usegmt=True),
    }
    asked = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
    if not asked:
        return Response(content, 200, headers)
    start, end = int(asked[1]), min(int(asked[2]), len(content) - 1)
    if start >= len(content):
        return None
    headers["content-range"] = f"bytes {start}-{end}/{len(content)}"
    return Response(content[start:end + 1], 206, headers)


@app.post("/token")
def token():
    return server.create_token_response()


@app.get("/computeMetadata/v1/instance/service-accounts/default/token")
def of_metadata_server():
    if request.headers.get("metadata-flavor") != "Google":
        return "Missing Metadata-Flavor:Google header.", 403
    text = "ya29." + secrets.token_urlsafe(48)
    tokens[text] = Token(MAY_WRITE[0], SECONDS)
    return jsonify(access_token=text, expires_in=SECONDS, token_type="Bearer")


@app.post("/control/expire")
def expire():
    for each in tokens.values():
        each.ends = 0
    return ""


def unauthorized(scopes):
    try:
        token = protector.acquire_token(scopes)
        if token.email == READER and MAY_READ not in scopes:
            why = f"{READER} does not have storage.objects.create access to the Google Cloud Storage object."
            return failure(403, "forbidden", why + " Permission 'storage.objects.create' denied on resource (or it may not exist).")
        return None
    except Exception as e:
        if getattr(e, "status_code", 401) == 403:
            return failure(403, "insufficientPermissions", "Insufficient Permission")
        return failure(401, "authError", "Invalid Credentials")


@app.route("/storage/v1/b", methods=["POST"])
def insert_bucket():
    refused = unauthorized(MAY_WRITE)
    if refused:
        return refused
    name = request.get_json()["name"]
    if bucket_is_there(name):
        return failure(409, "conflict", "Your previous request to create the named bucket succeeded and you already own it.")
    http.request("POST", f"{backend}/storage/v1/b", body=json.dumps({"name": name}),
                 headers={"content-type": "application/json"})
    return jsonify(kind="storage#bucket", name=name)


@app.route("/storage/v1/b/<bucket>", methods=["DELETE"])
def delete_bucket(bucket):
    refused = unauthorized(MAY_WRITE)
    if refused:
        return refused
    if not bucket_is_there(bucket):
        return failure(404, "notFound", "The specified bucket does not exist.")
    if page(bucket, "", "", 1)[0]:
        return failure(409, "conflict", "The bucket you tried to delete is not empty.")
    http.request("DELETE", f"{backend}/storage/v1/b/{quote(bucket, safe='')}")
    return "", 204


def condition_fails(bucket, name):
    wanted = request.args.get("ifGenerationMatch")
    return wanted is not None and wanted != generation(bucket, name)


UNMET = (412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")


@app.route("/upload/storage/v1/b/<bucket>/o", methods=["POST"])
def insert_object(bucket):
    refused = unauthorized(MAY_WRITE)
    if refused:
        return refused
    content = request.get_data()
    with writing:
        if not bucket_is_there(bucket):
            return failure(404, "notFound", "The specified bucket does not exist.")
        if condition_fails(bucket, request.args["name"]):
            return failure(*UNMET)
        return jsonify(store(bucket, request.args["name"], content))


@app.route("/storage/v1/b/<bucket>/o", methods=["GET"])
def list_objects(bucket):
    refused = unauthorized(MAY_WRITE + [MAY_READ])
    if refused:
        return refused
    if not bucket_is_there(bucket):
        return failure(404, "notFound", "The specified bucket does not exist.")
    after = base64.urlsafe_b64decode(request.args.get("pageToken", "")).decode()
    most = min(int(request.args.get("maxResults", "1000")), 1000)
    found, token = page(bucket, request.args.get("prefix", ""), after, most)
    answer = {"kind": "storage#objects"}
    if found:
        answer["items"] = found
    if token:
        answer["nextPageToken"] = token
    return jsonify(answer)


@app.route("/storage/v1/b/<bucket>/o/<path:_>", methods=["GET", "DELETE"])
def of_object(bucket, _):
    refused = unauthorized(MAY_WRITE + ([MAY_READ] if request.method == "GET" else []))
    if refused:
        return refused
    # A slash in a name is sent as %2F, which the framework's path has decoded.
    raw = request.environ["REQUEST_URI"].split("?")[0].split("/o/", 1)[1]
    if "/" in raw:
        return failure(404, "notFound", "Not Found")
    name = unquote(raw)
    with writing:
        if not bucket_is_there(bucket):
            return failure(404, "notFound", "The specified bucket does not exist.")
        found = metadata(bucket, name)
        if found is None:
            return failure(404, "notFound", f"No such object: {bucket}/{name}")
        if condition_fails(bucket, name):
            return failure(*UNMET)
        if request.method == "DELETE":
            remove(bucket, name)
            return "", 204
        if request.args.get("alt") != "media":
            return jsonify(found)
        answer = media(bucket, name, found)
    return answer or failure(416, "requestedRangeNotSatisfiable", "Request range not satisfiable")


def xml_failure(status, code, message):
    text = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    headers = {"x-guploader-uploadid": "upload-" + secrets.token_hex(8), "content-type": "application/xml"}
    return Response(text if request.method != "HEAD" else "", status, headers)


def signature_fault():
    """Checks a GOOG4-HMAC-SHA256 signature ("V4 signing process").

    Returns an error answer if it is wrong, else None. The check is written on its own, apart from
    how any client computes the signature.
    """
    form = (r"GOOG4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/storage/goog4_request, ?"
            r"SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})")
    parts = re.fullmatch(form, request.headers.get("authorization", ""))
    if not parts:
        return xml_failure(403, "AccessDenied", "Access denied.")
    who, date, region, names, signature = parts.groups()
    stamp = request.headers.get("x-goog-date", "")
    if who not in HMAC_SECRETS:
        return xml_failure(403, "InvalidAccessKeyId", "The access key ID you provided does not exist in our records.")
    signed = names.split(";")
    if stamp[:8] != date or "host" not in signed or any(
            name.lower().startswith("x-goog-") and name.lower() not in signed for name, _ in request.headers):
        return xml_failure(403, "AccessDenied", "A header is not signed.")
    if abs(time.time() - time.mktime(time.strptime(stamp, "%Y%m%dT%H%M%SZ")) + time.timezone) > 900:
        return xml_failure(403, "RequestTimeTooSkewed", "The difference between the request time and the server's time is too large.")
    path, _, query = request.environ["REQUEST_URI"].partition("?")
    items = sorted(parse_qsl(query, keep_blank_values=True))
    query = "&".join(f"{quote(key, safe='-_.~')}={quote(value, safe='-_.~')}" for key, value in items)
    digest = request.headers.get("x-goog-content-sha256", "")
    if digest != "UNSIGNED-PAYLOAD" and digest != hashlib.sha256(request.get_data()).hexdigest():
        return xml_failure(400, "BadDigest", "The content's digest is another.")
    headers = "".join(f"{name}:{' '.join(request.headers[name].split())}\n" for name in signed)
    canonical = f"{request.method}\n{path}\n{query}\n{headers}\n{names}\n{digest}"
    scope = f"{date}/{region}/storage/goog4_request"
    text = f"GOOG4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    email, secret = HMAC_SECRETS[who]
    key = ("GOOG4" + secret).encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    if not hmac.compare_digest(hmac.new(key, text.encode(), "sha256").hexdigest(), signature):
        return xml_failure(403, "SignatureDoesNotMatch", "The request signature we calculated does not match.")
    if email == READER and request.method not in ("GET", "HEAD"):
        return xml_failure(403, "AccessDenied", "Access denied.")
    return None


@app.route("/<bucket>", methods=["GET", "PUT", "DELETE"])
def xml_bucket(bucket):
    fault = signature_fault()
    if fault:
        return fault
    if request.method == "PUT":
        if bucket_is_there(bucket):
            return xml_failure(409, "BucketAlreadyOwnedByYou", "You already own it.")
        http.request("POST", f"{backend}/storage/v1/b", body=json.dumps({"name": bucket}),
                     headers={"content-type": "application/json"})
        return ""
    if not bucket_is_there(bucket):
        return xml_failure(404, "NoSuchBucket", "The specified bucket does not exist.")
    if request.method == "DELETE":
        if page(bucket, "", "", 1)[0]:
            return xml_failure(409, "BucketNotEmpty", "The bucket you tried to delete is not empty.")
        http.request("DELETE", f"{backend}/storage/v1/b/{quote(bucket, safe='')}")
        return "", 204
    after = base64.urlsafe_b64decode(request.args.get("continuation-token", "")).decode()
    most = min(int(request.args.get("max-keys", "1000")), 1000)
    found, token = page(bucket, request.args.get("prefix", ""), after, most)
    rows = "".join(
        f"<Contents><Key>{escape(item['name'])}</Key><Generation>{item['generation']}</Generation>"
        f"<LastModified>{item['updated']}</LastModified><Size>{item['size']}</Size></Contents>" for item in found)
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    text = (f"<?xml version='1.0' encoding='UTF-8'?><ListBucketResult xmlns='http://doc.s3.amazonaws.com/2006-03-01'>"
            f"<Name>{bucket}</Name><IsTruncated>{'true' if token else 'false'}</IsTruncated>{more}{rows}</ListBucketResult>")
    return Response(text, 200, {"content-type": "application/xml"})


@app.route("/<bucket>/<path:_>", methods=["GET", "HEAD", "PUT", "DELETE"])
def xml_object(bucket, _):
    fault = signature_fault()
    if fault:
        return fault
    name = unquote(request.environ["REQUEST_URI"].split("?")[0].split("/", 2)[2])
    with writing:
        if not bucket_is_there(bucket):
            return xml_failure(404, "NoSuchBucket", "The specified bucket does not exist.")
        wanted = request.headers.get("x-goog-if-generation-match")
        found = metadata(bucket, name)
        if found is None and request.method != "PUT":
            return xml_failure(404, "NoSuchKey", "The specified key does not exist.")
        if wanted is not None and wanted != (found or {}).get("generation", "0"):
            return xml_failure(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold.")
        if request.method == "PUT":
            stored = store(bucket, name, request.get_data())
            return Response("", 200, {"x-goog-generation": stored["generation"]})
        if request.method == "DELETE":
            remove(bucket, name)
            return "", 204
        answer = media(bucket, name, found)
    return answer or xml_failure(416, "InvalidRange", "The requested range cannot be satisfied.")


if __name__ == "__main__":
    print("READY", flush=True)
    waitress.serve(app, host="127.0.0.1", port=port, threads=16, max_request_body_size=1 << 30)
