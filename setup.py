"""Builds petseg; every name and number comes from settings.ini."""

import json
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
settings = ConfigParser(delimiters=["="], interpolation=None)
settings.read(here / "settings.ini", encoding="utf-8")
cfg = settings["DEFAULT"]

kinds = ("train", "book", "export", "classical", "app", "scale", "site", "dev")
extras = {kind: cfg[f"{kind}_requirements"].split() for kind in kinds}
readme = (here / "README.md").read_text(encoding="utf-8")
urls = {}
if git_url := cfg["git_url"].rstrip("/"):
    blob, raw = (f"{git_url}/{kind}/{cfg['branch']}" for kind in ("blob", "raw"))
    readme = re.sub(r"(!?)(\[[^\]]*\])\((?![a-z]+:|#)", lambda m: f"{m[1]}{m[2]}({raw if m[1] else blob}/", readme)
    urls = {
        "Documentation": cfg["doc_host"] + cfg["doc_baseurl"] if cfg["doc_host"] else f"{blob}/README.md",
        "Source": git_url,
        "Issues": f"{git_url}/issues",
        "Changelog": f"{blob}/CHANGELOG.md",
    }
else:
    print("git_url is not set in settings.ini: no project URLs; the README's links hold in a clone only")

# What chapters read beside them, for one that is opened alone: measured tables, records of runs, pictures.
beside = {}
for pattern in (
    "benchmarks/*.csv",
    "benchmarks/*.json",
    "benchmarks/recipes/*",
    "benchmarks/*.png",
    "runs/*/*",
    "images/*.jpg",
):
    for path in sorted(here.glob(f"nbs/{pattern}")):
        place = path.relative_to(here / "nbs").parent.as_posix()
        beside.setdefault(f"petseg/{place}", []).append(path.relative_to(here).as_posix())

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme,
    long_description_content_type="text/markdown",
    keywords=cfg["keywords"],
    author=cfg["author"],
    project_urls=urls,
    license_expression="Apache-2.0 AND CC-BY-SA-4.0",  # the code, the weights
    license_files=["LICENSE", "LICENSE-WEIGHTS"],
    packages=find_packages(include=["petseg", "petseg.*"]),
    package_data={"petseg": ["py.typed", "weights/*"]},
    data_files=[(f"share/{place}", files) for place, files in beside.items()],
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require=extras | {"dev": sorted({package for some in extras.values() for package in some})},
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "nbdev": [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"],
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: {version}" for version in json.loads(cfg["pythons"])),
        "Operating System :: OS Independent",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
)
