"""The tables of Kafka's requests and responses, one file a family."""
