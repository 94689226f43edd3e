"""How long an mp3 is, from the headers of its frames.

Encoders that write to a pipe leave out the first frame (Xing, Info) that tells the length.
libsndfile then takes the bit rate of the first frame for the whole file's: it counts tags as audio,
and quietly stops early in a file whose bit rate varies. Where that frame tells too little, as that
of the first of several files joined by `cat`, libsndfile stops there. Nothing is decoded here.
"""

from __future__ import annotations

import re
from functools import lru_cache

_KILOBITS = (  # layer III, by the index in a frame's header
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),  # MPEG-2 and 2.5
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # MPEG-1
)
_HERTZ = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_LENGTH = re.compile(rb"(?:Xing|Info)\0\0\0(.)(.{4})", re.DOTALL)  # flags; frames, if flag 1 is set
_TAGS = (b"APETAGEX", b"LYRICS", b"\0")  # what may follow the last frame, beside ID3


class DamagedError(ValueError):
    """The frames of an mp3 do not follow each other to its end; the message says where."""


def samples(data: bytes) -> int | None:
    """Samples a channel of an mp3 file; None where libsndfile knows as well, or nobody does.

    Raises:
        DamagedError: a last frame that is cut, or bytes between two frames that are none, in a file
            without a length header. With one, decoding gives fewer samples than it tells.
    """
    position = 0
    while length := _tag(data, position):
        position += length
    position = len(data) - len(data[position:].lstrip(b"\0"))
    header = _LENGTH.search(data, position, position + 64)
    first = _frame(data[position : position + 4])
    if header is None or first is None:
        count, damage = _walk(data, position)
        if damage and count:
            raise DamagedError(damage)
        return count or None  # where there is no frame libsndfile searches for one
    if not header[1][0] & 1:
        return None
    count, _ = _walk(data, position + first[1])
    # Some encoders count the header's own frame.
    return count if count > (int.from_bytes(header[2], "big") + 1) * first[0] else None


def _walk(data: bytes, position: int) -> tuple[int, str | None]:
    """Samples a channel of the frames from a position on, and what is wrong with them."""
    count = 0
    while position < len(data):
        frame = _frame(data[position : position + 4])
        if frame is not None:
            count += frame[0]
            position += frame[1]
        elif length := _tag(data, position):
            # At the end, where it may be cut, or before another file's frames
            position = min(position + length, len(data))
        elif data.startswith(_TAGS, position):
            return count, None
        else:
            return count, f"no mp3 frame at byte {position} of {len(data)}"
    if position > len(data):
        return count, f"its last mp3 frame lacks {position - len(data)} bytes"
    return count, None


def _tag(data: bytes, position: int) -> int:
    """Bytes of the ID3 tag at a position, 0 where none is."""
    if data.startswith(b"TAG", position):  # ID3v1
        return 128
    if data.startswith(b"ID3", position) and len(data) >= position + 10:
        # ID3v2: 10 bytes, the last four of them its size in 7-bit bytes; and as many at its end,
        # where a flag says so
        size = data[position + 6 : position + 10]
        return (20 if data[position + 5] & 0x10 else 10) + (
            size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3]
        )
    return 0


@lru_cache(maxsize=1024)  # few headers differ, and a clip has hundreds
def _frame(header: bytes) -> tuple[int, int] | None:
    """Samples and bytes of a frame, by its first four bytes (ISO 11172-3 and 13818-3)."""
    if len(header) < 4:
        return None
    # From the left: 11 bits of sync, version, layer, protection, bit rate, sampling rate, padding
    bits = int.from_bytes(header, "big")
    version, layer = bits >> 19 & 3, bits >> 17 & 3
    rate, sampling, padding = bits >> 12 & 15, bits >> 10 & 3, bits >> 9 & 1
    if bits >> 21 != 0x7FF or version == 1 or layer != 1 or rate in (0, 15) or sampling == 3:
        return None
    count = 1152 if version == 3 else 576
    bytes_a_second = 125 * _KILOBITS[version == 3][rate]
    return count, count * bytes_a_second // _HERTZ[version][sampling] + padding
