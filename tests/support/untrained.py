"""Untrained networks in place of the mlp and conv1x1, which Keras trains for seconds."""

from typing import Any

import numpy as np
import pytest

from bilinear_cli.training.options import TrainOptions
from bilinear_cli.training.primal import Linear


def use_untrained_networks(patch: pytest.MonkeyPatch) -> None:
    """Let training return random weights, always the same, where it would train a network."""
    patch.setattr("bilinear_cli.training.mlp.fit_mlp", _fit_mlp)
    patch.setattr("bilinear_cli.training.conv1x1.fit_conv1x1", _fit_conv1x1)


def _fit_mlp(z: np.ndarray, targets: np.ndarray, options: TrainOptions, **_: Any) -> Any:
    first = _random_linear(z.shape[1], options.hidden)
    return first, _random_linear(options.hidden, targets.shape[1]), 1


def _fit_conv1x1(read: Any, train: Any, options: TrainOptions, **_: Any) -> Any:
    (indices, targets), channels = train, options.channels
    kernel = _random_linear(read(indices[:1]).shape[-1], channels).weights
    head = _random_linear(channels * (channels + 1) // 2, targets.shape[1])
    return kernel, head, 1


def _random_linear(n_inputs: int, n_outputs: int) -> Linear:
    rng = np.random.default_rng(n_inputs)
    weights, intercept = rng.normal(size=(n_inputs, n_outputs)), rng.normal(size=n_outputs)
    return Linear(weights.astype(np.float32), intercept.astype(np.float32))
