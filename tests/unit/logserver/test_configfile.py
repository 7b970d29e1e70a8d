"""log.toml: every table that there is, and that what is not understood is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.library.specimens import LOG_KEY, PUBLISHER, WITNESS_KEYS
from treehead.errors import UsageError
from treehead.keys import format_vkey
from treehead.policy import parse_policy
from treehead.publickey import format_public_key
from treehead_logserver.configfile import ConfigFile, Witnessing, read_config_file
from treehead_logserver.quota import Rate
from treehead_logserver.rules import AdmissionRules

POLICY = (
    f"witness w1 {format_vkey(WITNESS_KEYS['w1'])} https://w1.example\ngroup all-of-them all w1\nquorum all-of-them\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "witnesses.policy").write_text(POLICY)
    (tmp_path / "none.policy").write_text("quorum none\n")
    (tmp_path / "bad.policy").write_text("quorum\n")
    return tmp_path


def read(folder: Path, text: str | bytes) -> ConfigFile:
    path = folder / "log.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_config_file(path)


def test_an_empty_file_says_nothing(folder: Path) -> None:
    assert read(folder, "") == ConfigFile()
    assert ConfigFile().rules == AdmissionRules()


def test_every_table_is_read(folder: Path) -> None:
    config = read(
        folder,
        f"""
grpc = "127.0.0.1:1"
http = "127.0.0.1:2"
[tls]
certificate = "chain.pem"
key = "/etc/key.pem"
client_ca = "clients.pem"
[admission]
kinds = ["attestation"]
signers = ["{format_public_key(PUBLISHER.public)}"]
[admission.rates]
address = "7/s"
[witnesses]
policy = "witnesses.policy"
fail = "open"
[publication]
interval_ms = 100
refresh_s = 60
""",
    )
    assert (config.grpc, config.http) == ("127.0.0.1:1", "127.0.0.1:2")
    assert config.tls is not None
    assert (config.tls.certificate, config.tls.key) == (folder / "chain.pem", Path("/etc/key.pem"))
    assert config.tls.client_ca == folder / "clients.pem"
    assert config.rules.kinds == {"attestation"}
    assert config.rules.signers == frozenset({PUBLISHER.public})
    assert config.rates.address == Rate(entries=7, unit="s")
    assert config.witnessing == Witnessing(policy=parse_policy(POLICY.encode()), fail_open=True)
    assert (config.interval_ms, config.refresh_s) == (100, 60)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"\xff", "UTF-8"),
        ("grpc", "not TOML"),
        ("grpc = 1e999999999999999\n[x", "not TOML"),
        (f"[publication]\ninterval_ms = {'9' * 5_000}", "not TOML"),
        ("grpc = 1", "grpc is not a string"),
        ('http = ""', "http is not a string, or empty"),
        ("surprise = 1", "'surprise' is not known"),
        ("[surprise]", "'surprise' is not known"),
        ("tls = 1", "tls is not a table"),
        ('[tls]\nkey = "x"', "tls.certificate is missing"),
        ('[tls]\ncertificate = "x"\nkey = "y"\nciphers = "z"', "'tls.ciphers' is not known"),
        ("[admission]\nsigner = []", "admission: unknown key 'signer'"),
        ("[admission.rates]\nperson = '1/s'", "admission.rates: unknown key 'person'"),
        ("[witnesses]\nfail = 'closed'", "witnesses.policy is missing"),
        ("[witnesses]\npolicy = 'witnesses.policy'", "witnesses.fail is missing"),
        ("[witnesses]\npolicy = 'witnesses.policy'\nfail = 'never'", "witnesses.fail is 'never', not one of"),
        ("[witnesses]\npolicy = 'absent.policy'\nfail = 'closed'", "absent.policy"),
        ("[witnesses]\npolicy = 'bad.policy'\nfail = 'closed'", "bad.policy: policy line 1"),
        ("[witnesses]\npolicy = 'none.policy'\nfail = 'closed'", "quorum none asks for no witness"),
        ("[publication]\ninterval_ms = 99", "publication.interval_ms is not a number from 100"),
        ("[publication]\ninterval_ms = true", "publication.interval_ms"),
        ("[publication]\nrefresh_s = 9", "publication.refresh_s is not a number from 10"),
        ("[publication]\nrefresh = 9", "'publication.refresh' is not known"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(folder: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(folder, text)
    message = str(caught.value)
    assert words in message
    assert "\n" not in message


def test_the_file_is_named(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"log\.toml"):
        read(folder, "surprise = 1")
    with pytest.raises(UsageError, match=r"absent\.toml"):
        read_config_file(folder / "absent.toml")


def test_a_policy_may_name_the_log_too(folder: Path) -> None:
    (folder / "witnesses.policy").write_text(f"log {format_vkey(LOG_KEY)}\n{POLICY}")
    config = read(folder, '[witnesses]\npolicy = "witnesses.policy"\nfail = "closed"')
    assert config.witnessing is not None
    assert not config.witnessing.fail_open
