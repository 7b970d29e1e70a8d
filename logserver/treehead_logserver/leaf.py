"""What a leaf has to be before it may wait for its place in the log, and by what it is found then.

It is parsed strictly, the rules of the log let its signer have it logged (`rules`), and its signature verifies.

With the kind `opaque` a log takes any bytes, which then have no signer and are found by their hash only, unless they
are an entry in good order.
"""

from __future__ import annotations

from hashlib import sha256

from treehead.entry import Entry, parse_entry, verify_entry
from treehead.errors import MalformedError, SignatureError, UnsupportedError
from treehead.lookup import terms_of
from treehead.merkle import hash_leaf
from treehead_logserver.kinds import OPAQUE
from treehead_logserver.rules import AdmissionRules
from treehead_logserver.storage.base import Candidate
from treehead_logserver.twin import twin_hash


def admit_leaf(leaf: bytes, *, rules: AdmissionRules) -> Candidate:
    """The candidate that a leaf makes in a log with these rules.

    Raises:
        TooLargeError: it is larger than 65,535 bytes, or than the rules allow.
        MalformedError, UnsupportedError: it is not an entry of a kind that the log takes; the message names the field.
        UntrustedError: a rule does not let its signer have it logged, or it has none; the message names the rule.
        SignatureError: its signature does not verify.
    """
    rules.check_size(len(leaf))
    if leaf.startswith(b"{") or not rules.takes_unsigned:
        try:
            entry = _verified_entry(leaf, rules)
            return Candidate(leaf, hash_leaf(leaf), terms_of(entry), _charged_to(entry), twin_hash(leaf, entry))
        except (MalformedError, UnsupportedError, SignatureError) as exc:
            if OPAQUE not in rules.kinds:
                raise
            rules.check_unsigned(str(exc))
    return Candidate(leaf, hash_leaf(leaf))


def _charged_to(entry: Entry) -> bytes:
    # Anyone can put another's key and signature into a certificate, and that again and again.
    return sha256(entry.signer.spki if entry.certificate is None else entry.certificate).digest()


def _verified_entry(leaf: bytes, rules: AdmissionRules) -> Entry:
    entry = parse_entry(leaf)
    rules.check(entry)  # before the signature: it is quicker, and whom no rule lets in need not show more
    verify_entry(entry)
    return entry
