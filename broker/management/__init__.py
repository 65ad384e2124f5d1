"""HTTP: RabbitMQ's management API and Prometheus metrics. One file a resource; nothing here is on the hot path."""
