"""What processes share through Redis. Every key starts with `nng:`; nothing here is the only copy."""
