# The operator in a small image, with `kthena` for `kubectl exec`. The build is a layer that all images have in common.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin kthena-controller-manager --bin kthena-ext-proc --bin kthena

FROM debian:bookworm-slim
COPY --from=build /src/target/release/kthena-controller-manager /src/target/release/kthena /usr/local/bin/
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/kthena-controller-manager"]
