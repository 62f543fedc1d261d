"""Images are told by their first bytes, and only those pass that a backend survives."""

from base64 import b64encode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import BadRequest
from domain.images import MAX_PIXELS, Picture, refuse_unfit, sniff, sniff_url
from domain.requests import parse_request
from domain.routes import inference_routes
from tests.support.pictures import jpeg, png, text, wav, webp

pytestmark = pytest.mark.parser

PASSING = {Picture.PNG, Picture.JPEG, Picture.SOUND}
SIZES = st.integers(1, 2**31 - 1)
JPEG_SIZES = st.integers(1, 65_535)
SEGMENTS = st.lists(st.tuples(st.integers(0xE0, 0xEF), st.integers(0, 65_533)), max_size=4)
MAGIC = st.sampled_from(
    [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b"RIFF\0\0\0\0WAVE", b""]
)


@pytest.mark.parametrize(
    ("value", "picture"),
    [
        (png(), Picture.PNG),
        (jpeg(), Picture.JPEG),
        (jpeg(before=[]), Picture.JPEG),
        (webp(b"VP8X", 640, 480), Picture.WEBP),
        (webp(b"VP8L", 640, 480), Picture.WEBP),
        (webp(b"VP8 ", 640, 480), Picture.WEBP),
        (wav(), Picture.SOUND),
        (png(0, 1), Picture.ODD_SIZE),
        (png(100_000, 100_000), Picture.ODD_SIZE),
        (jpeg(0, 9), Picture.ODD_SIZE),
        (webp(b"VP8X", 1 << 24, 1 << 24), Picture.ODD_SIZE),
        ("https://example.org/x.png", Picture.REMOTE),
        (" HTTP://example.org/x.png", Picture.REMOTE),
        ("file:///etc/passwd", Picture.REMOTE),
        (text(b"GIF89a" + bytes(30)), Picture.UNKNOWN),
        (text(b"BM" + bytes(60)), Picture.UNKNOWN),
        (text(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), Picture.UNKNOWN),
        (text(b"RIFF\0\0\0\0AVI LIST" + bytes(20)), Picture.UNKNOWN),
        (text(b"\x89PNG\r\n\x1a\n"), Picture.UNKNOWN),
        (text(b"\xff\xd8\xff\xd9"), Picture.UNKNOWN),
        (f"data:image/png;base64,{png()}", Picture.UNKNOWN),
        ("", Picture.UNKNOWN),
        ("not base64!", Picture.UNKNOWN),
        (None, Picture.UNKNOWN),
        ([137, 80, 78, 71, 13, 10, 26, 10], Picture.UNKNOWN),
        ({"data": png()}, Picture.UNKNOWN),
    ],
)  # fmt: skip
def test_an_image_is_what_its_first_bytes_say(value: object, picture: Picture) -> None:
    assert sniff(value) is picture


@pytest.mark.parametrize(
    ("value", "picture"),
    [
        (f"data:image/png;base64,{png()}", Picture.PNG),
        (f"data:image/png;base64,{jpeg()}", Picture.JPEG),
        (f"data:;base64,{webp()}", Picture.WEBP),
        ({"url": f"data:image/jpeg;base64,{png()}", "detail": "low"}, Picture.PNG),
        ({"url": "https://example.org/x.png"}, Picture.REMOTE),
        ("http://169.254.169.254/latest", Picture.REMOTE),
        (f"data:image/gif;base64,{png()}", Picture.UNKNOWN),
        (f"DATA:image/png;base64,{png()}", Picture.UNKNOWN),
        (png(), Picture.UNKNOWN),
        ({}, Picture.UNKNOWN),
        (None, Picture.UNKNOWN),
        (7, Picture.UNKNOWN),
    ],
)
def test_an_image_url_has_to_hold_the_image(value: object, picture: Picture) -> None:
    assert sniff_url(value) is picture


@given(width=SIZES, height=SIZES)
def test_a_png_may_not_claim_more_pixels_than_anybody_needs(width: int, height: int) -> None:
    assert (sniff(png(width, height)) is Picture.PNG) == (width * height <= MAX_PIXELS)


@given(width=JPEG_SIZES, height=JPEG_SIZES, before=SEGMENTS)
def test_the_size_of_a_jpeg_is_found_behind_whatever_a_camera_wrote(
    width: int, height: int, before: list[tuple[int, int]]
) -> None:
    assert (sniff(jpeg(width, height, before)) is Picture.JPEG) == (width * height <= MAX_PIXELS)


@given(
    width=st.integers(1, 16_383),
    height=st.integers(1, 16_383),
    kind=st.sampled_from([b"VP8X", b"VP8L", b"VP8 "]),
)
def test_a_webp_may_not_claim_more_pixels_either(width: int, height: int, kind: bytes) -> None:
    assert (sniff(webp(kind, width, height)) is Picture.WEBP) == (width * height <= MAX_PIXELS)


@given(st.sampled_from([png(), jpeg(), webp(), wav()]), st.integers(1, 40), st.sampled_from(["\n", "\r\n"]))
def test_line_breaks_change_nothing(whole: str, every: int, line_break: str) -> None:
    lines = [whole[start : start + every] for start in range(0, len(whole), every)]

    assert sniff(line_break.join(lines)) is sniff(whole)


@given(MAGIC, st.binary(max_size=300), st.text(max_size=20))
def test_whatever_it_is_it_has_a_name(magic: bytes, content: bytes, junk: str) -> None:
    whole = b64encode(magic + content).decode()

    for value in (whole, whole + junk, junk + whole, junk, whole[:-1]):
        assert sniff(value) in Picture
        assert sniff_url(f"data:;base64,{value}") in Picture


@given(st.integers(1, 3000))
def test_a_jpeg_of_nothing_but_segments_is_none(count: int) -> None:
    assert sniff(text(b"\xff\xd8" + b"\xff\xe0\0\2" * count)) is Picture.UNKNOWN


@pytest.mark.parametrize("picture", Picture)
def test_only_what_every_backend_reads_passes(picture: Picture) -> None:
    if picture in PASSING:
        refuse_unfit({picture}, [None])
    else:
        with pytest.raises(BadRequest, match="image"):
            refuse_unfit({Picture.PNG, picture}, [None])


@pytest.mark.parametrize(
    ("versions", "passes"),
    [
        (["0.32.13"], True),
        (["0.9.9", "0.32.13-rc1"], True),
        (["0.32.14"], False),
        (["0.33.0"], False),
        (["1.0.0"], False),
        (["0.32.13", "0.32.14"], False),
        (["0.32.13", None], False),
        (["0.0.0"], False),
        (["local build"], False),
    ],
)
def test_webp_passes_where_no_backend_may_crash_on_it(versions: list[str | None], *, passes: bool) -> None:
    if passes:
        refuse_unfit({Picture.WEBP}, versions)
    else:
        with pytest.raises(BadRequest, match="WebP"):
            refuse_unfit({Picture.WEBP}, versions)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/api/chat", {"Images": [webp()]}),
        ("/api/chat", {"IMAGES": [webp(), png()]}),
        ("/v1/chat/completions", {"content": [{"Image_URL": {"url": f"data:;base64,{webp()}"}}]}),
        ("/v1/messages", {"content": [{"Type": "image", "Source": {"Type": "base64", "Data": webp()}}]}),
        ("/v1/messages", {"Content": [{"type": "image", "source": {"type": "base64", "data": webp()}}]}),
    ],
)
def test_an_image_is_found_in_whatever_case_its_keys_are(path: str, message: dict[str, object]) -> None:
    body = msgspec.json.encode({"model": "m", "max_tokens": 9, "messages": [{"role": "user", **message}]})

    assert Picture.WEBP in parse_request(inference_routes()[path], body).prompt.pictures


@pytest.mark.parametrize(
    ("source", "picture"),
    [
        ({"type": "base64", "data": png()}, Picture.PNG),
        ({"type": "url", "url": "https://example.org/x.png"}, Picture.REMOTE),
        ({"type": "url", "data": png()}, Picture.REMOTE),
        ({"type": "base64", "data": png(), "Data": png()}, Picture.PNG),
        ({"type": "base64", "data": png(), "Data": webp()}, Picture.UNKNOWN),
        ({"type": "base64"}, Picture.UNKNOWN),
        ({"type": "file", "file_id": "file_1"}, Picture.UNKNOWN),
    ],
)
def test_the_source_of_a_message_s_image_has_to_hold_one_image(
    source: dict[str, object], picture: Picture
) -> None:
    messages = [{"role": "user", "content": [{"type": "image", "source": source}]}]
    body = msgspec.json.encode({"model": "m", "max_tokens": 9, "messages": messages})

    assert parse_request(inference_routes()["/v1/messages"], body).prompt.pictures == {picture}


def test_a_document_is_no_image() -> None:
    source = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x"}
    messages = [{"role": "user", "content": [{"type": "document", "source": source}]}]
    body = msgspec.json.encode({"model": "m", "max_tokens": 9, "messages": messages})

    assert not parse_request(inference_routes()["/v1/messages"], body).prompt.pictures
