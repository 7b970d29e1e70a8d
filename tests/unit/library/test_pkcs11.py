"""Keys in tokens: where a URI says that they are, what is refused, and what happens when a token goes away."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.tokens import ED448, ED25519, P256, PIN, SoftToken, generate, make_token
from treehead.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from treehead.errors import MalformedError, StorageError, UsageError
from treehead.keys import NoteKeyType
from treehead.pkcs11 import (
    PKCS11_URI_CHARS_MAX,
    Pkcs11Key,
    Pkcs11Uri,
    format_pkcs11_uri,
    open_pkcs11_key,
    parse_pkcs11_uri,
)
from treehead.privatekey import SigningKey

# --- the URI ---------------------------------------------------------------------------------------------------------

MODULE = "/usr/lib/p11.so"


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        (
            "pkcs11:token=log;object=key?module-path=/usr/lib/p11.so",
            Pkcs11Uri(module_path=MODULE, token="log", label="key"),
        ),
        (
            "pkcs11:serial=0123;id=%00%6A%FF?module-path=/usr/lib/p11.so",
            Pkcs11Uri(module_path=MODULE, serial="0123", id=b"\x00j\xff"),
        ),
        (
            "pkcs11:token=t%3Bo%3Fk%25en;serial=1%2F2;object=%C3%A4%20%26%3D%7C;id=%01?module-path=/a%20b/~c%26.so",
            Pkcs11Uri(module_path="/a b/~c&.so", token="t;o?k%en", serial="1/2", label="\u00e4 &=|", id=b"\x01"),
        ),
    ],
)
def test_a_uri_names_a_key_in_one_spelling(text: str, uri: Pkcs11Uri) -> None:
    assert parse_pkcs11_uri(text) == uri
    assert format_pkcs11_uri(uri) == str(uri) == text


@pytest.mark.parametrize(
    "text",
    [
        "pkcs11:object=key;token=log?module-path=/usr/lib/p11.so",
        "pkcs11:module-path=/usr/lib/p11.so;token=log;object=key",
        "pkcs11:token=log;object=key&module-path=/usr/lib/p11.so",
        "pkcs11:token=log;object=key?module-path=%2Fusr/lib/p11.so",
        "pkcs11:token=%6Cog;object=key?module-path=/usr/lib/p11.so",
        "pkcs11:token=log;object=key;id=?module-path=/usr/lib/p11.so",
        "token=log;object=key?module-path=/usr/lib/p11.so",
    ],
)
def test_another_spelling_is_refused_with_the_right_one(text: str) -> None:
    with pytest.raises(MalformedError) as refused:
        parse_pkcs11_uri(text)
    assert str(refused.value).endswith(": write pkcs11:token=log;object=key?module-path=/usr/lib/p11.so")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected pkcs11:token=LABEL;object=LABEL"),
        ("pkcs11:", "expected pkcs11:"),
        ("https://token.example/", "expected pkcs11:"),
        ("pkcs11:token=a;token=b;object=c?module-path=/m", "nothing else"),
        ("pkcs11:token=a;object=c;type=private?module-path=/m", "nothing else"),
        ("pkcs11:token=\u00e4;object=c?module-path=/m", "percent-encoded"),
        ("pkcs11:token=\udce4;object=c?module-path=/m", "percent-encoded"),
        ("pkcs11:token=%E4;object=c?module-path=/m", "token of the PKCS#11 URI is not UTF-8"),
        ("pkcs11:token=a%00;object=c?module-path=/m", "token of the PKCS#11 URI .* cannot be printed"),
        ("pkcs11:token=a;object=c%0A?module-path=/m", "object of the PKCS#11 URI .* cannot be printed"),
        ("pkcs11:token=a;object=c?module-path=/m%1B", "module-path of the PKCS#11 URI .* cannot be printed"),
        ("pkcs11:token=a;object=c", "lacks .*module-path"),
        ("pkcs11:token=a;object=c?module-path=p11.so", "absolute path"),
        ("pkcs11:object=c?module-path=/m", "token or serial"),
        ("pkcs11:token=a?module-path=/m", "object or id"),
        (f"pkcs11:token={'a' * PKCS11_URI_CHARS_MAX}", "longer than"),
    ],
)
def test_what_names_no_key_is_refused(text: str, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        parse_pkcs11_uri(text)


@pytest.mark.parametrize(
    "text",
    [
        "pkcs11:token=log;object=key?module-path=/m&pin-value=4711",
        "pkcs11:token=log;object=key;pin-value=4711?module-path=/m",
        "pkcs11:pin-value:4711",
        "pkcs11:token=log%3Bpin-value=4711;object=key?module-path=/m",
        "pkcs11:token=log;object=key?module-path=/m&PIN-VALUE=4711",
        "pkcs11:token=log;object=key?module-path=/m&pin-source=file:/4711",
        "pkcs11:token=log;object=key?module-path=/m&pin=4711",
        "pkcs11:token=log;object=key?module-path=/m&4711",
    ],
)
def test_a_uri_with_a_pin_is_refused_and_the_pin_not_repeated(text: str) -> None:
    with pytest.raises(MalformedError) as refused:
        parse_pkcs11_uri(text)
    assert "4711" not in str(refused.value)
    if "pin-" in text:
        assert "give --passphrase-file" in str(refused.value)


# --- the key ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoftToken:
    """A token with one key, the log's."""
    token = make_token(tmp_path / "token")
    monkeypatch.setenv("SOFTHSM2_CONF", token.environment["SOFTHSM2_CONF"])
    token.generate()
    return token


def opened(uri: str, pin: bytes | None = PIN.encode()) -> Pkcs11Key:
    return open_pkcs11_key(parse_pkcs11_uri(uri), pin=pin)


def refusal(uri: str, pin: bytes | None = PIN.encode()) -> str:
    """Why a key is not opened, in a sentence that names it and tells nobody the PIN."""
    with pytest.raises(UsageError) as refused:
        opened(uri, pin)
    message = str(refused.value)
    assert message.startswith(f"{uri}: ")
    assert PIN not in message
    return message.removeprefix(f"{uri}: ")


def test_a_key_in_a_token_signs_checkpoints_that_verify_under_its_vkey(token: SoftToken) -> None:
    checkpoint = Checkpoint(origin="log.example", size=0, root=bytes(32))
    by_label, by_id, by_both = token.uri(), token.uri(label=None, id_=b"\x01"), token.uri(id_=b"\x01")
    vkeys = set()
    for uri in (by_label, by_id, by_both):
        with opened(uri) as key:
            signs: SigningKey = key
            vkey = signs.verifier_key(name="log.example", key_type=NoteKeyType.ED25519)
            assert open_checkpoint(sign_checkpoint(checkpoint, key=signs), key=vkey) == checkpoint
            vkeys.add(vkey)
            with pytest.raises(UsageError, match="cannot name a key"):
                signs.verifier_key(name="two words", key_type=NoteKeyType.ED25519)
    assert len(vkeys) == 1


def test_a_key_prints_what_is_public(token: SoftToken) -> None:
    with opened(token.uri()) as key:
        assert repr(key) == f"Pkcs11Key(uri={token.uri()}, public={key.public})"


def test_a_serial_number_names_the_token_as_well(token: SoftToken) -> None:
    with token.session() as session:
        serial = session.token.serial.decode()
    named = Pkcs11Uri(module_path=token.module, serial=serial, label="log")
    with open_pkcs11_key(named, pin=PIN.encode()) as key:
        key.sign(b"")
    assert refusal(format_pkcs11_uri(Pkcs11Uri(module_path=token.module, serial="0", label="log"))) == (
        "there is no such token"
    )


def test_a_module_that_is_none_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed: it comes with treehead[pkcs11]")
    (tmp_path / "text.so").write_text("no library")
    for name, reason in (("none.so", "No such file"), ("text.so", "cannot load the module")):
        assert reason in refusal(f"pkcs11:token=log;object=key?module-path={tmp_path}/{name}")


def test_without_python_pkcs11_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    assert "install treehead[pkcs11]" in refusal("pkcs11:token=log;object=key?module-path=/usr/lib/p11.so")


def test_a_token_that_is_not_there_is_refused(token: SoftToken) -> None:
    assert refusal(token.uri().replace("test%20token", "other")) == "there is no such token"


def test_two_tokens_of_one_label_are_refused(token: SoftToken) -> None:
    token.initialize()
    assert refusal(token.uri()) == "there are 2 such tokens: add serial, which tells one from the other"


@pytest.mark.parametrize("pin", [b"wrong", b"", PIN.encode() + b"\n", b"x" * 1_000])
def test_a_wrong_pin_is_refused(token: SoftToken, pin: bytes) -> None:
    assert refusal(token.uri(), pin) == "the PIN is wrong"
    with opened(token.uri()) as key:  # the failure has left nothing behind
        key.sign(b"")


def test_a_pin_that_is_missing_or_no_text_is_refused(token: SoftToken) -> None:
    assert "give --passphrase-file" in refusal(token.uri(), None)
    assert refusal(token.uri(), b"\xff") == "the PIN is not UTF-8, as the PIN of a token has to be"


def test_a_key_that_is_not_there_is_refused(token: SoftToken) -> None:
    for uri in (token.uri(label="other"), token.uri(id_=b"\x02"), token.uri(label=None, id_=b"\x02")):
        assert refusal(uri) == "the token has no such private key"


def test_two_keys_of_one_label_are_told_apart_by_their_id(token: SoftToken) -> None:
    token.generate(id_=b"\x02")
    assert refusal(token.uri()) == "the token has 2 such keys: add id, which tells one from the other"
    public = set()
    for id_ in (b"\x01", b"\x02"):
        with opened(token.uri(id_=id_)) as key:
            public.add(key.public)
    assert len(public) == 2


@pytest.mark.parametrize("curve", [ED448, P256])
def test_a_key_of_another_kind_is_refused(token: SoftToken, curve: bytes) -> None:
    token.generate(label="other", id_=b"\x02", curve=curve)
    assert "not Ed25519" in refusal(token.uri(label="other"))


def test_a_key_that_may_not_sign_is_refused(token: SoftToken) -> None:
    token.generate(label="other", id_=b"\x02", may_sign=False)
    assert refusal(token.uri(label="other")) == "the key may not sign (CKA_SIGN)"


@pytest.mark.parametrize("has_id", [True, False])
def test_a_key_without_its_public_key_is_refused(token: SoftToken, has_id: bool) -> None:
    with token.session() as session:
        public, _ = generate(session, label="other", id_=b"\x02" if has_id else None, curve=ED25519)
        public.destroy()
    assert "the token has 0 public keys beside the private key" in refusal(token.uri(label="other"))


def test_a_key_beside_two_public_keys_is_refused(token: SoftToken) -> None:
    with token.session() as session:
        _, private = generate(session, label="other", curve=ED25519)
        private.destroy()  # which leaves its public half beside the log's, under the same identifier
    assert "the token has 2 public keys beside the private key" in refusal(token.uri())


@pytest.mark.parametrize("has_id", [True, False])
def test_a_public_key_may_be_raw_and_must_be_the_private_ones(token: SoftToken, has_id: bool) -> None:
    from pkcs11 import Attribute, KeyType, ObjectClass

    def replace_public(point: bytes) -> None:
        with token.session() as session:
            named = {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.LABEL: "other"}
            for found in list(session.get_objects(named)):
                found.destroy()
            more = {Attribute.KEY_TYPE: KeyType.EC_EDWARDS, Attribute.EC_PARAMS: ED25519, Attribute.TOKEN: True}
            id_ = {Attribute.ID: b"\x02"} if has_id else {}
            session.create_object({**named, **more, **id_, Attribute.EC_POINT: point})

    with token.session() as session:
        public, _ = generate(session, label="other", id_=b"\x02" if has_id else None, curve=ED25519)
        point = public[Attribute.EC_POINT]
    uri = token.uri(label="other")
    with opened(uri) as key:
        first = key.public
    for spelling in (point[-32:], b"\x04\x20" + point[-32:]):
        replace_public(spelling)
        with opened(uri) as key:
            assert key.public == first
    replace_public(bytes([point[-32] ^ 1]) + point[-31:])
    assert "a signature that does not verify under the public key beside it" in refusal(uri)
    replace_public(point[-31:])
    assert refusal(uri) == "the key is not Ed25519: 31 bytes are its public key"


def test_a_token_that_cannot_make_such_signatures_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pkcs11 = pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed: it comes with treehead[pkcs11]")

    class OldModule:
        """As much of a module as is looked at before its token is found wanting."""

        slot = property(lambda self: self)

        def get_tokens(self, **_: object) -> list[OldModule]:
            return [self]

        def get_mechanisms(self) -> set[object]:
            return {pkcs11.Mechanism.ECDSA}

        def finalize(self) -> None:
            pass

    monkeypatch.setattr(pkcs11, "lib", lambda _: OldModule())
    assert "(CKM_EDDSA)" in refusal("pkcs11:token=log;object=key?module-path=/usr/lib/p11.so")


# --- while it is open ------------------------------------------------------------------------------------------------


def restart(token: SoftToken) -> None:
    """End all sessions with the module, as the end of a daemon behind it does."""
    import pkcs11

    pkcs11.lib(token.module).reinitialize()


def change_pin(token: SoftToken, old: str, new: str) -> None:
    """From another process, since one process is logged in once."""
    code = (
        "import pkcs11, sys\n"
        "module, label, old, new = sys.argv[1:]\n"
        "with pkcs11.lib(module).get_token(token_label=label).open(rw=True, user_pin=old) as session:\n"
        "    session.set_pin(old, new)\n"
    )
    subprocess.run([sys.executable, "-c", code, token.module, token.label, old, new], check=True, timeout=30)


def test_several_threads_may_sign(token: SoftToken) -> None:
    messages = [bytes([number]) for number in range(100)]
    with opened(token.uri()) as key, ThreadPoolExecutor(4) as threads:
        for message, signature in zip(messages, threads.map(key.sign, messages), strict=True):
            key.public.verify(signature=signature, message=message)


def test_a_session_that_was_lost_is_opened_anew(token: SoftToken) -> None:
    with opened(token.uri()) as key:
        for number in range(3):
            restart(token)
            key.public.verify(signature=key.sign(bytes([number])), message=bytes([number]))


def test_a_token_that_was_away_is_used_again_when_it_is_back(token: SoftToken) -> None:
    with opened(token.uri()) as key:
        (token.folder / "tokens").rename(token.folder / "away")
        (token.folder / "tokens").mkdir()
        for _ in range(2):
            with pytest.raises(StorageError, match="there is no such token"):
                key.sign(b"message")
        (token.folder / "tokens").rmdir()
        (token.folder / "away").rename(token.folder / "tokens")
        key.public.verify(signature=key.sign(b"message"), message=b"message")


def test_another_key_in_its_place_does_not_sign(token: SoftToken) -> None:
    from pkcs11 import Attribute

    with opened(token.uri()) as key:
        restart(token)
        with token.session() as session:
            for found in list(session.get_objects({Attribute.LABEL: "log"})):
                found.destroy()
            generate(session, curve=ED25519)
        with pytest.raises(StorageError, match="another key of that name"):
            key.sign(b"message")


def test_a_pin_that_was_refused_is_not_tried_again(token: SoftToken) -> None:
    with opened(token.uri()) as key:
        change_pin(token, PIN, "another PIN")
        restart(token)
        with pytest.raises(StorageError, match="the PIN is wrong; it is not tried again") as first:
            key.sign(b"message")
        change_pin(token, "another PIN", PIN)  # so that it would be right, were it tried
        with pytest.raises(StorageError) as second:
            key.sign(b"message")
        assert str(second.value) == str(first.value)
        assert PIN not in str(first.value)


def test_a_closed_key_does_not_sign_and_makes_room_for_another(token: SoftToken) -> None:
    key = opened(token.uri())
    assert "can have one" in refusal(token.uri())
    key.close()
    key.close()
    with pytest.raises(StorageError, match="was closed"):
        key.sign(b"message")
    with opened(token.uri()) as other:
        key.close()
        assert "can have one" in refusal(token.uri())
        other.sign(b"message")
