"""Keras on JAX and PyTorch: what needs TensorFlow says so in one line, and README lists it."""

import re

import keras
import numpy as np
import pytest
from conftest import ROOT, configured

from evakeras import augment, data, train

README = (ROOT / "README.md").read_text()


@pytest.fixture(params=["jax", "torch"])
def elsewhere(request, monkeypatch):
    """Keras as the helpers see it on another backend."""
    monkeypatch.setattr(keras.backend, "backend", lambda: request.param)
    return request.param


def test_batches_say_that_they_need_tensorflow_and_what_to_do_instead(elsewhere):
    with pytest.raises(RuntimeError) as caught:
        data.batches(np.zeros((4, 8, 8, 1)))
    assert str(caught.value) == (
        f"batches needs TensorFlow, but Keras runs on {elsewhere}: give the arrays to "
        "`model.fit(x, y, batch_size=…)`, and put what augments into the model"
    )


def test_a_run_says_that_a_strategy_needs_tensorflow_before_anything_is_written(elsewhere, tmp_path):
    class Strategy:
        def scope(self):
            raise AssertionError("entered")

    arrays = np.zeros((4, 2)), np.zeros(4)
    for function, first in ((train.run, print), (train.study, {"a": print})):
        with pytest.raises(ValueError, match=f"strategy needs TensorFlow, but Keras runs on {elsewhere}: "):
            function(first, *arrays, epochs=1, folder=tmp_path / "new", strategy=Strategy())
    assert not (tmp_path / "new").exists()


def test_what_keras_is_told_before_a_run_holds_inside_it_and_after_it(tmp_path):
    def told():
        return keras.config.dtype_policy().name, keras.distribution.distribution()

    class Seen(Exception):
        pass

    def build():
        raise Seen(*told())

    distribution = object()  # a stand-in: Keras 3.10 has none for TensorFlow
    keras.distribution.set_distribution(distribution)
    try:
        with configured(dtype_policy="mixed_bfloat16"):
            with pytest.raises(Seen) as seen:
                train.run(build, np.zeros((4, 2)), np.zeros(4), epochs=1, folder=tmp_path)
            assert seen.value.args == told() == ("mixed_bfloat16", distribution)
    finally:
        keras.distribution.set_distribution(None)


@pytest.mark.parametrize("layer", [augment.Cutout(3), augment.MixUp(classes=2)], ids=["Cutout", "MixUp"])
def test_a_layer_says_that_it_needs_tensorflow_inside_a_pipeline(layer, elsewhere):
    class Tensor:  # what a graph of TensorFlow hands to a layer
        __module__ = "tensorflow.python.framework.ops"

    with pytest.raises(RuntimeError) as caught:
        layer(Tensor(), Tensor())
    assert str(caught.value) == (
        f"{type(layer).__name__} needs TensorFlow inside tf.data, but Keras runs on {elsewhere}: "
        "put the layer into the model"
    )


def test_readme_lists_what_needs_tensorflow():
    rows = README.split("| needs TensorFlow | instead |\n|---|---|\n")[1].split("\n\n")[0].splitlines()
    listed = {name for row in rows for name in re.findall(r"`([\w.]+)=?`", row.split("|")[1])}
    assert listed == {"data.batches", "augment.py", "tf.data", "strategy", "train.run", "train.study"}
