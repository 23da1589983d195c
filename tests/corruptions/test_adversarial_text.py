"""Attacks on token embeddings."""

import pytest
import torch
from mmengine.dataset import pseudo_collate
from test_adversarial import losses, trained

from cal_mm.corruptions import FeatureFGSM, TextFGM, TextFGSM, TextPGD, TextPGDL2, parse_attack
from cal_mm.corruptions.adversarial_attack import act
from cal_mm.engine.loops import state_fingerprint
from cal_mm.models import MultiModalClassifier
from cal_mm.models.encoders.base import BaseEncoder
from cal_mm.models.encoders.embedding import placed_shifts
from cal_mm.models.frontends import build_word_tokenizer
from cal_mm.registry import ENCODERS
from cal_mm.structures import MultiModalDataSample

WORDS = [['red', 'rose', 'sun'], ['blue', 'sea', 'ice'], ['green', 'leaf', 'moss']]
BERT = dict(
    model_type='bert',
    vocab_size=16,
    hidden_size=12,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=24,
)


@ENCODERS.register_module()
class BagOfEmbeddings(BaseEncoder):
    """The mean of the tokens' embeddings, through a layer."""

    def __init__(self, frozen=False):
        super().__init__(12)
        self.table = torch.nn.Embedding(16, 10)
        self.layer = torch.nn.Linear(10, 12)
        if frozen:
            self.freeze()

    def embedding_module(self):
        return self.table

    def encode(self, x, mask=None):
        keep = mask.to(torch.float32)[..., None]
        return self.layer((self.table(x) * keep).sum(1) / keep.sum(1)).tanh()


@ENCODERS.register_module()
class Unopened(BagOfEmbeddings):
    """An encoder that offers no embeddings."""

    def embedding_module(self):
        return None


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp('words')
    return str(build_word_tokenizer([' '.join(' '.join(words) for words in WORDS)], folder))


def text_model(tokenizer, encoder, seed=0):
    torch.manual_seed(seed)
    return MultiModalClassifier(
        encoders=dict(text=encoder, view=dict(type='MLPEncoder', in_channels=4)),
        fusion=dict(type='ConcatFusion'),
        num_classes=3,
        data_preprocessor=dict(
            type='MultiModalPreprocessor',
            frontends=dict(
                text=dict(type='TextFrontEnd', tokenizer=tokenizer, max_length=20),
                view=dict(type='FeatureFrontEnd'),
            ),
        ),
    )


def text_item(number):
    g = torch.Generator().manual_seed(number)
    label = number % 3
    count = int(torch.randint(1, 9, (1,), generator=g))
    words = [WORDS[label][i] for i in torch.randint(0, 3, (count,), generator=g).tolist()]
    return {
        'inputs': {'text': ' '.join(words), 'view': torch.randn(4, generator=g)},
        'data_samples': MultiModalDataSample.of(f't{number}', label),
    }


def text_batch(numbers=range(8)):
    return pseudo_collate([text_item(i) for i in numbers])


ENCODER_CONFIGS = {
    'bert': dict(type='HFTextEncoder', config=BERT),
    'bag': dict(type='BagOfEmbeddings'),
}


@pytest.fixture(scope='module', params=['bert', 'bag'])
def model(request, tokenizer):
    built = text_model(tokenizer, ENCODER_CONFIGS[request.param])
    return trained(built, lambda step: text_batch(range(20 * step, 20 * step + 12)), 40)


def embedded(model, text):
    """Embeddings [L, E] of one text, without padding."""
    ids, mask = model.data_preprocessor.frontends['text']([text])
    assert bool(mask.all())
    return model.encoders['text'].embedding_module()(ids)[0].detach()


@pytest.mark.parametrize('cls', [TextFGSM, TextFGM, TextPGD, TextPGDL2])
def test_the_shift_is_within_its_budget_and_raises_the_loss(model, cls):
    batch = text_batch()
    before = state_fingerprint(model)
    out = cls('text', eps=0.3)(batch, model)
    assert state_fingerprint(model) == before
    assert out['inputs'] == batch['inputs']
    for text, shift in zip(batch['inputs']['text'], out['embedding_shifts']['text'], strict=True):
        tokens = embedded(model, text)
        assert shift.shape == tokens.shape
        unit = float(tokens.norm(dim=1).mean())
        norms = shift.norm(dim=1)
        if cls.norm == 'linf':
            assert float(norms.max()) <= 0.3 * unit * (1 + 1e-5)
            assert float(shift.abs().max()) == pytest.approx(0.3 * unit / tokens.shape[1] ** 0.5)
        else:
            size = float(norms.square().mean().sqrt())
            assert 0.299 * unit < size <= 0.3 * unit * (1 + 1e-5)
    assert bool((losses(model, out) > losses(model, batch)).all())


def test_fgsm_is_the_sign_of_the_gradient_at_the_embeddings(model):
    """Text by text, by autograd on a hook of this test's own."""
    out = TextFGSM('text', eps=0.1)(text_batch(), model)
    for row in range(8):
        seen = []

        def keep(module, args, output, seen=seen):
            output.retain_grad()
            seen.append(output)

        handle = model.encoders['text'].embedding_module().register_forward_hook(keep)
        one = text_batch([row])
        logits = model(**model.data_preprocessor(one), mode='tensor')
        handle.remove()
        label = one['data_samples'][0].gt_label[None]
        torch.nn.functional.cross_entropy(logits.double(), label).backward()
        shift = out['embedding_shifts']['text'][row]
        assert float((shift.sign() == seen[0].grad[0].sign()).double().mean()) > 0.98
    model.zero_grad(set_to_none=True)


@pytest.mark.parametrize('cls', [TextPGD, TextPGDL2])
def test_the_prediction_is_that_of_the_shifted_embeddings_whatever_the_batch(model, cls):
    attacks = [cls('text', eps=0.5, seed=2), FeatureFGSM('view', eps=0.3)]
    items = [text_item(i) for i in range(8)]
    items[2]['inputs']['text'] = None
    items[5]['inputs']['view'] = None
    out = act(attacks, pseudo_collate(items), model)
    assert out['embedding_shifts']['text'][2] is None
    expected = losses(model, out)
    for order in ([7, 0], [2], [5, 2, 1]):
        some = act(attacks, pseudo_collate([items[i] for i in order]), model)
        if order != [2]:
            for row, i in enumerate(order):
                shifts = some['embedding_shifts']['text'][row], out['embedding_shifts']['text'][i]
                assert (shifts[0] is None) == (i == 2)
                if i != 2:
                    torch.testing.assert_close(*shifts, atol=1e-4, rtol=0)
        torch.testing.assert_close(losses(model, some), expected[order], atol=1e-4, rtol=0)
    # test_step takes the attacked batch as it is
    with torch.no_grad():
        done = model.test_step(out)
    scores = torch.stack([s.pred_score for s in done])
    labels = torch.stack([s.gt_label for s in done])
    own = scores.gather(1, labels[:, None])[:, 0].double()
    torch.testing.assert_close((1 - own).log() - own.log(), expected, atol=1e-3, rtol=1e-3)


def test_frozen_encoders_and_cached_features(tokenizer):
    thawed = text_model(tokenizer, dict(type='BagOfEmbeddings')).eval()
    frozen = text_model(tokenizer, dict(type='BagOfEmbeddings', frozen=True)).eval()
    frozen.load_state_dict(thawed.state_dict())
    batch = text_batch()
    attack = TextPGDL2('text', eps=0.5)
    expected = attack(batch, thawed)['embedding_shifts']['text']
    data = frozen.data_preprocessor(batch)
    known = {'text': list(frozen.encode(**{k: data[k] for k in ('inputs', 'masks')})['text'])}
    out = attack({**batch, 'features': known}, frozen)
    assert all(map(torch.equal, expected, out['embedding_shifts']['text']))
    assert out['features']['text'] == [None] * 8
    # even if someone puts the clean features back
    again = {**out, 'features': known}
    torch.testing.assert_close(losses(frozen, again), losses(frozen, out))
    assert float((losses(frozen, out) - losses(frozen, batch)).min()) > 0


def test_an_encoder_without_embeddings_is_refused_before_anything_runs(tokenizer):
    model = text_model(tokenizer, dict(type='Unopened'))
    attack = TextFGSM('text', 3)
    with pytest.raises(ValueError, match=r"'text': Unopened offers no token embeddings.*HFText"):
        attack.check_model(model)
    with pytest.raises(ValueError, match='offers no token embeddings'):
        attack(text_batch(), model)
    with pytest.raises(ValueError, match="has no encoder for modality 'words'"):
        TextFGSM('words', 3).check_model(model)
    attack = TextFGSM('text', 3)
    open_model = text_model(tokenizer, dict(type='BagOfEmbeddings'))
    with pytest.raises(ValueError, match='shifted already'):
        attack(attack(text_batch(), open_model), open_model)
    (condition,) = parse_attack('fgsm:2', {'text': 'text', 'view': 'features'})
    assert [type(c).__name__ for c in condition.corruptions] == ['TextFGSM', 'FeatureFGSM']


def test_shifts_find_their_tokens():
    x = torch.zeros(3, 4, dtype=torch.int64)
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]])
    shifts = [torch.ones(2, 5), None, torch.full((1, 5), 2.0)]
    placed = placed_shifts('text', shifts, x, mask)
    assert placed[..., 0].tolist() == [[0, 0, 1, 1], [0, 0, 0, 0], [2, 0, 0, 0]]
    with pytest.raises(ValueError, match=r"'text': the embedding shift of text 1 .* has 3 tokens"):
        placed_shifts('text', [None, torch.ones(2, 5), None], x, mask)
