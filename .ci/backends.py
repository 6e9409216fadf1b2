"""Three steps of small models, of each loss and of the scores, on another backend: KERAS_BACKEND=jax python .ci/backends.py"""

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from petseg.data import find_samples
from petseg.draw import draw_pets
from petseg.runs import Recipe
from petseg.train import train

LOSSES = (
    "cross_entropy",
    "dice",
    "cross_entropy+dice",
    "cross_entropy+dice+boundary",
    "focal",
    "tversky",
    "border_cross_entropy",
)
tiny = Recipe("unet", {"width": 2, "depth": 1}, img_size=(32, 32), batch_size=4, epochs=1)
cases = {"get_model": replace(tiny, model="get_model", model_args={"filters": [4, 8]})}
cases |= {f"unet, {loss}": replace(tiny, loss=loss) for loss in LOSSES}
if keras.backend.backend() != "jax":  # which compiles larger nets for a minute each
    encoder = {"weights": None, "short": True, "width": [8] * 5}
    cases["lite_unet"] = replace(tiny, model="lite_unet", model_args=encoder, encoder_rate=0.2, frozen="statistics")
with tempfile.TemporaryDirectory() as folder:
    samples = find_samples(draw_pets(Path(folder, "pets"), 16, size=64))
    for i, (name, recipe) in enumerate(cases.items()):
        start = time.perf_counter()
        model, history = train(recipe, samples[:12], samples[12:], Path(folder, str(i)), verbose=0)
        scores = model.predict(np.zeros((1, 32, 32, 3), "float32"), verbose=0)
        good = abs(scores.sum(-1) - 1).max() < 1e-3 and all(np.isfinite(values).all() for values in history.values())
        print(f"{keras.backend.backend()}: {name}: {time.perf_counter() - start:.0f} s", flush=True)
        if not good or "val_mean_iou" not in history:
            sys.exit(f"{name}: {history}")
