# syntax=docker/dockerfile:1
# The wheel is built in its own stage, and the final image contains nothing else of the source tree.
ARG PYTHON=3.13-slim-bookworm

FROM python:${PYTHON} AS build
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE constraints.txt ./
COPY exporter exporter
COPY dashboards dashboards
RUN pip wheel --no-cache-dir --constraint constraints.txt --wheel-dir /wheels .

FROM python:${PYTHON}
LABEL org.opencontainers.image.title="phonic-exporter" \
      org.opencontainers.image.description="Prometheus exporter for live Phonic voice conversations" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels phonic-exporter \
 && install -d -o 65532 -g 65532 -m 0700 /var/lib/phonic-exporter
ENV PYTHONUNBUFFERED=1 STATE_DIRECTORY=/var/lib/phonic-exporter
USER 65532:65532
VOLUME /var/lib/phonic-exporter
EXPOSE 10058
HEALTHCHECK --interval=15s --timeout=6s --start-period=10s CMD ["phonic-exporter", "healthcheck"]
# Exec form, so that the exporter is process 1 and receives SIGTERM.
ENTRYPOINT ["phonic-exporter"]
