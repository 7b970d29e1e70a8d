"""The story that `treehead demo` plays, step by step; a step that does not end as it should ends the demonstration."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from treehead.errors import RefusedError, UnavailableError
from treehead.evidence import EVIDENCE_SUFFIX
from treehead.tlogproof import PROOF_SUFFIX
from treehead_client.demo.narrator import Narrator
from treehead_client.demo.stage import Finished, Server, Stage
from treehead_client.demo.wheel import bundled_wheel, rebuilt_wheel
from treehead_client.verdict import EXIT_MISBEHAVIOUR, EXIT_OK, EXIT_REFUSED, EXIT_UNDECIDED

_ANY_PORT = "127.0.0.1:0"
_ORIGIN = "log.example/demo"
_INTERVAL_MS = 500
_EVIDENCE_S_MAX = 30.0
_POLL_S = 0.02
_MONITORS = ("a", "b", "c")
_RULES = ("--policy", "policy", "--trust", "trust.toml")


def play(stage: Stage, narrator: Narrator) -> None:
    """Play it all.

    Raises:
        RefusedError: a command did not end as it should.
        UnavailableError: a process did not start, end or find evidence in time.
    """
    scenario = _Scenario(stage, narrator)
    log = scenario.honest_log()
    scenario.tampering(log)
    scenario.two_faces(log)


class _Scenario:
    """The state of the story: who runs, and what lies where in the stage's folder."""

    def __init__(self, stage: Stage, narrator: Narrator) -> None:
        self._stage = stage
        self._tell = narrator
        self._folder = stage.folder
        self._vkey = ""
        self._cosigners: dict[str, str] = {}
        self._monitors: list[Server] = []
        self._wheel, self._other, self._spare = _wheels(stage.folder)

    # --- act one ---

    def honest_log(self) -> Server:
        """Sign, log and verify; returns the running log."""
        self._tell.act("Act 1: a log that keeps its word")
        with self._tell.step("A log operator makes a log and starts it"):
            self._vkey = self._do("treehead-log", "init", "--data", "log", "--origin", _ORIGIN).stdout.strip()
            log = self._serve_log("log")
            self._write("policy", f"log {self._vkey}\nquorum none\n")
        with self._tell.step("Three independent monitors follow the log, and gossip with each other"):
            for name in _MONITORS:
                made = self._do(
                    "treehead-monitor", "init", "--data", f"monitor-{name}", "--name", f"monitor-{name}.example"
                )
                self._cosigners[name] = made.stdout.strip()
            self._start_monitors([log] * len(_MONITORS))
            self._tell.lesson("Every entry is hashed again by each of them, and every tree head compared.")
        with self._tell.step("A publisher makes a key, and users write down whom they trust with which names"):
            public = self._do("treehead", "keygen", "--out", "publisher.key").stdout.strip()
            self._write("trust.toml", f'[[namespace]]\nmatch = "pypi:*"\nsigners = ["{public}"]\n')
            self._show("trust.toml")
        with self._tell.step("The publisher signs a real wheel, and the log makes the signature public"):
            size = (self._folder / self._wheel).stat().st_size
            self._tell.remark(f"{self._wheel} has {size:,} bytes")
            self._sign(self._wheel, log=log)
            self._tell.lesson(f"The log's answer was verified before {self._wheel}{PROOF_SUFFIX} was written.")
        with self._tell.step("A user verifies the wheel with nothing but files: no network"):
            self._verify(self._wheel, says="verified")
            self._tell.lesson("A trusted signer signed exactly these bytes, and the log that everyone sees holds that.")
        with self._tell.step("A careful user asks the monitors, too"):
            self._verify(self._wheel, *self._asking(), says="verified")
            self._tell.lesson("All three see the very tree that the proof leads to, and hold nothing against the log.")
        return log

    # --- act two ---

    def tampering(self, log: Server) -> None:
        """Refuse everything that is not what was signed."""
        self._tell.act("Act 2: what must not be accepted")
        with self._tell.step("A mirror serves the wheel with one byte flipped"):
            mirrored = self._copy(self._wheel, "mirror")
            _flip_byte(self._folder / mirrored)
            self._verify(mirrored, exit_code=EXIT_REFUSED, says="refused")
        with self._tell.step("The proof is stripped"):
            (self._folder / f"{mirrored}{PROOF_SUFFIX}").unlink()
            self._verify(mirrored, exit_code=EXIT_UNDECIDED, says="undecided")
            self._tell.lesson("Without proof nothing is accepted, and nothing is called a lie.")
        with self._tell.step("The proof is swapped for another wheel's"):
            self._sign(self._other, log=log)
            swapped = self._copy(self._wheel, "swapped", proof_of=self._other)
            self._verify(swapped, exit_code=EXIT_REFUSED, says="refused")
        with self._tell.step("One byte of the proof is changed"):
            changed = self._copy(self._wheel, "changed")
            _flip_byte(self._folder / f"{changed}{PROOF_SUFFIX}")
            self._verify(changed, exit_code=EXIT_REFUSED, says="refused")
        with self._tell.step("The wheel goes by another name"):
            renamed = self._copy(self._wheel, "renamed", name="urllib3-9.9.9-py3-none-any.whl")
            self._verify(renamed, exit_code=EXIT_REFUSED, says="refused")
        with self._tell.step("A stranger signs the wheel: logged like everything else, and trusted with nothing"):
            stolen = self._copy(self._wheel, "stranger")
            self._do("treehead", "keygen", "--out", "stranger.key")
            self._sign(stolen, log=log, key="stranger.key")
            self._verify(stolen, exit_code=EXIT_REFUSED, says="refused")
        with self._tell.step("A log with the right name and another key"):
            impostor = self._do("treehead-log", "init", "--data", "impostor", "--origin", _ORIGIN).stdout.strip()
            self._write("policy-impostor", f"log {impostor}\nquorum none\n")
            rules = ("--policy", "policy-impostor", "--trust", "trust.toml")
            self._verify(self._wheel, rules=rules, exit_code=EXIT_REFUSED, says="refused")
        with self._tell.step("A user who wants proof of freshness: who has seen the head, and when?"):
            witnesses = "".join(f"witness {name} {vkey}\n" for name, vkey in self._cosigners.items())
            self._write("policy-fresh", f"log {self._vkey}\n{witnesses}quorum none\n")
            self._write("trust-fresh.toml", f'{self._read("trust.toml")}max_age = "10m"\n')
            fresh = ("--policy", "policy-fresh", "--trust", "trust-fresh.toml")
            self._verify(self._wheel, rules=fresh, exit_code=EXIT_UNDECIDED, says="undecided")
            self._verify(self._wheel, *self._asking(), rules=fresh, says="verified")
            self._tell.lesson("The monitors just cosigned a head that extends the one in the proof.")

    # --- act three ---

    def two_faces(self, log: Server) -> None:
        """Fork the log, and be caught."""
        self._tell.act("Act 3: the log turns dishonest, and has stolen the publisher's key")
        with self._tell.step("The log is copied: one key, two databases, two faces"):
            for server in (*self._monitors, log):
                server.stop()
            shutil.copytree(self._folder / "log", self._folder / "log-private")
            public = self._serve_log("log")
            private = self._serve_log("log-private")
        with self._tell.step("A backdoored wheel is logged, but only on the face that the victim is shown"):
            backdoored = self._copy(self._wheel, "victim")
            _flip_byte(self._folder / backdoored)
            self._sign(backdoored, log=private)
            self._sign(self._spare, log=public)
        with self._tell.step("The victim verifies it offline"):
            self._verify(backdoored, says="verified")
            self._tell.lesson(
                "Signed, logged, proven: from one face alone nobody can tell. That is what monitors are for."
            )
        with self._tell.step("The monitors go on: a is kept on the victim's face, b and c see the public one"):
            self._start_monitors([private, public, public])
            began = time.perf_counter()
            found = [self._await_evidence(name) for name in _MONITORS]
            intervals = math.ceil((time.perf_counter() - began) * 1_000 / _INTERVAL_MS)
            self._tell.lesson(f"All three held evidence within {intervals} gossip interval(s) of {_INTERVAL_MS} ms.")
        with self._tell.step("Evidence is a small file, and whoever knows the log's key can check it, offline"):
            shutil.copyfile(found[0], self._folder / "fork.evidence")
            self._show("fork.evidence")
            self._do("treehead", "check-evidence", "fork.evidence", "--policy", "policy", exit_code=EXIT_MISBEHAVIOUR)
            self._do("treehead-monitor", "status", "--data", "monitor-c", exit_code=EXIT_MISBEHAVIOUR)
        with self._tell.step("One changed byte, and it proves nothing"):
            _flip_byte(self._folder / "fork.evidence")
            self._do("treehead", "check-evidence", "fork.evidence", "--policy", "policy", exit_code=EXIT_REFUSED)
        with self._tell.step("The victim asks a monitor before installing"):
            asking = ("--monitor", self._monitors[-1].address)
            self._verify(backdoored, *asking, exit_code=EXIT_MISBEHAVIOUR, says="log misbehaved")
            self._verify(backdoored, exit_code=EXIT_MISBEHAVIOUR, says="log misbehaved")
            self._tell.lesson("The client keeps the evidence: this log will not be believed again, not even offline.")

    # --- what the actors do ---

    def _do(self, program: str, *arguments: str, exit_code: int = EXIT_OK, says: str = "") -> Finished:
        """Run a command, show what it answers, and check that it ends as the story has it."""
        self._tell.command(program, *arguments)
        done = self._stage.run(program, *arguments)
        self._tell.answer(done.output, exit_code=done.exit_code)
        if done.exit_code != exit_code or not done.stdout.startswith(says):
            expected = f"exit code {exit_code}" + (f" and an answer that begins with {says!r}" if says else "")
            raise RefusedError(f"step {self._tell.steps} of the demonstration went wrong: expected {expected}")
        return done

    def _serve_log(self, data: str) -> Server:
        return self._serve("treehead-log", "serve", "--data", data, "--grpc", _ANY_PORT, "--http", _ANY_PORT)

    def _serve(self, program: str, *arguments: str) -> Server:
        self._tell.command(program, *arguments)
        server = self._stage.serve(program, *arguments)
        self._tell.remark(f"listening on {server.address}")
        return server

    def _start_monitors(self, logs: Sequence[Server]) -> None:
        """Start one monitor for each log; each gossips with those before it, and push-pull does the rest."""
        self._monitors = []
        for name, log in zip(_MONITORS, logs, strict=True):
            peers = [part for monitor in self._monitors for part in ("--peer", monitor.address)]
            options = ["--log", f"{self._vkey}={log.address}", *peers, "--grpc", "127.0.0.1:0"]
            options += ["--interval-ms", str(_INTERVAL_MS)]
            self._monitors.append(self._serve("treehead-monitor", "run", "--data", f"monitor-{name}", *options))

    def _sign(self, file: str, *, log: Server, key: str = "publisher.key") -> None:
        self._do("treehead", "sign", file, "--key", key, "--log", log.address, "--policy", "policy", says="signed")

    def _verify(
        self, file: str, *more: str, says: str, rules: Sequence[str] = _RULES, exit_code: int = EXIT_OK
    ) -> None:
        self._do("treehead", "verify", file, *rules, *more, exit_code=exit_code, says=says)

    def _asking(self) -> list[str]:
        """The options that ask every monitor."""
        return [part for monitor in self._monitors for part in ("--monitor", monitor.address)]

    def _await_evidence(self, name: str) -> Path:
        """The first evidence file that a monitor writes.

        Raises:
            UnavailableError: it writes none in time.
        """
        deadline = time.perf_counter() + _EVIDENCE_S_MAX
        while time.perf_counter() < deadline:
            for path in sorted(self._folder.glob(f"monitor-{name}/evidence/*{EVIDENCE_SUFFIX}")):
                return path
            time.sleep(_POLL_S)
        raise UnavailableError(f"monitor {name} found no evidence within {_EVIDENCE_S_MAX:.0f} s")

    # --- what lies in the folder ---

    def _write(self, name: str, text: str) -> None:
        (self._folder / name).write_text(text, encoding="utf-8")

    def _read(self, name: str) -> str:
        return (self._folder / name).read_text(encoding="utf-8")

    def _show(self, name: str) -> None:
        self._tell.command("cat", name)
        self._tell.answer(self._read(name))

    def _copy(self, wheel: str, folder: str, *, name: str | None = None, proof_of: str | None = None) -> str:
        """A copy of a wheel in a folder of its own, with its proof or another's beside it."""
        path = self._folder / folder / (name or Path(wheel).name)
        path.parent.mkdir()
        shutil.copyfile(self._folder / wheel, path)
        shutil.copyfile(self._folder / f"{proof_of or wheel}{PROOF_SUFFIX}", f"{path}{PROOF_SUFFIX}")
        return str(path.relative_to(self._folder))


def _wheels(folder: Path) -> list[str]:
    """Three real wheels in the stage's folder, by name."""
    first = bundled_wheel(folder) or rebuilt_wheel("packageurl-python", folder)
    return [first.name, *(rebuilt_wheel(name, folder).name for name in ("packaging", "rfc8785"))]


def _flip_byte(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
