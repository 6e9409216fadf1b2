"""A user's script, for the type checker alone: the README's calls, and wrong ones, which must not pass unnoticed."""

from typing import assert_type

from PIL import Image

import petseg
from petseg.data import Sample, find_samples, split_samples
from petseg.train import Recipe, get_recipe, train

assert_type(petseg.cutout("cat.jpg"), Image.Image)
assert_type(petseg.Segmenter().sizes, tuple[int, ...])
parts = assert_type(split_samples(find_samples("pets", "test"), 9), tuple[list[Sample], list[Sample]])
recipe = assert_type(get_recipe("original"), Recipe)
model, history = train(recipe, *parts, "runs/original")
assert_type(history, dict)

petseg.cutout("cat.jpg", mating=False)  # type: ignore[call-arg]
petseg.load_pretrained(2)  # type: ignore[arg-type]
find_samples(split="test")  # type: ignore[call-arg]
split_samples(parts, valid="a few")  # type: ignore[arg-type]
train("original", *parts, "runs")  # type: ignore[arg-type]
recipe.batchsize  # type: ignore[attr-defined]  # noqa: B018
