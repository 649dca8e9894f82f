# syntax=docker/dockerfile:1
# Debian's own Python in both stages: its security updates come from one place, and the last stage never had pip.
#
#   docker build --build-arg VERSION=0.2.0 --build-arg REVISION="$(git rev-parse HEAD)" \
#     --build-arg SOURCE=https://… -t phonic-exporter .
#
# BASE also takes a digest (debian@sha256:…) or a mirror; its python3 must be 3.11 or newer.
ARG BASE=debian:trixie-20260918-slim

FROM ${BASE} AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends binutils ca-certificates python3-venv
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE constraints.txt ./
COPY exporter exporter
COPY dashboards dashboards
# The tools have an environment of their own, so that the one that is shipped holds the program and what it needs.
# psycopg, for --state.url, without the extra that brings a libpq and an OpenSSL of its own: Debian's are in the image.
RUN python3 -m venv /tools \
 && /tools/bin/pip wheel --no-cache-dir --constraint constraints.txt --wheel-dir /wheels . psycopg \
 && python3 -m venv --without-pip /opt/phonic-exporter \
 && /tools/bin/pip --python /opt/phonic-exporter/bin/python install --no-cache-dir --no-compile --no-index \
    --find-links /wheels phonic-exporter psycopg \
 && find /opt/phonic-exporter -type d -name _tests -prune -exec rm -r {} + \
 && find /opt/phonic-exporter -name '*.so' -exec strip --strip-unneeded {} +

FROM ${BASE}
COPY --from=build /opt/phonic-exporter /opt/phonic-exporter
# Without Python's own tests and the texts of help(). Bytecode of what the program imports, and of nothing else: a third of
# the size of all of it. It cannot be written later, when the root is read-only.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates libpq5 python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/* \
 && rm -r /usr/lib/python3.*/test /usr/lib/python3.*/pydoc_data \
 && find /usr/lib/python3.*/lib-dynload -name '*_test*.so' -delete \
 && find /usr/lib/python3* -type d -name __pycache__ -prune -exec rm -r {} + \
 && /opt/phonic-exporter/bin/python -c 'import pkgutil, exporter as package; \
      [__import__(module.name) for module in pkgutil.walk_packages(package.__path__, "exporter.")]' \
 && install -d -o 65532 -g 65532 -m 0700 /var/lib/phonic-exporter
ENV PATH=/opt/phonic-exporter/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    STATE_DIRECTORY=/var/lib/phonic-exporter
USER 65532:65532
VOLUME /var/lib/phonic-exporter
EXPOSE 10058
HEALTHCHECK --interval=15s --timeout=6s --start-period=10s CMD ["phonic-exporter", "healthcheck"]
# Exec form, so that the exporter is process 1 and receives SIGTERM.
ENTRYPOINT ["phonic-exporter"]
# Last, so that another revision takes all that is above from the cache.
ARG VERSION=unknown
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="phonic-exporter" \
      org.opencontainers.image.description="Prometheus exporter for live Phonic voice conversations" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
