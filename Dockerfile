# The daemon and its simulator in one small image. The classic builder and BuildKit both build it.

FROM rust:1-bookworm AS build
WORKDIR /src
ENV CARGO_TERM_COLOR=never
# Dependencies first, with empty packages in place of ours: this layer is made anew only when they change.
COPY Cargo.toml Cargo.lock ./
COPY crates/bench/Cargo.toml crates/bench/
COPY crates/embedded-postgres/Cargo.toml crates/embedded-postgres/
COPY crates/protocol/Cargo.toml crates/protocol/
COPY crates/simulator/Cargo.toml crates/simulator/
COPY crates/testkit/Cargo.toml crates/testkit/
RUN for package in . crates/*; do mkdir "$package/src" && touch "$package/src/lib.rs"; done \
 && echo 'fn main() {}' | tee src/main.rs >crates/bench/src/main.rs \
 && cargo build --release --locked --package nxt-mirror \
 && rm -rf src crates
COPY . .
# Copied files keep their dates, which may be older than those of the empty packages.
RUN touch src/main.rs src/lib.rs crates/*/src/lib.rs \
 && cargo build --release --locked --package nxt-mirror

FROM debian:bookworm-slim
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /src/target/release/nxt-mirror /usr/local/bin/nxt-mirror
# A number and not a name, so that Kubernetes can see that it is not root.
USER 10001:10001
# The public listener must be reachable from outside the container. The operators' listener stays on the container's own
# loopback until NXT_OPS_LISTEN and NXT_OPS_TOKEN say otherwise; the health check asks it there.
ENV NXT_LISTEN=0.0.0.0:8080
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["nxt-mirror", "healthcheck"]
ENTRYPOINT ["nxt-mirror"]
CMD ["serve"]
