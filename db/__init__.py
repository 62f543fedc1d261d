"""Memory of the gateway: Postgres and Redis adapters behind the ports of `domain`."""
