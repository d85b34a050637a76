# NullFace on the CPU, from a clone: docker build -f containers/cpu.Dockerfile -t nullface .
# docker run --rm -v "$PWD":/photos -v nullface:/home/nullface nullface anonymize /photos/in -o /photos/out
FROM python:3.12-slim

# OpenCV's libraries.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 libxcb1 \
    && rm -rf /var/lib/apt/lists/*

# PyTorch without CUDA, which would be most of the image.
RUN pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/cpu

COPY pyproject.toml README.md LICENSE /source/
COPY nullface_pipeline /source/nullface_pipeline
RUN pip install --no-cache-dir /source && rm -r /source

# Weights that `nullface fetch` fetches stay in this home folder: keep it in a volume.
RUN useradd --create-home nullface
USER nullface
WORKDIR /home/nullface
ENTRYPOINT ["nullface"]
CMD ["--help"]
