"""What goes to the GPU and what comes back.

python data.py pack DATA PHOTOS.pkl       all photos and masks, 384 x 384 each, and ImageNet's encoders
python data.py keep NET.npz RECIPE RUN DATA    a run folder of petseg from what fit.py made of DATA; RECIPE: a name or a file
"""

import io
import math
import pickle
import re
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from petseg.data import find_samples, open_mask, split_samples
from petseg.encoders import lite_encoder
from petseg.fitting import any_size
from petseg.photos import open_photo
from petseg.runs import build_model, get_recipe, recipe_fields, write_json

SIDE = 384
KINDS = {"Conv2D": "conv", "DepthwiseConv2D": "dw", "SeparableConv2D": "sep"}
KINDS |= {"Conv2DTranspose": "tr", "BatchNormalization": "bn"}


def pack(data, dest):
    train, valid = split_samples(find_samples(data, "trainval"), 100, stratify=True)
    parts = {"train": train, "valid": valid, "test": find_samples(data, "test")}
    rows = []
    for part, s in [(part, s) for part, samples in parts.items() for s in samples]:
        photo, mask = Image.fromarray(open_photo(s.photo)), Image.fromarray(open_mask(s.trimap, s.classes))
        files = io.BytesIO(), io.BytesIO()
        photo.resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(files[0], "JPEG", quality=93, subsampling=0)
        mask.resize((SIDE, SIDE), Image.Resampling.NEAREST).save(files[1], "PNG")
        rows.append((s.name, part, photo.width / photo.height, *(f.getvalue() for f in files)))
    nets = {variant: lite_encoder((None, None), variant).get_weights() for variant in (0, 2)}
    encoders = {variant: [a.astype("float16") if a.ndim == 4 else a for a in net] for variant, net in nets.items()}
    Path(dest).write_bytes(pickle.dumps({"rows": rows, "encoders": encoders}))


def layers(model):
    """Layers with weights, those of models inside too."""
    for layer in model.layers:
        yield from layers(layer) if hasattr(layer, "layers") else [layer] if layer.weights else []


def number(layer):
    """When Keras made it, among those of its kind."""
    return math.inf if layer.name == "output" else int((re.findall(r"_(\d+)$", layer.name) or [0])[0])


def set_arrays(model, path):
    """Give a Keras net what `nets.arrays` tells, kind by kind in order of making."""
    made, found = {}, {}
    for layer in sorted(layers(model), key=number):
        made.setdefault(KINDS[type(layer).__name__], []).append(layer)
    with np.load(path) as file:
        for key in sorted(file.files):
            place, kind, _ = key.split(".")
            found.setdefault(kind, {}).setdefault(place, []).append(file[key].astype("float32"))
    for kind, some in made.items():
        for layer, parts in zip(some, found.pop(kind).values(), strict=True):
            layer.set_weights(parts)
    assert not found, found.keys()
    return model


def keep(net, recipe, run, data):
    run, recipe = Path(run), get_recipe(recipe)
    model = set_arrays(build_model(any_size(recipe), pretrained=False), net)
    run.mkdir(parents=True)
    model.save_weights(run / "best.weights.h5")
    write_json(run / "recipe.json", recipe_fields(recipe))
    write_json(run / "samples.json", {"train": [s.name for s in find_samples(data, "trainval")], "valid": []})


if __name__ == "__main__":
    {"pack": pack, "keep": keep}[sys.argv[1]](*sys.argv[2:])
