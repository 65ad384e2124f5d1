"""Where the broker waits for its clients."""
