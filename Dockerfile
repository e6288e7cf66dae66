# docker build -t lrd-peft .                                                CPU
# docker build -t lrd-peft --build-arg BASE=nvidia/cuda:12.8.1-runtime-ubuntu24.04 --build-arg TORCH=torch .    CUDA
# docker run --rm lrd-peft run --config demo
ARG BASE=python:3.11-slim
FROM ${BASE}

# What pip installs for torch: the CPU build of the constraints file, or with TORCH=torch the newest CUDA build.
ARG TORCH=

RUN if ! command -v python3 > /dev/null || ! python3 -m venv --help > /dev/null; then \
        apt-get update && apt-get install --yes --no-install-recommends python3 python3-venv && \
        rm -rf /var/lib/apt/lists/*; \
    fi
RUN python3 -m venv /opt/lrd
ENV PATH=/opt/lrd/bin:$PATH

WORKDIR /opt/lrd-peft
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN if [ -n "${TORCH}" ]; then pip install --no-cache-dir "${TORCH}" && pip install --no-cache-dir .; \
    else pip install --no-cache-dir --constraint constraints.txt .; fi

WORKDIR /work
ENTRYPOINT ["lrd"]
CMD ["--help"]
