# palu-server as an image. Targets:
#   cpu    docker build --target cpu -t palu-server:0.1.0 .
#   cuda   docker build --target cuda -t palu-server:0.1.0-cuda .      (run with --gpus all)
# It runs as user 10001 on a read-only root file system:
#   docker run --rm --read-only --tmpfs /tmp -p 8000:8000 palu-server:0.1.0
# serves the bundled model; for another one mount it and set PALU_MODEL_PATH.
# The base images are arguments, so that mirrors can stand in for the registry.
ARG CPU_BASE=docker.io/library/debian:12-slim
ARG CUDA_BUILD_BASE=docker.io/nvidia/cuda:12.6.3-devel-ubuntu24.04
ARG CUDA_BASE=docker.io/nvidia/cuda:12.6.3-runtime-ubuntu24.04

FROM ${CPU_BASE} AS build-cpu
WORKDIR /src
COPY deploy/install_packages deploy/packages.txt deploy/
RUN deploy/install_packages build package && rm -rf /var/lib/apt/lists/*
COPY . .
ARG PALU_COMMIT=
ARG PALU_CMAKE=-DPALU_CUDA=OFF
RUN cmake -G Ninja -S . -B build/package -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX=/usr \
      -DPALU_TESTS=OFF -DPALU_COMMIT="${PALU_COMMIT}" ${PALU_CMAKE} \
 && cmake --build build/package && cd build/package && cpack -B /packages

FROM ${CUDA_BUILD_BASE} AS build-cuda
WORKDIR /src
COPY deploy/install_packages deploy/packages.txt deploy/
RUN deploy/install_packages build package && rm -rf /var/lib/apt/lists/*
COPY . .
ARG PALU_COMMIT=
ARG PALU_CUDA_ARCHS="80-real;86-real;89-real;90a-real;90-virtual"
RUN cmake -G Ninja -S . -B build/package -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX=/usr \
      -DPALU_TESTS=OFF -DPALU_COMMIT="${PALU_COMMIT}" -DPALU_CUDA=ON -DPALU_CUDA_ARCHS="${PALU_CUDA_ARCHS}" \
 && cmake --build build/package && cd build/package && cpack -B /packages

# What both images are from here on, as one script: packages in, nothing else left behind. The packages
# and the script are mounted, for a layer that is deleted from stays as large as it was.
FROM ${CUDA_BASE} AS cuda
RUN --mount=type=bind,from=build-cuda,source=/packages,target=/mnt/packages \
    --mount=type=bind,source=deploy/docker/install,target=/mnt/install /mnt/install
ENV PALU_MODEL_PATH=/usr/share/palu/models/classics-14m NVIDIA_DRIVER_CAPABILITIES=compute,utility
ARG PALU_COMMIT=
LABEL org.opencontainers.image.title="palu-server" \
      org.opencontainers.image.description="LLM inference with a compressed KV cache, NVIDIA GPUs" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${PALU_COMMIT}"
USER 10001:10001
EXPOSE 8000 8001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m --retries=3 \
  CMD curl -fsS -o /dev/null "http://127.0.0.1:${PALU_HTTP_PORT:-8000}/health"
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/bin/palu-server"]
CMD ["--config", "/etc/palu/palu_server.yaml"]

FROM ${CPU_BASE} AS cpu
RUN --mount=type=bind,from=build-cpu,source=/packages,target=/mnt/packages \
    --mount=type=bind,source=deploy/docker/install,target=/mnt/install /mnt/install
ENV PALU_MODEL_PATH=/usr/share/palu/models/classics-14m
ARG PALU_COMMIT=
LABEL org.opencontainers.image.title="palu-server" \
      org.opencontainers.image.description="LLM inference with a compressed KV cache, CPU" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${PALU_COMMIT}"
USER 10001:10001
EXPOSE 8000 8001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m --retries=3 \
  CMD curl -fsS -o /dev/null "http://127.0.0.1:${PALU_HTTP_PORT:-8000}/health"
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/bin/palu-server"]
CMD ["--config", "/etc/palu/palu_server.yaml"]
