"""What the gateway authorises is what Go's own decoder makes of the body that a backend gets."""

import json
import sys
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from domain.errors import BadRequest
from domain.keep_alive import keep_alive_ns
from domain.policies import Policy
from domain.requests import ParsedRequest, Policed, parse_request, rebuild, rebuild_in_pieces
from domain.routes import FORWARDED_OPTIONS, RouteSpec, inference_routes
from domain.values import ApiFamily, OptionRule, PolicyAction
from tests.support.counts import chosen_seed, count, tell_cases
from tests.support.go_decoder import GoDecoder, Seen, find_go
from tests.support.hostile_bodies import PATHS, hostile_body
from tests.support.lifting import lifted

pytestmark = pytest.mark.timeout(600)  # the first build of all compiles Go's library
ROUTES = inference_routes()
CAP = 100
FORWARDED = "forwarded:latest"
BATCH = 5_000
FOR_EVER_NS = 2**63 - 1
SHORTEST_NS, LONGEST_NS = 60 * 10**9, 1800 * 10**9
PLAIN = Policy({}, default_output_cap=CAP)
BOUND = Policy(
    {
        "keep_alive": OptionRule(PolicyAction.CLAMP, minimum="1m", maximum="30m"),
        "num_ctx": OptionRule(PolicyAction.SET, value=4096),
        "num_predict": OptionRule(PolicyAction.CLAMP, maximum=50),
    },
    default_output_cap=CAP,
)


class Accepted(msgspec.Struct, frozen=True):
    """A body that the gateway took, and the one it wrote instead."""

    body: bytes
    rebuilt: bytes
    request: ParsedRequest
    policed: Policed
    is_bound: bool

    @property
    def spec(self) -> RouteSpec:
        """Where it was sent."""
        return self.request.spec


@pytest.fixture(scope="module")
def go(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> GoDecoder:
    """Build the decoder; the second time that takes a moment only."""
    compiler = find_go()
    if compiler is None:
        pytest.skip(
            "there is no Go to ask: the dependency group 'oracle' brings one (uv sync --group oracle)"
        )
    cache = Path(pytestconfig.cache.mkdir("go-build"))
    return GoDecoder.build(compiler, cache=cache, directory=tmp_path_factory.mktemp("go"))


def seen(model: str = "", **more: Any) -> Seen:
    """Return what Go sees of a chat."""
    nothing = {"error": "", "stream": None, "keep_alive_ns": None, "options": None, "output_cap": None}
    return msgspec.convert({"model": model, "include_usage": False, **nothing, **more}, Seen)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"model":"allowed","MODEL":"secret"}', seen("secret")),
        ('{"model":"allowed","model":"secret"}', seen("secret")),
        ('{"model":"allowed","model":null}', seen("allowed")),
        ('{"model":"allowed"}{"model":"secret"}', seen("allowed")),
        ('{"model":"allowed","\u017ftream":false}', seen("allowed", stream=False)),
        ('{"model":"allowed","\u212aeep_alive":0}', seen("allowed", keep_alive_ns=0)),
        ('{"options":{"a":1},"Options":{"b":2}}', seen(options={"a": 1, "b": 2})),
        (r'{"\u006dodel":"\ud800"}', seen("\ufffd")),
    ],
)
def test_t07_go_reads_hostile_bodies_as_it_is_feared_to(go: GoDecoder, body: str, expected: Seen) -> None:
    assert go.read([("/api/chat", body.encode())]) == [expected]


def test_t07_what_is_authorised_is_what_go_would_run(go: GoDecoder, request: pytest.FixtureRequest) -> None:
    seed = chosen_seed()
    random, total = Random(seed), count(5_000, 1_000_000)
    accepted_count, differences = 0, list[str]()
    for start in range(0, total, BATCH):
        accepted = [found for _ in range(min(BATCH, total - start)) if (found := _drawn(random)) is not None]
        accepted_count += len(accepted)
        meant = go.read((each.spec.path, each.body) for each in accepted)
        run = go.read((each.spec.path, each.rebuilt) for each in accepted)
        differences += [
            f"{what}: {each.spec.path} {each.body!r} became {each.rebuilt!r}"
            for each, *views in zip(accepted, meant, run, strict=True)
            for what in _differences(each, *views)
        ]

    sys.stdout.write(f"NNG_SEED={seed}: {total} bodies, {accepted_count} accepted\n")
    tell_cases(request.node, "bodies read by the gateway and by Go", total)
    assert differences == [], f"NNG_SEED={seed}"
    assert 0.1 < accepted_count / total < 0.9


def _drawn(random: Random) -> Accepted | None:
    """Draw a body and show it to the gateway; None if it was refused, and nothing else is ever raised."""
    path, is_bound = random.choice(PATHS), random.random() < 0.5
    body = hostile_body(random, path)
    is_large = random.random() < 0.5  # read as large bodies are
    try:
        request = parse_request(ROUTES[path], lifted(body, shortest=1) if is_large else body)
        policed = (BOUND if is_bound else PLAIN).apply(request)
    except BadRequest:
        return None
    if is_large:
        rebuilt = b"".join(rebuild_in_pieces(request, FORWARDED, policed))
    else:
        rebuilt = rebuild(request, FORWARDED, policed)
    return Accepted(body, rebuilt, request, policed, is_bound)


def _differences(each: Accepted, meant: Seen, run: Seen) -> list[str]:
    """Name what Go reads otherwise: in the client's body than was authorised, in the rebuilt one than was decided."""
    if meant.error or run.error:
        return [f"Go refuses it ({meant.error or run.error})"]
    checks = {
        "the model": (meant.model, run.model) == (each.request.model, FORWARDED),
        "stream": _streams_alike(each.request, meant, run),
        "keep_alive": _keeps_alike(each, meant, run),
        "options": run.options == _expected_options(each, meant),
        "the output cap": each.spec.family is ApiFamily.NATIVE or run.output_cap == each.policed.output_cap,
        "include_usage": each.request.wants_usage is (meant.include_usage and each.request.stream)
        and run.include_usage is (each.request.stream and each.spec.family is ApiFamily.OPENAI),
    }
    return [name for name, alike in checks.items() if not alike]


def _streams_alike(request: ParsedRequest, meant: Seen, run: Seen) -> bool:
    if not request.spec.can_stream:
        return not request.stream and run.stream is None
    asked = request.spec.streams_by_default if meant.stream is None else meant.stream
    return run.stream is request.stream and request.stream is (asked and not request.is_load_only)


def _keeps_alike(each: Accepted, meant: Seen, run: Seen) -> bool:
    if each.spec.family is not ApiFamily.NATIVE:
        return run.keep_alive_ns is None
    read = keep_alive_ns(json.loads(each.body).get("keep_alive"))
    if read is None or not each.is_bound:
        kept = run.keep_alive_ns is None
    else:
        kept = run.keep_alive_ns is not None and SHORTEST_NS <= run.keep_alive_ns <= LONGEST_NS
    if read is None or meant.keep_alive_ns is None:
        return kept and read is meant.keep_alive_ns
    if read < 0:
        return kept and meant.keep_alive_ns == FOR_EVER_NS
    if read >= FOR_EVER_NS:
        return kept  # Go leaves open what such a number of seconds becomes; what is sent is within bounds
    # Go counts seconds in floats.
    return kept and abs(read - meant.keep_alive_ns) <= read // 10**9


def _expected_options(each: Accepted, meant: Seen) -> dict[str, object] | None:
    """Return what the client asked for and may have, with what the gateway adds."""
    if each.spec.family is not ApiFamily.NATIVE:
        return None
    wanted = {name: value for name, value in (meant.options or {}).items() if name in FORWARDED_OPTIONS}
    if each.is_bound:
        wanted["num_ctx"] = 4096
    if each.policed.output_cap is not None:
        wanted["num_predict"] = each.policed.output_cap
    return wanted or None
