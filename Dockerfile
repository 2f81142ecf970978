# mfdistill on a GPU:  docker build -t mfdistill .  &&  docker run --rm --gpus all -v "$PWD:/work" mfdistill info
# The wheels of torch bring CUDA with them, so that the image needs no CUDA of its own, only the host's driver.
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential libsndfile1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/mfdistill
COPY requirements requirements
RUN pip install --no-cache-dir --require-hashes -r requirements/build.txt \
    && pip install --no-cache-dir --require-hashes --no-build-isolation -r requirements/lock.txt
COPY pyproject.toml README.md LICENSE ./
COPY mfdistill mfdistill
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

WORKDIR /work
ENTRYPOINT ["mfdistill"]
CMD ["--help"]
