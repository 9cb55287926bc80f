# A test fixture: an engine that speaks vLLM's API and answers with made-up words. It serves no model; deploy/kind-up runs it.
# Its build goes on from the layer that the other images have in common.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin kthena-controller-manager --bin kthena-ext-proc --bin kthena
RUN cargo build --release --locked --bin simulated-engine

FROM debian:bookworm-slim
COPY --from=build /src/target/release/simulated-engine /usr/local/bin/
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/simulated-engine"]
