#!/usr/bin/env python3
"""Writes tests/golden/tokenizer/*.json: small tokenizers with the ids that another implementation
gives for a list of texts.

The oracle is the `tokenizers` package of Hugging Face (pip install tokenizers==0.23.*). Each file holds
`oracle`, `tokenizer` (a tokenizer.json as it stands, trained here on a few sentences) and `cases`:
the text, its ids without and with special tokens, and the decoded text without special tokens.

Run from the root of the project: python3 tools/oracle/tokenizer_goldens.py
"""

import json
import pathlib

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

OUT = pathlib.Path("tests/golden/tokenizer")

TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog doesn't mind: it's sleeping there.",
    "When the other foxes came they were there, then they weren't; nothing else was to be seen.",
    "int main() { return 0; }  // the main function returns 2026",
    "über naïve café “quotes” … 日本語のテキスト 日本 日本語",
    "    indented\n\n        twice\n\n\nthe end.\r\n",
]

TEXTS = [
    "",
    " ",
    "\n",
    "Hello world",
    "The quick brown fox jumps over the lazy dog.",
    "don't DON'T we'Ve I'm they'RE it'ſ",
    "CamelCaseWord and snake_case_word XMLHttpRequest",
    "  two   three    four\ttab \u00a0 nbsp\u3000wide",
    "trailing spaces   ",
    "   \n  \n\n x \r\n\r\n",
    "1234567890 3.14159 ½ Ⅷ ٣٤",
    "(a)[b]{c}<d>//e/\n/f ...!?\n",
    "naïve café — “quotes” …",
    "日本語のテキスト 漢字かな交じり文",
    "مرحبا بالعالم",
    "e\u0301 \u0301 combining a\u0308\u0323b",
    "emoji 🙂👩‍👩‍👧 🏳️‍🌈 ok",
    "\u0000\u0001\u007f\u0085\u2028\u2029\ufeff",
    "mongolian\u180evowel \u180e separator",
    "a" * 70,
    "the" * 30,
    " " * 40 + "x",
    "<s>special</s><|im_start|>user\nhi<|im_end|>\n<think>x</think>",
    "<|im_start|><|im_start|>< |im_end|>",
    "one <mask> two  <mask>\n<mask>three",
    "x<left> y <right>  z\u3000<mask>\u3000w",
    "<pad><pad ><pad",
    "a-b--c---d- e",
    "Zażółć gęślą jaźń ǅ Ω ß ﬁ",
    "\U0001d4d7\U0001d4ee\U00020000\U0010ffff",
    "int main(){return 0;}//c++ http://example.org/a?b=c&d=%20",
]


def byte_level(use_regex=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def train(pre_tokenizer, specials, n_tokens):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n_tokens,
        show_progress=False,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


SPECIALS = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]


def tekken():
    """The family's shape: Tekken split, ignore_merges, think tags that are not special."""
    tags = ["<think>", "</think>"]
    tokenizer = train(pre_tokenizers.Sequence([split(TEKKEN), byte_level()]), SPECIALS + tags, 420)
    spec = json.loads(tokenizer.to_str())
    for token in spec["added_tokens"]:
        token["special"] = token["content"] not in tags
    spec["model"]["ignore_merges"] = True
    # Tokens that no merge leads to: only ignore_merges finds them.
    for token in ("ĠHello", "Hello", "Ġworld", "ĠĠĠ"):
        spec["model"]["vocab"].setdefault(token, len(spec["model"]["vocab"]))
    return spec


def tekken_with_merges():
    """The same without ignore_merges: the tokens out of reach stay unused."""
    spec = tekken()
    spec["model"]["ignore_merges"] = False
    return spec


def llama3():
    """Llama-3 split and a beginning-of-text template in a Sequence of post-processors."""
    tokenizer = train(pre_tokenizers.Sequence([split(LLAMA3), byte_level()]), SPECIALS, 400)
    spec = json.loads(tokenizer.to_str())
    spec["model"]["ignore_merges"] = True
    spec["post_processor"] = {
        "type": "Sequence",
        "processors": [
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
            {
                "type": "TemplateProcessing",
                "single": [
                    {"SpecialToken": {"id": "<s>", "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}},
                    {"SpecialToken": {"id": "</s>", "type_id": 0}},
                ],
                "pair": [
                    {"Sequence": {"id": "A", "type_id": 0}},
                    {"Sequence": {"id": "B", "type_id": 1}},
                ],
                "special_tokens": {
                    "<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]},
                    "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]},
                },
            },
        ],
    }
    return spec


def gpt2_stripping():
    """ByteLevel's own pattern, merges as strings, added tokens that take the white space around."""
    tokenizer = train(byte_level(use_regex=True), SPECIALS, 400)
    tokenizer.add_tokens(
        [
            AddedToken("<mask>", lstrip=True, rstrip=True, normalized=False),
            AddedToken("<left>", lstrip=True, normalized=False),
            AddedToken("<right>", rstrip=True),
            AddedToken("<pad>", normalized=True),
            AddedToken("<pad", normalized=True),
        ]
    )
    spec = json.loads(tokenizer.to_str())
    spec["model"]["merges"] = [" ".join(merge) for merge in spec["model"]["merges"]]
    return spec


def steps(name, *pre):
    """A chain of split steps, ByteLevel the last."""

    def make():
        tokenizer = train(pre_tokenizers.Sequence(list(pre)), SPECIALS, 330)
        return json.loads(tokenizer.to_str())

    make.__name__ = name
    return make


VARIANTS = [
    tekken,
    tekken_with_merges,
    llama3,
    gpt2_stripping,
    steps("digits", pre_tokenizers.Digits(True), byte_level(use_regex=True)),
    steps("contiguous", pre_tokenizers.Digits(False), split(r"\s", "contiguous"), byte_level()),
    steps("removed", split(r"\s+", "removed"), pre_tokenizers.Split("-", "isolated"), byte_level()),
    steps("with_previous", split(r"\s|-", "merged_with_previous"), byte_level()),
    steps(
        "with_next",
        split(r"\s|-", "merged_with_next"),
        split(r"\p{L}+$", "isolated"),
        byte_level(),
    ),
    steps("inverted", split(r"\p{L}+|\p{N}{1,2}", "removed", invert=True), byte_level()),
]


def cases(spec):
    oracle = Tokenizer.from_str(json.dumps(spec))
    for text in TEXTS:
        ids = oracle.encode(text, add_special_tokens=False).ids
        yield {
            "text": text,
            "ids": ids,
            "with_special": oracle.encode(text, add_special_tokens=True).ids,
            "decoded": oracle.decode(ids, skip_special_tokens=True),
        }


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for make in VARIANTS:
        spec = make()
        golden = {
            "oracle": f"tokenizers {tokenizers.__version__}",
            "tokenizer": spec,
            "cases": list(cases(spec)),
        }
        path = OUT / f"{make.__name__}.json"
        path.write_text(json.dumps(golden, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
