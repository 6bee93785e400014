"""Decodes text files. Only UTF-8 is accepted. For another encoding the message names the likely one."""

from __future__ import annotations

import codecs
import re
import shlex
from collections.abc import Callable

from potstill.errors import EmptyDataError, EncodingError, NulByteError

_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, whose mark is a prefix of this one
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
# Bytes of non-ASCII lines that the guess of an encoding uses.
_SAMPLE = 200_000
# The share of a text's non-ASCII characters that must be common in an encoding's language.
_PLAUSIBLE = 0.75
# The most frequent letters of the languages of single-byte encodings. They make about two thirds of a text's letters.
_COMMON_LETTERS = {
    "WINDOWS-1251": "оеаинтсрвлкмдпу",
    "KOI8-R": "оеаинтсрвлкмдпу",
    "WINDOWS-1253": "αοιετσνηυρπκμλό",
    "WINDOWS-1255": "יוהלאמרבתשנעםד",
    "WINDOWS-1256": "ايلمنوتربهعدفسك",
    "WINDOWS-874": "านรอกเงมยลวดทส่",
}
_WESTERN = "àáâãäåæçèéêëìíîïñòóôõöøùúûüýÿßœŒÀÁÂÄÅÆÇÈÉÊËÍÎÑÓÔÖØÚÛÜ€£§°©®«»“”‘’„–—…•´¿¡·\u00a0"
_CENTRAL = "ąćęłńóśźżáčďéěíňřšťúůýžäôľĺŕőöűüăâîșțşţđĄĆĘŁŃÓŚŹŻÁČĎÉĚÍŇŘŠŤÚŮÝŽÖÜŐŰ€§°“”‘’„–—…\u00a0"
_RUNS = re.compile(rb"[\x80-\xff]+")


def decode(data: bytes, location: str, name: str) -> tuple[str, tuple[str, ...]]:
    """Decode a UTF-8 file without its byte order mark, and say in notes how it was read.

    Args:
        data: the bytes of the file.
        location: its path, for messages.
        name: its name, for the command that converts it.

    Raises:
        EmptyDataError: the file is empty.
        EncodingError: it has another encoding. The sentence has the first wrong byte and the likely encoding.
        NulByteError: it has a NUL byte.
    """
    refuse_marks(data, location, name)
    mark_bytes = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    if not data[mark_bytes:].strip():
        raise EmptyDataError(f"{location} is empty; give a file with data")
    offset = data.find(b"\0")
    if offset >= 0:
        line = _line(data, offset)
        raise NulByteError(f"{location} has a NUL byte at byte {offset} (line {line}); {_nul_advice(data, name)}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        offset = error.start + mark_bytes
        raise EncodingError(
            f"{location} is not UTF-8: byte 0x{data[offset]:02x} at byte {offset} (line {_line(data, offset)}); "
            f"{_advice(data, name)}"
        ) from error
    return text, ("a UTF-8 byte order mark was skipped",) if mark_bytes else ()


def refuse_marks(start: bytes, location: str, name: str) -> None:
    """Refuse a file whose first bytes are the byte order mark of another encoding.

    Raises:
        EncodingError: the sentence names the encoding and the command that converts it.
    """
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            raise EncodingError(f"{location} is {encoding}, not UTF-8; convert it: {_command(encoding, name)}")


def guess_encodings(data: bytes) -> list[str]:
    """List the likely encodings of non-ASCII bytes by the names that `iconv` uses, the likeliest first."""
    sample = b"\n".join(line for line in data.splitlines() if not line.isascii())[:_SAMPLE]
    sample = sample[: sample.rfind(b"\n")] if len(sample) == _SAMPLE and b"\n" in sample else sample
    shares = {encoding: _share(sample, codec, common) for encoding, (codec, common) in _ASIAN.items()}
    if shares["EUC-KR"] >= _PLAUSIBLE + 0.2 or max(shares["EUC-JP"], shares["SHIFT_JIS"]) >= _PLAUSIBLE - 0.25:
        shares |= {"GB18030": 0.0, "BIG5": 0.0}  # Nearly all bytes of the others are valid in these two as well.
    fitting = [encoding for encoding, share in shares.items() if share >= _MIN_SHARES[encoding]]
    if fitting:
        return sorted(fitting, key=lambda encoding: -shares[encoding])
    return _guess_single_byte(sample)


def _guess_single_byte(sample: bytes) -> list[str]:
    runs = _RUNS.findall(sample)
    if runs and sum(map(len, runs)) / len(runs) >= 2.5:  # words of another alphabet, not letters with accents
        shares = {name: _share(sample, name, letters.__contains__) for name, letters in _COMMON_LETTERS.items()}
        best = max(shares.values())
        return [name for name, share in shares.items() if share >= max(0.5, best - 0.1)]
    western = {"WINDOWS-1252": _WESTERN, "WINDOWS-1250": _CENTRAL}
    shares = {name: _share(sample, name, letters.__contains__) for name, letters in western.items()}
    return sorted((name for name in shares if shares[name] >= 0.9), key=lambda name: -shares[name])


def _share(sample: bytes, codec: str, common: Callable[[str], bool]) -> float:
    """Compute the share of the non-ASCII characters that are common ones; 0 if the bytes cannot be decoded."""
    try:
        text = sample.decode("cp874" if codec == "WINDOWS-874" else codec)
    except UnicodeDecodeError:
        return 0.0
    others = [character for character in text if not character.isascii()]
    return sum(map(common, others)) / len(others) if others else 0.0


def _is_common_in(codec: str, low: int, high: int) -> Callable[[str], bool]:
    """Check for a frequent character, which a national standard puts first, or a full-width mark."""

    def check(character: str) -> bool:
        data = character.encode(codec, "ignore")
        return len(data) == 2 and (low <= data[0] <= high or data[0] in (0xA1, 0xA3))

    return check


def _is_kana(character: str) -> bool:
    return "\u3040" <= character <= "\u30ff"


def _is_hangul(character: str) -> bool:
    return "\uac00" <= character <= "\ud7a3" or "\u3000" <= character <= "\u303f"


_ASIAN: dict[str, tuple[str, Callable[[str], bool]]] = {
    "GB18030": ("gb18030", _is_common_in("gb2312", 0xB0, 0xD7)),
    "BIG5": ("big5", _is_common_in("big5", 0xA4, 0xC6)),
    "EUC-KR": ("euc_kr", _is_hangul),
    "SHIFT_JIS": ("shift_jis", _is_kana),
    "EUC-JP": ("euc_jp", _is_kana),
}
# GB18030 has a lower limit, since GB2312 lacks traditional characters.
_MIN_SHARES = {
    "GB18030": _PLAUSIBLE - 0.15,
    "BIG5": _PLAUSIBLE,
    "EUC-KR": _PLAUSIBLE + 0.2,
    "SHIFT_JIS": 0.5,
    "EUC-JP": 0.5,
}


def _advice(data: bytes, name: str) -> str:
    text = data.decode("utf-8", "replace")
    damaged = text.count("\ufffd")
    if damaged and sum(not character.isascii() for character in text) >= 5 * damaged:
        return f"the rest of it is, so {damaged} characters are damaged; correct them, or export it again as UTF-8"
    names = guess_encodings(data)
    if not names:
        return "export it again as UTF-8, or find its encoding and convert it with iconv"
    if len(names) == 1:
        return f"it looks like {names[0]}; convert it: {_command(names[0], name)}"
    return (
        f"it may be {' or '.join(names)}; convert it with the one that gives the right letters: "
        f"{_command(names[0], name)}"
    )


def _nul_advice(data: bytes, name: str) -> str:
    parities = {match.start() % 2 for match in re.finditer(rb"\0", data[:_SAMPLE])}
    if data.count(b"\0") > 1 and len(parities) == 1:
        encoding = "UTF-16LE" if parities == {1} else "UTF-16BE"
        return f"it looks like {encoding} without a mark; convert it: {_command(encoding, name)}"
    return "it is damaged, binary, or UTF-16 without a mark: export it again as UTF-8"


def _command(encoding: str, name: str) -> str:
    return f"iconv -f {encoding} -t UTF-8 {shlex.quote(name)}"


def _line(data: bytes, offset: int) -> int:
    return data.count(b"\n", 0, offset) + 1
