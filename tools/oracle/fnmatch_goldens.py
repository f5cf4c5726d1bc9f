#!/usr/bin/env python3
"""Writes tests/golden/recipes/fnmatch.json: for a table of patterns, the names that Python's fnmatch accepts.

Usage: tools/oracle/fnmatch_goldens.py [OUTPUT]
"""
import fnmatch
import json
import pathlib
import platform
import random
import sys

NAMES = [
    "",
    "a",
    "b",
    "ab",
    "a.b",
    "[",
    "]",
    "[a]",
    "-",
    "!",
    "^",
    "*",
    "?",
    "\\",
    "lm_head.weight_quantizer",
    "mtp.layers.0.weight_quantizer",
    "backbone.mtp.weight_quantizer",
    "backbone.embeddings.weight_quantizer",
    "backbone.layers.1.mixer.in_proj.weight_quantizer",
    "backbone.layers.1.mixer.in_proj.input_quantizer",
    "backbone.layers.11.mixer.experts.3.up_proj.weight_quantizer",
    "backbone.layers.11.mixer.shared_experts.up_proj.weight_quantizer",
    "backbone.layers.7.mixer.k_bmm_quantizer",
    "backbone.layers.7.mixer.q_bmm_quantizer",
    "backbone.layers.7.mixer.K_bmm_quantizer",
]

PATTERNS = [
    "", "*", "**", "?", "??", "a*", "*a", "a*b", "a?b", "[a]", "[ab]", "[!a]", "[^a]", "[a-b]", "[b-a]", "[!b-a]",
    "[]", "[!]", "[]]", "[!]]", "[]a]", "[[]", "[[]a]", "[", "[!", "[a", "*[", "[a-]", "[-a]", "[!-]", "[--a]", "[a--]",
    "[a-c-e]", "[b-ad-f]", "[\\]", "\\*", "[*]", "[?]", "[!*]*", "[&&a]", "[a||b]",
    "*weight_quantizer", "*input_quantizer", "*lm_head*", "lm_head", "mtp.*", "*mtp.*", "*.experts.*weight_quantizer",
    "*mixer.experts.*", "*experts*", "*[kv]_bmm_quantizer", "*[!q]_bmm_quantizer", "*layers.1.*", "*layers.1[08].*",
    "*layers.[1358].mixer.*", "*layers.?.mixer*", "*layers.??.mixer*", "*LM_HEAD*", "*.mixer.*.weight_*",
    "{a,b}", "*{a,b}*", "backbone.layers.*.mixer.*_proj.weight_quantizer", "*e*e*e*e*q*r",
]


def random_cases(n_patterns, n_names):
    source = random.Random(20)
    letters = "ab-!]["
    patterns = ["".join(source.choice(letters + "*?") for _ in range(source.randint(1, 8))) for _ in range(n_patterns)]
    names = ["".join(source.choice(letters) for _ in range(source.randint(0, 5))) for _ in range(n_names)]
    return sorted(set(patterns)), sorted(set(names))


def main():
    output = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/golden/recipes/fnmatch.json")
    random_patterns, random_names = random_cases(400, 60)
    names = sorted(set(NAMES + random_names))
    rows = []
    for pattern in PATTERNS + random_patterns:
        accepted = [index for index, name in enumerate(names) if fnmatch.fnmatchcase(name, pattern)]
        rows.append({"pattern": pattern, "accepted": accepted})
    lines = ",\n    ".join(json.dumps(row) for row in rows)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(
        '{\n  "oracle": "fnmatch.fnmatchcase of Python %s",\n  "names": %s,\n  "rows": [\n    %s\n  ]\n}\n'
        % (platform.python_version(), json.dumps(names), lines)
    )


if __name__ == "__main__":
    main()
