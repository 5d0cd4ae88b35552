# Realtime Hub as an image that holds the binary, the CA certificates and
# nothing else. Build: docker build -t realtimehub .   (podman, buildah alike)
#
# The base is an argument so that a mirror, or CI's local stand-in, can take
# its place.
ARG GO_IMAGE=docker.io/library/golang:1.26

FROM ${GO_IMAGE} AS build
WORKDIR /src
# The modules in a layer of their own: it stays cached until go.mod changes.
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# Without cgo the binary is static and runs on scratch. -trimpath keeps the
# builder's paths out of it, -s -w the debug tables.
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o /out/realtimehub .
# An empty folder, for want of mkdir in scratch.
WORKDIR /volumes/data

FROM scratch
# For HTTPS to membership services and JWKS; scratch has no roots of its own.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/realtimehub /realtimehub
# /data is the hub's user's, and so is a new volume that is mounted there. REALTIME_DATA is
# left unset: with a default a hub on NATS, or one that may write nothing, would not start.
COPY --from=build --chown=65532:65532 /volumes/ /
# Numeric, because scratch has no /etc/passwd and Kubernetes' runAsNonRoot
# can only check a number.
USER 65532:65532
# A container's loopback is out of reach of its host, so listen on every
# address. The hub refuses to start like that without credentials: give it
# some with -e. REALTIME_DANGEROUSLY_OPEN is left unset here on purpose.
ENV REALTIME_ADDR=:8080
EXPOSE 8080
# Exec form: there is no shell and no curl in here, the binary asks itself.
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s --retries=3 \
    CMD ["/realtimehub", "-health"]
ENTRYPOINT ["/realtimehub"]
