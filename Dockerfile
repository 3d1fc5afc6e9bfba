# The platform as an image: `fas up` in one container, or one part of it in each (compose.yaml). README.md and
# docs/container.md say which rights its container needs, and why.
#
#   docker build -t faaspot .
#
# Only what any builder knows: no --mount, no heredoc. An index or a proxy of your own: --build-arg UV_DEFAULT_INDEX=...
# and the like; they are used in the first stage alone and do not reach the image.
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
ARG PIP_INDEX_URL
ARG PIP_CERT
ARG UV_DEFAULT_INDEX
ARG SSL_CERT_FILE
ENV UV_NO_CACHE=1 UV_LINK_MODE=copy PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/build && /opt/build/bin/pip install --quiet uv \
 && python3 -m venv --without-pip /opt/faaspot
WORKDIR /source
# What we depend on changes seldom: a layer of its own, which the builder keeps.
COPY pyproject.toml ./
RUN /opt/build/bin/uv pip install --quiet --python /opt/faaspot --compile-bytecode \
        --requirements pyproject.toml --extra server --extra postgres
COPY README.md CHANGELOG.md ./
COPY sdk sdk
COPY cli cli
COPY api api
COPY runner runner
RUN /opt/build/bin/uv build --quiet --wheel --python /opt/faaspot --out-dir /opt/build/dist \
 && /opt/build/bin/uv pip install --quiet --python /opt/faaspot --compile-bytecode --no-deps /opt/build/dist/*.whl

FROM ${BASE}
# tini: somebody must bury the orphans. libseccomp2: sandboxes. iptables: functions with `network: internet`.
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends tini libseccomp2 iptables >/dev/null \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
 && useradd --uid 61990 --user-group --no-create-home --home-dir /var/lib/faaspot --shell /usr/sbin/nologin faaspot \
 && install -d -o faaspot -g faaspot -m 0700 /var/lib/faaspot /var/lib/faaspot-spot
COPY --from=build /opt/faaspot /opt/faaspot
ENV PATH=/opt/faaspot/bin:$PATH \
    FAASPOT_DATA_DIR=/var/lib/faaspot \
    FAASPOT_SPOT_DATA_DIR=/var/lib/faaspot \
    FAASPOT_DIR=/tmp/fas \
    HOME=/var/lib/faaspot \
    MALLOC_ARENA_MAX=2 \
    FAASPOT_HOST=0.0.0.0 \
    FAASPOT_PORT=8000
USER faaspot
WORKDIR /
VOLUME /var/lib/faaspot
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python3", "-m", "faaspot_api", "health"]
ENTRYPOINT ["tini", "--"]
CMD ["fas", "up"]
