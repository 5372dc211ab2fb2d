"""Words of a text in any script: what ROUGE counts, and what tells texts from other values."""

import unicodedata

import regex
from nltk.stem.porter import PorterStemmer
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

_SCRIPTS = ("Han", "Hira", "Kana", "Bopo", "Yiii", "Thai", "Lao", "Khmr", "Mymr", "Lana", "Tavt", "Java", "Bali")
_UNSPACED = r"[[\p{L}\p{N}]&&[" + "".join(rf"\p{{scx={script}}}" for script in _SCRIPTS) + "]]"
# Joiners stand inside words of Persian and of Indian scripts.
_WORD = rf"[[\p{{L}}\p{{N}}]--{_UNSPACED}][[\p{{L}}\p{{N}}\p{{M}}\u200c\u200d]--{_UNSPACED}]*"

UNSPACED = regex.compile(rf"{_UNSPACED}\p{{M}}*", regex.V1)
"""A character, with its marks, of a script that writes words without spaces between them."""

WORDS = regex.compile(rf"{UNSPACED.pattern}|{_WORD}", regex.V1)
SENTENCE_ENDS = regex.compile(r"[\p{SB=STerm}--[!?]]", regex.V1)
"""Marks such as the full stops of Chinese, Hindi and Urdu, which need no space behind them; not those of ASCII."""


class UnicodeWords(Tokenizer):
    """Words of letters, digits and their marks, and single characters where a script has no spaces between words.

    Of ASCII text these are rouge_score's own tokens, stems included.
    """

    def __init__(self):
        self.stemmer = PorterStemmer()

    def tokenize(self, text: str) -> list[str]:
        """The words in their order, in NFKC and lower case."""
        words = WORDS.findall(unicodedata.normalize("NFKC", text).lower())
        return [self.stemmer.stem(word) if len(word) > 3 and word.isascii() else word for word in words]


ROUGE_TOKENIZERS: dict[str, Tokenizer] = {"rouge_score": DefaultTokenizer(use_stemmer=True), "unicode": UnicodeWords()}
"""--rouge_tokenizer -> what splits a text; the first is rouge_score's own, of ASCII letters and digits."""
