# The image of Locust with loadtest/locustfile.py, a load generator for the stack. Build it in the root of the repository:
#   docker build -f deploy/docker/loadtest.Dockerfile -t smartbatch-loadtest .
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}

ENV PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
# More settings of pip, for a mirror: --build-arg PIP_INDEX_URL=... or PIP_EXTRA_INDEX_URL=...
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

WORKDIR /src

COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt locust msgpack

# Only the modules that the locustfile imports.
COPY loadtest/__init__.py loadtest/locustfile.py loadtest/
COPY loadtest/workload loadtest/workload
COPY loadtest/data loadtest/data

RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin smartbatch
USER 10001:10001

EXPOSE 8089
ENTRYPOINT ["locust", "-f", "loadtest/locustfile.py"]
