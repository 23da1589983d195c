# audio alone: the same encoder and head, the other modality left out.
_base_ = ['../concat/digits_av_small_concat_concat.py']
frontend = _base_.model.data_preprocessor.frontends.audio
encoder = _base_.model.encoders.audio
model = dict(
    data_preprocessor=dict(frontends=dict(_delete_=True, audio=frontend)),
    encoders=dict(_delete_=True, audio=encoder),
)
