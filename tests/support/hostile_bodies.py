"""Request bodies that two JSON readers could understand differently, drawn from a random generator."""

import json
from random import Random

_CONVERSATION = '[{"role":"user","content":"x"}]'
_PLAIN: dict[str, dict[str, str]] = {
    "/api/generate": {"prompt": '"x"'},
    "/api/chat": {"messages": _CONVERSATION},
    "/api/embed": {"input": '"x"'},
    "/api/embeddings": {"prompt": '"x"'},
    "/v1/chat/completions": {"messages": _CONVERSATION},
    "/v1/completions": {"prompt": '"x"'},
    "/v1/embeddings": {"input": '["x"]'},
    "/v1/responses": {"input": '"x"'},
    "/v1/messages": {"messages": _CONVERSATION, "max_tokens": "9"},
}
"""The least that each route takes beside a model."""
PATHS = tuple(_PLAIN)

_CAPS = (
    "1",
    "0",
    "-0",
    "-1",
    "50",
    "1000000000",
    "9223372036854775807",
    "9223372036854775808",
    "null",
    "1e3",
)
_TEXTS = ('"x"', '""', "null", r'"\u00e9\/"', r'"\ud83d\ude00"')
_FITTING: dict[str, tuple[str, ...]] = {
    "model": ('"m"', '"M:latest"', '" m "', r'"\u006d"', r'"\ud83d\ude00"', '"a<b>&"', '"\u2028"'),
    "stream": ("true", "false", "null"),
    "keep_alive": (
        *("0", "-0", "0.0", "-0.0", "-1", "5", "5.5", "1e3", "1e-400", "99999", "9007199255", "1e10", "null"),
        *('"5m"', '"0"', '"-0"', '"+5s"', '"-1s"', '"1h30m"', '".5s"', '"5.s"', '"300ms"', '"1\u00b5s"'),
        *('"9223372036854775807ns"', '"9223372036854775808ns"', '"2562048h"', '"1.5"', '"300"', '""'),
    ),
    "stream_options": (
        *('{"include_usage":true}', '{"include_usage":false}', '{"include_usage":null}', "{}", "null"),
        *('{"Include_Usage":true}', '{"include_usage":true,"include_usage":false}', '{"include_usage":1}'),
    ),
    "max_tokens": _CAPS,
    "max_output_tokens": _CAPS,
    "max_completion_tokens": _CAPS,
    "prompt": _TEXTS,
    "suffix": _TEXTS,
    "system": _TEXTS,
    "template": _TEXTS,
    "instructions": _TEXTS,
    "messages": (_CONVERSATION, "[]", "null", "[null]", '[{"role":"user","Content":"y"}]'),
    "input": ('"x"', '["x","y"]', "[]", "null", '""'),
    "think": ("true", '"low"', "null"),
    "name": ('"other"',),
    "user": ('"u"',),
}
_OPTIONS: dict[str, tuple[str, ...]] = {
    "num_predict": (*_CAPS, "1e9", "1.5", "1e308"),
    "num_ctx": ("1", "4096", "1e3", "null"),
    "seed": ("1", "-0", "1.50", "18446744073709551616", "1e-400", "null"),
    "temperature": ("0", "0.1", "1E+2", "-0.0"),
    "stop": ('["a","b"]', '"a"', r'["\u003c"]', "[]"),
    "invented": ("1", '{"a":{"a":1}}'),
}
_UNFITTING = (
    *("1", "1.5", '"x"', "true", "[]", "{}", "null", "[[]]", '{"a":1}', '{"a":1,"a":2}', '[{"a":1,"A":2}]'),
    *("1e400", "-1e400", "9" * 400, "NaN", "-Infinity", "01", "+1", ".5", "5.", "0x1", "1_0", "True", "'x'"),
    *(r'"\ud800"', r'"\udc00\ud800"', r'"\x41"', '"\t"', '"\x00"', "\uff11", "[1,]", "[" * 70 + "]" * 70),
    *('{"a":' * 70 + "1" + "}" * 70, "[" * 10_001 + "]" * 10_001, "\u00a01", "/**/1", ""),
)
_AFTER = (b" ", b"\n", b"{}", b' {"model":"secret"}', b"x", b"\x00", b"]", b"// x", b",", b"\xef\xbb\xbf")
_DAMAGE = (b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xc0\xaf", b"\x00", b'"', b"}", b",", b"\\", b":", b"")


def hostile_body(random: Random, path: str) -> bytes:
    """Return a body for a path: whole and plain in some places, odd in others."""
    fields = [("model", random.choice(_FITTING["model"])), *_PLAIN[path].items()]
    if random.random() < 0.05:
        del fields[random.randrange(len(fields))]
    for _ in range(random.choice((0, 1, 1, 2, 2, 3, 5))):
        key = random.choice((*_FITTING, "options", "options", "keep_alive", "stream"))
        if random.random() < 0.8 and any(key == other for other, _ in fields):
            continue
        fields.insert(random.randint(0, len(fields)), (_disguised(random, key), _value(random, key)))
    body = _object(random, fields).encode()
    chance = random.random()
    if chance < 0.05:
        return body + random.choice(_AFTER)
    if chance < 0.07:
        return random.choice((b"\xef\xbb\xbf", b"\x00", b"// x\n", b"\xc2\xa0")) + body
    if chance < 0.12:
        place = random.randrange(len(body))
        return body[:place] + random.choice(_DAMAGE) + body[place + 1 :]
    return body


def _object(random: Random, fields: list[tuple[str, str]]) -> str:
    space = random.choice(("", "", " ", "\r\n\t"))
    return "{" + ",".join(f'{space}"{key}"{space}:{space}{value}' for key, value in fields) + space + "}"


def _value(random: Random, key: str) -> str:
    if random.random() < 0.12:
        return random.choice(_UNFITTING)
    if key != "options":
        return random.choice(_FITTING[key])
    names = random.sample(sorted(_OPTIONS), random.randint(0, 4))
    if names and random.random() < 0.1:
        names.append(random.choice(names))
    return _object(random, [(_disguised(random, name), _option(random, name)) for name in names])


def _option(random: Random, name: str) -> str:
    return random.choice(_UNFITTING if random.random() < 0.05 else _OPTIONS[name])


def _disguised(random: Random, key: str) -> str:
    """Return a key as it stands between quotes: itself, or something that a reader may take for it."""
    if random.random() < 0.75:
        return key
    place = random.randrange(len(key))
    before, letter, after = key[:place], key[place], key[place + 1 :]
    return random.choice(
        (
            key.upper(),
            key.title(),
            before + letter.upper() + after,
            f"{before}\\u{ord(letter):04x}{after}",
            key.replace("k", "\u212a"),
            key.replace("s", "\u017f"),
            key.replace("s", r"\u017f").replace("k", r"\u212a"),
            key.replace("i", "\u0131"),
            before + chr(ord(letter) + 0xFEE0) + after,
            key + r"\u0000",
            key + " ",
            json.dumps(key + "\u0307")[1:-1],
        )
    )
