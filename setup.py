"""`pip install -e .` for training, evaluation and the command line; colcon goes by package.xml, not by this.

The lower bounds are what the code is written against; requirements/ pins what is tested.
"""

from setuptools import find_packages, setup

setup(
    name="cmdtrack_ros",
    version="0.1.0",
    description="Follows one target through RGB plus thermal, depth or event images",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["cmdtrack_ros", "cmdtrack_ros.*"]),
    package_dir={"": "."},  # makes an editable install a plain path entry, which __path__ merging relies on
    package_data={"cmdtrack_ros": ["py.typed", "weights/*", "assets/*", "evaluation/templates/*", "tour/templates/*"]},
    install_requires=[
        "av>=12",
        "jinja2>=3.0",
        "matplotlib>=3.5",
        "numpy>=1.21",
        "onnx>=1.16",
        "onnxruntime>=1.17",
        "opencv-contrib-python-headless>=4.5.4,<5",
        "pillow>=9",
        "psutil>=5.9",
        "pydantic>=2",
        "pyyaml>=5.4",
        "rich>=11",
        "rosbags>=0.11",
        "rosbags-image>=0.10",
        "safetensors>=0.4",
        "torch>=2.1",
        "tqdm>=4.57",
        "typer>=0.12",
    ],
    extras_require={
        "openvino": ["openvino>=2024.0"],
        "test": ["pytest>=8"],
        "train": ["lightning-fabric>=2.6", "tensorboard>=2.14"],
    },
    entry_points={"console_scripts": ["cmdtrack = cmdtrack_ros.cli.app:main"]},
)
