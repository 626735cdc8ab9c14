from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
version: dict[str, str] = {}
exec((ROOT / "avatarsync" / "version.py").read_text(encoding="utf-8"), version)

# Ranges, not pins: what a user has already installed should stay installed.
requirements = [
    "torch>=2.6",
    "transformers>=5.0",
    "huggingface-hub>=1.0",
    "safetensors>=0.5",
    "numpy>=1.26",
    "pillow>=10.1",
    "av>=17.0",
    "soundfile>=0.12",
    "soxr>=0.5",
    "scipy>=1.11",
    "scikit-image>=0.22",
    "espeakng-loader>=0.2.4",
    "pocketsphinx>=5.0",
    "tqdm>=4.65",
]

# Weight files of feature networks and nothing else: they bring no torchvision (docs/feature_networks.md).
feature_weights = ["face-recognition-models>=0.3", "stlpips-pytorch>=0.0.2"]
# transformers loads adapters with no older peft; 5.24 asks for peft 0.22, which was not to be had when it came out.
adapter = ["peft>=0.20", "transformers<5.24"]
evaluation = ["evaluate>=0.4.3", "matplotlib>=3.8", *feature_weights]
# What the training scripts cannot do without; the tests run them.
training = [
    "accelerate>=1.2",
    "datasets>=4.0",
    "diffusers>=0.32",
    "matplotlib>=3.8",
    "pypinyin>=0.50",
    *adapter,
    *feature_weights,
]

extras = {
    "adapter": adapter,
    "train": [*training, "deepspeed>=0.16", "mediapipe>=0.10.30", "tensorboard>=2.17"],
    "demo": ["gradio>=6.31,<7", *adapter],
    "eval": [*evaluation, "onnxruntime>=1.18"],
    # Speech recognisers from the Hub whose tokenizers phonemise text ask for this GPL-3 package.
    "align": ["phonemizer>=3.3"],
    "cuda": ["mamba-ssm>=2.2.4"],
    "test": [
        *training,
        *evaluation,
        "pytest>=8.0",
        "pytest-xdist>=3.8",
        "ruff>=0.9",
        "selenium>=4.20",
        "setuptools>=77",
    ],
}

setup(
    name="avatarsync",
    version=version["__version__"],
    description="Portrait and text, or a voice, to talking-head video through phonemes",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=[*find_packages(include=["avatarsync", "avatarsync.*"]), "avatarsync.pipelines"],
    # The task's pipelines live beside the package and install inside it.
    package_dir={"avatarsync.pipelines": "pipelines"},
    package_data={"avatarsync": ["tables/*", "weights/**/*"], "avatarsync.phonemes": ["tables/*"]},
    install_requires=requirements,
    extras_require=extras,
    entry_points={"console_scripts": ["avatarsync = avatarsync.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Programming Language :: Python :: 3",
        "Topic :: Multimedia :: Video",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
