"""Policies: which heads count, and when enough witnesses have cosigned."""

import itertools
from dataclasses import replace

import pytest

from tests.unit.library.specimens import (
    LOG,
    LOG_KEY,
    NOW,
    ORIGIN,
    OTHER_LOG,
    OTHER_LOG_KEY,
    P256_PUBLISHER,
    POLICY,
    POLICY_FILE,
    WITNESS_KEYS,
    policy,
    private_key,
    signed_checkpoint,
    witness_line,
)
from treehead.encoding import format_base64
from treehead.errors import MalformedError, QuorumError, SignatureError, TooLargeError, UnsupportedError
from treehead.keys import NoteKeyType, VerifierKey, format_vkey
from treehead.note import Note, NoteSignature, sign_text
from treehead.policy import (
    POLICY_BYTES_MAX,
    POLICY_ITEMS_MAX,
    Policy,
    check_quorum,
    format_policy,
    parse_policy,
    verify_head,
)
from treehead.privatekey import PrivateKey

W1, W2, W3 = (witness_line(name) for name in ("w1", "w2", "w3"))
ECDSA_KEY = VerifierKey(name=ORIGIN, key_type=NoteKeyType.ECDSA, public_key=P256_PUBLISHER.public.spki)


def is_met(by: Policy, *witnesses: str) -> bool:
    try:
        check_quorum(by, [name.encode() for name in witnesses])
    except QuorumError:
        return False
    return True


# --- the file --------------------------------------------------------------------------------------------------------


def test_a_policy_is_read_back_as_it_was_printed() -> None:
    assert format_policy(POLICY) == POLICY_FILE
    assert POLICY.logs[0].url == b"https://log.example/"
    assert [witness.name for witness in POLICY.witnesses] == [b"w1", b"w2", b"w3"]


def test_fields_are_split_at_spaces_and_tabs_and_comments_are_whole_lines() -> None:
    text = f"""\

# a comment
\t # another one
log\t{format_vkey(LOG_KEY)}  https://log.example/#fragment
  {W1}\t
group g any w1
quorum g
""".encode()
    parsed = parse_policy(text)
    assert parsed.logs[0].url == b"https://log.example/#fragment"
    assert parsed.quorum == b"g"


def test_names_are_octets() -> None:
    name = b"\xff\xc2\xa0\xe2\x80\xa8#"
    witness = f" {format_vkey(WITNESS_KEYS['w1'])}\n".encode()
    parsed = parse_policy(b"witness " + name + witness + b"quorum " + name + b"\n")
    assert parsed.quorum == name
    assert parse_policy(format_policy(parsed)) == parsed


def test_a_log_key_of_a_kind_we_cannot_verify_may_be_listed() -> None:
    mldsa = VerifierKey(name=ORIGIN, key_type=NoteKeyType.COSIGNATURE_MLDSA44, public_key=bytes(1312))
    parsed = policy(f"log {format_vkey(mldsa)}", f"witness m {format_vkey(replace(mldsa, name='m'))}", "quorum none")
    assert len(parsed.logs) == 2
    assert parse_policy(format_policy(parsed)) == parsed


def test_a_policy_may_be_large_and_not_larger() -> None:
    def with_witnesses(count: int) -> Policy:
        keys = (
            VerifierKey(name="w", key_type=NoteKeyType.COSIGNATURE_ED25519, public_key=number.to_bytes(32, "big"))
            for number in range(count)
        )
        return policy(*(f"witness w{number} {format_vkey(key)}" for number, key in enumerate(keys)), "quorum w0")

    assert len(with_witnesses(POLICY_ITEMS_MAX).witnesses) == POLICY_ITEMS_MAX
    with pytest.raises(TooLargeError, match=rf"^policy line {POLICY_ITEMS_MAX + 2}: more than {POLICY_ITEMS_MAX}"):
        with_witnesses(POLICY_ITEMS_MAX + 1)
    with pytest.raises(TooLargeError, match="policy is larger"):
        parse_policy(b"#" * (POLICY_BYTES_MAX + 1))


def test_an_unknown_key_type_in_an_otherwise_fine_policy_is_named_by_its_line() -> None:
    blob = format_base64(bytes([0x07]) + bytes(32))
    with pytest.raises(UnsupportedError, match=r"^policy line 3: verifier key w has signature type 0x07"):
        policy(W1, f"witness w w+00000000+{blob}", "quorum w1")


# --- the quorum ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("threshold", "needed"), [("any", 1), ("all", 3), ("1", 1), ("2", 2), ("3", 3)])
def test_a_group_is_met_by_as_many_of_its_members(threshold: str, needed: int) -> None:
    by = policy(W1, W2, W3, f"group g {threshold} w1 w2 w3", "quorum g")
    for count in range(4):
        for chosen in itertools.combinations(("w1", "w2", "w3"), count):
            assert is_met(by, *chosen) == (count >= needed)


def test_groups_nest() -> None:
    by = policy(W1, W2, W3, "group pair all w1 w2", "group either any pair w3", "quorum either")
    met = {
        chosen
        for count in range(4)
        for chosen in itertools.combinations(("w1", "w2", "w3"), count)
        if is_met(by, *chosen)
    }
    assert met == {("w3",), ("w1", "w2"), ("w1", "w3"), ("w2", "w3"), ("w1", "w2", "w3")}


def test_a_quorum_may_be_one_witness() -> None:
    by = policy(W1, W2, "quorum w2")
    assert is_met(by, "w2")
    assert not is_met(by, "w1")


def test_without_a_quorum_nobody_is_needed() -> None:
    check_quorum(policy(W1, "quorum none"), [])


def test_who_is_not_in_the_policy_counts_for_nothing() -> None:
    by = policy(W1, W2, "group g any w1 w2", "quorum g")
    assert not is_met(by, "w3", "w4")
    with pytest.raises(QuorumError, match=r"quorum 'g' is not met: cosigned by 'w3', 'w4'"):
        check_quorum(by, [b"w4", b"w3"])
    with pytest.raises(QuorumError, match="cosigned by nobody"):
        check_quorum(by, [])


# --- heads -----------------------------------------------------------------------------------------------------------


def test_a_head_tells_who_cosigned_it_when() -> None:
    head = verify_head(POLICY, signed_checkpoint(5, bytes(32), cosigned={"w1": NOW, "w3": NOW - 9}))
    assert head.log == LOG_KEY
    assert head.checkpoint.size == 5
    assert head.cosigned == {b"w1": NOW, b"w3": NOW - 9}


def test_a_log_that_the_policy_does_not_list_is_refused_by_its_origin() -> None:
    note = signed_checkpoint(5, bytes(32), origin="other.example")
    with pytest.raises(SignatureError, match=r"log 'other.example', which the policy does not list"):
        verify_head(POLICY, note)


def test_a_log_key_may_not_sign_for_another_origin() -> None:
    other = OTHER_LOG.verifier_key(name="other.example", key_type=NoteKeyType.ED25519)
    by = policy(f"log {format_vkey(other)}", "quorum none")
    text = signed_checkpoint(5, bytes(32)).text
    note = Note(text=text, signatures=(sign_text(text, key=OTHER_LOG, name="other.example"),))
    with pytest.raises(SignatureError, match=r"not signed by log\.example/treehead"):
        verify_head(by, note)


BOTH_KEYS = policy(f"log {format_vkey(OTHER_LOG_KEY)}", "quorum none")


@pytest.mark.parametrize(("log", "key"), [(LOG, LOG_KEY), (OTHER_LOG, OTHER_LOG_KEY)])
def test_any_one_key_of_an_origin_suffices(log: PrivateKey, key: VerifierKey) -> None:
    assert verify_head(BOTH_KEYS, signed_checkpoint(5, bytes(32), log=log)).log == key


def test_no_key_of_an_origin_that_signed_may_fail() -> None:
    note = signed_checkpoint(5, bytes(32))
    other = signed_checkpoint(6, bytes(32), log=OTHER_LOG)
    both = Note(text=note.text, signatures=(*note.signatures, sign_text(note.text, key=OTHER_LOG, name=ORIGIN)))
    assert verify_head(BOTH_KEYS, both).log == LOG_KEY
    with pytest.raises(SignatureError, match="does not verify"):
        verify_head(BOTH_KEYS, Note(text=note.text, signatures=note.signatures + other.signatures))
    with pytest.raises(SignatureError, match="not signed by"):
        verify_head(BOTH_KEYS, signed_checkpoint(5, bytes(32), log=private_key("third log")))


def test_a_witness_whose_line_does_not_verify_condemns_the_head() -> None:
    other = signed_checkpoint(6, bytes(32), cosigned={"w2": NOW})
    note = signed_checkpoint(5, bytes(32), cosigned={"w1": NOW})
    with pytest.raises(SignatureError, match=r"cosignature by w2.example that does not verify"):
        verify_head(POLICY, Note(text=note.text, signatures=(*note.signatures, other.signatures[1])))


def test_a_witness_whose_line_is_no_cosignature_condemns_the_head() -> None:
    key = WITNESS_KEYS["w1"]
    note = signed_checkpoint(5, bytes(32))
    line = NoteSignature(name=key.name, key_id=key.key_id, signature=bytes(64))
    with pytest.raises(MalformedError, match=r"cosignature by w1.example"):
        verify_head(POLICY, Note(text=note.text, signatures=(*note.signatures, line)))


def test_witnesses_that_the_policy_does_not_list_are_ignored() -> None:
    by = policy(W1, "quorum w1")
    other = signed_checkpoint(6, bytes(32), cosigned={"w2": NOW})
    note = signed_checkpoint(5, bytes(32), cosigned={"w1": NOW})
    head = verify_head(by, Note(text=note.text, signatures=(*note.signatures, other.signatures[1])))
    assert head.cosigned == {b"w1": NOW}


def test_a_witness_of_a_kind_we_cannot_verify_counts_as_absent() -> None:
    mldsa = VerifierKey(name="m", key_type=NoteKeyType.COSIGNATURE_MLDSA44, public_key=bytes(1312))
    by = policy(W1, f"witness m {format_vkey(mldsa)}", "group both all w1 m", "quorum both")
    note = signed_checkpoint(5, bytes(32), cosigned={"w1": NOW})
    line = NoteSignature(name="m", key_id=mldsa.key_id, signature=b"any")
    head = verify_head(by, Note(text=note.text, signatures=(*note.signatures, line)))
    assert head.cosigned == {b"w1": NOW}
    with pytest.raises(QuorumError):
        check_quorum(by, head.cosigned)


def test_a_log_of_a_kind_we_cannot_verify_is_unsupported() -> None:
    by = parse_policy(f"log {format_vkey(ECDSA_KEY)}\nquorum none\n".encode())
    with pytest.raises(UnsupportedError, match="type 0x02"):
        verify_head(by, signed_checkpoint(5, bytes(32)))


def test_a_second_log_key_of_another_kind_does_not_hinder_the_first() -> None:
    by = policy(f"log {format_vkey(ECDSA_KEY)}", "quorum none")
    assert verify_head(by, signed_checkpoint(5, bytes(32))).log == LOG_KEY


def test_a_note_that_is_no_checkpoint_is_malformed() -> None:
    with pytest.raises(MalformedError):
        verify_head(POLICY, Note(text="text\n", signatures=(sign_text("text\n", key=LOG, name=ORIGIN),)))
