"""What happens to a message, settled with pencil and paper: no I/O, no clock, no protocol."""
