# syntax=docker/dockerfile:1

FROM rust:1-slim-bookworm AS build
WORKDIR /build
# Templates and configuration are embedded in the binary, so .dockerignore lets them in as well.
COPY . .
# The caches keep dependencies built when only the sources change; they are not part of the image,
# so the binary has to be copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin usher \
    && cp target/release/usher /usr/local/bin/usher

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates tzdata \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin usher
COPY --from=build /usr/local/bin/usher /usr/local/bin/usher
USER usher
ENV HTTP_LISTEN=0.0.0.0:8002
EXPOSE 8002
HEALTHCHECK CMD ["usher", "healthcheck"]
ENTRYPOINT ["usher"]
CMD ["run"]
