"""From a recipe and headers to steps with bytes. Reads no tensor data."""
