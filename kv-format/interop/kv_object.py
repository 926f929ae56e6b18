#!/usr/bin/env python3
"""An independent reader and writer of KV objects, version 1: written from ../SPEC.md alone, with numpy and blake3 from PyPI.

    python3 kv_object.py FOLDER GOLDEN

FOLDER/cases.json describes sequences (namespace, tokens, extras, producer) and FOLDER/CASE.kv holds the KV of each as raw elements,
tensor after tensor, [layer][token][head][dim]. For every chunk and slice, an object of the right name must stand under FOLDER/rust,
verify, hold that KV, and equal what is written here to FOLDER/python; each golden object must be among them. Each damaged object
that cases.json lists must get its verdict (refused: any but read). Prints what it found as JSON; ends with 1 and a sentence at the first difference.
"""
import json, struct, sys
from pathlib import Path
import numpy as np
from blake3 import blake3

COMPONENTS = ("format model weights adapters weight-quantisation rope-pairing rope-theta rope-scaling groups stored-dtype scales "
              "chunk-tokens slices tenant").split()
DTYPES = "bf16 f16 f32 int8 e4m3fn e4m3fnuz e4m3-ieee e5m2 e5m2fnuz".split()  # their codes count from 1
SIZES = [0, 2, 2, 4, 1, 1, 1, 1, 1, 1]
PAIRINGS = {"interleaved": 1, "rotate-half": 2}
TENSORS = {"full-attention": [(1, "key-dim"), (2, "value-dim")]}  # of each group: the kinds in a layer, and what says their dim
HEADER = np.dtype({"itemsize": 320, **dict(zip(("offsets", "formats", "names"), map(list, zip(
    (0, "S8", "magic"), (8, "<u2", "major"), (10, "<u2", "minor"), (12, "<u4", "header_len"), (16, "<u8", "features"),
    (24, "<u8", "object_len"), (32, "<u8", "payload"), (40, "<u4", "alignment"), (44, "<u4", "sections"), (48, "S32", "key"),
    (80, "S32", "parent"), (112, "S32", "namespace"), (144, "<u4", "index"), (148, "<u4", "tokens"), (152, "<u8", "start"),
    (160, "<u4", "slice"), (164, "<u4", "group"), (168, "<u4", "layer"), (172, "<u4", "layer_end"), (176, "<u4", "head"),
    (180, "<u4", "head_end"), (184, "<u2", "pairing"), (186, "<u2", "scales"), (188, "<u2", "direction"), (190, "<u2", "flags"),
    (192, "S32", "content"), (224, "S64", "producer"), (288, "<u8", "checksum")))))})
ENTRY = np.dtype([("layer", "<u4"), ("kind", "<u2"), ("dtype", "<u2"), ("tokens", "<u4"), ("heads", "<u4"), ("dim", "<u4"),
                  ("zero", "<u4"), ("offset", "<u8"), ("length", "<u8"), ("checksum", "<u8")])

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

class Sequence:
    """What a namespace and tokens say about the objects of a sequence: keys, names, headers but for the checksums, payload."""
    def __init__(self, case):
        says, span = case["namespace"], lambda text: tuple(map(int, text.split("-")))
        values = [struct.pack("<d", says[name]) if name == "rope-theta" else says[name].encode() for name in COMPONENTS]
        texts = [text for name, value in zip(COMPONENTS, values, strict=True) for text in (name.encode(), value)]
        self.namespace = derive("namespace v1", b"".join(struct.pack("<Q", len(text)) + text for text in texts))
        self.dtype, self.pairing, self.groups = 1 + DTYPES.index(says["stored-dtype"]), PAIRINGS[says["rope-pairing"]], []
        for text in says["groups"].split(";"):
            kind, *fields = text.split(":")
            fields = dict(field.split("=") for field in fields)
            tensors = [(code, int(fields[dim])) for code, dim in TENSORS[kind]]
            self.groups.append((range(*span(fields["layers"])), int(fields.get("heads", 1)), tensors))
        parts = [text.split(":") for text in says["slices"].split(";")]
        self.slices = [(int(group), range(*span(layers)), range(*span(heads))) for group, layers, heads in parts]
        cells = sorted((group, layer, head) for group, layers, heads in self.slices for layer in layers for head in heads)
        assert cells == [(group, layer, head) for group, (layers, heads, _) in enumerate(self.groups) for layer in layers
                         for head in range(heads)], "the slices do not cover every layer and head once"
        size, parent, self.chunks = int(says["chunk-tokens"]), b"", []
        for index, start in enumerate(range(0, len(case["tokens"]), size)):
            ids = case["tokens"][start:start + size]
            extras = [(at, bytes.fromhex(digest)) for at, digest in case["extras"] if start <= at < start + len(ids)]
            head = self.namespace + bytes([parent != b""]) + parent.ljust(32, b"\0")
            head += struct.pack(f"<IQ{len(ids)}IQ", index, len(ids), *ids, len(extras))
            key = derive("chunk key v1", head + b"".join(struct.pack("<I", at) + digest for at, digest in extras))
            flags = (parent != b"") | (len(ids) < size) << 1
            self.chunks.append(dict(key=key, parent=parent, index=index, start=start, tokens=len(ids), flags=flags))
            parent = key

    def name(self, chunk, index):
        key = chunk["key"].hex()
        return f"v1/{self.namespace.hex()}/{key[:2]}/{key}.{chunk['index']}.{index}"

    def wanted(self, chunk, index):
        group, layers, heads = self.slices[index]
        rows = [(layer, kind, self.dtype, chunk["tokens"], len(heads), dim, 0, 0, 0, 0)
                for layer in layers for kind, dim in self.groups[group][2]]
        return complete(dict(chunk, namespace=self.namespace, slice=index, group=group, layer=layers.start, layer_end=layers.stop,
                             head=heads.start, head_end=heads.stop, pairing=self.pairing), np.array(rows, ENTRY))

    def payload(self, kv, chunk, index):
        total, at, tensors = sum(c["tokens"] for c in self.chunks), 0, []
        group, layers, heads = self.slices[index]
        for number, (held, count, kinds) in enumerate(self.groups):
            for _, dim in kinds:
                shape = (len(held), total, count, dim * SIZES[self.dtype])
                tensors += [np.frombuffer(kv, "u1", np.prod(shape), at).reshape(shape)] if number == group else []
                at += int(np.prod(shape))
        assert at == len(kv), f"{len(kv)} bytes of KV, expected {at}"
        tokens, first = slice(chunk["start"], chunk["start"] + chunk["tokens"]), self.groups[group][0].start
        return [tensor[layer - first, tokens, heads.start:heads.stop].tobytes() for layer in layers for tensor in tensors]

def complete(fields, table):
    """The header with what follows from identity, shapes and checksums: where the sections stand, content digest, checksum."""
    header, table = np.zeros(1, HEADER), table.copy()
    table["zero"] = 0
    table["length"] = [int(row["tokens"]) * int(row["heads"]) * int(row["dim"]) * SIZES[row["dtype"]] for row in table]
    alignment, header_len = 4096 if table["length"].min() >= 16384 else 64, -(-(320 + table.nbytes) // 4096) * 4096
    end = header_len
    for row in table:
        row["offset"] = -(-end // alignment) * alignment
        end = int(row["offset"] + row["length"])
    follows = dict(magic=b"\x89KVB\r\n\x1a\n", major=1, header_len=header_len, object_len=end, payload=header_len,
                   alignment=alignment, sections=len(table), checksum=0)
    for name, value in (fields | follows).items():
        header[name] = value
    header["content"] = derive("content v1", header.tobytes()[48:192] + table.tobytes())
    header["checksum"] = crc64((header.tobytes() + table.tobytes()).ljust(header_len, b"\0"))
    return header, table

def write(wanted, sections, producer):
    fields, table = {name: wanted[0][name] for name in HEADER.names}, wanted[1].copy()
    table["checksum"] = [crc64(section) for section in sections]
    header, table = complete(dict(fields, producer=producer.encode()), table)
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
    header = np.frombuffer(data, HEADER, 1)
    h = {name: header[name].item() for name in HEADER.names}
    demand(data[:8] == b"\x89KVB\r\n\x1a\n", "foreign", "magic")
    demand(h["major"] == 1, "incompatible", "major version")
    length = h["header_len"]
    demand(0 < length <= len(data) and length % 4096 == 0, "damaged", "header length")
    demand(crc64(data[:288] + bytes(8) + data[296:length]) == h["checksum"], "damaged", "header checksum")
    demand(h["features"] == 0, "incompatible", "required features")
    demand(h["object_len"] == len(data), "damaged", "length")
    demand(h["scales"] == h["direction"] == 0 and h["pairing"] in PAIRINGS.values(), "incompatible", "unknown code")
    layers, count = range(h["layer"], h["layer_end"]), h["sections"]
    fits = count in (len(layers) * len(kinds) for kinds in TENSORS.values()) and 320 < 320 + 48 * count <= length
    demand(fits, "damaged", "number of sections")
    table = np.frombuffer(data, ENTRY, count, 320)
    demand(all(0 < code < len(SIZES) for code in table["dtype"]), "incompatible", "unknown dtype")
    orders = [[(layer, kind) for layer in layers for kind, _ in kinds] for kinds in TENSORS.values()]
    demand(list(zip(table["layer"], table["kind"])) in orders, "damaged", "order of the sections")
    cells = [int(tokens) * int(heads) * int(dim) for tokens, heads, dim in zip(table["tokens"], table["heads"], table["dim"])]
    demand(0 < min(cells) and sum(cells) <= len(data), "damaged", "shape of a section")
    again, table_again = complete({name: header[name] for name in HEADER.names}, table)
    right = all(again[name] == header[name] for name in HEADER.names if name != "checksum") and np.array_equal(table_again, table)
    right &= set(table["tokens"]) == {h["tokens"]} and set(table["heads"]) == {h["head_end"] - h["head"]}
    right &= h["flags"] in (h["index"] > 0, (h["index"] > 0) | 2) and (h["index"] > 0 or h["parent"] == b"")
    right &= h["producer"] == h["producer"].decode(errors="replace").replace("\0", "").encode()
    demand(right, "damaged", "a field that contradicts others")
    ours = (again.tobytes() + table_again.tobytes()).ljust(length, b"\0")
    demand(h["minor"] > 0 or ours == data[:length], "damaged", "bytes that no field names")
    table_again["checksum"] = 0
    same = again.tobytes()[48:192] == wanted[0].tobytes()[48:192] and np.array_equal(table_again, wanted[1])
    demand(same, "incompatible", "another identity or section layout")
    sections = [data[int(row["offset"]):int(row["offset"] + row["length"])] for row in table]
    demand([crc64(section) for section in sections] == list(table["checksum"]), "damaged", "section checksum")
    return sections

def main(folder, golden):
    listed, objects, found = json.loads((folder / "cases.json").read_text()), {}, dict(objects=0, sections=0, golden=0, verdicts={})
    golden = {path.read_bytes(): path.name for path in golden.iterdir()}
    for case in listed["cases"]:
        sequence, kv = Sequence(case), (folder / f"{case['name']}.kv").read_bytes()
        for chunk, index in ((chunk, index) for chunk in sequence.chunks for index in range(len(sequence.slices))):
            name, wanted, sections = sequence.name(chunk, index), sequence.wanted(chunk, index), sequence.payload(kv, chunk, index)
            data = (folder / "rust" / name).read_bytes()
            assert read(data, wanted) == sections, f"{case['name']}: {name} holds other KV"
            assert write(wanted, sections, case["producer"]) == data, f"{case['name']}: {name} is written otherwise here"
            (folder / "python" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "python" / name).write_bytes(write(wanted, sections, case["producer"]))
            objects[name], found["golden"] = wanted, found["golden"] + (golden.pop(data, None) is not None)
            found["sections"], found["objects"] = found["sections"] + len(sections), found["objects"] + 1
    others = {str(path.relative_to(folder / "rust")) for path in (folder / "rust").rglob("*.*")} ^ set(objects)
    assert not others and not golden, f"no case describes the objects {others}, golden {list(golden.values())}"
    for number, (name, verdict, what) in enumerate(listed["damaged"]):
        try:
            ours, why = "read", read((folder / "damaged" / str(number)).read_bytes(), objects[name]) and ""
        except Rejected as rejected:
            ours, why = rejected.args
        assert ours == verdict or (ours != "read" and verdict == "refused"), f"damaged object {number} ({what}): Rust says {verdict}, Python {ours} {why}"
        found["verdicts"][verdict] = found["verdicts"].get(verdict, 0) + 1
    print(json.dumps(found))

if __name__ == "__main__":
    try:
        main(*map(Path, sys.argv[1:]))
    except (AssertionError, OSError, Rejected) as error:
        sys.exit(f"kv_object.py: {error}")
