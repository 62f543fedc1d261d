"""The API's documentation for browsers, below `/docs`: pages and scripts that come with the package, no other host."""
