"""A real nginx, configured as nginx-proxy configures it, with the shipped file of the virtual host."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from app.embedded import ports
from tests.support.edges import HOST, LISTENS_WITHIN_S, Certificate, Edge
from tests.support.repository import ROOT
from tests.support.waiting import wait_until

SHIPPED: Final = ROOT / "ops/nginx/vhost.d" / HOST
WORKERS: Final = 2
_DEFAULT_TIMEOUT_S: Final = 60
"""How long nginx waits for an answer unless it is told otherwise."""

_BASE: Final = """
{user}
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log info;
events {{ worker_connections 1024; }}
"""
_FILES: Final = """
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
"""
_PLAIN: Final = "{base} http {{ {files} {http} }}"
_AS_NGINX_PROXY: Final = """
{base}
worker_processes {workers};
http {{
  {files}
  keepalive_timeout 65;
  proxy_read_timeout {default_timeout_ms:.0f}ms;
  server_names_hash_bucket_size 128;
  gzip_types text/plain text/css application/javascript application/json;
  map $http_x_forwarded_proto $forwarded_proto {{ default $http_x_forwarded_proto; '' $scheme; }}
  map $http_x_forwarded_port $forwarded_port {{ default $http_x_forwarded_port; '' $server_port; }}
  map $http_upgrade $connection_header {{ default upgrade; '' close; }}
  log_format vhost '$host $remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent '
                   '"$http_referer" "$http_user_agent" "$upstream_addr"';
  access_log off;
  proxy_http_version 1.1;
  proxy_set_header Host $host;
  proxy_set_header Upgrade $http_upgrade;
  proxy_set_header Connection $connection_header;
  proxy_set_header X-Real-IP $remote_addr;
  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
  proxy_set_header X-Forwarded-Host $host;
  proxy_set_header X-Forwarded-Proto $forwarded_proto;
  proxy_set_header X-Forwarded-Port $forwarded_port;
  proxy_set_header X-Original-URI $request_uri;
  proxy_set_header Proxy "";
  upstream {host} {{
{servers}
  }}
  server {{
    server_name {host};
    access_log {directory}/access.log vhost;
    listen 127.0.0.1:{port} ssl http2;
    ssl_session_cache shared:SSL:1m;
    ssl_session_tickets off;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    set $sts_header "";
    if ($https) {{ set $sts_header "max-age=31536000"; }}
    add_header Strict-Transport-Security $sts_header always;
    include {directory}/vhost.conf;
    location / {{
      proxy_pass http://{host};
    }}
  }}
}}
"""
_SECONDS: Final = re.compile(r"(?<=\s)(\d+)s;")


def _base(directory: Path) -> str:
    return _BASE.format(user="user root;" if os.geteuid() == 0 else "", directory=directory)


def find_nginx() -> str:
    """Return where nginx is; skips the test if it is not installed."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip("nginx is not installed (on Debian: apt-get install nginx-light)")
    return found


class Nginx(Edge):
    """nginx with the shipped settings; `hurry` divides their times, so that a test need not wait for twenty minutes.

    `fail_timeout_s` is how long a replica that refused is left alone: ten seconds, of which nginx-proxy has no setting.
    """

    def __init__(
        self, directory: Path, certificate: Certificate, *, hurry: float = 1, fail_timeout_s: int = 10
    ) -> None:
        super().__init__(find_nginx(), directory, certificate)
        self._fail_timeout_s = fail_timeout_s
        self._hurry = hurry

    def configure(self, replicas: Sequence[int]) -> None:
        """Write what nginx-proxy would make of these containers."""
        (self.directory / "vhost.conf").write_text(
            _SECONDS.sub(lambda found: f"{int(found[1]) * 1000 / self._hurry:.0f}ms;", SHIPPED.read_text())
        )
        text = _AS_NGINX_PROXY.format(
            base=_base(self.directory),
            files=_FILES.format(directory=self.directory),
            workers=WORKERS,
            default_timeout_ms=_DEFAULT_TIMEOUT_S * 1000 / self._hurry,
            directory=self.directory,
            host=HOST,
            port=self.port,
            certificate=self.certificate.certificate,
            key=self.certificate.key,
            servers="\n".join(
                f"    server 127.0.0.1:{replica} fail_timeout={self._fail_timeout_s}s;"
                for replica in replicas
            ),
        )
        (self.directory / "nginx.conf").write_text(text)

    def command(self) -> Sequence[str]:
        """Return the words that start it in the foreground."""
        prefix = os.fspath(self.directory)
        return (self._program, "-p", prefix, "-c", f"{prefix}/nginx.conf", "-e", f"{prefix}/error.log")

    def reload(self, replicas: Sequence[int]) -> None:
        """Follow containers that come and go, as nginx-proxy does."""
        self.configure(replicas)
        self.tell(signal.SIGHUP)


@contextmanager
def plain_nginx(http: str, directory: Path, port: int) -> Iterator[None]:
    """Run an nginx for the length of a block; `http` is all it is told of HTTP, and listens on the port."""
    directory.mkdir()
    config = directory / "nginx.conf"
    config.write_text(
        _PLAIN.format(base=_base(directory), files=_FILES.format(directory=directory), http=http)
    )
    command = (find_nginx(), "-p", f"{directory}", "-c", f"{config}", "-e", f"{directory}/error.log")
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: not ports.is_free(port), within_s=LISTENS_WITHIN_S)
            yield
        finally:
            process.terminate()
