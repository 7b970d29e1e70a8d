"""What the answer of a witness means (C2SP tlog-witness): a cosignature, a size to go on from, or why there is neither.

A witness that does not cosign is a *problem*: it may be down, or not know this log yet. A witness whose memory
contradicts the log is an *alarm*: the log was rolled back or forked, which nobody else may be in a position to notice,
or the witness is wrong. Which of them it is cannot be told from here, so a person has to look.
"""

from __future__ import annotations

from treehead.display import printable, printable_name
from treehead.errors import MalformedError, TreeheadError
from treehead.keys import VerifierKey
from treehead.note import Note, NoteSignature
from treehead.witness import SIZE_CONTENT_TYPE, parse_cosignatures, parse_size_body, verify_cosignatures
from treehead_logserver.witness.exchange import Answer

CLOCK_AHEAD_S_MAX = 86_400
"""How far a cosignature's time may be ahead of our clock. Clients take the time for the age of a head, so one from the
future would let an old head pass for a new one; one that is behind does no such harm, and is taken."""
_EXCERPT_CHARS_MAX = 200

_ADVICE = {
    400: "takes the request for malformed: one of the two programs has a defect",
    403: "does not know this log, or not the key that signs its checkpoints: give its operator the log's verifier key",
    404: "does not know this log, or is not at this URL: register the log with it, or correct the URL in the policy",
    429: "has been asked too often: publish checkpoints less often",
    503: "is overloaded or being looked after: nothing can be done here, unless it stays so",
}
_REDIRECTS = "redirects elsewhere, which is not followed: put the URL of today into the policy"
_NO_WITNESS = "answers as no witness does: see whether the URL in the policy is right"


class NoCosignatureError(TreeheadError):
    """The witness did not cosign; the message is what one says after its name.

    Attributes:
        kind: what went wrong, in a word; the same as long as only sizes change.
        is_alarm: whether the witness contradicts the log.
    """

    def __init__(self, message: str, *, kind: str, is_alarm: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.is_alarm = is_alarm


def read_cosignature(answer: Answer, *, note: Note, key: VerifierKey, now: float) -> tuple[NoteSignature, int]:
    """The line by the witness `key` in an answer with status 200, verified, and its time in POSIX seconds.

    Raises:
        NoCosignatureError: there is none, it does not verify, or its time is far ahead of `now`.
    """
    try:
        line, timestamp = verify_cosignatures(parse_cosignatures(answer.body), note=note, key=key)
    except TreeheadError as exc:
        raise NoCosignatureError(
            f"answers with no cosignature that counts: {printable(str(exc))}; see whether its URL and its key in the "
            "policy are right",
            kind="cosignature",
        ) from exc
    if timestamp > now + CLOCK_AHEAD_S_MAX:
        raise NoCosignatureError(
            f"answers with a cosignature of the POSIX time {timestamp}, which has not come: its clock or ours is wrong",
            kind="clock",
        )
    return line, timestamp


def read_size(answer: Answer, *, old: int, size: int, log_size: int) -> int:
    """The size from which the witness wants a proof, by an answer with status 409 to one from `old` to `size`.

    It is another than `old` and not larger than `size`. `log_size` is that of the log by now.

    Raises:
        NoCosignatureError: the answer is malformed; or an alarm: the witness holds what the log cannot have signed.
    """
    if answer.content_type != SIZE_CONTENT_TYPE:
        shown = printable_name(answer.content_type) or "no content type"
        raise NoCosignatureError(
            f"answers 409 without a size ({shown}): its program, or a proxy before it, is at fault", kind="status 409"
        )
    try:
        held = parse_size_body(answer.body)
    except MalformedError as exc:
        raise NoCosignatureError(f"answers 409, but the {exc}", kind="status 409") from exc
    if held > log_size:
        raise NoCosignatureError(
            f"holds a checkpoint of this log of size {held}, and the log has {log_size} entries: the log was rolled "
            "back or forked, or the witness is wrong; ask its operator for that checkpoint, stop the log, and give it "
            "to treehead-log recover --newest",
            kind="larger",
            is_alarm=True,
        )
    if held > size:
        raise NoCosignatureError(f"holds a newer checkpoint of this log already, of size {held}", kind="overtaken")
    if held == old:
        raise NoCosignatureError(
            f"refuses the checkpoint of size {size}, though it was asked to go on from the size that it says it holds, "
            f"{old}: its tree of that size is another than the log's, so one of the two was forked, or it contradicts "
            "itself; compare its checkpoint with the log's",
            kind="same size",
            is_alarm=True,
        )
    return held


def refusal(answer: Answer, *, old: int, size: int) -> NoCosignatureError:
    """What any other answer to a proof from `old` to `size` means."""
    said = printable(answer.body.decode("utf-8", "backslashreplace").strip(), chars_max=_EXCERPT_CHARS_MAX)
    says = f" (it says: {said})" if said else ""
    kind = f"status {answer.status}"
    if answer.status == 422:
        relation = (
            "is another than its own" if old == size else f"does not go on from the one of size {old} that it holds"
        )
        return NoCosignatureError(
            f"finds that the log's tree of size {size} {relation}{says}: the log was forked or its tiles are damaged, "
            "or the witness is wrong; stop the log, see what treehead-log fsck finds, and compare the checkpoint that "
            "the witness holds with the log's",
            kind=kind,
            is_alarm=True,
        )
    advice = _REDIRECTS if 300 <= answer.status < 400 else _ADVICE.get(answer.status, _NO_WITNESS)
    return NoCosignatureError(f"answers {answer.status}{says}: it {advice}", kind=kind)
