"""make_folder.py DIR [--plain] [--big] [--now EPOCH]

Fill DIR (must not exist) with shares written by the reference's own storage classes and print a JSON manifest.
Every share is then parsed again from the raw bytes, by the rules of the layout alone, and compared.
--plain: shares only, none of the things an importer has to ignore.   --big: also a sparse 4 GiB + 5 byte immutable share.
"""
import argparse, hashlib, json, os, struct, sys, time
from twisted.internet.task import Clock
from allmydata.storage import immutable_schema, mutable_schema
from allmydata.storage.common import si_b2a, storage_index_to_dir
from allmydata.storage.immutable import ShareFile
from allmydata.storage.lease import LeaseInfo
from allmydata.storage.mutable import MutableShareFile
from allmydata.storage.server import StorageServer, DEFAULT_RENEWAL_TIME
from allmydata.storage.crawler import TimeSliceExceeded

NODEID = hashlib.sha1(b"sample storage node").digest()
OTHER_NODEID = hashlib.sha1(b"the node these shares came from").digest()
DAY = 86400

ap = argparse.ArgumentParser(usage=__doc__)
ap.add_argument("dir")
ap.add_argument("--plain", action="store_true")
ap.add_argument("--big", action="store_true")
ap.add_argument("--now", type=int, default=int(time.time()))
args = ap.parse_args()
assert not os.path.exists(args.dir), "refusing to touch an existing directory"

clock = Clock()
clock.advance(args.now - 20 * DAY)
ss = StorageServer(args.dir, NODEID, clock=clock)


def si(name):
    return hashlib.sha256(b"si " + name.encode()).digest()[:16]


def secret(*words):
    return hashlib.sha256(" ".join(map(str, words)).encode()).digest()


def blob(name, n):
    out, i = [], 0
    while 32 * i < n:
        out.append(hashlib.sha256(f"{name}/{i}".encode()).digest())
        i += 1
    return b"".join(out)[:n]


def b2(x):
    return hashlib.blake2b(x, digest_size=32).digest()


def path(s, shnum):
    return os.path.join(ss.sharedir, storage_index_to_dir(s), str(shnum))


shares = []


def lease(owner, expiration, who, nodeid=None):
    return {"owner": owner, "expiration": int(expiration), "renew_secret": secret("renew", who).hex(),
            "cancel_secret": secret("cancel", who).hex(), **({"nodeid": nodeid.hex()} if nodeid else {})}


def note(name, s, shnum, kind, version, data, leases, length=None, sha=None, **more):
    shares.append({"name": name, "storage_index": si_b2a(s).decode(), "share_number": shnum, "kind": kind,
                   "version": version, "length": len(data) if length is None else length,
                   "sha256": sha or hashlib.sha256(data).hexdigest(), "leases": leases, **more})


def leaseinfo(l, nodeid=None):
    return LeaseInfo(l["owner"], bytes.fromhex(l["renew_secret"]), bytes.fromhex(l["cancel_secret"]), l["expiration"],
                     bytes.fromhex(l["nodeid"]) if "nodeid" in l else nodeid)


# ---- immutable, version 2, the ordinary way: through the server
def imm_v2(name, size, shnums, extra=0):
    s, who = si(name), name + " uploader"
    _, writers = ss.allocate_buckets(s, secret("renew", who), secret("cancel", who), set(shnums), size)
    for n, w in writers.items():
        if size:
            w.write(0, blob(f"{name} {n}", size))
        w.close()
    # owner 0: what the server's allocate_buckets gives; add_lease gives owner 1
    leases = [lease(0, clock.seconds() + DEFAULT_RENEWAL_TIME, who)]
    for i in range(extra):
        clock.advance(DAY)
        who = f"{name} lease {i}"
        ss.add_lease(s, secret("renew", who), secret("cancel", who))
        leases.append(lease(1, clock.seconds() + DEFAULT_RENEWAL_TIME, who))
    for n in sorted(writers):
        note(name, s, n, "immutable", 2, blob(f"{name} {n}", size), leases)


imm_v2("imm2-empty", 0, [0])
imm_v2("imm2-one", 1, [0, 255])
imm_v2("imm2-56", 56, [0], extra=1)
imm_v2("imm2-100000", 100000, [0, 3, 12], extra=3)


# ---- immutable written with an explicit schema (version 1; and no leases at all)
def imm_direct(name, version, size, nleases, shnum=0):
    s = si(name)
    p = path(s, shnum)
    f = ShareFile(p, max_size=size, create=True, schema=immutable_schema.schema_from_version(version))
    data = blob(f"{name} {shnum}", size)
    f.write_share_data(0, data)
    leases = []
    for i in range(nleases):
        l = lease(0 if i == 0 else 1, clock.seconds() + DEFAULT_RENEWAL_TIME - i * DAY, f"{name} lease {i}")
        f.add_lease(leaseinfo(l))
        leases.append(l)
    note(name, s, shnum, "immutable", version, data, leases)


imm_direct("imm1-empty", 1, 0, 1)
imm_direct("imm1-one", 1, 1, 1)
imm_direct("imm1-56", 1, 56, 2)
imm_direct("imm1-100000", 1, 100000, 5, shnum=7)
imm_direct("imm2-no-lease", 2, 200, 0)
imm_direct("imm1-no-lease", 1, 200, 0)
if args.big:
    s, size = si("imm2-big"), 2 ** 32 + 5
    f = ShareFile(path(s, 0), max_size=size, create=True)
    f.write_share_data(size - 5, b"tail!")
    l = lease(0, clock.seconds() + DEFAULT_RENEWAL_TIME, "imm2-big lease")
    f.add_lease(leaseinfo(l))
    h, z = hashlib.sha256(), bytes(1 << 20)
    for _ in range(4096):
        h.update(z)
    h.update(b"tail!")
    note("imm2-big", s, 0, "immutable", 2, None, [l], length=size, sha=h.hexdigest())


# ---- mutable; version 1 by creating the empty container with that schema, after which the server treats it as its own
def mut(name, version, steps, nleases=1, shnums=(0,), nodeid=NODEID, cancel=None):
    """steps: list of (writes, new_length) applied to every share; the data is the model's, checked against the server's."""
    s, we = si(name), secret("write enabler", name)
    schema = {x.version: x for x in mutable_schema.ALL_SCHEMAS}[version]
    for n in shnums:
        p = path(s, n)
        os.makedirs(os.path.dirname(p), exist_ok=True)
        MutableShareFile(p, ss, schema=schema).create(nodeid, we)
    who = f"{name} lease 0"
    model = bytearray()
    for writes, new_length in steps:
        ok, _ = ss.slot_testv_and_readv_and_writev(
            s, (we, secret("renew", who), secret("cancel", who)), {n: ([], writes, new_length) for n in shnums}, [])
        assert ok
        for off, d in writes:
            model.extend(bytes(max(0, off + len(d) - len(model))))
            model[off:off + len(d)] = d
        if new_length is not None and new_length < len(model):
            del model[new_length:]
    leases = [lease(1, clock.seconds() + DEFAULT_RENEWAL_TIME, who, NODEID)]
    for i in range(1, nleases):
        clock.advance(3600)
        who = f"{name} lease {i}"
        ss.add_lease(s, secret("renew", who), secret("cancel", who))
        leases.append(lease(1, clock.seconds() + DEFAULT_RENEWAL_TIME, who, NODEID))
    if cancel is not None:
        for n in shnums:
            MutableShareFile(path(s, n), ss).cancel_lease(bytes.fromhex(leases[cancel]["cancel_secret"]))
        leases[cancel] = None
    for i, l in enumerate(leases):
        if l:
            l["slot"] = i
    for n in shnums:
        note(name, s, n, "mutable", version, bytes(model), [l for l in leases if l],
             write_enabler=we.hex(), write_enabler_nodeid=nodeid.hex())


SDMF = b"\x00" + struct.pack(">Q", 1) + blob("sdmf", 2000)
for v in (2, 1):
    mut(f"mut{v}-sdmf", v, [([(0, SDMF)], None)], shnums=(0, 1, 2))
    mut(f"mut{v}-one", v, [([(0, b"x")], None)])
    mut(f"mut{v}-empty", v, [([], None)])
    mut(f"mut{v}-6-leases", v, [([(0, SDMF)], None)], nleases=6)
    mut(f"mut{v}-grown-6-leases", v, [([(0, b"a" * 10)], None)], nleases=6)
    mut(f"mut{v}-shrunk", v, [([(0, b"S" * 5000)], None), ([(0, b"short")], 5)])
    mut(f"mut{v}-hole", v, [([(0, b"head"), (300, b"tail")], None)])
    mut(f"mut{v}-cancelled-slot", v, [([(0, b"data")], None)], nleases=5, cancel=1)
    mut(f"mut{v}-migrated", v, [([(0, b"from elsewhere")], None)], nodeid=OTHER_NODEID)
    # grow after extra leases exist, so that the extra-lease block moves
    name = f"mut{v}-grown-6-leases"
    ss.slot_testv_and_readv_and_writev(
        si(name), (secret("write enabler", name), secret("renew", name + " lease 0"), secret("cancel", name + " lease 0")),
        {0: ([], [(10, b"b" * 3000)], None)}, [])
    e = [x for x in shares if x["name"] == name][0]
    d = b"a" * 10 + b"b" * 3000
    e["length"], e["sha256"] = len(d), hashlib.sha256(d).hexdigest()
    e["leases"][0]["expiration"] = int(clock.seconds() + DEFAULT_RENEWAL_TIME)

# ---- things an importer must pass over
ignore = []
if not args.plain:
    s = si("unfinished upload")
    _, w = ss.allocate_buckets(s, secret("r"), secret("c"), {0}, 1000)
    w[0].write(0, b"half")            # leaves shares/incoming/PP/SI/0 and an empty shares/PP/SI/
    ignore += [os.path.relpath(w[0].incominghome, args.dir), os.path.relpath(w[0].finalhome, args.dir).rsplit("/", 1)[0] + "/"]
    junk = path(si("imm2-one"), "0.tmp")
    open(junk, "w").write("not a share")
    ignore.append(os.path.relpath(junk, args.dir))
    os.mkdir(os.path.join(ss.sharedir, "lost+found"))
    ignore.append("shares/lost+found/")
    ss.advise_corrupt_share(b"immutable", si("imm2-56"), 0, "a made-up complaint: \u00e9".encode())
    ignore += ["corruption-advisories/" + n for n in os.listdir(ss.corruption_advisory_dir)]

# ---- one whole cycle of the reference's crawlers: they must be able to read all of it
if not args.plain:
    for c in (ss.lease_checker, ss.bucket_counter):
        while True:
            try:
                c.start_current_prefix(time.time())
                break
            except TimeSliceExceeded:
                pass
        c.save_state()
    h = ss.lease_checker.get_state()["history"]["0"]
    assert h["corrupt-shares"] == [], h["corrupt-shares"]
    assert h["space-recovered"]["examined-shares"] == len(shares), (h["space-recovered"]["examined-shares"], len(shares))
    ignore += [n for n in os.listdir(args.dir) if n.endswith(".json")]
else:
    os.remove(os.path.join(args.dir, "lease_checker.history.json"))
    os.rmdir(os.path.join(args.dir, "corruption-advisories"))
    os.rmdir(ss.incomingdir)

# ---- parse again from raw bytes
M1 = b"Tahoe mutable container v1\n" + bytes.fromhex("750944038e")
M2 = b"Tahoe mutable container v2\n" + bytes.fromhex("c355219925")


def want(l, version):
    f = (lambda x: x) if version == 1 else b2
    return f(bytes.fromhex(l["renew_secret"])), f(bytes.fromhex(l["cancel_secret"]))


for e in shares:
    p = os.path.join(args.dir, "shares", e["storage_index"][:2], e["storage_index"], str(e["share_number"]))
    size = os.path.getsize(p)
    e["path"], e["file_size"] = os.path.relpath(p, args.dir), size
    if size > 1 << 30:
        with open(p, "rb") as f:
            v, field, n = struct.unpack(">LLL", f.read(12))
        assert (v, field, n) == (2, 2 ** 32 - 1, 1) and size == 12 + e["length"] + 72
        continue
    raw = open(p, "rb").read()
    if raw[:32] in (M1, M2):
        v = 1 if raw[:32] == M1 else 2
        wn, we, dl, xo = raw[32:52], raw[52:84], *struct.unpack(">QQ", raw[84:100])
        (nx,) = struct.unpack(">L", raw[xo:xo + 4])
        assert size == xo + 4 + 92 * nx and xo >= 468 + dl
        assert (wn.hex(), we.hex()) == (e["write_enabler_nodeid"], e["write_enabler"])
        recs = [raw[100 + 92 * i:192 + 92 * i] for i in range(4)] + [raw[xo + 4 + 92 * i:xo + 96 + 92 * i] for i in range(nx)]
        got = [(i,) + struct.unpack(">LL32s32s20s", r) for i, r in enumerate(recs) if r[:4] != bytes(4)]
        exp = [(l["slot"], l["owner"], l["expiration"], *want(l, v), bytes.fromhex(l["nodeid"])) for l in e["leases"]]
        data, kind = raw[468:468 + dl], "mutable"
        e["container_size"], e["extra_leases"] = xo - 468, nx
    else:
        v, field, n = struct.unpack(">LLL", raw[:12])
        dl = size - 12 - 72 * n
        assert field == dl
        got = [struct.unpack(">L32s32sL", raw[12 + dl + 72 * i:84 + dl + 72 * i]) for i in range(n)]
        exp = [(l["owner"], *want(l, v), l["expiration"]) for l in e["leases"]]
        data, kind = raw[12:12 + dl], "immutable"
    assert (kind, v, dl) == (e["kind"], e["version"], e["length"]), e
    assert got == exp, (e["name"], got, exp)
    assert hashlib.sha256(data).hexdigest() == e["sha256"], e["name"]

json.dump({"dir": os.path.abspath(args.dir), "nodeid": NODEID.hex(), "now": args.now, "shares": shares, "ignore": ignore},
          sys.stdout, indent=1)
print()
print(f"{len(shares)} shares written, parsed again and equal", file=sys.stderr)
