# docker build -t headrace .                              for NVIDIA GPUs, x86-64; falls back to the CPU without one
# docker build -t headrace:cpu --build-arg FLAVOUR=cpu .  small; x86-64 and arm64
# The base of both stages; a digest makes the build repeatable: --build-arg BASE=python:3.12-slim-trixie@sha256:...
ARG BASE=python:3.12-slim-trixie
FROM ${BASE} AS build
ARG FLAVOUR=gpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements/bootstrap.txt requirements/cpu.txt requirements/gpu.txt requirements/
RUN case "$FLAVOUR" in gpu|cpu) ;; *) echo "FLAVOUR is $FLAVOUR; write gpu or cpu" >&2; exit 1 ;; esac
# The packages stand in their own layer: it changes only with the lock files.
RUN python -m venv --without-pip /opt/headrace/venv \
 && pip --python /opt/headrace/venv/bin/python install --require-hashes --no-deps --only-binary :all: \
    -r "requirements/$FLAVOUR.txt"
RUN python -m venv /build \
 && /build/bin/pip install --require-hashes --no-deps --only-binary :all: -r requirements/bootstrap.txt
COPY pyproject.toml README.md LICENSE ./
COPY schemas/ schemas/
COPY models/fraud/ models/fraud/
COPY worker/ worker/
RUN /build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheel . \
 && pip --python /opt/headrace/venv/bin/python install --no-deps --no-index /wheel/*.whl

FROM ${BASE}
RUN groupadd --gid 10001 headrace \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin headrace
COPY --from=build /opt/headrace/venv/ /opt/headrace/venv/
# The demo's contract and model, under paths that do not depend on the Python version.
COPY schemas/ /opt/headrace/schemas/
COPY models/fraud/ /opt/headrace/models/fraud/
# HOME: the only folder that stays writable under a read-only root is /tmp.
ENV PATH=/opt/headrace/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /etc/headrace
USER 10001:10001
EXPOSE 8080
# Asks the default port; where probes.port differs, say so in HEADRACE__PROBES__PORT, which the worker obeys too.
HEALTHCHECK --interval=10s --timeout=4s --start-period=120s --retries=3 CMD ["python", "-c", \
 "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ.get('HEADRACE__PROBES__PORT', '8080')}/livez\", timeout=3)"]
ENTRYPOINT ["headrace"]
CMD ["run", "--config", "/etc/headrace/worker.yaml"]
