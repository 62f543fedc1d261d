"""The HTTP process: tenant API, health, metrics, command line."""
