"""Noise on text: str. A word is what stands between white space."""

from types import MappingProxyType

import numpy as np

from cal_mm.registry import CORRUPTIONS

from .base import Corruption

__all__ = [
    'TextOCR',
    'TextTypos',
    'TextWordDelete',
    'TextWordMask',
    'TextWordShuffle',
    'mask_words',
    'typos',
]

_ROWS = ('qwertyuiop', 'asdfghjkl', 'zxcvbnm')
_NEIGHBOURS = {
    letter: row[max(0, i - 1) : i] + row[i + 1 : i + 2]
    for row in _ROWS
    for i, letter in enumerate(row)
}
_LOOK_ALIKE = MappingProxyType(
    {
        'l': '1', 'i': 'l', 'o': '0', 's': '5', 'z': '2', 'b': '6', 'g': '9', 'q': '9', 'e': 'c',
        'c': 'e', 'a': 'o', 'm': 'rn', 'n': 'ri', 'u': 'v', 'v': 'u', 'w': 'vv', 'd': 'cl',
        't': 'f', 'f': 't', 'h': 'b', 'B': '8', 'O': '0', 'I': '1', 'S': '5', 'Z': '2', 'G': '6',
        '0': 'O', '1': 'l', '5': 'S', '8': 'B', '6': 'b', '2': 'Z', '9': 'g',
    }
)  # fmt: skip


def mask_words(text: str, ratio: float, token: str, rng: np.random.Generator) -> str:
    """``text`` with each word turned into ``token`` with probability ``ratio``."""
    words = text.split()
    hit = rng.random(len(words)) < ratio
    return ' '.join(token if h else w for w, h in zip(words, hit, strict=True))


def typos(text: str, ratio: float, rng: np.random.Generator) -> str:
    """``text`` with a typing error at each letter with probability ``ratio``.

    Errors are drawn evenly: the key beside it, the letter left out, doubled, or exchanged with the
    next one. At a word's end, where no letter follows, an exchange leaves the letter out.
    """
    out: list[str] = []
    letters = list(text)
    hit = rng.random(len(letters)) < ratio
    which = rng.integers(0, 4, len(letters))
    side = rng.random(len(letters))
    i = 0
    while i < len(letters):
        letter = letters[i]
        if not (hit[i] and letter.isalpha()):
            out.append(letter)
        elif which[i] == 0:
            out.append(_beside(letter, side[i]))
        elif which[i] == 2:
            out.append(letter * 2)
        elif which[i] == 3 and i + 1 < len(letters) and letters[i + 1].isalpha():
            out.extend((letters[i + 1], letter))
            i += 1
        i += 1
    return ''.join(out)


def _beside(letter: str, draw: float) -> str:
    keys = _NEIGHBOURS.get(letter.lower(), 'x')
    key = keys[int(draw * len(keys))]
    return key.upper() if letter.isupper() else key


@CORRUPTIONS.register_module()
class TextWordMask(Corruption):
    """Each word becomes ``token`` (option, '_') with probability ``ratio``."""

    kind = 'text'
    parameter = 'ratio'
    unit = 'share of the words'
    levels = (0.1, 0.25, 0.5, 0.75, 1.0)
    bounds = (0, 1)
    options = MappingProxyType({'token': '_'})
    aliases = ('word_mask', 'mask', 'noise')
    token: str

    def corrupt(self, value: str, rng: np.random.Generator) -> str:
        """Masked text, white space collapsed."""
        return mask_words(value, self.value, self.token, rng)


@CORRUPTIONS.register_module()
class TextWordDelete(Corruption):
    """Each word is left out with probability ``ratio``; one word always stays."""

    kind = 'text'
    parameter = 'ratio'
    unit = 'share of the words'
    levels = (0.1, 0.2, 0.35, 0.5, 0.7)
    bounds = (0, 1)
    aliases = ('word_delete', 'delete')

    def corrupt(self, value: str, rng: np.random.Generator) -> str:
        """Shortened text, white space collapsed."""
        words = value.split()
        draws = rng.random(len(words))
        kept = [w for w, d in zip(words, draws, strict=True) if d >= self.value]
        if words and not kept:
            kept = [words[int(np.argmax(draws))]]
        return ' '.join(kept)


@CORRUPTIONS.register_module()
class TextWordShuffle(Corruption):
    """A share ``ratio`` of the words changes places among themselves."""

    kind = 'text'
    parameter = 'ratio'
    unit = 'share of the words'
    levels = (0.2, 0.4, 0.6, 0.8, 1.0)
    bounds = (0, 1)
    aliases = ('word_shuffle', 'shuffle')

    def corrupt(self, value: str, rng: np.random.Generator) -> str:
        """Reordered text, white space collapsed."""
        words = value.split()
        places = np.sort(rng.permutation(len(words))[: round(self.value * len(words))])
        order = np.arange(len(words))
        order[places] = rng.permutation(places)
        return ' '.join(words[i] for i in order)


@CORRUPTIONS.register_module()
class TextTypos(Corruption):
    """A typing error at each letter with probability ``ratio`` (see :func:`typos`)."""

    kind = 'text'
    parameter = 'ratio'
    unit = 'share of the letters'
    levels = (0.02, 0.05, 0.1, 0.2, 0.3)
    bounds = (0, 1)
    aliases = ('typos', 'typo', 'correlated', 'all')

    def corrupt(self, value: str, rng: np.random.Generator) -> str:
        """Mistyped text."""
        return typos(value, self.value, rng)


@CORRUPTIONS.register_module()
class TextOCR(Corruption):
    """A character is read as its look-alike (l as 1, m as rn) with probability ``ratio``."""

    kind = 'text'
    parameter = 'ratio'
    unit = 'share of the characters with a look-alike'
    levels = (0.03, 0.08, 0.15, 0.3, 0.5)
    bounds = (0, 1)
    aliases = ('ocr',)

    def corrupt(self, value: str, rng: np.random.Generator) -> str:
        """Misread text."""
        hit = rng.random(len(value)) < self.value
        return ''.join(_LOOK_ALIKE.get(c, c) if h else c for c, h in zip(value, hit, strict=True))
