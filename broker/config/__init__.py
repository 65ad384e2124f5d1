"""What the broker is told: a TOML file, the environment, and the command line, in rising order.

Flow:   `reading.read_config` gives `settings.Config`, with `checking` if there is a file or a variable; `layers` makes
        of it what each layer takes.
"""
