"""What `serve` makes of options and log.toml together."""

from __future__ import annotations

from pathlib import Path

import pytest

from treehead.errors import UsageError
from treehead.tls import ServerTls
from treehead_logserver.cli import _serve_config
from treehead_logserver.config import ServeConfig
from treehead_logserver.options import make_parser

TLS = '[tls]\ncertificate = "chain.pem"\nkey = "key.pem"\n'


def config(data: Path, *options: str, file: str = "") -> ServeConfig:
    (data / "log.toml").write_text(file)
    return _serve_config(make_parser().parse_args(["serve", "--data", str(data), *options]))


def test_what_neither_says_is_as_the_help_says(tmp_path: Path) -> None:
    found = config(tmp_path)
    assert (found.grpc, found.http, found.tls) == ("127.0.0.1:8461", "127.0.0.1:8460", None)
    assert found.rules.kinds == {"attestation", "hashedrekord"}


def test_options_come_before_the_file(tmp_path: Path) -> None:
    found = config(tmp_path, "--grpc", "127.0.0.1:1", file='grpc = "127.0.0.1:2"\nhttp = "127.0.0.1:3"\n')
    assert (found.grpc, found.http) == ("127.0.0.1:1", "127.0.0.1:3")


def test_a_new_certificate_on_the_command_line_does_not_let_every_client_in(tmp_path: Path) -> None:
    found = config(tmp_path, "--tls-cert", "new.pem", "--tls-key", "new.key", file=f'{TLS}client_ca = "clients.pem"\n')
    assert found.tls == ServerTls(certificate=Path("new.pem"), key=Path("new.key"), client_ca=tmp_path / "clients.pem")


def test_clients_may_be_bounded_on_the_command_line(tmp_path: Path) -> None:
    found = config(tmp_path, "--tls-client-ca", "clients.pem", file=TLS)
    assert found.tls is not None
    assert found.tls.client_ca == Path("clients.pem")
    with pytest.raises(UsageError, match="--tls-client-ca needs TLS"):
        config(tmp_path, "--tls-client-ca", "clients.pem")


def test_intervals_are_those_of_the_file(tmp_path: Path) -> None:
    limits = config(tmp_path, file="[publication]\ninterval_ms = 250\nrefresh_s = 60\n").limits
    assert (limits.publish_ms, limits.refresh_s) == (250, 60)
