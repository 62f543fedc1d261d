"""TLS towards a backend is verified, always."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from domain.errors import Sent, UpstreamFailed
from tests.app.gateway.upstream.scripted import (
    EMPTY,
    OK,
    Waits,
    client_of,
    finish,
    post,
    read_all,
    scripted_backend,
    served,
)


@dataclass(frozen=True)
class Authority:
    """A certificate authority of the test, and a server certificate for 127.0.0.1 alone."""

    certificate: Path
    server_certificate: Path
    server_key: Path

    def client(self) -> ssl.SSLContext:
        """Trust this authority only."""
        return ssl.create_default_context(cafile=self.certificate)

    def server(self) -> ssl.SSLContext:
        """Serve with the certificate."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.server_certificate, self.server_key)
        return context


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def _authority(folder: Path) -> Authority:
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc")
    ca, ca_key, server, key = (folder / name for name in ("ca.pem", "ca.key", "server.pem", "server.key"))
    request, names = folder / "server.csr", folder / "names"
    names.write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    _openssl(
        "req", "-x509", *curve, "-days", "2", "-subj", "/CN=Test authority", "-keyout", ca_key, "-out", ca,
        "-addext", "keyUsage=critical,keyCertSign",
    )  # fmt: skip
    _openssl("req", "-new", *curve, "-subj", "/CN=backend", "-keyout", key, "-out", request)
    _openssl(
        "x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2",
        "-extfile", names, "-out", server,
    )  # fmt: skip
    return Authority(ca, server, key)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return _authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return _authority(tmp_path_factory.mktemp("stranger"))


async def test_a_backend_with_a_trusted_certificate_is_used_and_reused(authority: Authority) -> None:
    async with (
        scripted_backend(tls=authority.server()) as backend,
        client_of(backend.url, ssl_context=authority.client()) as upstream,
    ):
        peer = await served(upstream, backend, EMPTY)
        call = post(upstream)
        await peer.request()
        await peer.send(OK + b"Content-Length: 600000\r\n\r\n" + b"x" * 600_000)

        assert await read_all(await finish(call)) == b"x" * 600_000

    assert len(backend.peers) == 1


async def test_a_large_request_arrives_whole_under_tls(authority: Authority) -> None:
    body = bytes(range(256)) * 4096 * 8
    async with (
        scripted_backend(tls=authority.server()) as backend,
        client_of(backend.url, ssl_context=authority.client()) as upstream,
    ):
        call = post(upstream, body)
        peer = await backend.peer()
        request = await peer.request()
        await peer.send(EMPTY)
        (await finish(call)).close()

    assert request.body == body


async def test_a_certificate_of_an_unknown_authority_is_refused(
    authority: Authority, stranger: Authority
) -> None:
    async with (
        scripted_backend(tls=stranger.server()) as backend,
        client_of(backend.url, ssl_context=authority.client()) as upstream,
    ):
        with pytest.raises(UpstreamFailed) as failed:
            await finish(post(upstream))

    assert (failed.value.kind, failed.value.sent) == ("tls", Sent.NOTHING)
    assert isinstance(failed.value.__cause__, ssl.SSLCertVerificationError)


async def test_without_a_context_of_its_own_only_the_systems_authorities_count(authority: Authority) -> None:
    async with scripted_backend(tls=authority.server()) as backend, client_of(backend.url) as upstream:
        with pytest.raises(UpstreamFailed, match="tls"):
            await finish(post(upstream))


async def test_a_certificate_for_another_name_is_refused(authority: Authority) -> None:
    async with scripted_backend(tls=authority.server()) as backend:
        url = backend.url.replace("127.0.0.1", "localhost")
        async with client_of(url, ssl_context=authority.client()) as upstream:
            with pytest.raises(UpstreamFailed, match="tls") as failed:
                await finish(post(upstream))

    assert isinstance(failed.value.__cause__, ssl.SSLCertVerificationError)


async def test_a_backend_that_does_not_speak_tls_is_refused(authority: Authority) -> None:
    async with scripted_backend() as backend:
        url = backend.url.replace("http:", "https:")
        async with client_of(url, ssl_context=authority.client()) as upstream:
            call = post(upstream)
            peer = await backend.peer()
            await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

            with pytest.raises(UpstreamFailed, match="tls"):
                await finish(call)
            await peer.gone()


async def test_a_handshake_that_never_ends_meets_the_connect_deadline(authority: Authority) -> None:
    async with scripted_backend() as backend:
        url = backend.url.replace("http:", "https:")
        async with client_of(url, ssl_context=authority.client(), waits=Waits(connect_s=0.2)) as upstream:
            call = post(upstream)
            peer = await backend.peer()

            with pytest.raises(UpstreamFailed, match="connect_timeout"):
                await finish(call)
            await peer.gone()


@pytest.mark.parametrize("leave", ["cancel", "close"])
async def test_leaving_closes_the_socket_under_tls(authority: Authority, leave: str) -> None:
    async with (
        scripted_backend(tls=authority.server()) as backend,
        client_of(backend.url, ssl_context=authority.client()) as upstream,
    ):
        call = post(upstream)
        peer = await backend.peer()
        await peer.request()
        if leave == "cancel":
            call.cancel()
        else:
            await peer.send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
            (await finish(call)).close()

        await peer.gone()


async def test_a_cut_under_tls_is_a_failure(authority: Authority) -> None:
    async with (
        scripted_backend(tls=authority.server()) as backend,
        client_of(backend.url, ssl_context=authority.client()) as upstream,
    ):
        call = post(upstream)
        peer = await backend.peer()
        await peer.request()
        await peer.send(OK + b"Content-Length: 10\r\n\r\nhello")
        answer = await finish(call)
        peer.close()

        with pytest.raises(UpstreamFailed, match="closed"):
            await read_all(answer)
        answer.close()
