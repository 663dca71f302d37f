# The image of the worker: torch, torchvision and the built-in models. Build it in the root of the repository:
#   docker build -f deploy/docker/worker.Dockerfile -t smartbatch-worker .
#
# torch comes from pip's index in the version that constraints.txt pins; on Linux that wheel includes CUDA.
# For another build of the same version (CPU only, another CUDA), name its index with
#   --build-arg PIP_EXTRA_INDEX_URL=...
#
# Additional Debian packages, for example a compiler, which some variants of OPTIMIZE need (docs/optimization.md):
#   --build-arg APT_PACKAGES=g++
#
# For a model of your own that needs more packages, build on this image:
#   FROM smartbatch-worker
#   USER root
#   COPY requirements.txt /tmp/
#   RUN pip install --no-cache-dir -c /src/constraints.txt -r /tmp/requirements.txt
#   COPY my_model.py weights.pt /models/
#   USER 10001:10001
#   ENV MODEL_PATH=my_model:MyModel
# A model that needs none can be mounted on /models instead: see docker-compose.yml.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}

ENV PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

WORKDIR /src

# torch has a layer of its own: it is gigabytes, and only a changed pin reinstalls it.
COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt torch torchvision

ARG APT_PACKAGES
RUN test -z "$APT_PACKAGES" \
 || (apt-get update && apt-get install -y --no-install-recommends $APT_PACKAGES && rm -rf /var/lib/apt/lists/*)

# The other dependencies: the project is installed without its packages.
COPY pyproject.toml setup.py ./
COPY smartbatch smartbatch
RUN touch README.md LICENSE \
 && pip install --no-cache-dir -c constraints.txt ".[worker,text,otel]" \
 && rm -rf build *.egg-info

COPY gateway gateway
COPY worker worker
COPY shared shared
COPY deploy deploy
RUN pip install --no-cache-dir --no-deps . \
 && rm -rf build *.egg-info

# A numeric user, so that Kubernetes' runAsNonRoot can check it. It has a name because torch looks it up. It owns only the
# cache of downloaded weights (a named volume takes over the owner of its mount point).
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin smartbatch \
 && install -d -o smartbatch -g smartbatch /var/cache/torch \
 && install -d /models
USER 10001:10001

# Modules, .pt2 files and weights of users are in /models.
WORKDIR /models
ENV PYTHONPATH=/models TORCH_HOME=/var/cache/torch METRICS_HOST=0.0.0.0 METRICS_PORT=9100
EXPOSE 9100
ENTRYPOINT ["smartbatch"]
CMD ["worker"]
