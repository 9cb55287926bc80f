# The operator in a small image.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin kthena-controller-manager

FROM debian:bookworm-slim
COPY --from=build /src/target/release/kthena-controller-manager /usr/local/bin/
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/kthena-controller-manager"]
