# Build: docker build -t leveret .
# Run:   docker run -p 5672:5672 -p 9092:9092 -p 15672:15672 -v leveret-data:/data leveret
#        -e RABBITMQ_DEFAULT_USER=alice -e RABBITMQ_DEFAULT_PASS=secret   (guest may only connect from inside)

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/leveret
COPY pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY broker broker
COPY clients clients
COPY config config
RUN /opt/leveret/bin/pip install --no-cache-dir --disable-pip-version-check . \
    && find /opt/leveret -name __pycache__ -prune -exec rm -rf {} + \
    && /opt/leveret/bin/python -m compileall -q /opt/leveret/lib

FROM python:3.11-slim-bookworm
RUN groupadd --system --gid 10001 leveret \
    && useradd --system --uid 10001 --gid leveret --home-dir /data --no-create-home leveret \
    && mkdir -p /data /etc/leveret \
    && chown leveret:leveret /data
COPY --from=build /opt/leveret /opt/leveret
COPY config/broker.toml /etc/leveret/broker.toml
ENV PATH=/opt/leveret/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    LEVERET_DATA=/data
WORKDIR /data
USER leveret
VOLUME /data
# AMQP, Kafka, management, metrics
EXPOSE 5672 9092 15672 15692
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s --retries=3 CMD ["leveret", "ping"]
ENTRYPOINT ["leveret"]
CMD ["serve", "--config", "/etc/leveret/broker.toml"]
