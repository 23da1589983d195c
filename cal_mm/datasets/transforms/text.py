"""Loading and augmenting text."""

from typing import Any

from cal_mm.registry import TRANSFORMS

from .base import ModalityTransform, generator_of

__all__ = ['LoadText', 'WordDropout']


@TRANSFORMS.register_module()
class LoadText(ModalityTransform):
    """Check and clean a text; the front end tokenises it.

    Args:
        modality: name of the modality.
        lower: lower-case it.
        strip: remove white space at both ends.

    Raises:
        SampleError: the value is no text, or bytes that are not UTF-8.
    """

    repeatable = True

    def __init__(self, modality: str, lower: bool = False, strip: bool = True) -> None:
        super().__init__(modality)
        self.lower, self.strip = lower, strip

    def apply(self, value: Any, modality: str, results: dict, *args: Any) -> str:
        """The text."""
        if isinstance(value, bytes):
            try:
                value = value.decode('utf-8')
            except UnicodeDecodeError as e:
                raise ValueError(f'the text is not UTF-8 ({e}); convert the raw file') from e
        if not isinstance(value, str):
            raise ValueError(f'expected a text, got {type(value).__name__}')
        value = value.strip() if self.strip else value
        return value.lower() if self.lower else value


@TRANSFORMS.register_module()
class WordDropout(ModalityTransform):
    """Leave out each word (separated by white space) with a probability; at least one stays.

    Args:
        modality: name of the modality.
        prob: probability in [0, 1) of leaving out a word.
    """

    def __init__(self, modality: str, prob: float = 0.1) -> None:
        super().__init__(modality)
        if not 0 <= prob < 1:
            raise ValueError(f'prob must be in [0, 1), got {prob}')
        self.prob = prob

    def apply(self, value: Any, modality: str, results: dict, *args: Any) -> str:
        """The remaining words, joined by single spaces."""
        words = value.split()
        if not words:
            return value
        draws = generator_of(results).random(len(words))
        kept = [word for word, draw in zip(words, draws, strict=True) if draw >= self.prob]
        return ' '.join(kept or [words[int(draws.argmax())]])
