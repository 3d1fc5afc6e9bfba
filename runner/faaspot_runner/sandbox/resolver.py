"""The few words of DNS that a resolver with a list needs: read one question, answer it from what is known.

Nothing of a question is ever sent on. What a sandbox asks is untrusted: a packet that is not one plain question has no
answer at all.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

MAX_PACKET = 512
MOST_ADDRESSES = 12
"""In one answer: with the longest name there is, they fit into a packet."""

TYPE_A, CLASS_IN = 1, 1
SERVER_FAILED, NO_SUCH_NAME = 2, 3
_HEADER = struct.Struct(">HHHHHH")
_RESPONSE, _RECURSION_DESIRED, _RECURSION_AVAILABLE, _NOT_A_QUERY = 0x8000, 0x0100, 0x0080, 0xF800


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`name` in lower case without the final dot; `raw`: the question as it stood, to be repeated in the answer."""

    id: int
    recursion: bool
    name: str
    kind: int
    raw: bytes


def question(packet: bytes) -> Question | None:
    """The one question of a packet, None if it is anything else."""
    if not _HEADER.size < len(packet) <= MAX_PACKET:
        return None
    number, flags, questions, answers, authorities, _ = _HEADER.unpack_from(packet)
    if flags & _NOT_A_QUERY or (questions, answers, authorities) != (1, 0, 0):
        return None
    labels: list[bytes] = []
    at = _HEADER.size
    while at < len(packet) and (length := packet[at]):
        if length > 63 or at + 1 + length > len(packet):
            return None
        labels.append(packet[at + 1 : at + 1 + length])
        at += 1 + length
    end = at + 5
    if end > len(packet) or end - _HEADER.size > 259 or not labels:
        return None
    kind, group = struct.unpack_from(">HH", packet, at + 1)
    if group != CLASS_IN or any(b"." in label for label in labels):
        return None
    return Question(
        id=number,
        recursion=bool(flags & _RECURSION_DESIRED),
        name=b".".join(labels).decode("latin-1").lower(),
        kind=kind,
        raw=packet[_HEADER.size : end],
    )


def answer(asked: Question, addresses: Sequence[IPv4Address], ttl: int) -> bytes:
    """These addresses, good for `ttl` seconds; none of them where something else than addresses was asked for."""
    found = addresses[:MOST_ADDRESSES] if asked.kind == TYPE_A else ()
    records = (struct.pack(">HHHIH", 0xC00C, TYPE_A, CLASS_IN, ttl, 4) + address.packed for address in found)
    return _head(asked, 0, len(found)) + asked.raw + b"".join(records)


def refusal(asked: Question, code: int) -> bytes:
    """No answer, and why: `NO_SUCH_NAME`, `SERVER_FAILED`."""
    return _head(asked, code, 0) + asked.raw


def _head(asked: Question, code: int, answers: int) -> bytes:
    flags = _RESPONSE | _RECURSION_AVAILABLE | (_RECURSION_DESIRED if asked.recursion else 0) | code
    return _HEADER.pack(asked.id, flags, 1, answers, 0, 0)
