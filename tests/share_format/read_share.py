"""Reads an array's file from k shares and the keyring, by docs/share-format.md alone.

    read_share.py KEYRING.json SHARE SHARE ...

Needs the packages blake3 and cryptography. Writes the manifest's JSON on one line, then the content.
It checks everything that can be checked, and stops at the first thing that is wrong.
"""

import json
import sys

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

HASH, GROUP, TAG = 32, 256, 16


def require(condition, what):
    if not condition:
        sys.exit(f"not a sound share: {what}")


def number(part):
    return int.from_bytes(part, "big")


# Arithmetic in GF(2^8), polynomial 0x11d.
EXP, LOG = [0] * 510, [0] * 256
value = 1
for power in range(255):
    EXP[power] = EXP[power + 255] = value
    LOG[value] = power
    value = value << 1 ^ (0x11D if value & 0x80 else 0)


def times(a, b):
    return EXP[LOG[a] + LOG[b]] if a and b else 0


def power_of(base, exponent):
    return 1 if exponent == 0 else 0 if base == 0 else EXP[LOG[base] * exponent % 255]


def product(a, b):
    rows = []
    for row in a:
        out = []
        for column in zip(*b):
            total = 0
            for x, y in zip(row, column):
                total ^= times(x, y)
            out.append(total)
        rows.append(out)
    return rows


def inverse(matrix):
    size = len(matrix)
    rows = [list(row) + [int(i == j) for j in range(size)] for i, row in enumerate(matrix)]
    for i in range(size):
        pivot = next(j for j in range(i, size) if rows[j][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        scale = EXP[255 - LOG[rows[i][i]]]
        rows[i] = [times(scale, x) for x in rows[i]]
        for j in range(size):
            factor = rows[j][i]
            if j != i and factor:
                rows[j] = [x ^ times(factor, y) for x, y in zip(rows[j], rows[i])]
    return [row[size:] for row in rows]


class Share:
    def __init__(self, data):
        self.data, header = data, data[:64]
        require(header[:8] == b"RAICSHR1", "magic")
        self.header, self.array, self.index = header, header[8:24], header[24:40]
        self.share, self.k, self.n, self.role = header[40:44]
        self.segment_size = number(header[44:48])
        require(header[48:56] == bytes(8), "a feature that is not known")
        k, n = self.k, self.n
        require(1 <= k < n <= 32 or k == n == 1, "geometry")
        require(self.share < n and self.role == 0, "share number or role")
        require(1 <= self.segment_size <= 4 << 20, "segment size")

        require(data[-8:] == b"RAICEND1", "end")
        length = number(data[-16:-8])
        require(length <= len(data), "trailer's length")
        self.trailer = trailer = data[-length:]
        require(blake3(trailer[:-48]).digest() == trailer[-48:-16], "trailer's hash")
        require(trailer[:8] == b"RAICTRL1", "trailer's magic")
        self.padded, self.manifest = number(trailer[8:16]), number(trailer[16:20])
        require(self.padded <= 1 << 30, "padded length")
        require(256 <= self.manifest <= 64 << 20 and self.manifest % 256 == 0, "manifest's length")
        self.key_id, self.nonce, self.wrapped = trailer[20:36], trailer[36:48], trailer[48:96]
        hashes = [trailer[at : at + HASH] for at in range(96, length - 48, HASH)]
        self.page_hashes, self.roots = hashes[: len(hashes) - n], hashes[len(hashes) - n :]
        context = "RAIC 2026-11 share root v1"
        root = blake3(header + b"".join(self.page_hashes), derive_key_context=context).digest()
        require(root == self.roots[self.share], "root")
        self.of_stream = header[:40] + bytes(1) + header[41:] + trailer[8:20] + b"".join(self.roots)
        self.read_blocks()

    def segments(self):
        """The lengths of all segments, and whether each is one of the manifest."""
        for whole, is_manifest in ((self.padded, False), (self.manifest, True)):
            for at in range(0, whole, self.segment_size):
                yield min(self.segment_size, whole - at), is_manifest

    def read_blocks(self):
        self.blocks, at, group, pages = [], 64, [], 0
        lengths = [length for length, _ in self.segments()]
        for count, length in enumerate(lengths, 1):
            block = self.data[at : at + -(-(length + TAG) // self.k)]
            at += len(block)
            self.blocks.append(block)
            group.append(blake3(block).digest())
            if len(group) == GROUP or count == len(lengths):
                page = self.data[at : at + HASH * len(group)]
                require(page == b"".join(group), "a block")
                require(blake3(page).digest() == self.page_hashes[pages], "a hash page")
                at, group, pages = at + len(page), [], pages + 1
        require(pages == len(self.page_hashes), "number of hash pages")
        require(at == len(self.data) - len(self.trailer), "length")


def stream_key(keyring, share):
    keys = [bytes(g["key"]) for g in keyring["generations"] if bytes(g["id"]) == share.key_id]
    require(keys and bytes(keyring["array"]) == share.array, "it is another array's")
    wrapping = HKDF(SHA256(), 32, share.index, b"RAIC stream key v1").derive(keys[0])
    return AESGCM(wrapping).decrypt(share.nonce, share.wrapped, share.of_stream)


def read(keyring, shares):
    first = shares[0]
    require(len({share.share for share in shares}) == first.k == len(shares), "it takes k shares")
    require(all(share.of_stream == first.of_stream for share in shares), "shares of several streams")
    cipher = AESGCM(stream_key(keyring, first))
    associated = b"RAIC" + bytes([1, first.role]) + first.array + first.index
    vandermonde = [[power_of(r, c) for c in range(first.k)] for r in range(first.n)]
    matrix = product(vandermonde, inverse(vandermonde[: first.k]))
    decoding = inverse([matrix[share.share] for share in shares])
    content, manifest = bytearray(), bytearray()
    for segment, (length, is_manifest) in enumerate(first.segments()):
        blocks = [share.blocks[segment] for share in shares]
        sealed = b"".join(bytes(row) for row in product(decoding, blocks))
        require(not any(sealed[length + TAG :]), "padding of a segment")
        nonce = segment.to_bytes(8, "big") + bytes([0, 0, 0, is_manifest])
        opened = cipher.decrypt(nonce, sealed[: length + TAG], associated)
        (manifest if is_manifest else content).extend(opened)
    return bytes(content), json.loads(manifest)


def main():
    keyring_path, *paths = sys.argv[1:]
    with open(keyring_path, "rb") as file:
        keyring = json.load(file)
    shares = []
    for path in paths:
        with open(path, "rb") as file:
            shares.append(Share(file.read()))
    content, manifest = read(keyring, shares)
    require(manifest["version"] == 1 and len(manifest["extents"]) == 1, "manifest")
    extent = manifest["extents"][0]
    content, padding = content[: extent["length"]], content[extent["length"] :]
    require(len(content) == extent["length"] and not any(padding), "padding")
    require(blake3(content).hexdigest() == extent["content_hash"], "content's hash")
    sys.stdout.buffer.write(json.dumps(manifest).encode() + b"\n" + content)


main()
