"""The command line: what is refused before anything runs, and what a directory looks like."""

from __future__ import annotations

import logging
import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from tests.processes import run_module
from tests.unit.library.specimens import LOG_KEY, ORIGIN, OTHER_LOG_KEY, WITNESS_KEYS
from treehead.datadir import locked, read_key, read_vkey
from treehead.errors import StorageError, UsageError
from treehead.keys import NoteKeyType, format_vkey, parse_vkey
from treehead_monitor.cli import _Journal, main
from treehead_monitor.config import LogAddress, RunConfig, parse_log, parse_milliseconds
from treehead_monitor.datadir import DataDirectory
from treehead_monitor.peer import PeerRecord
from treehead_monitor.status import EvidenceRecord, Status, format_evidence_line, format_status

VKEY = format_vkey(LOG_KEY)
LOG = f"{VKEY}=127.0.0.1:1"


def init(data: Path, *more: str) -> int:
    return main(["init", "--data", str(data), "--name", "monitor.example", *more])


def contents(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


# --- init ------------------------------------------------------------------------------------------------------------


def test_init_prints_the_vkey_alone_and_keeps_others_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "monitors" / "one"
    assert init(data) == 0
    out, err = capsys.readouterr()
    key = parse_vkey(out.removesuffix("\n"))
    assert (err, key.name, key.key_type) == ("", "monitor.example", NoteKeyType.COSIGNATURE_ED25519)
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert stat.S_IMODE((data / "key.pem").stat().st_mode) == 0o600
    directory = DataDirectory(path=data)
    assert read_vkey(directory) == key
    assert read_key(directory, vkey=key, passphrase=None).public.spki[-32:] == key.public_key


def test_init_refuses_what_is_there_and_does_not_touch_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "monitor"
    assert init(data) == 0
    before = contents(data)
    assert init(data) == 2
    assert "holds a monitor already" in capsys.readouterr().err
    assert contents(data) == before
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "file").write_text("mine")
    assert init(foreign) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in foreign.iterdir()] == ["file"]


def test_init_takes_an_empty_directory_over(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert init(tmp_path) == 0
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["", "two words", "a+b", "line\n"])
def test_a_name_that_cannot_sign_is_refused_and_nothing_is_made(tmp_path: Path, name: str) -> None:
    assert main(["init", "--data", str(tmp_path / "monitor"), "--name", name]) == 2
    assert not (tmp_path / "monitor").exists()


def test_a_passphrase_locks_the_key(tmp_path: Path) -> None:
    (tmp_path / "secret").touch(mode=0o600)
    (tmp_path / "secret").write_text("open sesame\n")
    assert init(tmp_path / "monitor", "--passphrase-file", str(tmp_path / "secret")) == 0
    directory = DataDirectory(path=tmp_path / "monitor")
    vkey = read_vkey(directory)
    read_key(directory, vkey=vkey, passphrase=b"open sesame")
    for wrong in (None, b"open"):
        with pytest.raises(UsageError):
            read_key(directory, vkey=vkey, passphrase=wrong)


def test_a_directory_has_one_user_at_a_time(tmp_path: Path) -> None:
    directory = DataDirectory(path=tmp_path)
    with locked(directory), pytest.raises(StorageError, match="in use by another process"), locked(directory):
        pass
    with locked(directory):
        pass


# --- run -------------------------------------------------------------------------------------------------------------


def test_a_log_is_split_at_the_last_equals_sign() -> None:
    for key in (LOG_KEY, replace(LOG_KEY, name="a=b=127.0.0.1:1")):
        assert parse_log(f"{format_vkey(key)}=[::1]:8461") == LogAddress(key=key, address="[::1]:8461")
        assert parse_log(f"{format_vkey(key)}=https://[::1]") == LogAddress(key=key, address="https://[::1]:443")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "VKEY=HOST:PORT"),
        (VKEY, "VKEY=HOST:PORT"),
        ("127.0.0.1:1", "VKEY=HOST:PORT"),
        (f"{VKEY}=", "HOST:PORT"),
        (f"{VKEY}=127.0.0.1", "HOST:PORT"),
        (f"{VKEY}=http://127.0.0.1:1", "HOST:PORT"),
        (f"{VKEY}==127.0.0.1:1", "not canonical base64"),
        (f"{VKEY[:-4]}=127.0.0.1:1", "VKEY=HOST:PORT"),
        (f"{format_vkey(WITNESS_KEYS['w1'])}=127.0.0.1:1", "cannot be followed"),
    ],
)
def test_what_is_no_log_is_refused(text: str, part: str) -> None:
    with pytest.raises(UsageError, match=r"^--log ") as caught:
        parse_log(text)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        pytest.param(["--log", LOG, "--log", f"{VKEY}=127.0.0.1:2"], f"--log names {ORIGIN} twice", id="log_twice"),
        pytest.param(["--log", "nonsense"], "--log 'nonsense' is not VKEY=HOST:PORT", id="no_log"),
        pytest.param(["--log", LOG, "--peer", "p:1", "--peer", "p:1"], "--peer names p:1 twice", id="peer_twice"),
        pytest.param(["--log", LOG, "--peer", "https://p", "--peer", "https://p:443"], "twice", id="tls_peer_twice"),
        pytest.param(["--log", LOG, "--tls-ca", "ca"], "--tls-ca: no --log or --peer is at https://", id="tls_in_vain"),
        pytest.param(["--log", LOG, "--tls-cert", "c"], "--tls-cert needs the certificate's key", id="half_a_pair"),
        pytest.param(["--log", LOG, "--peer", "nowhere"], "--peer: 'nowhere' is not HOST:PORT", id="no_peer"),
        pytest.param(["--log", LOG, "--grpc", "0.0.0.0:1"], "--grpc 0.0.0.0:1 can be reached", id="not_loopback"),
        pytest.param(["--log", LOG, "--grpc", "x"], "'x' is not HOST:PORT", id="no_address"),
        pytest.param(["--log", LOG, "--interval-ms", "9"], "--interval-ms is less than 10 ms", id="no_interval"),
        pytest.param(["--log", LOG, "--interval-ms", "1e3"], "--interval-ms is not a short", id="no_number"),
        pytest.param(["--log", LOG, "--resolve-ms", "-1"], "--resolve-ms is not a short", id="negative"),
    ],
)
def test_a_command_line_that_cannot_be_used_says_why_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], part: str
) -> None:
    assert main(["run", "--data", str(tmp_path), *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert part in err


async def test_a_monitor_that_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    done = await run_module("treehead_monitor", "run", "--data", tmp_path, "--log", LOG)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "holds no monitor: make one with treehead-monitor init" in done.stderr
    assert init(tmp_path) == 0
    with locked(DataDirectory(path=tmp_path)):
        done = await run_module("treehead_monitor", "run", "--data", tmp_path, "--log", LOG)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert "is in use by another process" in done.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = await run_module("treehead_monitor", "run", "--data", tmp_path, "--log", LOG, "--grpc", address)
    assert (done.exit_code, done.stdout) == (3, "")
    assert f"cannot listen on {address}" in done.stderr
    assert "Warning" not in done.stderr


def test_two_logs_of_one_origin_with_different_keys_are_two_logs(tmp_path: Path) -> None:
    logs = parse_log(LOG), parse_log(f"{format_vkey(OTHER_LOG_KEY)}=127.0.0.1:1")
    assert RunConfig(data=tmp_path, grpc="127.0.0.1:0", logs=logs).logs == logs


def test_milliseconds_are_bounded() -> None:
    assert parse_milliseconds("86400000", flag="--x") == 86_400_000
    for text in ("86400001", "0", "", " 10", "010", "10.0"):
        with pytest.raises(UsageError, match="--x"):
            parse_milliseconds(text, flag="--x")


# --- status ----------------------------------------------------------------------------------------------------------


def test_a_monitor_that_never_ran_can_tell_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    init(tmp_path / "monitor")
    capsys.readouterr()
    assert main(["status", "--data", str(tmp_path / "monitor")]) == 3
    assert capsys.readouterr().out == "nothing is followed yet\n"
    assert main(["status", "--data", str(tmp_path / "monitor"), "--json"]) == 3
    assert capsys.readouterr().out == '{"logs": [], "peers": []}\n'
    assert main(["evidence", "list", "--data", str(tmp_path / "monitor")]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("command", [["status"], ["evidence", "list"], ["evidence", "export", "--to", "-"]])
def test_a_directory_without_a_monitor_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert main([*command, "--data", str(tmp_path)]) == 2
    assert "holds no monitor" in capsys.readouterr().err


def test_a_damaged_database_is_our_failure_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    init(tmp_path / "monitor")
    capsys.readouterr()
    (tmp_path / "monitor" / "monitor.sqlite").write_bytes(b"no database " * 1_000)
    assert main(["status", "--data", str(tmp_path / "monitor")]) == 3
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


@pytest.mark.parametrize("command", ["run", "status"])
def test_the_help_explains_the_exit_codes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert "misbehaviour of a " in capsys.readouterr().out


def test_what_others_sent_is_shown_as_one_printable_line() -> None:
    hostile = "x\x1b[2J\nall is well\u202e"
    record = logging.LogRecord("treehead", logging.WARNING, "", 0, "peer %s", (hostile,), None)
    peer = PeerRecord(address="127.0.0.1:1", failures=1, failing_since_ms=0, error=hostile)
    evidence = EvidenceRecord(id="0", origin=hostile, fork="prefix", sizes=(1, 2), source="p", kept_ms=0)
    shown = [
        _Journal("%(message)s").format(record),
        format_status(Status(logs=(), peers=(peer,))).removesuffix("\n"),
        format_evidence_line(evidence),
    ]
    for line in shown:
        assert line.isprintable()
        assert "x\\x1b[2J\\nall is well\\u202e" in line


def test_the_exit_codes_of_run_are_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    for command, said in (("run", "it was told to stop"), ("status", "no peer that answers")):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        told = capsys.readouterr().out
        assert [text in told for text in ("it was told to stop", "no peer that answers")] == [
            text == said for text in ("it was told to stop", "no peer that answers")
        ]
