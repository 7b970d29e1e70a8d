"""Keys in PKCS#11 tokens: a hardware security module signs, and what could be stolen from the disk is no key.

Which key, and in which token, is said by a URI (RFC 7512), in one spelling: these attributes in this order, each at
most once, and percent-encoded whatever is not unreserved, in upper case (of `id` every byte, in `module-path` not the
slash):

    pkcs11:token=<label>;serial=<serial>;object=<label>;id=<bytes>?module-path=<absolute path of the token's library>

There has to be a token or serial, an object or id, and a module-path. The PIN is never in it: the URI is kept in a file
and typed on command lines.

Such a library has one state for its whole process. So a process has one such key open at a time, and the library is
started with it and ended with it. The package `pkcs11` is imported when a key is opened.
"""

from __future__ import annotations

import contextlib
import re
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import quote, unquote_to_bytes

from treehead.encoding import format_base64, parse_utf8
from treehead.errors import MalformedError, SignatureError, StorageError, TooLargeError, UsageError
from treehead.keys import NoteKeyType, VerifierKey
from treehead.publickey import PublicKey, parse_public_key

if TYPE_CHECKING:
    from pkcs11 import Object, Session, SignMixin, Token
    from pkcs11._pkcs11 import lib as Module  # noqa: N812 -- a class, whatever its spelling

PKCS11_URI_CHARS_MAX = 2_048

_SCHEME = "pkcs11:"
_ATTRIBUTES = frozenset({"token", "serial", "object", "id", "module-path"})
_POINT_BYTES = 32
_OCTET_STRING = bytes([0x04, _POINT_BYTES])
_TRIAL = b"Treehead: does this token sign with the key that it shows?\n"
"""What is signed when a key is opened. It can be no checkpoint, which has three lines, nor what a witness signs."""

_REASONS = {
    "DeviceRemoved": "the token was removed",
    "MechanismInvalid": "the token cannot make Ed25519 signatures (CKM_EDDSA)",
    "PinExpired": "the PIN has expired",
    "PinIncorrect": "the PIN is wrong",
    "PinInvalid": "the PIN is wrong",
    "PinLenRange": "the PIN is wrong",
    "PinLocked": "the PIN is locked",
    "TokenNotPresent": "the token is not there",
    "TokenNotRecognised": "the token is not there",
    "UserNotLoggedIn": "the key wants the PIN for each signature, which is not supported here",
    "UserPinNotInitialized": "the token has no PIN yet",
}
_OF_PIN = frozenset({"PinExpired", "PinIncorrect", "PinInvalid", "PinLenRange", "PinLocked", "UserPinNotInitialized"})

_ONE_AT_A_TIME = threading.Lock()
"""Held for as long as a key is open."""


# --- the URI ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Pkcs11Uri:
    """Where a key is; what is None is not compared.

    Attributes:
        module_path: the library that speaks to the token.
        token, serial: the token's label and serial number.
        label, id: the key's label (CKA_LABEL; the URI's attribute `object`) and identifier (CKA_ID).
    """

    module_path: str
    token: str | None = None
    serial: str | None = None
    label: str | None = None
    id: bytes | None = None

    def __str__(self) -> str:
        return format_pkcs11_uri(self)


def parse_pkcs11_uri(text: str) -> Pkcs11Uri:
    """Parse a PKCS#11 URI, the exact inverse of `format_pkcs11_uri`. One with a PIN is refused, and not repeated.

    Raises:
        MalformedError: text is anything but what that prints; the message says how to spell it where that is clear.
    """
    if len(text) > PKCS11_URI_CHARS_MAX:
        raise TooLargeError(f"PKCS#11 URI is longer than {PKCS11_URI_CHARS_MAX} characters")
    for attribute in ("pin-value", "pin-source"):
        if attribute in text.lower():
            raise MalformedError(f"PKCS#11 URI must not say the PIN: leave {attribute} out, and give --passphrase-file")
    attributes = [part.partition("=") for part in re.split("[?;&]", text.removeprefix(_SCHEME))]
    values = {name: value for name, _, value in attributes}
    if not text.isascii() or len(values) != len(attributes) or not _ATTRIBUTES.issuperset(values):
        raise MalformedError(
            "not a PKCS#11 URI as it is read here: expected pkcs11:token=LABEL;object=LABEL?module-path=PATH, "
            "percent-encoded, with serial and id beside token and object or instead of them, and nothing else"
        )
    uri = Pkcs11Uri(
        module_path=_text(values, "module-path") or "",
        token=_text(values, "token"),
        serial=_text(values, "serial"),
        label=_text(values, "object"),
        id=unquote_to_bytes(values.get("id", "")) or None,
    )
    if not uri.module_path.startswith("/"):
        raise MalformedError("PKCS#11 URI lacks ?module-path= and the absolute path of the token's library")
    if not (uri.token or uri.serial) or not (uri.label or uri.id):
        raise MalformedError("PKCS#11 URI does not name both a token (token or serial) and a key in it (object or id)")
    if text != (spelled := format_pkcs11_uri(uri)):
        raise MalformedError(f"PKCS#11 URI is spelled in another way than here: write {spelled}")
    return uri


def _text(values: dict[str, str], name: str) -> str | None:
    what = f"{name} of the PKCS#11 URI"
    value = parse_utf8(unquote_to_bytes(values.get(name, "")), what=what, bytes_max=PKCS11_URI_CHARS_MAX)
    if not value.isprintable():
        raise MalformedError(f"{what} has a character that cannot be printed")
    return value or None


def format_pkcs11_uri(uri: Pkcs11Uri) -> str:
    """Print a PKCS#11 URI."""
    named = {"token": uri.token, "serial": uri.serial, "object": uri.label}
    path = [f"{name}={quote(value, safe='')}" for name, value in named.items() if value is not None]
    if uri.id is not None:
        path.append("id=" + "".join(f"%{byte:02X}" for byte in uri.id))
    return f"{_SCHEME}{';'.join(path)}?module-path={quote(uri.module_path)}"


# --- the key ---------------------------------------------------------------------------------------------------------


class _Opened(NamedTuple):
    key: SignMixin
    public: PublicKey


class Pkcs11Key:
    """An Ed25519 key in a token: a `SigningKey` until it is closed. `open_pkcs11_key` makes one.

    When the token does not sign, it is opened anew, once for each signature that is asked for: the session may be lost,
    or the token may have been away. A PIN that was refused is never tried again, for tokens lock themselves after a few
    wrong ones.
    """

    def __init__(self, uri: Pkcs11Uri, *, pin: str | None) -> None:
        if not _ONE_AT_A_TIME.acquire(blocking=False):
            raise UsageError(f"{uri}: this process has a key in a token open already, and can have one")
        try:
            self._opened = _open(uri, pin)
        except BaseException:
            _ONE_AT_A_TIME.release()
            raise
        self._uri = uri
        self._pin = pin
        self._lock = threading.Lock()  # a session does one thing at a time
        self._ended: str | None = None
        self._is_closed = False

    @property
    def public(self) -> PublicKey:
        """The public key, under which each signature was verified."""
        return self._opened.public

    def sign(self, message: bytes) -> bytes:
        """The signature of `message`, verified before anybody sees it.

        Raises:
            StorageError: the token does not sign, or not with this key.
        """
        from pkcs11.exceptions import PKCS11Error

        with self._lock:
            if self._ended is not None:
                raise StorageError(self._ended)
            try:
                return _sign(self._opened, message, uri=self._uri)
            except PKCS11Error:
                return self._sign_anew(message)

    def _sign_anew(self, message: bytes) -> bytes:
        from pkcs11.exceptions import PKCS11Error

        _end(self._uri)
        try:
            opened = _open(self._uri, self._pin)
            if opened.public != self.public:
                raise StorageError(f"{self._uri}: the token holds another key of that name than it did")
            self._opened = opened
            return _sign(opened, message, uri=self._uri)
        except _PinRefusedError as exc:
            self._ended = f"{exc}; it is not tried again until the program is started anew"
            raise StorageError(self._ended) from exc
        except UsageError as exc:
            raise StorageError(str(exc)) from exc
        except PKCS11Error as exc:
            raise StorageError(f"{self._uri}: {_reason(exc)}") from exc

    def verifier_key(self, *, name: str, key_type: NoteKeyType) -> VerifierKey:
        """The vkey under which this key signs notes.

        Raises:
            UsageError: the name cannot be a key name.
        """
        return self.public.verifier_key(name=name, key_type=key_type)

    def close(self) -> None:
        """Log out, and forget the PIN; closing twice does nothing. Waits for a signature that is being made."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._ended, self._pin = f"{self._uri}: the key was closed", None
                _end(self._uri)
                _ONE_AT_A_TIME.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Pkcs11Key(uri={self._uri}, public={self.public})"


def open_pkcs11_key(uri: Pkcs11Uri, *, pin: bytes | None) -> Pkcs11Key:
    """The one key that a URI names, after it has signed something that verifies. The caller closes it.

    Raises:
        UsageError: there is no such module, token or key, or more than one; the PIN is missing or refused; the key is
            not Ed25519, or not the one of the public key beside it; or python-pkcs11 is not installed.
    """
    if pin is None:
        return Pkcs11Key(uri, pin=None)
    try:
        return Pkcs11Key(uri, pin=parse_utf8(pin, what="PIN", bytes_max=len(pin)))
    except MalformedError as exc:
        raise UsageError(f"{uri}: the PIN is not UTF-8, as the PIN of a token has to be") from exc


class _PinRefusedError(UsageError):
    """The token was shown the PIN and did not take it."""


def _open(uri: Pkcs11Uri, pin: str | None) -> _Opened:
    """Start the module, log in and find the key; when that fails the module is ended again."""
    try:
        import pkcs11
        from pkcs11.exceptions import PKCS11Error
    except ImportError as exc:
        raise UsageError(f"{uri}: python-pkcs11 is not installed: install treehead[pkcs11], which brings it") from exc
    try:
        module = pkcs11.lib(uri.module_path)
    except PKCS11Error as exc:
        reason = _reason(exc).removeprefix(f"OS exception while loading {uri.module_path}: ")
        raise UsageError(f"{uri}: cannot load the module: {reason}") from exc
    try:
        session = _log_in(_find_token(module, uri), uri, pin)
        key = _find_key(session, uri)
        opened = _Opened(key, _find_public(session, key, uri))
        _sign(opened, _TRIAL, uri=uri)
    except BaseException as exc:
        _end(uri)
        if isinstance(exc, PKCS11Error):
            refused = type(exc).__name__ in _OF_PIN
            raise (_PinRefusedError if refused else UsageError)(f"{uri}: {_reason(exc)}") from exc
        if isinstance(exc, StorageError):
            raise UsageError(str(exc)) from exc
        raise
    return opened


def _end(uri: Pkcs11Uri) -> None:
    """End the module, and with it all its sessions and their log-in."""
    import pkcs11
    from pkcs11.exceptions import PKCS11Error

    with contextlib.suppress(PKCS11Error):
        pkcs11.lib(uri.module_path).finalize()


def _find_token(module: Module, uri: Pkcs11Uri) -> Token:
    serial = None if uri.serial is None else uri.serial.encode()
    tokens = list(module.get_tokens(token_label=uri.token, token_serial=serial))
    if not tokens:
        raise UsageError(f"{uri}: there is no such token")
    if len(tokens) > 1:
        raise UsageError(f"{uri}: there are {len(tokens)} such tokens: add serial, which tells one from the other")
    return tokens[0]


def _log_in(token: Token, uri: Pkcs11Uri, pin: str | None) -> Session:
    from pkcs11 import Mechanism, TokenFlag

    if Mechanism.EDDSA not in token.slot.get_mechanisms():
        raise UsageError(f"{uri}: {_REASONS['MechanismInvalid']}")
    if pin is None and token.flags & TokenFlag.LOGIN_REQUIRED:
        raise UsageError(f"{uri}: the token wants its PIN: give --passphrase-file, or set $TREEHEAD_PASSPHRASE")
    return token.open(user_pin=pin)


def _find_key(session: Session, uri: Pkcs11Uri) -> SignMixin:
    from pkcs11 import Attribute, KeyType, ObjectClass, SignMixin

    named: dict[Attribute, Any] = {Attribute.CLASS: ObjectClass.PRIVATE_KEY}
    if uri.label is not None:
        named[Attribute.LABEL] = uri.label
    if uri.id is not None:
        named[Attribute.ID] = uri.id
    keys: list[Object] = list(session.get_objects({**named, Attribute.KEY_TYPE: KeyType.EC_EDWARDS}))
    if len(keys) > 1:
        raise UsageError(f"{uri}: the token has {len(keys)} such keys: add id, which tells one from the other")
    if not keys:
        lack = "no such private key" if not list(session.get_objects(named)) else "such a key, but it is not Ed25519"
        raise UsageError(f"{uri}: the token has {lack}")
    if not isinstance(keys[0], SignMixin):
        raise UsageError(f"{uri}: the key may not sign (CKA_SIGN)")
    return keys[0]


def _find_public(session: Session, key: SignMixin, uri: Pkcs11Uri) -> PublicKey:
    """What the token holds beside the key under the same identifier, or under the same label if the key has none."""
    from pkcs11 import Attribute, KeyType, ObjectClass

    wanted: dict[Attribute, Any] = {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.KEY_TYPE: KeyType.EC_EDWARDS}
    if id_ := key[Attribute.ID]:
        wanted[Attribute.ID] = id_
    else:
        wanted[Attribute.LABEL] = uri.label
    points: set[bytes] = {public[Attribute.EC_POINT] for public in session.get_objects(wanted)}
    if len(points) != 1:
        raise UsageError(f"{uri}: the token has {len(points)} public keys beside the private key, and needs one")
    (point,) = points
    if len(point) == len(_OCTET_STRING) + _POINT_BYTES:
        point = point.removeprefix(_OCTET_STRING)
    if len(point) != _POINT_BYTES:
        raise UsageError(f"{uri}: the key is not Ed25519: {len(point)} bytes are its public key")
    return parse_public_key(f"ed25519:{format_base64(point)}")


def _sign(opened: _Opened, message: bytes, *, uri: Pkcs11Uri) -> bytes:
    from pkcs11 import Mechanism

    signature = opened.key.sign(message, mechanism=Mechanism.EDDSA)
    try:
        opened.public.verify(signature=signature, message=message)
    except SignatureError as exc:
        raise StorageError(
            f"{uri}: the token made a signature that does not verify under the public key beside it, {opened.public}"
        ) from exc
    return signature


def _reason(error: Exception) -> str:
    name = type(error).__name__
    return _REASONS.get(name) or str(error) or f"PKCS#11 error {name}"
