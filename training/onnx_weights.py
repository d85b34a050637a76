"""Half-precision storage of an ONNX model's weights."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def store_as_half(model: onnx.ModelProto, smallest: int = 1024) -> onnx.ModelProto:
    """Store float32 weights of at least `smallest` numbers as float16, each followed by a cast back, in place.

    The computation stays in float32: onnxruntime folds the casts away when it loads the model.
    """
    graph = model.graph
    casts = []
    for index, tensor in enumerate(graph.initializer):
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < smallest:
            continue
        name = tensor.name
        half = numpy_helper.from_array(values.astype(np.float16), f"{name}_half")
        graph.initializer[index].CopyFrom(half)
        casts.append(helper.make_node("Cast", [half.name], [name], name=f"Cast_{name}", to=TensorProto.FLOAT))
    for cast in reversed(casts):
        graph.node.insert(0, cast)
    return model
