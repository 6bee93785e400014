from __future__ import annotations

import pytest

from potstill.data.formats.encodings import decode, guess_encodings
from potstill.errors import EncodingError, NulByteError

CHINESE = "text,label\n这个手机很好用，我们都喜欢,正面\n物流太慢了，不会再买,负面\n"
FRENCH = "text,label\nle café est très bon,oui\nmauvaise qualité,non\n"


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("GB18030", CHINESE),
        ("GB18030", "text,label\n" + "plain words,good\n" * 50 + "这个手机很好用,正面\n"),
        ("GB18030", "text,label\n这个 very good 手机,good\n"),
        ("BIG5", "text,label\n今天天氣很好我們去公園玩,正面\n這家酒店服務不錯,負面\n"),
        ("SHIFT_JIS", "text,label\nこの映画はとても面白かった,良い\nつまらない話だった,悪い\n"),
        ("EUC-JP", "text,label\nこの映画はとても面白かった,良い\nつまらない話だった,悪い\n"),
        ("EUC-KR", "text,label\n이 영화는 정말 재미있었다,긍정\n배송이 너무 늦어요,부정\n"),
        ("WINDOWS-1251", "text,label\nэтот фильм очень хороший,да\nпосылка пришла поздно,нет\n"),
        ("KOI8-R", "text,label\nэтот фильм очень хороший,да\nпосылка пришла поздно,нет\n"),
        ("WINDOWS-1253", "text,label\nη ταινία ήταν πολύ καλή,ναι\n"),
        ("WINDOWS-1250", "text,label\nTo jest świetny produkt, polecam każdemu,tak\nBardzo zła jakość,nie\n"),
        ("WINDOWS-1252", FRENCH),
        ("WINDOWS-1252", "text,label\nDas Gerät ist schön und läuft flüssig,gut\nSehr böse,schlecht\n"),
    ],
)
def test_an_encoding_is_named_with_the_command_that_converts_it(encoding: str, text: str) -> None:
    data = text.encode(encoding)
    assert guess_encodings(data)[0] == encoding
    with pytest.raises(EncodingError, match=rf"iconv -f {encoding} -t UTF-8 'my rows.csv'$"):
        decode(data, "data/my rows.csv", "my rows.csv")


def test_several_candidates_are_all_named() -> None:
    with pytest.raises(EncodingError, match="it may be WINDOWS-1252 or WINDOWS-1250; convert it with the one"):
        decode(FRENCH.encode("cp1252"), "a.csv", "a.csv")


def test_no_candidate_is_advised_where_none_fits() -> None:
    with pytest.raises(EncodingError, match="export it again as UTF-8, or find its encoding"):
        decode("text,label\nle café est très bon,oui\n".encode("cp437"), "a.csv", "a.csv")


def test_a_damaged_utf8_file_is_not_taken_for_another_encoding() -> None:
    data = CHINESE.encode()
    with pytest.raises(EncodingError, match="the rest of it is, so 1 characters are damaged"):
        decode(data.replace("，".encode(), "，".encode() + b"\xff", 1), "a.csv", "a.csv")


@pytest.mark.parametrize("encoding", ["UTF-16LE", "UTF-16BE"])
def test_utf16_without_a_mark(encoding: str) -> None:
    with pytest.raises(NulByteError, match=f"looks like {encoding} without a mark; convert it: iconv -f {encoding}"):
        decode("text,label\nx,1\n".encode(encoding), "a.csv", "a.csv")
