"""What this is: the version, once."""

VERSION = "0.1.0"
