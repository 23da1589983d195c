"""What travels beside the inputs of a sample, and what a prediction adds to it."""

import torch
from mmengine.structures import BaseDataElement

from cal_mm.seeding import sample_key

__all__ = ['MultiModalDataSample']


class MultiModalDataSample(BaseDataElement):
    """Label, identity and prediction of one sample.

    Meta information: ``sample_id`` (str), ``sample_key`` (int, crc32 of the id), ``group`` (str),
    ``missing`` (tuple of modality names).

    Data: ``gt_label`` (int64 tensor, scalar); after prediction ``pred_score`` (float [C], sums to
    one), ``pred_label`` (int64 scalar), ``logits`` (float [C]), ``contribution`` (float [M],
    per-sample W in the order of the sorted modalities, sums to one).
    """

    gt_label: torch.Tensor
    pred_score: torch.Tensor
    pred_label: torch.Tensor
    logits: torch.Tensor
    contribution: torch.Tensor

    def set_metainfo(self, metainfo: dict) -> None:
        """As mmengine's, without a deep copy of the values, which takes longer than the rest."""
        for name, value in metainfo.items():
            self.set_field(value, name, field_type='metainfo')

    @classmethod
    def of(
        cls, sample_id: str, label: int, group: str = '', missing: tuple[str, ...] = ()
    ) -> 'MultiModalDataSample':
        """A sample with ``label``, an index in [0, C)."""
        meta = dict(
            sample_id=sample_id, sample_key=sample_key(sample_id), group=group, missing=missing
        )
        return cls(metainfo=meta, gt_label=torch.tensor(label, dtype=torch.int64))
