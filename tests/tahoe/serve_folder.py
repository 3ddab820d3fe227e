"""serve_folder.py DIR PORT [--nodeid HEX40] [--swissnum S] [--keys KEYDIR] [--readonly] [--crawl] [--expire-age SECONDS]

Start the reference's HTTP storage server over TLS on an existing storage directory (the one holding shares/), on
127.0.0.1:PORT (0: any). Prints the NURL as the first line on stdout. SIGTERM or Ctrl-C stops it.
Key and certificate live in KEYDIR (default DIR.keys), so the NURL stays the same across restarts.
NOTE: starting it writes into DIR (lease_checker.history.json, corruption-advisories/) and empties shares/incoming.
--crawl starts the crawlers with no delay; --expire-age N turns on expiry of leases older than N seconds (with --crawl).
"""
import argparse, datetime, hashlib, os, sys
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.python import log
from twisted.python.filepath import FilePath
from allmydata.storage.http_server import HTTPServer, listen_tls
from allmydata.storage.server import StorageServer

ap = argparse.ArgumentParser(usage=__doc__)
ap.add_argument("dir")
ap.add_argument("port", type=int)
ap.add_argument("--nodeid", default=hashlib.sha1(b"sample storage node").hexdigest())
ap.add_argument("--swissnum", default="swissnumforchecking")
ap.add_argument("--keys")
ap.add_argument("--readonly", action="store_true")
ap.add_argument("--crawl", action="store_true")
ap.add_argument("--expire-age", type=int)
args = ap.parse_args()
assert os.path.isdir(args.dir), args.dir
keys = args.keys or os.path.abspath(args.dir) + ".keys"
os.makedirs(keys, mode=0o700, exist_ok=True)
keyfile, certfile = os.path.join(keys, "key.pem"), os.path.join(keys, "cert.pem")
if not (os.path.exists(keyfile) and os.path.exists(certfile)):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "storage check")])
    now = datetime.datetime.now(datetime.timezone.utc)
    cert = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now)
            .not_valid_after(now + datetime.timedelta(days=365)).sign(key, hashes.SHA256()))
    with open(keyfile, "wb") as f:
        f.write(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                  serialization.NoEncryption()))
    with open(certfile, "wb") as f:
        f.write(cert.public_bytes(serialization.Encoding.PEM))

log.startLogging(sys.stderr, setStdout=False)
ss = StorageServer(args.dir, bytes.fromhex(args.nodeid), readonly_storage=args.readonly,
                   expiration_enabled=args.expire_age is not None,
                   expiration_override_lease_duration=args.expire_age)
if args.crawl:
    ss.lease_checker.slow_start = ss.bucket_counter.slow_start = 0
    ss.lease_checker.allowed_cpu_percentage = ss.bucket_counter.allowed_cpu_percentage = 0.5
    ss.startService()
    reactor.addSystemEventTrigger("before", "shutdown", ss.stopService)


def up(result):
    print(result[0].to_text(), flush=True)


def failed(f):
    print(f.getTraceback(), file=sys.stderr)
    reactor.stop()


def start():
    d = listen_tls(HTTPServer(reactor, ss, args.swissnum.encode()), "127.0.0.1",
                   TCP4ServerEndpoint(reactor, args.port, interface="127.0.0.1"), FilePath(keyfile), FilePath(certfile))
    d.addCallbacks(up, failed)


reactor.callWhenRunning(start)
reactor.run()
