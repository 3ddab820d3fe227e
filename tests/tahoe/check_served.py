"""check_served.py NURL MANIFEST.json [--write]

With the reference's HTTP storage client: list and read every share of the manifest and compare length and SHA-256.
--write (changes the directory): also renew each lease with its own secret, refuse a wrong write enabler, and write one
byte to each mutable share with the right one. `leases`, `write_enabler` may be missing from the manifest's entries.
Works against any server that speaks the protocol.
"""
import argparse, hashlib, json, sys
from hyperlink import DecodedURL
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from allmydata.storage.common import si_a2b
from allmydata.storage.http_client import (ClientException, ReadVector, StorageClientFactory, StorageClientGeneral,
                                           StorageClientImmutables, StorageClientMutables, TestWriteVectors, WriteVector)

ap = argparse.ArgumentParser(usage=__doc__)
ap.add_argument("nurl")
ap.add_argument("manifest")
ap.add_argument("--write", action="store_true")
args = ap.parse_args()
CHUNK = 4 << 20


async def main(reactor):
    man = json.load(open(args.manifest))
    client = await StorageClientFactory({"tcp": "tcp"}, None).create_storage_client(
        DecodedURL.from_text(args.nurl), reactor)
    g, imm, mut = StorageClientGeneral(client), StorageClientImmutables(client), StorageClientMutables(client)
    print("version:", (await g.get_version())[b"application-version"].decode())
    bad, slots = 0, {}
    for e in man["shares"]:
        slots.setdefault((e["storage_index"], e["kind"]), []).append(e)
    for (si_s, kind), entries in slots.items():
        si, api = si_a2b(si_s.encode()), imm if kind == "immutable" else mut
        listed, wanted = set(await api.list_shares(si)), {e["share_number"] for e in entries}
        if listed != wanted:
            bad += 1
            print("LIST", si_s, kind, sorted(listed), "wanted", sorted(wanted))
        for e in entries:
            try:
                h, off = hashlib.sha256(), 0
                while off <= e["length"]:      # once more after the end: must be empty
                    d = await api.read_share_chunk(si, e["share_number"], off, CHUNK)
                    if not d:
                        break
                    h.update(d)
                    off += len(d)
                if (off, h.hexdigest()) != (e["length"], e["sha256"]):
                    bad += 1
                    print("DATA", e.get("name"), si_s, e["share_number"], "got", off, "bytes, wanted", e["length"])
            except Exception as x:
                bad += 1
                print("READ", e.get("name"), si_s, e["share_number"], repr(x))
        if not args.write:
            continue
        leases = entries[0].get("leases", [])
        for l in leases:
            await g.add_or_renew_lease(si, bytes.fromhex(l["renew_secret"]), bytes.fromhex(l["cancel_secret"]))
        if kind == "mutable" and "write_enabler" in entries[0]:
            r = hashlib.sha256(b"checker renew").digest()
            if leases:
                r = bytes.fromhex(leases[0]["renew_secret"])
            for we, ok in ((bytes(32), False), (bytes.fromhex(entries[0]["write_enabler"]), True)):
                try:
                    res = await mut.read_test_write_chunks(
                        si, we, r, r, {e["share_number"]: TestWriteVectors([], [WriteVector(e["length"], b"!")], None)
                                       for e in entries}, [ReadVector(0, 1)])
                    good = ok and res.success
                except ClientException as x:
                    good = not ok and x.code == 401
                if not good:
                    bad += 1
                    print("WRITE", entries[0].get("name"), si_s, "right" if ok else "wrong", "write enabler")
            for e in entries:
                d = await mut.read_share_chunk(si, e["share_number"], e["length"], 100)
                if d != b"!":
                    bad += 1
                    print("WROTE", e.get("name"), si_s, e["share_number"], d)
    print(len(man["shares"]), "shares checked,", bad, "faults")
    await client.shutdown()
    if bad:
        raise SystemExit(1)


react(lambda r: Deferred.fromCoroutine(main(r)))
