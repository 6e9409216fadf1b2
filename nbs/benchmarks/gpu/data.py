"""What goes to the GPU and what comes back.

python data.py pack DATA PHOTOS.pkl       photos and masks of `trainval`, 384 x 384 each, and ImageNet's encoders
python data.py keep NET.npz RECIPE RUN    a run folder of petseg from what fit.py made; RECIPE: a name or a file
"""

import io
import pickle
import re
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from petseg.data import find_samples, open_mask, split_samples
from petseg.encoders import _lite_file, _read_torch
from petseg.fitting import _weights_file, any_size
from petseg.photos import open_photo
from petseg.runs import build_model, get_recipe, recipe_fields, write_files, write_json

SIDE = 384
KINDS = {"Conv2D": "conv", "DepthwiseConv2D": "dw", "SeparableConv2D": "sep"}
KINDS |= {"Conv2DTranspose": "tr", "BatchNormalization": "bn"}


def pack(data, dest):
    samples = find_samples(data, "trainval")
    valid = {s.name for s in split_samples(samples, 100, stratify=True)[1]}
    rows = []
    for s in samples:
        photo, mask = Image.fromarray(open_photo(s.photo)), Image.fromarray(open_mask(s.trimap, s.classes))
        files = io.BytesIO(), io.BytesIO()
        photo.resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(files[0], "JPEG", quality=93, subsampling=0)
        mask.resize((SIDE, SIDE), Image.Resampling.NEAREST).save(files[1], "PNG")
        rows.append((s.name, s.name in valid, photo.width / photo.height, *(f.getvalue() for f in files)))
    found = {v: _read_torch(_lite_file(v)).items() for v in (0, 2)}
    encoders = {v: [np.array(a) for name, a in some if not name.startswith("_fc")] for v, some in found.items()}
    encoders = {v: [a.astype("float16") if a.ndim == 4 else a for a in some] for v, some in encoders.items()}
    Path(dest).write_bytes(pickle.dumps({"rows": rows, "encoders": encoders}))


def layers(model):
    """Layers with weights, those of models inside too."""
    for layer in model.layers:
        yield from layers(layer) if hasattr(layer, "layers") else [layer] if layer.weights else []


def set_arrays(model, path):
    """Give a Keras net what `nets.arrays` tells, kind by kind in order of making, which Keras's names count."""
    made, found = {}, {}
    for layer in sorted(
        layers(model), key=lambda a: 1e6 if a.name == "output" else int((re.findall(r"_(\d+)$", a.name) or [0])[0])
    ):
        made.setdefault(KINDS[type(layer).__name__], []).append(layer)
    with np.load(path) as file:
        for key in sorted(file.files):
            number, kind, _ = key.split(".")
            found.setdefault(kind, {}).setdefault(number, []).append(file[key].astype("float32"))
    for kind, some in made.items():
        for layer, parts in zip(some, found.pop(kind).values(), strict=True):
            layer.set_weights(parts)
    assert not found, found.keys()
    return model


def keep(net, recipe, run):
    run, recipe = Path(run), get_recipe(recipe)
    model = set_arrays(build_model(any_size(recipe), pretrained=False), net)
    run.mkdir(parents=True)
    write_files({run / "best.weights.h5": _weights_file(model)})
    write_json(run / "recipe.json", recipe_fields(recipe))


if __name__ == "__main__":
    {"pack": pack, "keep": keep}[sys.argv[1]](*sys.argv[2:])
