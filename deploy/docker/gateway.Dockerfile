# The image of the gateway, without torch: HTTP, or gRPC with the command `gateway --grpc`. Build it in the root of the repository:
#   docker build -f deploy/docker/gateway.Dockerfile -t smartbatch-gateway .
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}

ENV PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
# More settings of pip, for a mirror: --build-arg PIP_INDEX_URL=... or PIP_EXTRA_INDEX_URL=...
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

WORKDIR /src

# Dependencies first, in a layer that a change of code doesn't rebuild: the project is installed without its packages.
COPY constraints.txt pyproject.toml setup.py ./
COPY smartbatch smartbatch
RUN touch README.md LICENSE \
 && pip install --no-cache-dir -c constraints.txt ".[grpc,otel]" \
 && rm -rf build *.egg-info

COPY gateway gateway
COPY worker worker
COPY shared shared
COPY deploy deploy
RUN pip install --no-cache-dir --no-deps . \
 && rm -rf build *.egg-info

# A numeric user, so that Kubernetes' runAsNonRoot can check it. The user owns nothing: the gateway writes only to /tmp.
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin smartbatch
USER 10001:10001
WORKDIR /tmp

# 0.0.0.0 is safe here: the container has its own network namespace.
ENV HOST=0.0.0.0 PORT=8000 GRPC_PORT=8001
EXPOSE 8000 8001
ENTRYPOINT ["smartbatch"]
CMD ["gateway"]
