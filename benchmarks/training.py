"""Images per second of training models of the progression with Keras on TensorFlow, as the course does
(`compile`, `fit`), against the same model in PyTorch, eager, in the faster of its two memory formats.

An epoch is forward, backward and a step of Adam for batches of 128 digits in random order, with the running
loss and accuracy. PyTorch takes its batches from one tensor, without a `DataLoader`, and its fused Adam: its
fastest ways. All sides run in one process, in turns, with as many threads as there are cores, after an epoch
of each to warm up. Before, it is checked that both sides hold the same parameters, give the same
probabilities and, without dropout, the same losses of three steps.

PyTorch's threads sleep while they wait for each other (`OMP_WAIT_POLICY`). By default they wait busily, which
takes it several times as long as soon as anything else runs on one of the cores.
"""

import os
import statistics

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from timing import cores, in_turns, speed_row

from evakeras import data, models

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when PyTorch is loaded
try:
    import torch
    from torch import nn
except ImportError as error:
    raise ImportError(
        'PyTorch is missing: pip install ".[bench]"; where there is no GPU, its much smaller build for the '
        "CPU will do"
    ) from error

BATCH = 128
FORMATS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}


def rows(quick=False):
    """One row for each model."""
    if tf.config.list_physical_devices("GPU"):
        raise RuntimeError("TensorFlow sees a GPU, PyTorch would not use it: set CUDA_VISIBLE_DEVICES=-1")
    torch.set_num_threads(cores())
    digits = data.load_mnist(limit=1_280 if quick else 6_400)
    images, labels = digits.x_train.astype("float32") / 255, digits.y_train
    names = ("third", "fast") if quick else ("third", "fourth", "fifth", "eighth", "fast")
    return [compared(name, images, labels, 2 if quick else 5) for name in names]


def compared(name, images, labels, repeats):
    check(name, images[:BATCH], labels[:BATCH])
    sides = {"evakeras": keras_epoch(models.build(name), images, labels)}
    for order, memory in FORMATS.items():
        sides[order] = torch_epoch(in_torch(models.build(name)), images, labels, memory)
    found = in_turns(sides, repeats)
    speeds = {side: [len(images) / each for each in seconds] for side, seconds in found.items()}
    ours = speeds.pop("evakeras")
    faster = max(speeds, key=lambda order: statistics.median(speeds[order]))
    what = f"{name}, {models.PROGRESSION[name].parameters:,} parameters"
    return speed_row(what, f"PyTorch {torch.__version__}, {faster}", ours, speeds[faster], "images/s")


def keras_epoch(model, images, labels):
    """A function that trains for one epoch and returns of how many images."""
    compiled(model, keras.optimizers.Adam())

    def epoch():
        model.fit(images, labels, batch_size=BATCH, verbose=0)
        return len(images)

    return epoch


def compiled(model, optimizer, **options):
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], **options)
    return model


def torch_epoch(network, images, labels, memory):
    """The same in PyTorch."""
    network.train().to(memory_format=memory)
    images, labels = channels_first(images).contiguous(memory_format=memory), torch.tensor(labels)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001, eps=1e-7, fused=True)

    def epoch():
        loss, correct = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        for numbers in torch.randperm(len(images)).split(BATCH):
            of_batch, right = step(network, optimizer, images[numbers], labels[numbers])
            loss += of_batch * len(numbers)
            correct += right
        assert torch.isfinite(loss) and correct <= len(images)
        return len(images)

    return epoch


def step(network, optimizer, images, labels):
    """Train on a batch: its loss, and how many are right."""
    optimizer.zero_grad()
    scores = network(images)
    loss = nn.functional.cross_entropy(scores, labels)
    loss.backward()
    optimizer.step()
    return loss.detach(), (scores.argmax(1) == labels).sum()


def channels_first(images):
    return torch.tensor(images.transpose(0, 3, 1, 2))


def in_torch(model):
    """The same network in PyTorch, with the same weights. It ends before the softmax."""
    return nn.Sequential(*[part for layer in model.layers for part in parts(layer)])


def parts(layer):
    """What a layer of Keras is in PyTorch."""
    if isinstance(layer, layers.Conv2D):
        assert (layer.strides, layer.dilation_rate, layer.padding) == ((1, 1), (1, 1), "valid")
        assert layer.activation in (keras.activations.relu, keras.activations.linear)
        relu = [nn.ReLU()] if layer.activation is keras.activations.relu else []
        return [convolution(*layer.get_weights()), *relu]
    if isinstance(layer, layers.BatchNormalization):
        return [normalization(layer)]
    if isinstance(layer, layers.MaxPooling2D):
        assert (layer.pool_size, layer.strides, layer.padding) == ((2, 2), (2, 2), "valid")
        return [nn.MaxPool2d(2)]
    if isinstance(layer, layers.GlobalAveragePooling2D):
        return [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    simple = {
        layers.Dropout: lambda: [nn.Dropout(layer.rate)],
        layers.Flatten: lambda: [nn.Flatten()],
        layers.ReLU: lambda: [nn.ReLU()],
        layers.Softmax: lambda: [],
    }
    return simple[type(layer)]()


def convolution(kernel, bias=None):
    height, width, before, after = kernel.shape
    result = nn.Conv2d(before, after, (height, width), bias=bias is not None)
    result.weight.data = torch.tensor(kernel.transpose(3, 2, 0, 1)).contiguous()
    if bias is not None:
        result.bias.data = torch.tensor(bias)
    return result


def normalization(layer):
    result = nn.BatchNorm2d(layer.gamma.shape[0], layer.epsilon, momentum=1 - layer.momentum)
    names = ("weight", "bias", "running_mean", "running_var")
    for name, values in zip(names, layer.get_weights(), strict=True):
        getattr(result, name).data = torch.tensor(values)
    return result


def check(name, images, labels):
    """Both sides start with the same parameters and probabilities, and go the same way without dropout."""
    model = compiled(in_double(name), keras.optimizers.SGD(0.1), run_eagerly=True)
    network = in_torch(model)
    held = sum(values.numel() for values in network.state_dict().values() if values.dim())
    assert held == model.count_params(), (
        f"{name}: {held} parameters in PyTorch, {model.count_params()} in Keras"
    )
    # Not Adam, which makes as long a first step for a gradient of rounding errors as for any other.
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    inputs, targets = channels_first(images).double(), torch.tensor(labels)
    same(name, "probabilities", model(images), probabilities(network, inputs))
    for _ in range(3):
        ours = model.train_on_batch(images, labels)[0]
        same(name, "loss", ours, step(network.train(), optimizer, inputs, targets)[0])
    same(name, "probabilities", model(images), probabilities(network, inputs))


def in_double(name):
    """A model without dropout in double precision: of a batch's variance, single keeps three digits."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        return models.build(name, dropout=0.0)
    finally:
        keras.config.set_dtype_policy(policy)


def probabilities(network, images):
    with torch.no_grad():
        return network.eval()(images).softmax(1)


def same(name, what, ours, theirs):
    apart = np.abs(np.asarray(ours) - np.asarray(theirs)).max()
    assert apart <= 1e-4, f"{name}: {what} of Keras and PyTorch are {apart:.1e} apart"
