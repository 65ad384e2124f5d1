"""AMQP 0-9-1 as a server speaks it: a connection, its channels, what each method does."""
