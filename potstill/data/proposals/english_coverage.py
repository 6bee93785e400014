"""Estimates how the default teacher's tokenizer covers texts, before `ingest` has fetched that teacher.

An uncased English WordPiece has a piece for each of its characters, at the start and inside of a word. So a word is
unknown exactly if it has another character. The number of pieces of a known word is estimated from its length.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from potstill.data.tokens.coverage import Coverage, Text, share_of

# The tokenizer has all ASCII characters in lower case, and these beyond ASCII.
_BEYOND_ASCII = (
    "¡¢£¤¥¦§¨©ª«¬®°±²³´µ¶·¹º»¼½¾¿×ßæð÷øþđħıłŋœƒɐɑɒɔɕəɛɡɣɨɪɫɬɯɲɴɹɾʀʁʂʃʉʊʋʌʎʐʑʒʔʰʲʳʷʸʻʼ"
    "ʾʿˈːˡˢˣˤαβγδεζηθικλμνξοπρςστυφχψωабвгдежзиклмнопрстуфхцчшщъыьэюяђєіјљњћӏաբգդեթիլ"
    "կհմյնոպսվտրւք־אבגדהוזחטיךכלםמןנסעףפץצקרשת،ءابةتثجحخدذرزسشصضطظعغـفقكلمنهوىيٹپچکگں"
    "ھہیےअआउएकखगचजटडणतथदधनपबभमयरलवशषसहािीो।॥ংঅআইউএওকখগচছজটডণতথদধনপবভমযরলশষসহািীেகசடதந"
    "னபமயரலளவாிுேைನರಾකයරලවාกงตทนพมยรลวสอาเ་།གངདནཔབམའརལསမაბგდევთიკლმნორსტუᄀᄂᄃᄅᄆᄇᄉᄊᄋᄌᄎᄏ"
    "ᄐᄑ하ᅢᅥᅦᅧᅩᅪᅭᅮᅯᅲᅳᅴᅵᆨᆫᆯᆷᆸᆼᴬᴮᴰᴵᴺᵀᵃᵇᵈᵉᵍᵏᵐᵒᵖᵗᵘᵢᵣᵤᵥᶜᶠ‐‑‒–—―‖‘’‚“”„†‡•…‰′″›‿⁄⁰ⁱ⁴⁵⁶⁷⁸⁹⁺⁻ⁿ"
    "₀₁₂₃₄₅₆₇₈₉₊₍₎ₐₑₒₓₕₖₗₘₙₚₛₜ₤₩€₱₹ℓ№ℝ™⅓⅔←↑→↓↔↦⇄⇌⇒∂∅∆∇∈−∗∘√∞∧∨∩∪≈≡≤≥⊂⊆⊕⊗⋅─│■▪●★☆☉♠♣♥♦"
    "♭♯⟨⟩ⱼ⺩⺼⽥、。〈〉《》「」『』〜あいうえおかきくけこさしすせそたちっつてとなにぬねのはひふへほまみむめもやゆよらりるれろをんァアィイウェエオカキクケコサシ"
    "スセタチッツテトナニノハヒフヘホマミムメモャュョラリルレロワン・ー一三上下不世中主久之也事二五井京人亻仁介代仮伊会佐侍保信健元光八公内出分前劉力加勝北区十千南博"
    "原口古史司合吉同名和囗四国國土地坂城堂場士夏外大天太夫奈女子学宀宇安宗定宣宮家宿寺將小尚山岡島崎川州巿帝平年幸广弘張彳後御德心忄志忠愛成我戦戸手扌政文新方日明星"
    "春昭智曲書月有朝木本李村東松林森楊樹橋歌止正武比氏民水氵氷永江沢河治法海清漢瀬火版犬王生田男疒発白的皇目相省真石示社神福禾秀秋空立章竹糹美義耳良艹花英華葉藤行街"
    "西見訁語谷貝貴車軍辶道郎郡部都里野金鈴镇長門間阝阿陳陽雄青面風食香馬高龍龸ﬁﬂ！（），－．／：？～"
)  # fmt: skip
ALPHABET = frozenset(chr(code) for code in range(33, 127) if not chr(code).isupper()) | frozenset(_BEYOND_ASCII)
# The keys of the teacher's config.json that a forecast needs.
CONFIG = {
    "model_type": "bert",
    "vocab_size": 30_522,
    "hidden_size": 384,
    "intermediate_size": 1_536,
    "num_hidden_layers": 6,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}
# Pieces of an English word, measured on 140,000 words: one, and a tenth for each letter after the fourth.
_SHORT_WORD = 4
_PIECES_PER_LETTER = 0.1
# [CLS] and [SEP].
_SPECIAL_TOKENS = 2
# WordPiece takes longer words for unknown ones.
_MAX_WORD = 100
_SAMPLE = 5_000


def estimate_coverage(texts: Sequence[Text]) -> Coverage:
    """Estimate the share of unknown tokens and the lengths of texts."""
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    sample = texts[:: -(-len(texts) // _SAMPLE)] if texts else texts
    normalizer, splitter = BertNormalizer(), BertPreTokenizer()
    lengths: list[int] = []
    tokens = 0.0
    unknown = 0
    for text in sample:
        parts = (text,) if isinstance(text, str) else text
        words = [word for part in parts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(part))]
        pieces = sum(map(_pieces, words))
        tokens += pieces
        unknown += sum(map(_is_unknown, words))
        lengths.append(round(pieces) + _SPECIAL_TOKENS + len(parts) - 1)
    return Coverage(len(lengths), np.sort(np.array(lengths, dtype=np.int64)), share_of(unknown, max(round(tokens), 1)))


def _is_unknown(word: str) -> bool:
    return len(word) > _MAX_WORD or not ALPHABET.issuperset(word)


def _pieces(word: str) -> float:
    if _is_unknown(word):
        return 1.0
    if not word.isascii():
        return float(len(word))
    return 1 + _PIECES_PER_LETTER * max(0, len(word) - _SHORT_WORD)
