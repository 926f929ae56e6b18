"""Writes tables.txt beside this file: what each code of each FP8 flavour is worth, and what each becomes in every other flavour.

Nothing here comes from kv-format: values and rounding are those of the PyPI package ml_dtypes. Its float8_e4m3 is e4m3-ieee. The scale
factors are the rule of SPEC.md, `flavour-recode`, written down a second time. Made with ml_dtypes 0.6.0 and numpy 2.4.6:

    pip install --target /tmp/fp8 ml_dtypes==0.6.0 numpy==2.4.6 && PYTHONPATH=/tmp/fp8 python3 generate.py

Layout of tables.txt, lines in hexadecimal, `#` begins a comment:

    values FLAVOUR                   then 32 lines of 8 values, codes 0 to 255, each the bits of an IEEE binary32
    recode FROM TO FACTOR LARGE      then 8 lines of 32 codes of TO, for the codes 0 to 255 of FROM; LARGE says what becomes of a value
                                     beyond TO's largest and of an infinity that TO lacks: `overflow`, as a cast does it, or `saturate`
    changes FROM TO                  then 8 lines of 32 letters: `.` exact (a NaN stays a NaN), `z` the sign of zero is lost, `r` rounded,
                                     `f` rounded to zero, `l` beyond the largest, `i` an infinity that TO lacks
"""

import importlib.metadata
from pathlib import Path

import ml_dtypes
import numpy as np

FLAVOURS = {
    "e4m3fn": ml_dtypes.float8_e4m3fn,
    "e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "e4m3-ieee": ml_dtypes.float8_e4m3,
    "e5m2": ml_dtypes.float8_e5m2,
    "e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
}
# What a scale is multiplied with, and so what a value is divided by; 1 where no pair is named.
FACTORS = {
    ("e4m3fnuz", "e4m3fn"): 0.5,
    ("e4m3fn", "e4m3fnuz"): 2.0,
    ("e4m3fn", "e4m3-ieee"): 2.0,
    ("e5m2fnuz", "e5m2"): 0.5,
    ("e5m2", "e5m2fnuz"): 2.0,
}
HAS_INFINITY = {"e4m3-ieee", "e5m2"}
CODES = np.arange(256, dtype=np.uint8)


def values(flavour):
    return CODES.view(FLAVOURS[flavour]).astype(np.float32)


def cast(reals, flavour):
    with np.errstate(over="ignore", invalid="ignore"):
        return reals.astype(FLAVOURS[flavour]).view(np.uint8)


def change(wanted, got, to, largest):
    if np.isnan(wanted):
        assert np.isnan(got)
        return "."
    if np.isinf(wanted):
        return "." if to in HAS_INFINITY else "i"
    if np.isinf(got) or np.isnan(got) or abs(wanted) > largest:
        return "l"
    if wanted == got:
        return "." if np.signbit(wanted) == np.signbit(got) else "z"
    return "f" if got == 0 else "r"


def rows(items, width):
    items = list(items)
    return [" ".join(items[at : at + width]) for at in range(0, len(items), width)]


versions = " ".join(f"{name} {importlib.metadata.version(name)}" for name in ("ml_dtypes", "numpy"))
lines = [f"# Written by generate.py with {versions}; its head says what the lines are."]
for flavour in FLAVOURS:
    lines += [f"values {flavour}", *rows((f"{bits:08x}" for bits in values(flavour).view(np.uint32)), 8)]
for source in FLAVOURS:
    for to in FLAVOURS:
        if source == to:
            continue
        factor = FACTORS.get((source, to), 1.0)
        wanted = values(source) / np.float32(factor)
        largest = np.float32(ml_dtypes.finfo(FLAVOURS[to]).max)
        overflow = cast(wanted, to)
        keeps = np.isinf(wanted) & (to in HAS_INFINITY)
        saturate = cast(np.where(keeps, wanted, np.clip(wanted, -largest, largest)), to)
        got = values(to)
        for name, codes in (("overflow", overflow), ("saturate", saturate)):
            lines += [f"recode {source} {to} {factor:g} {name}", *rows((f"{code:02x}" for code in codes), 32)]
        letters = [change(w, got[code], to, largest) for w, code in zip(wanted, overflow)]
        lines += [f"changes {source} {to}", *rows(letters, 32)]
Path(__file__).with_name("tables.txt").write_text("\n".join(lines) + "\n")
