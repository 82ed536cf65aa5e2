"""The small network in place of VGG16 on Dask's workers, which notes its calls in a file."""

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bilinear_cli.errors import BilinearError
from bilinear_cli.extraction import make_job
from bilinear_cli.networks.network import Network
from bilinear_cli.networks.weights import Weights
from bilinear_cli.recipe import Recipe
from support.network import small_network

SHA256 = "0" * 64
OTHER_SHA256 = "1" * 64
WEIGHTS_VARIABLE = "NETWORK_SHA256"  # the environment of a worker with other weights has it
BUSY = threading.Lock()


@dataclass(frozen=True)
class WorkerNetwork(Network):
    """The small network, which notes its process at each loading and at each batch.

    Attributes:
        notes: file that gets the lines.
        gate: file with a number. While it exists, only so many batches pass.
        load_fault: `kill`: loading kills its process; `wait`: loading waits while the gate exists,
            and then raises a BilinearError. Neither imports TensorFlow.
    """

    notes: Path = Path(os.devnull)
    gate: Path = Path(os.devnull, "none")
    load_fault: str = ""

    def weights(self) -> Weights:
        return Weights({}, self.sha256(), (), None)

    def sha256(self) -> str:
        return os.environ.get(WEIGHTS_VARIABLE, SHA256)

    def load(self, recipe: Recipe) -> Callable[[Any], Any]:
        self._note("load")
        if self.load_fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.load_fault == "wait":
            while self.gate.exists():
                time.sleep(0.02)
            raise BilinearError("the gate has gone")
        return small_network(self._watch)

    def _watch(self, photos: np.ndarray) -> None:
        self._note(hashlib.sha256(photos.tobytes()).hexdigest())
        if not BUSY.acquire(blocking=False):
            self._note("two batches at a time")
            BUSY.acquire()
        try:
            with suppress(FileNotFoundError):  # when the gate is removed, also between two calls
                while len(self.batches()) > int(self.gate.read_text()):
                    time.sleep(0.02)
        finally:
            BUSY.release()

    def _note(self, event: str) -> None:
        with self.notes.open("a") as file:
            file.write(f"{os.getpid()} {event}\n")

    def batches(self) -> list[str]:
        """Return the digest of each batch, in order."""
        return [event for _, event in self._events() if event != "load"]

    def computed_by(self) -> list[int]:
        """Return the process of each batch, in order."""
        return [int(pid) for pid, event in self._events() if event != "load"]

    def loaded_by(self) -> list[int]:
        """Return the process of each loading, in order."""
        return [int(pid) for pid, event in self._events() if event == "load"]

    def _events(self) -> list[list[str]]:
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [line.split(maxsplit=1) for line in lines]


def use_network(patch: pytest.MonkeyPatch, network: WorkerNetwork) -> None:
    """Let `bilinear extract` of this process give its workers this network."""
    patch.setattr(make_job, "Network", lambda *_: network)


def set_weights(sha256: str) -> None:
    """Let the network of this process have these weights."""
    os.environ[WEIGHTS_VARIABLE] = sha256
