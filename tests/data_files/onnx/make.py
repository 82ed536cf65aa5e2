"""Make the networks in this folder; tests only read them.

    pip install torch==2.13.0 transformers==5.24.0 onnx onnxruntime onnxscript pillow
    python make.py [NAME ...]

Each network is an architecture of Hugging Face Transformers with few channels and random weights,
in the layout of the ONNX files on their hub. `expected.npz` has what Transformers computes of the
two photos: `pixels`, the photos after its image processor, 0 to 255; `maps` (photo, height, width,
channels); and `class_token`, if there is one.

Other versions write other graphs. Those in this folder are smaller and have other weights: the
names of nodes were shortened, equal constants were merged, and the resizing of the embeddings of
dinov2-registers is by the older exporter, without antialiasing. Their seed is 0, too. The photos
were drawn with NumPy: waves of colour, a disc and noise. The processor of DINOv3 needs torchvision.
"""

import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers as t
from onnxruntime.quantization import QuantType, quantize_dynamic
from PIL import Image

FOLDER = Path(__file__).parent
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
TOKENS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TRANSFORMER = TOKENS | {"intermediate_size": 32}
DINOV2 = TOKENS | {"mlp_ratio": 2, "image_size": 56, "patch_size": 14}
TEXT = TRANSFORMER | {"vocab_size": 64, "max_position_embeddings": 16}
SMALL = {"num_channels": 3, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}


class Spec(NamedTuple):
    """A network: its configuration, its image processor, and the tokens before the grid."""

    model: Callable[[Any], torch.nn.Module]
    config: Any
    processor: Callable[[], Any]
    n_before: int | None = None  # None: the output is (batch, channels, height, width)


def square(size: int, resample: int, values: dict, kind: Any = t.ViTImageProcessorPil) -> Any:
    return kind(size={"height": size, "width": size}, resample=resample, **values)


def cropped(edge: int, size: int, values: dict, kind: Any) -> Any:
    crop = {"height": size, "width": size}
    return kind(size={"shortest_edge": edge}, crop_size=crop, resample=3, **values)


def convnext() -> Any:
    sizes = {"size": {"shortest_edge": 64}, "crop_pct": 0.875, "resample": 3}
    return t.ConvNextImageProcessorPil(**sizes, **IMAGENET)


def specs() -> dict[str, Spec]:
    dinov2 = partial(cropped, 64, 56, IMAGENET, t.BitImageProcessorPil)
    vision = TRANSFORMER | {"image_size": 48, "patch_size": 8}
    clip = t.CLIPConfig(text_config=TEXT, vision_config=vision)
    vision = TRANSFORMER | {"image_size": 60, "patch_size": 14}
    siglip = t.SiglipConfig(text_config=TEXT, vision_config=vision)
    registers = t.Dinov2WithRegistersConfig(**DINOV2, num_register_tokens=4)
    dinov3 = t.DINOv3ViTConfig(**TRANSFORMER, image_size=64, patch_size=16, num_register_tokens=4)
    vit = t.ViTConfig(**TRANSFORMER, image_size=64, patch_size=16)
    grid = {"image_size": 64, "patch_size": 4, "embed_dim": 8, "window_size": 4, "mlp_ratio": 2.0}
    swin = t.SwinConfig(**grid, depths=[2, 2], num_heads=[1, 2])
    stages = {"hidden_sizes": [8, 16, 24], "depths": [1, 1, 1], "layer_type": "bottleneck"}
    resnet = t.ResNetConfig(num_channels=3, embedding_size=8, **stages)
    siglip_photos = partial(square, 60, 3, HALF, t.SiglipImageProcessorPil)
    return {
        "clip": Spec(
            lambda config: t.CLIPVisionModel(config.vision_config),
            clip,
            partial(cropped, 48, 48, CLIP, t.CLIPImageProcessorPil),
            1,
        ),
        "convnext": Spec(t.ConvNextModel, t.ConvNextConfig(patch_size=4, **SMALL), convnext),
        "dinov2": Spec(t.Dinov2Model, t.Dinov2Config(**DINOV2), dinov2, 1),
        "dinov2-registers": Spec(t.Dinov2WithRegistersModel, registers, dinov2, 5),
        "dinov3": Spec(
            t.DINOv3ViTModel, dinov3, partial(square, 64, 2, IMAGENET, t.DINOv3ViTImageProcessor), 5
        ),
        "resnet": Spec(t.ResNetModel, resnet, convnext),
        "siglip": Spec(
            lambda config: t.SiglipVisionModel(config.vision_config), siglip, siglip_photos, 0
        ),
        "swin": Spec(t.SwinModel, swin, partial(square, 64, 3, IMAGENET), 0),
        "vit": Spec(
            lambda config: t.ViTModel(config, add_pooling_layer=False),
            vit,
            partial(square, 64, 2, HALF),
            1,
        ),
    }


def set_weights(model: torch.nn.Module) -> None:
    """Set random weights of about the size of trained ones; other defaults give equal maps."""
    generator = torch.Generator().manual_seed(0)
    for name, x in model.named_parameters():
        noise = torch.randn(x.shape, generator=generator)
        if any(word in name for word in ("token", "position", "class_embedding", "probe")):
            x.copy_(0.5 * noise)
        elif x.ndim > 1:
            x.copy_(noise / math.sqrt(math.prod(x.shape[1:])))
        else:
            x.copy_(1 + 0.2 * noise if "weight" in name or "lambda" in name else 0.1 * noise)


class LastHiddenState(torch.nn.Module):
    """A network with one output."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values).last_hidden_state


def make_network(name: str, spec: Spec) -> None:
    folder = FOLDER / name
    graph = folder / "onnx" / ("vision_model.onnx" if name in ("clip", "siglip") else "model.onnx")
    graph.parent.mkdir(parents=True, exist_ok=True)
    model = LastHiddenState(spec.model(spec.config)).eval()
    set_weights(model)
    spec.config.save_pretrained(folder)
    processor = spec.processor()
    processor.save_pretrained(folder)
    photos = [Image.open(path) for path in sorted(FOLDER.glob("photo*.png"))]
    pixel_values = processor(photos, return_tensors="pt")["pixel_values"]
    names = {"input_names": ["pixel_values"], "output_names": ["last_hidden_state"]}
    if name in ("dinov2-registers", "dinov3"):  # whose embeddings need the newer exporter
        free = {"pixel_values": dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)}
        options = {"dynamo": True, "opset_version": 18, "dynamic_shapes": free}
    else:
        free = {"pixel_values": {0: "batch", 2: "height", 3: "width"}}
        options = {"dynamo": False, "opset_version": 14, "dynamic_axes": free}
    torch.onnx.export(model, (pixel_values,), graph, external_data=False, **names, **options)
    x = model(pixel_values).numpy()
    arrays = {"maps": x.transpose(0, 2, 3, 1) if spec.n_before is None else grid(x, spec.n_before)}
    if spec.n_before:
        arrays["class_token"] = x[:, 0]
    mean, std = (np.array(getattr(processor, f"image_{word}")) for word in ("mean", "std"))
    pixels = (pixel_values.numpy().transpose(0, 2, 3, 1) * std + mean) * 255
    arrays["pixels"] = (
        pixels.astype(np.float32) if name == "dinov3" else pixels.round().astype("u1")
    )
    np.savez_compressed(folder / "expected.npz", **arrays)
    if name == "dinov2":
        quantized = graph.with_name("model_quantized.onnx")
        quantize_dynamic(graph, quantized, weight_type=QuantType.QUInt8)


def grid(x: np.ndarray, n_before: int) -> np.ndarray:
    side = math.isqrt(x.shape[1] - n_before)
    return x[:, n_before:].reshape(len(x), side, side, -1)


if __name__ == "__main__":
    with torch.no_grad():
        for name in sys.argv[1:] or specs():
            make_network(name, specs()[name])
