# NullFace on an NVIDIA GPU, from a clone: docker build -f containers/cuda.Dockerfile -t nullface-cuda .
# docker run --rm --gpus all -v "$PWD":/photos -v nullface:/home/nullface nullface-cuda \
#     anonymize /photos/in -o /photos/out --model sd15
# The host needs the driver and NVIDIA's container toolkit; PyTorch's wheels bring CUDA itself.
FROM python:3.12-slim

ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# OpenCV's libraries.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 libxcb1 \
    && rm -rf /var/lib/apt/lists/*

COPY pyproject.toml README.md LICENSE /source/
COPY nullface_pipeline /source/nullface_pipeline
# Plain ONNX Runtime, which InsightFace installs, shares its files with the one for GPUs: that one last, on its own.
RUN pip install --no-cache-dir /source \
    && pip uninstall --yes onnxruntime \
    && pip install --no-cache-dir "onnxruntime-gpu>=1.31" \
    && rm -r /source

# Weights that `nullface fetch` fetches stay in this home folder: keep it in a volume.
RUN useradd --create-home nullface
USER nullface
WORKDIR /home/nullface
ENTRYPOINT ["nullface"]
CMD ["--help"]
