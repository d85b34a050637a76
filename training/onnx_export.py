"""Export of trained networks to ONNX files with half-precision weights."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper


def export_onnx(
    network: torch.nn.Module,
    example: torch.Tensor,
    output: Path,
    output_names: Sequence[str],
    dynamic_axes: Mapping[str, Mapping[int, str]],
    logger: logging.Logger,
    properties: Mapping[str, str] | None = None,
) -> None:
    """Write a network with one input, named `input`, to an ONNX file.

    Args:
        network (`torch.nn.Module`): on the CPU; it is switched to evaluation mode.
        example (`torch.Tensor`): an input of the right shape.
        output (`Path`): written atomically.
        output_names (`Sequence[str]`): names of the outputs in their order.
        dynamic_axes (`Mapping`): names of the variable axes by input or output and axis number.
        logger (`logging.Logger`): logs the size of the file.
        properties (`Mapping[str, str]`, *optional*): metadata of the file.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_suffix(".part")
    torch.onnx.export(
        network.eval(),
        (example,),
        str(temporary),
        input_names=["input"],
        output_names=output_names,
        dynamic_axes=dynamic_axes,
        dynamo=False,
    )
    model = store_as_half(onnx.load(temporary))
    helper.set_model_props(model, dict(properties or {}))
    onnx.checker.check_model(model)
    onnx.save(model, temporary)
    os.replace(temporary, output)
    logger.info("wrote %s, %.2f MB", output, output.stat().st_size / 1e6)


def store_as_half(model: onnx.ModelProto, min_size: int = 1024) -> onnx.ModelProto:
    """Store weights of `min_size` or more float32 values as float16, each cast back, in place.

    The computation stays in float32: ONNX Runtime folds the casts when it loads the model.
    """
    graph = model.graph
    casts = []
    for index, tensor in enumerate(graph.initializer):
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < min_size:
            continue
        name = tensor.name
        half = numpy_helper.from_array(values.astype(np.float16), f"{name}_half")
        graph.initializer[index].CopyFrom(half)
        casts.append(helper.make_node("Cast", [half.name], [name], name=f"Cast_{name}", to=TensorProto.FLOAT))
    for cast in reversed(casts):
        graph.node.insert(0, cast)
    return model
