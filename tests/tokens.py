"""PKCS#11 tokens for tests, in software: SoftHSM with a folder of its own, as a device of its own would be.

The program under test finds it by `environment`; a test that opens it in its own process sets that as well. Where
SoftHSM or python-pkcs11 is not installed, or cannot make Ed25519 keys, the test is skipped and says so.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from treehead.pkcs11 import Pkcs11Uri, format_pkcs11_uri

if TYPE_CHECKING:
    from pkcs11 import PrivateKey, PublicKey, Session

PIN = "the PIN 4711 is nobody's to see"

MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)
ED25519 = bytes.fromhex("06032b6570")
ED448 = bytes.fromhex("06032b6571")
P256 = bytes.fromhex("06082a8648ce3d030107")


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftToken:
    """A token with the label `label`, whose user's PIN is `PIN`."""

    module: str
    program: str
    folder: Path
    label: str

    @property
    def environment(self) -> Mapping[str, str]:
        """By what SoftHSM finds its tokens."""
        return {"SOFTHSM2_CONF": str(self.folder / "softhsm2.conf")}

    def uri(self, *, label: str | None = "log", id_: bytes | None = None) -> str:
        """Where a key in it is."""
        return format_pkcs11_uri(Pkcs11Uri(module_path=self.module, token=self.label, label=label, id=id_))

    def initialize(self) -> None:
        """Make the token, or another one of its label."""
        subprocess.run(
            [self.program, "--init-token", "--free", "--label", self.label, "--pin", PIN, "--so-pin", "so pin"],
            env={**os.environ, **self.environment},
            check=True,
            capture_output=True,
            timeout=30,
        )

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """Logged in, in this process, in which nothing else may have the token open."""
        import pkcs11

        module = pkcs11.lib(self.module)
        try:
            with module.get_token(token_label=self.label).open(rw=True, user_pin=PIN) as session:
                yield session
        finally:
            module.finalize()

    def generate(
        self, *, label: str | None = "log", id_: bytes | None = b"\x01", curve: bytes = ED25519, may_sign: bool = True
    ) -> None:
        """Make a key pair in the token."""
        with self.session() as session:
            generate(session, label=label, id_=id_, curve=curve, may_sign=may_sign)


def generate(
    session: Session, *, label: str | None = "log", id_: bytes | None = b"\x01", curve: bytes, may_sign: bool = True
) -> tuple[PublicKey, PrivateKey]:
    """Make a key pair in the token of a session."""
    from pkcs11 import Attribute, KeyType, Mechanism

    kind, mechanism = KeyType.EC_EDWARDS, Mechanism.EC_EDWARDS_KEY_PAIR_GEN
    if curve == P256:
        kind, mechanism = KeyType.EC, Mechanism.EC_KEY_PAIR_GEN
    parameters = session.create_domain_parameters(kind, {Attribute.EC_PARAMS: curve}, local=True)
    return parameters.generate_keypair(
        mechanism=mechanism, store=True, label=label, id=id_, private_template={Attribute.SIGN: may_sign}
    )


def make_token(folder: Path) -> SoftToken:
    """A fresh token, with nothing in it, in a new folder; skips the test where there can be none."""
    pkcs11 = pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed: it comes with treehead[pkcs11]")
    places = (os.environ.get("SOFTHSM2_MODULE", ""), *MODULES)
    module = next((path for path in places if Path(path).is_file()), None)
    program = shutil.which("softhsm2-util")
    if module is None or program is None:
        pytest.skip("SoftHSM is not installed: softhsm2-util, and libsofthsm2.so in a usual place or $SOFTHSM2_MODULE")
    token = SoftToken(module=module, program=program, folder=folder, label="test token")
    (folder / "tokens").mkdir(parents=True)
    (folder / "softhsm2.conf").write_text(
        f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    token.initialize()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", token.environment["SOFTHSM2_CONF"])
        with token.session() as session:
            mechanisms = session.token.slot.get_mechanisms()
    if not {pkcs11.Mechanism.EDDSA, pkcs11.Mechanism.EC_EDWARDS_KEY_PAIR_GEN} <= mechanisms:
        pytest.skip(f"the SoftHSM in {module} was built without Ed25519")
    return token
