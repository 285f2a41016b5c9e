"""The words of a text in any script, by which texts that share a run of words are found."""

from __future__ import annotations

import re

import regex

SIGNS = r"\p{Han}\p{Hiragana}\p{Katakana}"
"""Scripts that put no space between words; each of their signs counts as a word."""
_ASCII = re.compile(r"\w+")
_ANY = regex.compile(rf"(?V1)[{SIGNS}]|[\w\p{{M}}\p{{No}}--[{SIGNS}]]+")


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation and white space.

    A word is a run of letters, digits and underscores with their combining marks (as the vowel
    signs of Hindi); a Chinese or Japanese sign is a word of its own. Thai, Lao, Khmer and Burmese
    have neither spaces nor signs for words: what stands between two spaces is one word there.
    """
    return (_ASCII if text.isascii() else _ANY).findall(text.lower())
