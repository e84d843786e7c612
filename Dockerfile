# syntax=docker/dockerfile:1

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
# Templates and configuration are embedded in the binary, so .dockerignore allows them too.
COPY . .
# The caches keep compiled dependencies when only the sources change. They are not part of the image, so the binary is
# copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --profile dist --locked --bin usher \
    && cp target/dist/usher /usr/local/bin/usher

FROM debian:bookworm-slim
# Versions are not pinned: Debian's archive keeps only the latest of each, which has the security fixes.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates tzdata \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /usr/local/bin/usher /usr/local/bin/usher
# By number, so that Kubernetes can see that it is not root. usher writes nothing (unless EMAIL_BACKEND is file), so the
# root file system may be read-only.
USER 10001:10001
ENV HTTP_LISTEN=0.0.0.0:8002
EXPOSE 8002
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["usher", "healthcheck"]
ENTRYPOINT ["usher"]
CMD ["run"]
