#!/usr/bin/env python3
"""An independent reader and writer of KV objects, version 1: written from ../SPEC.md alone, with numpy and blake3 from PyPI.

`kv_object.py FOLDER GOLDEN`: FOLDER/cases.json describes sequences (namespace, tokens, extras, producer) and FOLDER/CASE.kv holds all
KV of each, group after group, tensor after tensor, [layer][token][head][dim]: of a state that after each token, of scales that of each
token and head. Every object of them must stand under FOLDER/rust by its name, verify, hold that KV, and equal what is written here to
FOLDER/python; all golden objects must be among them. Each damaged object that cases.json lists must get its verdict (refused: any but
read). Prints counts as JSON; ends with 1 and a sentence at the first difference.
"""
import json, math, re, struct, sys
from collections import Counter
from pathlib import Path
import numpy as np
from blake3 import blake3

COMPONENTS = """format model weights adapters weight-quantisation rope-pairing rope-theta rope-scaling groups stored-dtype scales
                chunk-tokens slices tenant""".split()
# Names at the places of their codes, and the bytes of each dtype.
DTYPES, SIZES = "- bf16 f16 f32 int8 e4m3fn e4m3fnuz e4m3-ieee e5m2 e5m2fnuz".split(), np.array([0, 2, 2, 4, 1, 1, 1, 1, 1, 1])
PAIRINGS, DIRECTIONS, GRANULARITIES = (names.split() for names in (
    "- interleaved rotate-half", "none multiply divide", "none per-tensor per-head per-token-head"))
# The kinds in a layer by the rule of its group, and the fields that make up the dim of each; scales are of a kind SCALE higher.
STATE, SCALE, K_AND_V = 5, 5, {1: ["key-dim"], 2: ["value-dim"]}
RULES = {"full-attention": K_AND_V, "sliding-window": K_AND_V, "mla-latent": {3: ["latent-dim", "rope-dim"]},
         "sparse-index": {4: ["dim"]}, "recurrent-state": {STATE: ["dim"]}}
PLAIN, SCALED = [[1, 2], [3], [4], [STATE]], [[1, 2, 6, 7], [3, 8], [4, 9]]  # the kinds in a layer without scales and with them
HEADER, ENTRY = (np.dtype([tuple(field.split(":")) for field in fields.split()]) for fields in (
    """magic:S8 major:<u2 minor:<u2 header_len:<u4 features:<u8 object_len:<u8 payload:<u8 alignment:<u4 sections:<u4 key:S32 parent:S32
       namespace:S32 index:<u4 tokens:<u4 start:<u8 slice:<u4 group:<u4 layer:<u4 layer_end:<u4 head:<u4 head_end:<u4 pairing:<u2
       granularity:<u2 direction:<u2 flags:<u2 content:S32 producer:S64 checksum:<u8 unused:S24""",
    "layer:<u4 kind:<u2 dtype:<u2 rows:<u4 heads:<u4 dim:<u4 zero:<u4 offset:<u8 length:<u8 checksum:<u8"))

def derive(purpose, data):
    return blake3(data, derive_key_context=f"kvbridge 2026-11 {purpose}").digest()

# CRC-64/NVME, a byte at a time: the polynomial with its bits reversed.
CRC = list(range(256))
for _ in range(8):
    CRC = [entry >> 1 ^ (0x9A6C9329AC4BC9B5 if entry & 1 else 0) for entry in CRC]

def crc64(data):
    crc = 0xFFFFFFFFFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC[crc & 255 ^ byte]
    return crc ^ 0xFFFFFFFFFFFFFFFF

def extents(kind, dim, granularity, tokens, heads):  # rows, heads and dim of a section
    if kind > SCALE:
        return tokens if granularity == 3 else 1, heads if granularity > 1 else 1, 1
    return 1 if kind == STATE else tokens, heads, dim

def groups_of(says):
    """Of each KV group: layers, heads, tensors of a layer as (kind, dtype, dim), codes of scale granularity and direction."""
    texts, *each = (says[name].split(";") for name in ("groups", "stored-dtype", "scales"))
    dtypes, scales = (own if len(own) > 1 else own * len(texts) for own in each)
    for text, dtype, scale in zip(texts, dtypes, scales, strict=True):
        rule, *own = text.split(":")
        own = dict(field.split("=") for field in own)
        tensors = [(kind, DTYPES.index(dtype), sum(int(own[dim]) for dim in dims)) for kind, dims in RULES[rule].items()]
        granularity, direction, dtype = ("none", "none", "-") if scale == "none" else scale.split(":")
        tensors += [(kind + SCALE, DTYPES.index(dtype), 1) for kind, _, _ in tensors if scale != "none"]
        layers = [layer for part in own["layers"].split(",") for layer in range(*map(int, part.split("-")))]
        yield layers, int(own["heads"]), tensors, GRANULARITIES.index(granularity), DIRECTIONS.index(direction)

def chunks_of(case, namespace):
    """The fields of every chunk of a sequence."""
    size, parent = int(case["namespace"]["chunk-tokens"]), b""
    for index, start in enumerate(range(0, len(case["tokens"]), size)):
        ids = case["tokens"][start:start + size]
        extras = [(at, bytes.fromhex(digest)) for at, digest in case["extras"] if start <= at < start + len(ids)]
        head = namespace + bytes([parent != b""]) + parent.ljust(32, b"\0")
        head += struct.pack(f"<IQ{len(ids)}IQ", index, len(ids), *ids, len(extras))
        key = derive("chunk key v1", head + b"".join(struct.pack("<I", at) + digest for at, digest in extras))
        flags = (parent != b"") | (len(ids) < size) << 1
        yield dict(namespace=namespace, key=key, parent=parent, index=index, start=start, tokens=len(ids), flags=flags)
        parent = key

def objects_of(case, kv):
    """Of every object of a sequence: its name, what `complete` makes its header of, its sections."""
    says, groups, tensors_kv, at = case["namespace"], list(groups_of(case["namespace"])), {}, 0
    values = [struct.pack("<d", says[name]) if name == "rope-theta" else says[name].encode() for name in COMPONENTS]
    texts = [text for name, value in zip(COMPONENTS, values, strict=True) for text in (name.encode(), value)]
    namespace = derive("namespace v1", b"".join(struct.pack("<Q", len(text)) + text for text in texts))
    for group, (layers, heads, tensors, *_) in enumerate(groups):
        for kind, dtype, dim in tensors:
            shape = len(layers), len(case["tokens"]), heads, dim * SIZES[dtype]
            tensors_kv[group, kind] = np.frombuffer(kv, "u1", math.prod(shape), at).reshape(shape)
            at += math.prod(shape)
    assert at == len(kv), f"{len(kv)} bytes of KV, expected {at}"
    parts = [map(int, re.split("[:-]", text)) for text in says["slices"].split(";")]
    slices = [(group, [layer for layer in groups[group][0] if first <= layer < end], range(*heads)) for group, first, end, *heads in parts]
    cells = [(group, layer, head) for group, layers, heads in slices for layer in layers for head in heads]
    every = [(group, layer, head) for group, (layers, heads, *_) in enumerate(groups) for layer in layers for head in range(heads)]
    assert sorted(cells) == every, "the slices do not cover every layer and head once"
    for chunk in chunks_of(case, namespace):
        key, end = chunk["key"].hex(), chunk["start"] + chunk["tokens"]
        for index, (group, layers, heads) in enumerate(slices):
            held, _, tensors, granularity, direction = groups[group]
            own = dict(slice=index, group=group, layer=layers[0], layer_end=layers[-1] + 1, head=heads[0], head_end=heads[-1] + 1,
                       pairing=PAIRINGS.index(says["rope-pairing"]), granularity=granularity, direction=direction)
            sections = [tensors_kv[group, kind][held.index(layer), end - rows:end, heads[0]:heads[0] + columns].tobytes()
                        for layer in layers for kind, _, dim in tensors
                        for rows, columns, _ in [extents(kind, dim, granularity, chunk["tokens"], len(heads))]]
            yield f"v1/{namespace.hex()}/{key[:2]}/{key}.{chunk['index']}.{index}", (chunk | own, layers, tensors), sections

def complete(says, layers, tensors, checksums=0):
    """Header and table with what follows from identity, tensors and checksums: where sections stand, content digest, checksum."""
    shape = [says["granularity"], says["tokens"], says["head_end"] - says["head"]]
    header, table = np.zeros(1, HEADER), np.array([(layer, kind, dtype, *extents(kind, dim, *shape), 0, 0, 0, 0)
                                                   for layer in layers for kind, dtype, dim in tensors], ENTRY)
    table["length"] = SIZES[table["dtype"]] * table["rows"] * table["heads"] * table["dim"]
    table["checksum"] = checksums
    alignment, header_len = 4096 if table["length"].min() >= 16384 else 64, -(-(320 + table.nbytes) // 4096) * 4096
    end = header_len
    for row in table:
        row["offset"] = -(-end // alignment) * alignment
        end = int(row["offset"] + row["length"])
    follows = dict(magic=b"\x89KVB\r\n\x1a\n", major=1, header_len=header_len, object_len=end, payload=header_len,
                   alignment=alignment, sections=len(table), checksum=0, unused=b"")
    for name, value in (says | follows).items():
        header[name] = value
    header["content"] = derive("content v1", header.tobytes()[48:192] + table.tobytes())
    header["checksum"] = crc64((header.tobytes() + table.tobytes()).ljust(header_len, b"\0"))
    return header, table

def write(says, layers, tensors, sections, producer):
    header, table = complete(says | dict(producer=producer.encode()), layers, tensors, [crc64(section) for section in sections])
    data = header.tobytes() + table.tobytes()
    for row, section in zip(table, sections, strict=True):
        data = data.ljust(int(row["offset"]), b"\0") + section
    return data

class Rejected(Exception):
    """Its arguments: the verdict, which is foreign (no KV object), incompatible or damaged; and why."""

def demand(condition, verdict, why):
    if not condition:
        raise Rejected(verdict, why)

def read(data, wanted):
    """The verified sections of the object that is wanted."""
    demand(len(data) >= 4096, "damaged", "shorter than any header")
    h = dict(zip(HEADER.names, np.frombuffer(data, HEADER, 1)[0].item()))
    demand(data[:8] == b"\x89KVB\r\n\x1a\n", "foreign", "magic")
    demand(h["major"] == 1, "incompatible", "major version")
    length, count, tokens, heads = h["header_len"], h["sections"], h["tokens"], h["head_end"] - h["head"]
    demand(0 < length <= len(data) and length % 4096 == 0, "damaged", "header length")
    demand(crc64(data[:288] + bytes(8) + data[296:length]) == h["checksum"], "damaged", "header checksum")
    demand(h["features"] == 0, "incompatible", "required features")
    demand(h["object_len"] == len(data), "damaged", "length")
    demand(0 < 48 * count <= length - 320 and tokens > 0 and heads > 0, "damaged", "no sections, tokens or heads")
    table = np.frombuffer(data, ENTRY, count, 320)
    demand(0 < h["pairing"] < 3 and h["granularity"] < 4 and h["direction"] < 3, "incompatible", "unknown code in the header")
    demand(all(0 < code < 10 for code in [*table["kind"], *table["dtype"]]), "incompatible", "unknown code in the table")
    # What the first layer holds and which layers there are determines the table.
    tensors = table[table["layer"] == table["layer"][0]][["kind", "dtype", "dim"]].tolist()
    scaled, kinds = h["granularity"] > 0, [kind for kind, _, _ in tensors]
    demand(kinds in (SCALED if scaled else PLAIN) and scaled == (h["direction"] > 0), "damaged", "tensors of no KV group")
    layers, dtypes = table["layer"][::len(kinds)].tolist(), {(kind > SCALE, dtype) for kind, dtype, _ in tensors}
    demand(len(dtypes) == 1 + scaled and all(dtype in (1, 3) for scale, dtype in dtypes if scale), "damaged", "dtypes of a layer")
    demand(layers == sorted(set(layers)) and (layers[0], layers[-1] + 1) == (h["layer"], h["layer_end"]), "damaged", "layers")
    cells = [math.prod(extents(kind, dim, h["granularity"], tokens, heads)) for kind, _, dim in tensors]
    demand(0 < min(cells) and max(cells) <= len(data) and count == len(layers) * len(kinds), "damaged", "shape of a section")
    ours, our_table = complete(h, layers, tensors, table["checksum"])
    right = ours.tobytes()[:288] + our_table.tobytes() == data[:288] + table.tobytes()
    right &= h["flags"] & ~2 == (h["index"] > 0) and (h["index"] > 0 or h["parent"] == b"")
    right &= h["producer"] == h["producer"].decode(errors="replace").replace("\0", "").encode()
    right &= h["minor"] > 0 or not any(data[296:320] + data[320 + table.nbytes:length])
    demand(right, "damaged", "a field that contradicts others, or bytes that no field names")
    same = ours.tobytes()[48:192] == complete(*wanted)[0].tobytes()[48:192]
    demand(same and (layers, tensors) == wanted[1:], "incompatible", "another identity or section layout")
    sections = [data[int(row["offset"]):int(row["offset"] + row["length"])] for row in table]
    demand([crc64(section) for section in sections] == table["checksum"].tolist(), "damaged", "section checksum")
    return sections

def main(folder, golden):
    listed, objects, found = json.loads((folder / "cases.json").read_text()), {}, Counter()
    golden = {path.read_bytes(): path.name for path in golden.iterdir()}
    for case in listed["cases"]:
        for name, wanted, sections in objects_of(case, (folder / f"{case['name']}.kv").read_bytes()):
            data, ours = (folder / "rust" / name).read_bytes(), write(*wanted, sections, case["producer"])
            assert read(data, wanted) == sections, f"{case['name']}: {name} holds other KV"
            assert ours == data, f"{case['name']}: {name} is written otherwise here"
            (folder / "python" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "python" / name).write_bytes(ours)
            objects[name] = wanted
            found.update(objects=1, sections=len(sections), golden=golden.pop(data, None) is not None)
    others = {str(path.relative_to(folder / "rust")) for path in (folder / "rust").rglob("*.*")} ^ set(objects)
    assert not others and not golden, f"no case describes the objects {others}, golden {list(golden.values())}"
    for number, (name, verdict, what) in enumerate(listed["damaged"]):
        try:
            ours, why = "read", read((folder / "damaged" / str(number)).read_bytes(), objects[name]) and ""
        except Rejected as rejected:
            ours, why = rejected.args
        right = ours == verdict or (ours != "read" and verdict == "refused")
        assert right, f"damaged object {number} ({what}): Rust says {verdict}, Python {ours} {why}"
    print(json.dumps(found + Counter(verdict for _, verdict, _ in listed["damaged"])))

if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
