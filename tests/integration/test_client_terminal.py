"""A person at a terminal: passphrases are asked for, and nothing of them is shown."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

from tests.attack.desk import ended
from tests.unit.library.specimens import LOG_KEY
from treehead.keyfile import read_private_key
from treehead.keys import format_vkey

# The command under a pseudo-terminal of its own, which passes on what we type and what it shows.
IN_A_TERMINAL = """
import os, pty, sys
sys.exit(os.waitstatus_to_exitcode(pty.spawn([sys.executable, "-m", "treehead_client", *sys.argv[1:]])))
"""
TALK_S_MAX = 30


async def talk(*arguments: str | Path, dialogue: list[tuple[str, str]]) -> tuple[int | None, str]:
    """Run the command, type each answer when its prompt appears; returns the exit code and all that was shown."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", IN_A_TERMINAL, *map(str, arguments), stdin=PIPE, stdout=PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    shown = ""
    async with ended(process, seconds_max=TALK_S_MAX):
        for prompt, answer in dialogue:
            while not shown.endswith(prompt):
                data = await process.stdout.read(4_096)
                assert data, shown
                shown += data.decode()
            process.stdin.write(answer.encode())
            shown += "<answered>"
        shown += (await process.stdout.read()).decode()
        process.stdin.close()
        return await process.wait(), shown


NEW = "Passphrase for the new key (empty for none): "
AGAIN = "The same again: "


async def test_a_new_key_is_encrypted_with_what_was_typed_twice(tmp_path: Path) -> None:
    key = tmp_path / "key"
    code, shown = await talk("keygen", "--out", key, dialogue=[(NEW, "correct horse\n"), (AGAIN, "correct horse\n")])
    assert code == 0, shown
    assert "correct horse" not in shown
    assert str(read_private_key(key, passphrase=b"correct horse").public) in shown


async def test_two_different_passphrases_make_no_key(tmp_path: Path) -> None:
    key = tmp_path / "key"
    code, shown = await talk("keygen", "--out", key, dialogue=[(NEW, "correct horse\n"), (AGAIN, "correct house\n")])
    assert code == 2
    assert "the two passphrases differ; nothing was written" in shown
    assert not key.exists()


async def test_an_empty_passphrase_is_none(tmp_path: Path) -> None:
    key = tmp_path / "key"
    code, shown = await talk("keygen", "--out", key, dialogue=[(NEW, "\n")])
    assert code == 0
    assert "is not encrypted" in shown
    read_private_key(key, passphrase=None)


async def test_the_end_of_input_is_no_passphrase(tmp_path: Path) -> None:
    code, shown = await talk("keygen", "--out", tmp_path / "key", dialogue=[(NEW, "\x04")])
    assert code == 2
    assert "treehead: no passphrase was typed" in shown
    assert not (tmp_path / "key").exists()


async def test_an_encrypted_key_asks_for_its_passphrase_and_a_plain_one_does_not(tmp_path: Path) -> None:
    policy, file = tmp_path / "policy", tmp_path / "file.bin"
    policy.write_text(f"log {format_vkey(LOG_KEY)}\nquorum none\n")
    file.write_bytes(b"content")
    for name, typed in (("encrypted", "secret\n"), ("plain", "\n")):
        await talk(
            "keygen",
            "--out",
            tmp_path / name,
            dialogue=[(NEW, typed), *([(AGAIN, typed)] if name == "encrypted" else [])],
        )
    options: list[str | Path] = ["--log", "127.0.0.1:9", "--policy", policy]
    prompt = f"Passphrase of {tmp_path / 'encrypted'}: "
    code, shown = await talk("sign", file, "--key", tmp_path / "encrypted", *options, dialogue=[(prompt, "wrong\n")])
    assert (code, "wrong passphrase" in shown) == (2, True)
    code, shown = await talk("sign", file, "--key", tmp_path / "encrypted", *options, dialogue=[(prompt, "secret\n")])
    assert (code, "gave no answer" in shown) == (3, True)
    code, shown = await talk("sign", file, "--key", tmp_path / "plain", *options, dialogue=[])
    assert (code, "gave no answer" in shown) == (3, True)
    assert "Passphrase" not in shown
