# The picker in a small image.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin kthena-ext-proc

FROM debian:bookworm-slim
COPY --from=build /src/target/release/kthena-ext-proc /usr/local/bin/
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/kthena-ext-proc"]
