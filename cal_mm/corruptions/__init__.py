"""Noise and attacks, one file per modality; importing this registers them."""

from .base import KINDS, SEVERITIES, Corruption
from .condition import CLEAN, Condition, check_conditions, drop_conditions
from .dataset import CorruptedDataset
from .depth import (
    DepthEdgeNoise,
    DepthGaussianNoise,
    DepthHoles,
    DepthQuantisation,
    DepthSaltPepper,
)
from .features import FeatureDropout, FeatureGaussianNoise
from .image import ImageGaussianNoise, ImageSaltPepper, ImageShotNoise, ImageSpeckleNoise
from .image_filters import (
    ImageBrightness,
    ImageContrast,
    ImageDefocusBlur,
    ImageFog,
    ImageGaussianBlur,
    ImageJPEG,
    ImageLowLight,
    ImageMotionBlur,
    ImagePixelate,
    ImageSaturate,
)
from .image_warp import ImageElastic, ImageGlassBlur, ImageZoomBlur
from .image_weather import ImageFrost, ImageSnow, ImageSpatter
from .modality import MissingModality, SwapModality
from .parse import attack_names, parse_attack
from .protocols import PROTOCOLS, Protocol, get_protocol
from .text import TextOCR, TextTypos, TextWordDelete, TextWordMask, TextWordShuffle
from .transform import CorruptSample
from .video import FrameDrop, FrameFreeze
from .waveform import WaveformBabble, WaveformColouredNoise, WaveformNoise
from .waveform_environment import WaveformEnvironment
from .waveform_filters import (
    WaveformClipping,
    WaveformDropout,
    WaveformJitter,
    WaveformLowPass,
    WaveformReverb,
    WaveformShift,
)

__all__ = [
    'CLEAN',
    'KINDS',
    'PROTOCOLS',
    'SEVERITIES',
    'Condition',
    'CorruptSample',
    'CorruptedDataset',
    'Corruption',
    'DepthEdgeNoise',
    'DepthGaussianNoise',
    'DepthHoles',
    'DepthQuantisation',
    'DepthSaltPepper',
    'FeatureDropout',
    'FeatureGaussianNoise',
    'FrameDrop',
    'FrameFreeze',
    'ImageBrightness',
    'ImageContrast',
    'ImageDefocusBlur',
    'ImageElastic',
    'ImageFog',
    'ImageFrost',
    'ImageGaussianBlur',
    'ImageGaussianNoise',
    'ImageGlassBlur',
    'ImageJPEG',
    'ImageLowLight',
    'ImageMotionBlur',
    'ImagePixelate',
    'ImageSaltPepper',
    'ImageSaturate',
    'ImageShotNoise',
    'ImageSnow',
    'ImageSpatter',
    'ImageSpeckleNoise',
    'ImageZoomBlur',
    'MissingModality',
    'Protocol',
    'SwapModality',
    'TextOCR',
    'TextTypos',
    'TextWordDelete',
    'TextWordMask',
    'TextWordShuffle',
    'WaveformBabble',
    'WaveformClipping',
    'WaveformColouredNoise',
    'WaveformDropout',
    'WaveformEnvironment',
    'WaveformJitter',
    'WaveformLowPass',
    'WaveformNoise',
    'WaveformReverb',
    'WaveformShift',
    'attack_names',
    'check_conditions',
    'drop_conditions',
    'get_protocol',
    'parse_attack',
]
